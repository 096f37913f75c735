"""The workshop's page: its minutes are computed, its sections are there, and the errors
that it explains are those of the project."""

from __future__ import annotations

import ast
import json
import re
from functools import cache

import nbformat
import nbformat.v4 as v4
import pytest

from docs.figures import minutes
from docs.figures.minutes import Route, Section, Step
from docs.figures.sections import OPENING, notebooks, pieces
from lib.errors import FraudError
from lib.settings import ROOT

README = (ROOT / "README.md").read_text()
PLAN = minutes.plan()
KEPT = json.loads(minutes.MEASURED.read_text())
FOUND = minutes.sections(KEPT["seconds"])
ROUTES = minutes.paths(PLAN, FOUND)
each_route = pytest.mark.parametrize(
    "route", ROUTES, ids=lambda route: str(route.limit)
)

ERRORS = re.compile(r"^\| (`+) ?(.+?) ?\1 \| .+ \| .+ \|$", re.MULTILINE)
GAP = "…"
VALUE = re.compile(r"\{[\w.\[\]]+\}")


def one_section(**seconds: float) -> Section:
    return Section("01", "1. X", words=300, lines=30, questions=1, cells=seconds)


def test_the_tables_are_those_that_the_script_computes():
    remedy = "run .venv/bin/python -m docs.figures.minutes"

    assert minutes.DOCUMENT.read_text() == minutes.page(), remedy


def test_every_cell_that_was_measured_is_still_there():
    there = {
        number: {p.cell for p in pieces(path)} for number, path in notebooks().items()
    }

    gone = [(n, c) for n, own in KEPT["seconds"].items() for c in own.keys() - there[n]]
    assert gone == []


@pytest.mark.parametrize("number", sorted(FOUND))
def test_the_readme_says_about_how_long_a_notebook_takes(number: str):
    row = re.search(rf"^\| \[{number}_.+ \| (\d+) \|$", README, re.MULTILINE)

    assert abs(int(row[1]) - sum(one.telling for one in FOUND[number])) <= 5


@each_route
def test_a_path_fits_and_uses_its_time(route: Route):
    assert 0.85 * route.limit <= route.minutes <= route.limit


def test_the_paths_are_those_that_are_promised():
    assert [route.limit for route in ROUTES] == [60, 90, 180]


def test_what_is_said_is_said_in_a_cell_of_a_path():
    walked = minutes.waits(PLAN, ROUTES, FOUND)

    assert len(walked) == len(PLAN["say"])


def test_a_section_takes_its_telling_and_its_running():
    one = one_section(a=30, b=60)

    assert one.telling == 300 / 150 + (30 * 2 + 60) / 60
    assert one.running == 1.5


def test_what_a_reader_works_on_is_not_told():
    found = minutes.sections({})
    notebook = "05"
    own = nbformat.read(notebooks()[notebook], as_version=4).cells
    lines = [
        line
        for cell in own
        if cell.cell_type == "code" and not cell.id.startswith(minutes.ANSWERED)
        for line in cell.source.splitlines()
        if line.strip()
    ]

    assert any(cell.id.startswith("exercise-") for cell in own)
    assert sum(section.lines for section in found[notebook]) == len(lines)


def test_what_runs_before_the_path_takes_no_time_of_it():
    one = one_section(a=60)
    assert Step(one, above=2, beforehand=True).minutes == one.minutes
    assert Step(one, above=2).minutes == one.minutes + 2


def test_skipped_sections_are_run_above_and_counted():
    own = [Section("01", f"{n}. S", cells={str(n): 60}) for n in range(1, 5)]
    plan = {"path": [{"minutes": 9, "steps": ["01 2", "01 4"]}]}

    (route,) = minutes.paths(plan, {"01": own})

    first, second = route.steps
    assert (first.beforehand, first.above, first.running) == (True, 1, 1)
    assert (second.beforehand, second.above, second.running) == (False, 1, 2)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (["01 9"], "names 0 sections"),
        (["01 2", "01 1"], "comes too late"),
        (["01 1", {"what": "rest", "minutes": 99}], "takes 100"),
    ],
)
def test_a_plan_that_can_not_be_is_refused(steps, said):
    own = [Section("01", f"{n}. S", cells={str(n): 60}) for n in (1, 2)]
    plan = {"path": [{"minutes": 60, "steps": steps}]}

    with pytest.raises(FraudError, match=said):
        minutes.paths(plan, {"01": own})


def test_a_long_cell_needs_something_to_say():
    one = one_section(a=minutes.LONG_SECONDS)
    route = Route(60, (Step(one),))

    with pytest.raises(FraudError, match="say something"):
        minutes.waits({"say": {}}, [route], {"01": [one]})
    told = minutes.waits({"say": {"01 a": "This."}}, [route], {"01": [one]})
    assert told == [("01", "a", minutes.LONG_SECONDS, "This.")]


def test_a_cell_between_two_headings_belongs_to_both_sections(tmp_path):
    cells = [
        v4.new_markdown_cell("# Title\n\nIntro."),
        v4.new_code_cell("1"),
        v4.new_markdown_cell("Last words.\n\n## 1. First\n\nHere.\n\n## 2. Second"),
        v4.new_code_cell("2"),
    ]
    path = tmp_path / "01_x.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)

    found = [(piece.kind, piece.section) for piece in pieces(path)]

    assert found == [
        ("markdown", OPENING),
        ("code", OPENING),
        ("markdown", OPENING),
        ("markdown", "1. First"),
        ("markdown", "2. Second"),
        ("code", "2. Second"),
    ]


def test_run_times_come_from_the_kernels_messages():
    times = {
        "iopub.execute_input": "2026-11-27T20:58:46.500000Z",
        "shell.execute_reply": "2026-11-27T20:59:00.000000Z",
    }

    assert minutes._seconds(times) == 13.5


# -- errors -------------------------------------------------------------------------


@cache
def texts() -> list[str]:
    """Every text of lib/, with a gap for each value in it; and the Makefile's."""
    found = [VALUE.sub(GAP, (ROOT / "Makefile").read_text())]
    for path in sorted((ROOT / "lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    part.value if isinstance(part, ast.Constant) else GAP
                    for part in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def explained() -> list[str]:
    """The error lines of the page, as they are printed."""
    text = minutes.DOCUMENT.read_text()
    part = text[text.index("## What goes wrong") : text.index("And these, which no")]
    return [line for _marks, line in ERRORS.findall(part)]


def stands_in_the_code(line: str) -> bool:
    pieces_of_it = [part for part in line.split(GAP) if part.strip(" :(),;")]
    in_order = ".*".join(map(re.escape, pieces_of_it))
    return any(re.search(in_order, text, re.DOTALL) for text in texts())


@pytest.mark.parametrize("line", explained())
def test_an_error_that_is_explained_is_one_of_the_projects(line: str):
    assert stands_in_the_code(line)


def test_the_errors_are_found_and_others_are_not():
    assert len(explained()) >= 12
    assert not stands_in_the_code("no Kafka broker answers at …: try again later")
