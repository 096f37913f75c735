"""Every notebook with another seed and fewer events, and with its exercises solved:
hard-coded numbers go red, and a check that complains about its solution or lets a wrong
answer pass."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from docs.figures.walkthrough import CHECK
from lib.settings import ROOT
from tests.notebooks.exercises import exercises, solved

PARAMETERS = {
    "01_produce": {"SEED": 7, "EVENTS": 400},
    "02_stream": {"SEED": 11, "EVENTS": 600},
    "03_detectors": {"SEED": 7, "EVENTS": 1_200, "ACCOUNTS": 30, "QUALITY_SEEDS": 2},
    "04_exactly_once_failures": {
        "SEED": 5,
        "EVENTS": 40,
        "POINTS": ["before silver/transactions"],
    },
    "06_dashboard": {
        "SEED": 23,
        "EVENTS": 240,
        "TRIGGERS_MS": [0, 1_000],
        "SWEEP_EVENTS": 60,
        "LIVE_SECONDS": 8,
    },
    "05_dbt": {"SEED": 7, "EVENTS": 500},
}


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def test_every_notebook_is_run_here() -> None:
    assert set(PARAMETERS) == {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")}


ALWAYS = {"01_produce"}
"""The others take minutes each: as its reader gets it, each runs in every CI run; with
other parameters in the weekly one, which sets FRAUD_ALL_NOTEBOOKS."""


@pytest.mark.parametrize(
    "name",
    sorted(PARAMETERS if os.getenv("FRAUD_ALL_NOTEBOOKS") else ALWAYS),
)
def test_notebook_holds_for_another_seed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "home"))
    notebook = ROOT / "notebooks" / f"{name}.ipynb"
    cells = json.loads(notebook.read_text())["cells"]
    (tagged,) = [c for c in cells if "parameters" in c["metadata"].get("tags", ())]
    unknown = [p for p in PARAMETERS[name] if f"{p} =" not in _source(tagged)]
    assert not unknown, f"{name} has no parameter {unknown}"
    solved_one = tmp_path / f"{name}-solved.ipynb"
    made = solved(nbformat.read(notebook, as_version=4), name)
    nbformat.write(made, solved_one)
    papermill.execute_notebook(
        solved_one,
        tmp_path / f"{name}.ipynb",
        parameters=PARAMETERS[name],
        cwd=tmp_path,
        progress_bar=False,
    )
    cells = json.loads((tmp_path / f"{name}.ipynb").read_text())["cells"]
    shown = json.dumps([cell.get("outputs") for cell in cells])
    assert not re.search(r"ACCT_\d", shown), "an account in full is shown"
    for exercise in exercises(name):
        (check,) = (cell for cell in cells if cell["id"] == CHECK + exercise.name)
        assert "Right" in json.dumps(check["outputs"]), exercise.name
    (results,) = (tmp_path / "home" / "runs").glob(f"{name}-*/results.json")
    assert json.loads(results.read_text()), f"{name} recorded no results"
