"""What a document of docs/ quotes as evidence, looked up: lines of a cell's assertions,
tests, files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nbformat

from lib.settings import ROOT

NOTEBOOKS = ROOT / "notebooks"

_CELL = re.compile(
    r"\[(\d\d|appendix), cell (\S+)\]"
    r"\(\.\./notebooks/(\w+)\.ipynb#cell-id=(\S+)\): `([^`]+)`"
)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_FILE = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")


@dataclass(frozen=True)
class Shown:
    """One line of evidence: a cell, and an assertion in it.

    Attributes:
        number: of the notebook, as the document has it, or ``appendix``.
        cell: the cell's id, as the document has it.
        notebook: its name, in the link.
        cell_id: in the link.
        quoted: the assertion.
    """

    number: str
    cell: str
    notebook: str
    cell_id: str
    quoted: str

    def is_asserted(self) -> bool:
        """Whether that cell asserts that very line, and the link says the same."""
        source = cells(self.notebook, "code").get(self.cell_id, "")
        return (
            self.notebook.startswith(f"{self.number}_")
            and self.cell == self.cell_id
            and any(self.quoted in text for text in assertions(source))
        )


def shown_in(text: str) -> list[Shown]:
    """The cells that a Markdown text quotes; in a table a ``|`` is written ``\\|``."""
    return [Shown(*map(_unescaped, found)) for found in _CELL.findall(text)]


def named_tests(text: str) -> list[tuple[str, str]]:
    """The tests that a Markdown text names: file and function."""
    return _TEST.findall(text)


def files_in(text: str) -> list[str]:
    """The relative targets of a Markdown text's links."""
    return _FILE.findall(text)


def missing(document: Path) -> Iterator[str]:
    """What a document names and is not there: tests and files. Each mention of a test
    must have the form that is looked up."""
    text = document.read_text()
    if len(re.findall(r"(?<!/)\btests/", text)) != len(named_tests(text)):
        yield "a test in another form than `tests/FILE.py::test_NAME`"
    for file, name in named_tests(text):
        if name not in _functions(file):
            yield f"{file}::{name}"
    for target in files_in(text):
        if not (document.parent / target).exists():
            yield target


@cache
def cells(notebook: str, kind: str) -> dict[str, str]:
    """Cell id → source, of the notebook's code or markdown cells."""
    read = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4)
    return {cell.id: cell.source for cell in read.cells if cell.cell_type == kind}


def assertions(source: str) -> list[str]:
    """The cell's assert statements, and calls such as `assert_frame_equal`, as text."""
    return [
        ast.get_source_segment(source, node) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert) or _is_check(node)
    ]


def _is_check(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return ast.unparse(node.func).rpartition(".")[2].startswith("assert_")


@cache
def _functions(file: str) -> set[str]:
    path = ROOT / file
    tree = ast.parse(path.read_text() if path.exists() else "")
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _unescaped(text: str) -> str:
    return text.replace(r"\|", "|")
