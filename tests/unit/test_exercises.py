"""Exercises and guesses: each notebook has them, and checks tell right from wrong.

What a check needs of Kafka or Spark it gets in the notebook's own run: there
`tests/notebooks/test_parameters.py` lets every check meet its solution and its wrong
answers. Here it is the checks that need neither.
"""

from __future__ import annotations

import ast
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest

from docs.figures import walkthrough
from docs.figures.walkthrough import CHECK, solutions
from lib.datagen import generator
from lib.detectors.thresholds import MINUTE, SECOND
from lib.events import card_event
from lib.streaming.progress import percentiles
from lib.verify import evaluation
from tests.notebooks.exercises import (
    LESSONS,
    NAMES,
    STUB,
    WRONG,
    Exercise,
    cells,
    code,
    exercises,
    solved,
)

GUESS, COMPARE, TRY = "guess-", "compare-", "try-"
LINES = 25  # of a cell, at most
each_notebook = pytest.mark.parametrize("notebook", NAMES)
each_lesson = pytest.mark.parametrize("notebook", LESSONS)


@each_lesson
def test_a_notebook_has_two_or_three_exercises_each_with_all_it_needs(notebook: str):
    there = exercises(notebook)

    assert 2 <= len(there) <= 3
    for exercise in there:
        assert "your turn" in exercise.stub
        assert "..." in exercise.stub
        assert "Not solved yet: " in exercise.check
        assert "Right" in exercise.check
        assert any(
            isinstance(n, ast.Assert) for n in ast.walk(ast.parse(exercise.check))
        )
        assert exercise.solution
        assert exercise.wrong
    names = [exercise.name for exercise in there]
    assert list(code(notebook, CHECK)) == names
    assert list(solutions(notebook)) == names
    assert list(WRONG[notebook]) == names


@each_lesson
def test_an_exercise_is_told_then_filled_then_checked(notebook: str):
    order = [cell.id for cell in cells(notebook)]

    for exercise in exercises(notebook):
        told = order.index(TRY + exercise.name)
        assert cells(notebook)[told].source.startswith("**Try.** ")
        assert order[told + 1] == STUB + exercise.name
        assert order.index(CHECK + exercise.name) > told + 1
    everything = "\n".join(cell.source for cell in cells(notebook))
    assert f"`solutions/{notebook}.py`" in everything
    assert everything.count("**Try.**") == len(exercises(notebook))


def steps(notebook: str) -> list[str]:
    """The notebook's predictions: each question, guess and comparison, in order."""
    found = []
    for cell in cells(notebook):
        if cell.cell_type == "markdown":
            found += ["predict"] * cell.source.count("**Predict.**")
        elif cell.id.startswith((GUESS, COMPARE)):
            found.append(cell.id)
        elif found and found[-1] == "predict":
            found.append("code before a guess")
    return found


@each_notebook
def test_every_question_has_a_guess_before_the_run_and_a_comparison_after(
    notebook: str,
):
    names = list(code(notebook, GUESS))

    assert names
    wanted = [("predict", GUESS + name, COMPARE + name) for name in names]
    assert steps(notebook) == [step for three in wanted for step in three]


@each_notebook
def test_a_guess_is_the_readers_and_its_answer_is_of_the_run(notebook: str):
    for source in code(notebook, GUESS).values():
        assert ast.unparse(ast.parse(source)) == "guess = ..."
        assert source.startswith("guess = ...  # ")
    for source in code(notebook, COMPARE).values():
        last = ast.parse(source).body[-1].value
        assert ast.unparse(last).startswith("run.compare(guess, ")
        with pytest.raises(ValueError, match="malformed"):
            ast.literal_eval(last.args[1])  # no answer that somebody wrote down


@each_notebook
def test_cells_of_exercises_and_guesses_are_short(notebook: str):
    for prefix in (GUESS, COMPARE, STUB, CHECK):
        for name, source in code(notebook, prefix).items():
            assert len(source.splitlines()) <= LINES, prefix + name


def once(_folder: Path) -> dict:
    lines = [line.encode() for line in generator.generate(60, 5, seed=7).lines]
    return {
        "lines": lines,
        "twice": pd.DataFrame({"value": lines * 2}),
        "keyed_read": pd.DataFrame({"value": lines}),
    }


def repair(_folder: Path) -> dict:
    own = {"json": json, "time": time, "pd": pd, "card_event": card_event}
    (source,) = (cell.source for cell in cells("02_stream") if cell.id == "7")
    exec(source, own)
    return own


def watermarks(_folder: Path) -> dict:
    noon = pd.Timestamp("2026-05-20T12:00Z")
    times = [noon + pd.Timedelta(minutes=after) for after in (0, 30, 10, 60, 59)]
    reported = [None, times[1], times[1], times[1], times[3]]
    progress = pd.DataFrame({"input_rows": [2, 0, 1, 2, 0]})
    progress["watermark"] = pd.to_datetime(reported, utc=True) - pd.Timedelta("5min")
    lines = [json.dumps({"ts": time.isoformat()}) for time in times]
    return {"progress": progress, "late": SimpleNamespace(lines=lines)}


def trailing(_folder: Path) -> dict:
    lines = generator.generate(300, 6, seed=7).lines
    answers = evaluation.flagged([card_event.parse(x.encode(), 2**62) for x in lines])
    return {"answers": answers, "SECOND": SECOND, "MINUTE": MINUTE}


