"""Text of strangers made harmless for the programs that will show it.

A merchant's name is whatever somebody typed into a terminal. It is stored as it came;
what shows it must not run it.
"""

from __future__ import annotations

import html

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters by which a spreadsheet takes a cell for a formula, and white space
that it drops before it looks."""


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


def for_terminal(text: str) -> str:
    """The text for a terminal: control characters, which could move its cursor or
    set its title, become ``·``.

    >>> for_terminal("A\\x1b[2J")
    'A·[2J'
    """
    return "".join(c if c.isprintable() else "·" for c in text)
