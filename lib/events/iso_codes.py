"""The code lists of an event's fields, from the repo's own files in
``lib/events/data``.

Not from a package: an update of it would change what becomes of an old record when it
is read again.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_DATA = Path(__file__).parent / "data"


@cache
def countries() -> frozenset[str]:
    """ISO 3166-1 alpha-2."""
    return _codes("countries.txt")


@cache
def currencies() -> frozenset[str]:
    """ISO 4217, codes withdrawn since 2000 included: a payment of 2022 in HRK is real,
    and may be read today."""
    return _codes("currencies.txt")


def _codes(name: str) -> frozenset[str]:
    """The first word of each line that is no comment."""
    lines = (_DATA / name).read_text(encoding="ascii").splitlines()
    return frozenset(line.split()[0] for line in lines if not line.startswith("#"))
