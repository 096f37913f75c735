"""Every notebook with another seed and fewer events, and with its exercises solved:
hard-coded numbers go red, and a check that complains about its solution or lets a wrong
answer pass."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import papermill
import pytest

from docs.figures.walkthrough import CHECK
from lib.settings import ROOT
from tests.notebooks.exercises import exercises, solved

PARAMETERS = {
    "01_produce": {"SEED": 7, "EVENTS": 400, "RATE": 100, "RATE_EVENTS": 150},
    "02_stream": {"SEED": 11, "EVENTS": 600},
    "03_detectors": {"SEED": 7, "EVENTS": 1_200, "ACCOUNTS": 30, "QUALITY_SEEDS": 2},
    "04_exactly_once_failures": {
        "SEED": 5,
        "EVENTS": 40,
        "POINTS": ["before silver/transactions"],
    },
    "05_dbt": {"SEED": 7, "EVENTS": 500},
    "06_dashboard": {
        "SEED": 23,
        "EVENTS": 240,
        "TRIGGERS_MS": [0, 1_000],
        "SWEEP_EVENTS": 60,
        "LIVE_SECONDS": 5,
    },
}
"""In the order in which a reader works through them."""


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def test_every_notebook_is_run_here() -> None:
    assert set(PARAMETERS) == {p.stem for p in (ROOT / "notebooks").glob("0*.ipynb")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One FRAUD_HOME for all six, one after the other, as a reader has it."""
    return tmp_path_factory.mktemp("chain") / "home"


@pytest.mark.parametrize("name", PARAMETERS)
def test_notebook_holds_for_another_seed(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_HOME", str(home))
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
    (results,) = (home / "runs").glob(f"{name}-*/results.json")
    assert json.loads(results.read_text()), f"{name} recorded no results"
