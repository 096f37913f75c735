"""Java properties files, which Kafka's programs are configured by.

Java reads them as ISO 8859-1, with escapes for all other letters and for the characters
that mean something (java.util.Properties.load).
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def line(key: str, value: object) -> str:
    """One line of such a file, for any value."""
    text = str(value).replace("\\", "\\\\")
    units = text.encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2)]
    written = "".join(chr(c) if 0x20 <= c < 0x7F else f"\\u{c:04x}" for c in codes)
    return f"{key}={written}\n"


def parse(text: str) -> dict[str, str]:
    """The pairs of such a file: ``key=value``, ``#`` comments, ``\\`` joins lines."""
    joined = re.sub(r"(?<!\\)((?:\\\\)*)\\\r?\n\s*", r"\1", text)
    pairs = {}
    for row in map(str.strip, joined.splitlines()):
        if row and row[0] not in "#!":
            key, _, value = row.partition("=")
            pairs[_plain(key.strip())] = _plain(value.strip())
    return pairs


def _plain(text: str) -> str:
    def character(found: re.Match) -> str:
        code, other = found.groups()
        return chr(int(code, 16)) if code else _CONTROLS.get(other, other)

    plain = _ESCAPE.sub(character, text)
    # Two escapes may be the halves of one character outside of Unicode's first plane.
    return plain.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
