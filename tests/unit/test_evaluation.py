"""Quality: the counts by hand on a few rows, and the engine on whole worlds."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from lib.datagen import generator, market
from lib.datagen.generator import Label
from lib.detectors.rules import NAMES, score_history
from lib.detectors.thresholds import SECOND
from lib.verify import evaluation
from tests.unit.histories import START, event


def flags(*rows: tuple[str, int, str]) -> pd.DataFrame:
    """Rows of event id, seconds, and the detector that fires ("": none)."""
    frame = pd.DataFrame(rows, columns=["event_id", "seconds", "fires"])
    frame["account_id"] = "ACCT_1"
    frame["ts_us"] = START + frame["seconds"] * SECOND
    for name in NAMES:
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


# -- against what happened --------------------------------------------------------

HAPPENED = [
    label("a", "card_testing", "fraud"),
    label("b", "card_testing", "fraud"),
    label("c", "card_testing", "fraud"),
    label("d", "cloned_card", "fraud"),
    label("f", "fair", "honest"),
    label("g", "outlier", "fraud"),
]


@pytest.fixture
def against() -> pd.DataFrame:
    """Flags on thefts (one by another rule), on a look-alike and on ordinary life."""
    made = flags(
        ("a", 0, ""),
        ("b", 30, "velocity"),
        ("c", 65, "geo"),
        ("d", 70, ""),
        ("e", 75, "velocity"),
        ("f", 80, "velocity"),
        ("g", 90, ""),
        ("h", 95, ""),
    )
    return evaluation.judged(made, HAPPENED)


def test_against_fraud(against: pd.DataFrame):
    table = evaluation.against_fraud(against)

    assert table["flags"].to_dict() == {"velocity": 3, "geo": 1, "amount": 0, "any": 4}
    # A flag on any theft is right; a rule has to find those that it is for.
    assert table["precision"].tolist()[:2] == [1 / 3, 1]
    assert table.loc["any", "precision"] == 2 / 4
    assert math.isnan(table.loc["amount", "precision"])
    assert table["recall"].tolist() == [1 / 3, 0, 0, 2 / 5]
    assert table["false_alarms"].tolist() == [2 / 3, 0, 0, 2 / 3]  # of e, f, h


def test_detections_by_any_rule(against: pd.DataFrame):
    against["is_any"] = evaluation.any_rule(against)
    thefts = against[against["role"] == "fraud"]
    found = evaluation.detections(thefts, flag="is_any")

    assert found.loc["card_testing-0001"].tolist() == ["card_testing", 3, 30.0, 1]
    assert found.loc["cloned_card-0001", "undetected"] == 1
    assert math.isnan(found.loc["outlier-0001", "seconds"])
    assert "fair-0001" not in found.index


def test_over_seeds():
    tables = {
        seed: pd.DataFrame({"precision": [value, 1.0]}, index=["geo", "any"])
        for seed, value in ((1, 0.5), (2, 0.1), (3, 0.2))
    }
    found = evaluation.over_seeds(tables)

    assert found.index.tolist() == ["geo", "any"]
    assert found.loc["geo", "precision"].to_dict() == {
        "median": 0.2,
        "low": 0.1,
        "high": 0.5,
    }
    assert found.loc["any", "precision"].tolist() == [1.0, 1.0, 1.0]


def test_sweep(against: pd.DataFrame):
    up = pd.Series([0.0, 0, 0, 0, 3, 0, -4, None])
    down = pd.Series([0.0, 0, 0, 0, 0, 0, 2.5, 9])
    swept = evaluation.sweep(against, {"up": up, "down": down}, (2, 3, 5))

    assert swept["score"].tolist() == ["up"] * 3 + ["down"] * 3
    assert swept["flags"].tolist() == [2, 1, 0, 2, 1, 1]  # 3 is not greater than 3
    assert swept["precision"].tolist()[:2] == [1 / 2, 1]
    assert math.isnan(swept["precision"][2])
    assert swept["recall"].tolist() == [1, 1, 0, 1, 0, 0]


def test_the_rules_do_not_know_what_happened():
    """Of what `lib.datagen.market` plants they miss much, and flag honest payments."""
    told = market.story(20_000, 400, seed=3)
    rows = evaluation.judged(evaluation.flagged(told.events), told.labels)
    table = evaluation.against_fraud(rows)

    assert table["precision"].between(0.05, 0.95).all()
    assert table["recall"].between(0.05, 0.95).all()
    honest = rows[rows["role"] == "honest"]
    for name in ("fair", "commute", "online_abroad", "holiday", "first_fridge"):
        assert evaluation.any_rule(honest[honest["pattern"] == name]).any(), name
