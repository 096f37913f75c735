"""Java properties: what we write Java reads, and what Java reads we read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.kafka.java_properties import line, parse


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("/data", "/data"),
        ("/home/josé/a b", "/home/jos\\u00e9/a b"),
        ("/日/🙂", "/\\u65e5/\\ud83d\\ude42"),
        ("back\\slash", "back\\\\slash"),
        ("a=b#c!", "a=b#c!"),
        ("two\nlines", "two\\u000alines"),
    ],
)
def test_a_line_is_ascii_with_javas_escapes(value: str, written: str):
    assert line("key", value) == f"key={written}\n"


@given(st.text(st.characters(exclude_categories=["Cs"])).map(str.strip))
def test_what_is_written_is_read(value: str):
    assert parse(line("key", value)) == {"key": value}


def test_what_others_write():
    text = (
        "# a comment\n! another\n\n  one = 1 \ntwo=a\\\n    b\n"
        'jaas=a password\\="x\\"y";\nletter=é\n'
    )

    assert parse(text) == {
        "one": "1",
        "two": "ab",
        "jaas": 'a password="x"y";',
        "letter": "é",
    }
