"""Quality: the counts by hand on a few rows, and the engine on whole worlds."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from lib.datagen import generator
from lib.datagen.generator import Label
from lib.detectors.rules import DAY, SECOND, THRESHOLDS, score_history
from lib.verify import evaluation
from tests.unit.histories import START, event


def flags(*rows: tuple[str, int, str]) -> pd.DataFrame:
    """Rows of event id, seconds, and the detector that fires ("": none)."""
    frame = pd.DataFrame(rows, columns=["event_id", "seconds", "fires"])
    frame["account_id"] = "ACCT_1"
    frame["ts_us"] = START + frame["seconds"] * SECOND
    for name in evaluation.DETECTORS:
        frame[f"is_{name}"] = frame["fires"] == name
    return frame.drop(columns=["seconds", "fires"])


def label(event_id: str, pattern: str, role: str, number: int = 1) -> Label:
    return Label(f"{pattern}-{number:04d}", pattern, role, "ACCT_1", event_id)


LABELS = [
    label("a", "velocity", "part"),
    label("b", "velocity", "alert"),
    label("c", "velocity", "alert"),
    label("d", "geo", "alert"),
    label("g", "geo", "alert", 2),
]


@pytest.fixture
def rows() -> pd.DataFrame:
    """A part that fires, a miss, a hit, another detector's, a false alarm."""
    made = flags(
        ("a", 0, "velocity"),
        ("b", 1, ""),
        ("c", 2, "velocity"),
        ("d", 3, "amount"),
        ("e", 4, "velocity"),
        ("f", 5, ""),
        ("g", 9, "geo"),
    )
    return evaluation.judged(made, LABELS)


def test_confusion(rows: pd.DataFrame):
    table = evaluation.confusion(rows)

    counts = ["hits", "false_alarms", "misses", "quiet"]
    assert table.loc["velocity", counts].tolist() == [1, 2, 1, 3]
    assert table.loc["geo", counts].tolist() == [1, 0, 1, 5]
    assert table.loc["amount", counts].tolist() == [0, 1, 0, 6]
    assert table["precision"].tolist() == [1 / 3, 1, 0]
    assert table["recall"].tolist()[:2] == [1 / 2, 1 / 2]
    assert math.isnan(table.loc["amount", "recall"])  # there was nothing to find


def test_precision_of_no_flags_is_null(rows: pd.DataFrame):
    table = evaluation.confusion(rows.assign(is_geo=False))

    assert math.isnan(table.loc["geo", "precision"])
    assert table.loc["geo", "recall"] == 0


def test_mistakes(rows: pd.DataFrame):
    found = evaluation.mistakes(rows)

    named = found[["event_id", "detector", "mistake"]].itertuples(index=False)
    assert sorted(map(tuple, named)) == [
        ("a", "velocity", "false alarm"),
        ("b", "velocity", "miss"),
        ("d", "amount", "false alarm"),
        ("d", "geo", "miss"),
        ("e", "velocity", "false alarm"),
    ]


def test_detections(rows: pd.DataFrame):
    rows.loc[rows["event_id"] == "a", "is_velocity"] = False
    found = evaluation.detections(rows.sample(frac=1, random_state=1))

    assert found.loc["velocity-0001"].tolist() == ["velocity", 3, 2.0, 2]
    assert found.loc["geo-0001", "undetected"] == 1
    assert math.isnan(found.loc["geo-0001", "seconds"])  # another detector's flag
    assert found.loc["geo-0002"].tolist() == ["geo", 1, 0.0, 0]


def test_the_truth_must_fit_the_flags():
    with pytest.raises(ValueError, match="occurs twice"):
        evaluation.judged(flags(("a", 0, ""), ("a", 1, "")), [])
    with pytest.raises(ValueError, match="label"):
        evaluation.judged(flags(("a", 0, "")), [label("b", "geo", "alert")])


def test_flagged_is_the_readable_rules_answer():
    """Repeats and conflicts are gone; the first record stands."""
    events = [event(n, START + n * SECOND) for n in range(12)]
    sent = [*events, events[3], events[4]._replace(country="GB")]

    found = evaluation.flagged(sent)

    assert found["event_id"].tolist() == [e.event_id for e in events]
    answers = score_history(events)
    assert found["is_velocity"].tolist() == [a.is_velocity for a in answers]
    assert found["velocity_count"].tolist() == [a.velocity_count for a in answers]


@pytest.mark.parametrize("seed", range(1, 6))
def test_every_planted_alert_is_found(seed: int):
    """... and only the amount rule fires on anything else: ordinary dear payments."""
    told = generator.story(2_000, 40, seed=seed)
    table = evaluation.confusion(
        evaluation.judged(evaluation.flagged(told.events), told.labels)
    )

    assert table["hits"].min() > 20
    assert table["misses"].sum() == 0
    assert table.loc[["velocity", "geo"], "false_alarms"].sum() == 0
    assert table.loc["amount", "precision"] > 0.8


def test_amount_sweep():
    """A lower threshold never flags less, a shorter history never knows more; the
    row of the rules' own threshold is their confusion table."""
    told = generator.story(2_000, 40, seed=3)
    week = replace(THRESHOLDS, amount_window_us=7 * DAY)
    swept = evaluation.amount_sweep(
        told.events, told.labels, (2, 3.5, 5), {"month": THRESHOLDS, "week": week}
    )

    assert swept["history"].tolist() == ["month"] * 3 + ["week"] * 3
    month = swept[swept["history"] == "month"].set_index("threshold")
    assert month["flags"].is_monotonic_decreasing
    assert swept.loc[swept["history"] == "week", "recall"].max() < month["recall"].min()
    table = evaluation.confusion(
        evaluation.judged(evaluation.flagged(told.events), told.labels)
    )
    assert month.loc[3.5, "precision"] == table.loc["amount", "precision"]
    assert month.loc[3.5, "recall"] == table.loc["amount", "recall"]
