"""A notebook as what is talked about: its sections, and the cells of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from lib.settings import ROOT

NOTEBOOKS = ROOT / "notebooks"
APPENDIX = NOTEBOOKS / "appendix_interview.ipynb"
OPENING = "Opening"
"""The section of what comes before a notebook's first heading of the second level."""

_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_SPLIT = re.compile(r"^(?=## )", re.MULTILINE)


@dataclass(frozen=True)
class Piece:
    """A cell, or the part of a Markdown cell that belongs to one section.

    Attributes:
        cell: the cell's id.
        kind: ``code`` or ``markdown``.
        source: its text.
        section: the heading of the second level above it.
    """

    cell: str
    kind: str
    source: str
    section: str


def notebooks(folder: Path = NOTEBOOKS) -> dict[str, Path]:
    """Number, such as ``01`` → the notebook's file; the appendix has none."""
    return {path.stem[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}


def pieces(notebook: Path) -> Iterator[Piece]:
    """The notebook's pieces in their order."""
    section = OPENING
    for cell in nbformat.read(notebook, as_version=4).cells:
        kind = cell.cell_type
        parts = _SPLIT.split(cell.source) if kind == "markdown" else [cell.source]
        for part in filter(str.strip, parts):
            if kind == "markdown" and (heading := _HEADING.match(part)):
                section = heading[1]
            yield Piece(cell.id, kind, part, section)
