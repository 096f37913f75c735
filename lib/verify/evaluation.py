"""How good the flags are: precision, recall and time to detect against the labels.

Pure: data frames in, data frames out. An event is named by (account_id, event_id).
There are two truths. The generator's `alert` labels say on which events a rule must
fire: `confusion` tests the code. The labels `fraud` of `lib.datagen.market` say which
payments a thief made: `against_fraud` measures the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import pandas as pd

from lib.datagen.generator import Label
from lib.detectors.deduplication import NEW_CODE
from lib.detectors.engine import Bucket
from lib.detectors.rules import NAMES
from lib.detectors.thresholds import SECOND
from lib.events.card_event import Event
from lib.verify.lateness_policy import arrivals

IDENTITY = ["account_id", "event_id"]
AIMED_AT = {"velocity": "card_testing", "geo": "cloned_card", "amount": "outlier"}
"""The theft of `lib.datagen.market` that each rule is for."""


def flagged(events: Sequence[Event]) -> pd.DataFrame:
    """Valid events, in Kafka order, with the answers at rest: the engine, no Spark.

    Returns:
        one row per event (repeats and conflicts left out): the fields of Event and
        the answer columns of silver/scored, null as -1, NaN or None (see
        ``lib.detectors.vectorised_rules.Answers``).
    """
    frame = pd.DataFrame(list(events), columns=Event._fields)
    scored = Bucket.of({}).score(arrivals(events))
    for field in fields(scored.answers):
        frame[field.name] = getattr(scored.answers, field.name)
    return frame[scored.status == NEW_CODE].reset_index(drop=True)


def judged(flags: pd.DataFrame, labels: Sequence[Label]) -> pd.DataFrame:
    """The flags joined with the labels (ground truth).

    Args:
        flags: one row per event: account_id, event_id, ``is_<detector>``, others.
        labels: the generator's.

    Returns:
        the same rows with ``anomaly_id``, ``pattern`` and ``role`` (null: ordinary).

    Raises:
        ValueError: an event occurs twice, or a label's event is not there.
    """
    if flags.duplicated(IDENTITY).any():
        raise ValueError("an event occurs twice among the flags")
    truth = pd.DataFrame(list(labels), columns=Label._fields)
    both = flags.merge(truth, on=IDENTITY, how="left", validate="one_to_one")
    if both["role"].notna().sum() < len(truth):
        raise ValueError("a label names an event that is not among the flags")
    return both


def confusion(rows: pd.DataFrame) -> pd.DataFrame:
    """Per detector: does it fire on its alerts, and on nothing else?

    Returns:
        index detector; ``hits``, ``false_alarms``, ``misses``, ``quiet`` (events),
        ``precision`` = hits / (hits + false alarms) and ``recall`` = hits / (hits +
        misses), null where nothing was flagged or there is nothing to find.
    """
    counts = {}
    for name in NAMES:
        fired = rows[f"is_{name}"].astype(bool)
        true = (rows["pattern"] == name) & (rows["role"] == "alert")
        counts[name] = {
            "hits": (fired & true).sum(),
            "false_alarms": (fired & ~true).sum(),
            "misses": (~fired & true).sum(),
            "quiet": (~fired & ~true).sum(),
        }
    table = pd.DataFrame(counts).T.rename_axis("detector")
    flags, alerts = (
        table["hits"] + table["false_alarms"],
        table["hits"] + table["misses"],
    )
    table["precision"] = table["hits"] / flags.where(flags > 0)
    table["recall"] = table["hits"] / alerts.where(alerts > 0)
    return table


def against_fraud(rows: pd.DataFrame) -> pd.DataFrame:
    """Per rule, and for all of them together: whom do the flags hit?

    Args:
        rows: of ``judged`` with the labels `fraud`: role ``fraud``, ``honest`` or null.

    Returns:
        index rule (a detector's name, or ``any``); ``flags`` (events), ``precision`` =
        the share of them that a thief made; ``recall`` = the share of the theft's
        payments that are flagged (for a rule, of the theft it aims at; for ``any``, of
        all); ``false_alarms`` = the share of the honest payments that are flagged.
        Null where it would be a share of nothing.
    """
    fraud = rows["role"] == "fraud"
    fired = {name: rows[f"is_{name}"].astype(bool) for name in NAMES}
    sought = {name: fraud & (rows["pattern"] == AIMED_AT[name]) for name in NAMES}
    fired["any"], sought["any"] = any_rule(rows), fraud
    table = {
        name: {
            "flags": flags.sum(),
            "precision": fraud[flags].mean(),
            "recall": flags[sought[name]].mean(),
            "false_alarms": flags[~fraud].mean(),
        }
        for name, flags in fired.items()
    }
    made = pd.DataFrame(table).T.rename_axis("rule")
    return made.astype({"flags": int})


def any_rule(rows: pd.DataFrame) -> pd.Series:
    """Whether at least one detector flags the event."""
    return rows[[f"is_{name}" for name in NAMES]].any(axis=1)


def over_seeds(tables: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """The median of each number over seeds, and the interval from the least to the
    greatest.

    Of n seeds, that interval holds the median of all seeds with probability
    1 - 2^(1 - n), whatever the distribution: 97 % of n = 6.

    Args:
        tables: seed → a table of numbers with the same index and columns.

    Returns:
        the same index; per column ``median``, ``low`` and ``high``.
    """
    both = pd.concat(tables, names=["seed"])
    inner = list(range(1, both.index.nlevels))
    found = both.groupby(level=inner, sort=False).agg(["median", "min", "max"])
    return found.rename(columns={"min": "low", "max": "high"}, level=1)


def detections(rows: pd.DataFrame, flag: str = "is_{}") -> pd.DataFrame:
    """When each injected anomaly was first flagged, by default by its own detector.

    Args:
        rows: of ``judged``, with ``ts_us`` (µs).
        flag: the column that counts; ``{}`` stands for the anomaly's pattern.

    Returns:
        index anomaly_id; ``pattern``, ``events`` in it, ``seconds`` of event time
        from its first event to the first flag on one of them, null if there is none,
        and ``undetected`` events that passed before it.
    """
    marked = rows[rows["anomaly_id"].notna()].sort_values(["ts_us", "event_id"])
    found = []
    for (anomaly, pattern), own in marked.groupby(["anomaly_id", "pattern"]):
        fired = own[flag.format(pattern)].to_numpy(bool)
        first = int(fired.argmax()) if fired.any() else None
        passed = own["ts_us"].to_numpy() - own["ts_us"].iloc[0]
        seconds = None if first is None else passed[first] / SECOND
        missed = len(own) if first is None else first
        found.append((anomaly, pattern, len(own), seconds, missed))
    columns = ["anomaly_id", "pattern", "events", "seconds", "undetected"]
    table = pd.DataFrame(found, columns=columns).set_index("anomaly_id")
    return table.astype({"seconds": float})


def sweep(
    rows: pd.DataFrame, scores: dict[str, pd.Series], thresholds: Sequence[float]
) -> pd.DataFrame:
    """What an amount rule finds of the thefts it is for, by threshold.

    Args:
        rows: of ``judged`` with the labels `fraud`.
        scores: name → a score for each row, null where there is none; the rule fires
            when its absolute value is greater than the threshold.
        thresholds: the thresholds.

    Returns:
        one row per name and threshold: ``score``, ``threshold``, ``flags`` (events),
        ``precision`` = the share of them that a thief made, null of none, ``recall`` =
        the share of the payments of pattern ``outlier`` that are flagged.
    """
    fraud, sought = rows["role"] == "fraud", rows["pattern"] == AIMED_AT["amount"]
    found = []
    for name, score in scores.items():
        for threshold in thresholds:
            fired = score.abs() > threshold
            measures = fraud[fired].mean(), fired[sought].mean()
            found.append((name, threshold, int(fired.sum()), *measures))
    columns = ["score", "threshold", "flags", "precision", "recall"]
    return pd.DataFrame(found, columns=columns)
