"""What strangers wrote, on its way to programs that would run it."""

from __future__ import annotations

import csv
import io
import string
from html.parser import HTMLParser

import pytest

from lib.dashboard.escaping import (
    for_html,
    for_label,
    for_markdown,
    for_spreadsheet,
    for_terminal,
)


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://evil.example","Starbucks")',
        "+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1+1",
        "\r=1+1",
        "\n=1+1",
    ],
)
def test_a_formula_becomes_text(text: str):
    file = io.StringIO()
    csv.writer(file).writerow([for_spreadsheet(text)])
    ((cell,),) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert cell == f"'{text}"


@pytest.mark.parametrize("text", ["", "Starbucks", "7-Eleven", "A=B", "Café 漢字 🦊"])
def test_a_name_stays_a_name(text: str):
    assert for_spreadsheet(text) == text
    assert for_terminal(text) == text
    assert for_label(text) == text


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a\nb\r\nc\td", "a b  c d"),
        ("a\u00a0b\u2028c\u3000d", "a b c d"),
        ("\u202egnp.exe", "·gnp.exe"),
        ("a\u200bb\u2060c\ufeff", "a·b·c·"),
        ("a\x1b[2J", "a·[2J"),
        ("مقهى", "مقهى"),
        ("x" * 9, "x" * 9),
        ("x" * 10, "x" * 8 + "…"),
    ],
)
def test_a_label_is_one_short_line_of_what_is_seen(text: str, label: str):
    assert for_label(text, 9) == label


def test_markdown_is_shown_and_not_obeyed():
    text = "**a** [b](http://c) :red[d] $e$ `f` <i> ~~g~~"
    escaped = for_markdown(text)
    assert escaped.replace("\\", "") == text
    assert all(
        escaped[at - 1] == "\\"
        for at, c in enumerate(escaped)
        if c in string.punctuation and c != "\\"
    )
    assert "\n" not in for_markdown("a\n# b")


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onload='x"],
)
def test_html_is_shown_and_not_obeyed(text: str):
    seen = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.append((tag, attributes))

        def handle_data(self, data):
            seen.append(data)

    reader = Reader()
    reader.feed(f'<p title="{for_html(text)}">{for_html(text)}</p>')
    reader.close()
    assert seen[0] == ("p", [("title", text)])
    assert "".join(seen[1:]) == text


def test_a_terminal_keeps_its_cursor():
    assert for_terminal("A\x1b[2J\x07\x00B") == "A·[2J··B"
