"""The glossary: each word in one sentence, and a cell where it stands."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from docs.figures.sections import APPENDIX, Piece, notebooks, pieces
from lib.settings import ROOT

DOCUMENT = ROOT / "docs" / "glossary.md"
ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \|$", re.MULTILINE)
LINK = re.compile(
    r'\[(\d\d|appendix), "([^"]+)", cell (\S+)\]'
    r"\(\.\./notebooks/(\w+)\.ipynb#cell-id=(\S+)\)"
)
BOLD = re.compile(r"\*\*([^*]+)\*\*")
INTRODUCED = "words"
"""The id of the cell that explains what a notebook uses before its own section."""


EXPLAINING = {**notebooks(), "appendix": APPENDIX}


class Word(NamedTuple):
    """A row of the glossary."""

    word: str
    meaning: str
    shown: str


WORDS = [Word(*found) for found in ROW.findall(DOCUMENT.read_text())]
each_word = pytest.mark.parametrize("row", WORDS, ids=lambda row: row.word)


def plain(text: str) -> str:
    """Words alone: no markup, and one blank for whatever joins two of them."""
    return " ".join(re.sub(r"[*`_/\s-]+", " ", text).split())


def stands_in(word: str, source: str) -> bool:
    """The word by itself, or its plural."""
    wanted = rf"\b{re.escape(plain(word))}(?:s|es)?\b"
    return bool(re.search(wanted, plain(source), re.IGNORECASE))


@pytest.fixture(scope="module")
def found() -> dict[str, list[Piece]]:
    return {number: list(pieces(path)) for number, path in EXPLAINING.items()}


def test_every_row_is_read_and_no_word_stands_there_twice():
    rows = re.findall(r"^\| \*\*", DOCUMENT.read_text(), re.MULTILINE)
    names = [row.word.lower() for row in WORDS]

    assert len(WORDS) == len(rows) > 40
    assert len(set(names)) == len(names)


@each_word
def test_a_word_has_one_sentence(row: Word):
    assert re.findall(r"[.?!](?=\s|$)", row.meaning) == ["."]
    assert row.meaning.endswith(".")


@each_word
def test_the_cell_that_is_named_has_the_word(row: Word, found):
    links = LINK.findall(row.shown)

    assert links
    assert len(links) == row.shown.count(".ipynb")
    for number, heading, cell, file, anchor in links:
        assert cell == anchor
        assert EXPLAINING[number].stem == file
        own = [p for p in found[number] if p.cell == cell]
        here = [p.source for p in own if p.section == heading]
        assert here, f"{row.word}: no cell {cell} in {heading!r}"
        assert stands_in(row.word, " ".join(here)), f"{row.word} is not in {cell}"


@pytest.mark.parametrize("number", sorted(EXPLAINING))
def test_what_a_notebook_explains_beforehand_is_in_the_glossary(number, found):
    told = [p.source for p in found[number] if p.cell == INTRODUCED]
    known = {row.word.lower() for row in WORDS}

    assert len(told) == 1
    assert {word.lower() for word in BOLD.findall(told[0])} - {"words"} <= known


def test_a_word_is_found_as_itself_and_not_as_a_part_of_another():
    assert stands_in("Delta log", "x = '_delta_log'")
    assert stands_in("at least once", "at *least* once")
    assert stands_in("offset", "all offsets")
    assert not stands_in("lag", "a flag")
    assert not stands_in("state", "they stated it")
