"""Escape untrusted text for HTML, Markdown, CSV, charts and terminals.

A merchant's name is whatever somebody typed into a terminal. It is stored as it came;
what shows it must not run it.
"""

from __future__ import annotations

import html
import re

LABEL_LENGTH = 40
"""Characters of a label at most, if nobody asks for another length."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters by which a spreadsheet takes a cell for a formula, and white space
that it drops before it looks."""

_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
"""All of ASCII's: Markdown takes a backslash in front of each (CommonMark 2.4)."""


def for_spreadsheet(text: str) -> str:
    """The text for a CSV cell: an apostrophe in front of what would be a formula.

    >>> for_spreadsheet("=1+1"), for_spreadsheet("Café")
    ("'=1+1", 'Café')
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def for_html(text: str) -> str:
    """The text for HTML, also inside an attribute's quotes.

    >>> for_html("<b>")
    '&lt;b&gt;'
    """
    return html.escape(text, quote=True)


def for_label(text: str, most: int = LABEL_LENGTH) -> str:
    """The text as one short line, in a table's cell or at a chart's axis.

    White space of any kind becomes a blank. What nobody sees, or what turns the text
    beside it around, becomes ``·``: control characters, zero-width ones, marks of
    direction. Of a text longer than ``most`` characters the beginning is left, and
    ``…``.

    >>> for_label("Caf\\u200bé\\n\\u202eABCDEF", 9)
    'Caf·é ·A…'
    """
    seen = "".join(
        c if c.isprintable() else " " if c.isspace() else "·" for c in text[:most]
    )
    return f"{seen[:-1]}…" if len(text) > most else seen


def for_markdown(text: str) -> str:
    """The text for Markdown that is to show it as it stands.

    >>> for_markdown("[a](b)")
    '\\\\[a\\\\]\\\\(b\\\\)'
    """
    return _PUNCTUATION.sub(r"\\\g<0>", for_label(text, 500))


def for_terminal(text: str) -> str:
    """The text for a terminal: control characters, which could move its cursor or
    set its title, become ``·``.

    >>> for_terminal("A\\x1b[2J")
    'A·[2J'
    """
    return "".join(c if c.isprintable() else "·" for c in text)
