"""What git holds: notebooks without outputs, and no word of the machine they ran on."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from lib.settings import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOURCES = [
    *NOTEBOOKS,
    *sorted((ROOT / "lib").rglob("*.py")),
    *(path for path in sorted((ROOT / "lib").rglob("*")) if path.name == "java"),
    *(
        ROOT / name
        for name in ("Makefile", "README.md", "requirements.in", "requirements.txt")
        if (ROOT / name).exists()
    ),
    ROOT / "jars.lock",
    ROOT / "pyproject.toml",
]
REGISTRIES = re.compile(
    r"repo1?\.maven\.|maven\.org|maven\.apache|mvnrepository|pypi\.|pythonhosted"
    r"|files\.python|conda\.anaconda|registry\.|(?<!no-emit-)index-url|proxy\.golang|npmjs"
)
LINES = 25  # of a cell of code, at most
OWN_PATHS = re.compile(r"(?<![\w.~/-])/(?:work|root)(?![\w-])")


def test_the_notebooks_are_there():
    names = [path.stem for path in NOTEBOOKS]

    assert names[:2] == ["01_produce", "02_stream"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_carries_no_outputs(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [c.id for c in code if c.outputs or c.execution_count is not None] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_id_names_one_cell(path: Path):
    # As it is in the file: nbformat gives a second cell of one id another.
    names = [cell["id"] for cell in json.loads(path.read_text())["cells"]]

    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_of_code_can_be_taken_in_at_a_glance(path: Path):
    cells = nbformat.read(path, as_version=4).cells
    lengths = {c.id: len(c.source.splitlines()) for c in cells if c.cell_type == "code"}

    assert [cell for cell, lines in lengths.items() if lines > LINES] == []
    assert sorted(lengths.values())[len(lengths) // 2] <= 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_one_cell_of_literal_parameters(path: Path):
    cells = nbformat.read(path, as_version=4).cells

    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0].cell_type == "code"
    for statement in ast.parse(tagged[0].source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        ast.literal_eval(statement.value)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_registry_and_no_path_of_one_machine_is_named(path: Path):
    text = path.read_text()

    assert REGISTRIES.findall(text) == []
    assert OWN_PATHS.findall(text) == []
