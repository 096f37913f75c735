"""The claims: each is asserted by the very line that the table quotes, or the table
names a test or a record; and the figures of measured.md are those of the records."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest

from lib.settings import ROOT
from tests.unit.evidence import (
    NOTEBOOKS,
    cells,
    files_in,
    missing,
    named_tests,
    shown_in,
)

DOCUMENT = ROOT / "docs" / "claims.md"
README = ROOT / "README.md"
MEASURED = ROOT / "docs" / "measured.md"
CHAOS = ROOT / "docs" / "chaos.md"

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Claim:
    """A row of a notebook's table."""

    notebook: str
    cell: str
    claim: str
    proof: str


def sections() -> dict[str, list[list[str]]]:
    """Heading → the rows of its tables, without their heads."""
    found = {}
    for part in DOCUMENT.read_text().split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in lines
        ]
        rules = [at for at, row in enumerate(rows) if set(row[0]) == {"-"}]
        heads = {at for rule in rules for at in (rule - 1, rule)}
        found[heading] = [row for at, row in enumerate(rows) if at not in heads]
    return found


SECTIONS = sections()
FIGURES = SECTIONS["The figures of measured.md"]


def claims() -> list[Claim]:
    """All rows of the notebooks' tables."""
    found = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        number = path.stem.partition("_")[0]
        (rows,) = (
            rows
            for heading, rows in SECTIONS.items()
            if heading.partition(" ")[0].lower() == number
        )
        found += [Claim(path.stem, *row) for row in rows]
    return found


ALL = claims()
each_claim = pytest.mark.parametrize(
    "claim", ALL, ids=lambda claim: f"{claim.notebook[:2]}-{claim.cell}"
)
each_notebook = pytest.mark.parametrize(
    "notebook", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
)


@each_claim
def test_a_claim_is_asserted_by_that_very_line(claim: Claim):
    shown = shown_in(claim.proof)
    assert [line for line in shown if not line.is_asserted()] == []
    assert claim.proof.count(".ipynb") == len(shown)  # none in another form
    assert shown or named_tests(claim.proof) or files_in(claim.proof)


@each_claim
def test_a_claim_stands_in_a_cell_of_prose(claim: Claim):
    assert claim.cell in cells(claim.notebook, "markdown")


@each_notebook
def test_each_explanation_has_a_row(notebook: str):
    prose = cells(notebook, "markdown")
    explanations = {cell for cell, text in prose.items() if "**Why.**" in text}
    rows = {claim.cell for claim in ALL if claim.notebook == notebook}
    assert explanations <= rows


def test_the_tests_and_files_that_are_named_exist():
    assert list(missing(DOCUMENT)) == []


def test_a_line_that_no_cell_asserts_is_seen():
    link = "[01, cell 5](../notebooks/01_produce.ipynb#cell-id=5)"
    (wrong,) = shown_in(f"{link}: `assert len(lines) == 0`")
    (elsewhere,) = shown_in(
        f"{link.replace('cell 5', 'cell 6')}: `assert len(events) == len(lines)`"
    )
    (right,) = shown_in(f"{link}: `assert len(events) == len(lines)`")
    assert not wrong.is_asserted()
    assert not elsewhere.is_asserted()
    assert right.is_asserted()


# -- the figures of measured.md -----------------------------------------------------


def in_record(record: dict, path: str) -> list[float]:
    """The values at a path such as ``runs.*.p50``, ``sum of runs.*.events``,
    ``refresh.p95 / 1000`` or, rounded to hundreds, ``1000 / runs.*.seconds to 100``."""
    path, _, nearest = path.partition(" to ")
    left, _, right = path.partition(" / ")
    of, divisor = (right, 1) if left.isdigit() else (left, float(right or 1))
    found = [record]
    for key in of.removeprefix("sum of ").split("."):
        parts = [item for one in found for item in _at(one, key)]
        found = parts
    if of.startswith("sum of "):
        found = [sum(found)]
    if left.isdigit():
        found = [float(left) / value for value in found]
    step = float(nearest or 0)
    return [round(v / step) * step if step else v / divisor for v in found]


def _at(value, key: str) -> list:
    if key == "*":
        return list(value.values() if isinstance(value, dict) else value)
    return [value[int(key)] if isinstance(value, list) else value[key]]


def test_a_path_finds_the_values():
    record = {"runs": [{"ms": 1500, "n": 2}, {"ms": 20, "n": 3}]}
    assert in_record(record, "runs.*.ms") == [1500, 20]
    assert in_record(record, "sum of runs.*.n") == [5]
    assert in_record(record, "runs.0.ms / 1000") == [1.5]
    assert in_record(record, "9000 / runs.0.*") == [6, 4500]
    assert in_record(record, "1040 / runs.*.n to 100") == [500, 300]


@pytest.mark.parametrize(
    "figure", [row for row in FIGURES if len(row) == 3], ids=lambda row: row[0]
)
def test_a_figure_is_that_of_its_record(figure: list[str]):
    quoted, link, paths = figure
    (file,) = files_in(link)
    record = json.loads((DOCUMENT.parent / file).read_text())
    values = [
        v for path in paths.strip("`").split(", ") for v in in_record(record, path)
    ]
    shown = [text.replace(",", "") for text in NUMBER.findall(quoted)]
    assert quoted in MEASURED.read_text()
    assert len(shown) == len(values)
    for text, value in zip(shown, values, strict=True):
        decimals = len(text.partition(".")[2])
        assert round(value, decimals) == float(text)


def test_the_figures_of_faults_are_those_of_chaos():
    lines = [line.split("|")[1:-1] for line in CHAOS.read_text().splitlines()]
    rows = [row for row in lines if len(row) == 8 and row[1].strip().isdigit()]
    harm = [sum(int(row[column]) for row in rows) for column in range(2, 6)]
    assert harm == [0, 0, 0, 0]
    text = " ".join(CHAOS.read_text().split())
    (trials,) = re.findall(r"\d+ trials with \d+ SIGKILLs", text)
    (recovery,) = re.findall(
        r"p50 ([\d.]+) s, p95 ([\d.]+) s, over (\d+) restarts", text
    )
    assert trials in README.read_text()
    page = MEASURED.read_text()
    assert trials in page
    p50, p95, restarts = recovery
    assert f"p50 and p95 of {restarts} restarts | {p50} and {p95} s" in page


def cells_with_figures(text: str) -> set[str]:
    rows = [line.strip("|").split("|") for line in text.splitlines()]
    return {
        cell.strip()
        for row in rows
        for cell in row[1:]
        if NUMBER.search(cell) and not cell.strip().startswith("p")
    }


def test_no_figure_is_left_out():
    readme = README.read_text().split("\n## Measured\n")[1].split("\n## ")[0]
    told = {row[0] for row in FIGURES}
    assert cells_with_figures(MEASURED.read_text()) == told
    assert cells_with_figures(readme) <= told