def z(_folder: Path) -> dict:
    return {"ten": [1_700, 2_300, 1_700, 2_300, *[2_000] * 6], "math": math}


def threshold(_folder: Path) -> dict:
    scores = {"z": pd.Series(np.linspace(-5, 4, 200))}
    return {"scores": scores, "per_day": 0.5}


def application_id(folder: Path) -> dict:
    return {"run": SimpleNamespace(folder=folder), "shutil": shutil, "Path": Path}


def band(_folder: Path) -> dict:
    turns = pd.to_datetime(["2026-05-20 10:00", "2026-05-21 11:00", None])
    own = pd.DataFrame({"dbt_valid_from": turns[:2], "dbt_valid_to": turns[1:]})
    return {"own": own.assign(risk_band=["low", "medium"])}


def rows_at(_folder: Path) -> dict:
    commit = SimpleNamespace(
        version=0, added=[SimpleNamespace(path="x", rows=2)], removed=[]
    )
    return {"Some": SimpleNamespace, "commits": [commit], "table": [1, 2]}


def within(_folder: Path) -> dict:
    latencies = pd.Series(np.linspace(100, 900, 200))
    return {
        "events": pd.DataFrame({"by_commit": latencies}),
        "percentiles": percentiles,
    }


GIVEN: dict[tuple[str, str], Callable[[Path], dict]] = {
    ("01_produce", "once"): once,
    ("02_stream", "repair"): repair,
    ("02_stream", "watermarks"): watermarks,
    ("03_detectors", "trailing"): trailing,
    ("03_detectors", "z"): z,
    ("03_detectors", "threshold"): threshold,
    ("04_exactly_once_failures", "application-id"): application_id,
    ("05_dbt", "band"): band,
    ("06_dashboard", "rows-at"): rows_at,
    ("06_dashboard", "within"): within,
}
"""What the cells before an exercise leave for its check, in small."""

IN_THE_RUN = {
    ("01_produce", "country-key"),
    ("02_stream", "rewrite"),
    ("04_exactly_once_failures", "sixth"),
    ("05_dbt", "filter"),
    ("05_dbt", "data-test"),
}
"""Their checks ask the broker, Spark or Delta."""

ALL = {(one.notebook, one.name): one for name in NAMES for one in exercises(name)}


def checked(exercise: Exercise, answer: str, folder: Path) -> str:
    """What the check says to an answer."""
    base = {"json": json, "pd": pd, "np": np, "Markdown": str, "print": str}
    names = base | GIVEN[exercise.notebook, exercise.name](folder)
    exec(answer, names)
    exec(exercise.check, names)
    return names["hint"]


def test_every_exercise_is_checked_here_or_in_the_run():
    assert set(GIVEN) | IN_THE_RUN == set(ALL)
    assert not set(GIVEN) & IN_THE_RUN


@pytest.mark.parametrize("key", GIVEN, ids="/".join)
def test_a_check_knows_an_unsolved_exercise_and_is_quiet_on_a_right_answer(
    key: tuple[str, str], tmp_path: Path
):
    exercise = ALL[key]

    assert checked(exercise, exercise.stub, tmp_path).startswith("Not solved yet: ")
    assert checked(exercise, exercise.solution, tmp_path).startswith("Right")


@pytest.mark.parametrize(
    ("key", "why"),
    [(key, why) for key in GIVEN for why in ALL[key].wrong],
    ids=lambda part: "/".join(part) if isinstance(part, tuple) else part,
)
def test_a_check_is_loud_on_a_wrong_answer(
    key: tuple[str, str], why: str, tmp_path: Path
):
    with pytest.raises(AssertionError):
        checked(ALL[key], ALL[key].wrong[why], tmp_path)


def small_notebook(answer: str, check: str):
    cells = [nbformat.v4.new_code_cell(source) for source in (answer, check)]
    cells[0].id, cells[1].id = STUB + "within", CHECK + "within"
    return nbformat.v4.new_notebook(cells=cells)


def test_a_solved_notebook_holds_the_solution_and_refuses_the_wrong_answers():
    made = solved(small_notebook("def within(): ...", "hint"), "06_dashboard")
    stub, check, *refused = [cell.source for cell in made.cells]

    assert stub == solutions("06_dashboard")["within"]
    assert check == "hint"
    assert len(refused) == len(WRONG["06_dashboard"]["within"])
    names = within(Path()) | {"pd": pd, "Markdown": str}
    exec(refused[0], dict(names))
    quiet = refused[0].replace("assert ", "assert True or ")
    with pytest.raises(AssertionError, match="lets an answer pass that is less than"):
        exec(quiet, dict(names))


def test_the_walkthrough_folds_a_solution_behind_its_check(tmp_path: Path):
    path = tmp_path / "06_dashboard.ipynb"
    path.write_text(nbformat.writes(small_notebook("stub", "hint")))
    text = walkthrough.write(path, tmp_path / "out", lambda *_: None).read_text()

    check, solution = text.index("hint"), text.index("<summary>Solution</summary>")
    assert text.index("stub") < check < solution
    assert solutions("06_dashboard")["within"] in text[solution:]
    assert solutions("06_dashboard")["rows-at"] not in text
