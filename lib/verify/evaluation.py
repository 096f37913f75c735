"""How good the flags are: precision, recall and time to detect against the labels.

Pure: data frames in, data frames out. The truth is the generator's labels; an event
is named by (account_id, event_id).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd

from lib.datagen.generator import Label
from lib.detectors.deduplication import NEW
from lib.detectors.engine import Bucket
from lib.detectors.rules import SECOND, THRESHOLDS, Thresholds
from lib.events.card_event import Event
from lib.verify.lateness_policy import arrivals

DETECTORS = ("velocity", "geo", "amount")
IDENTITY = ["account_id", "event_id"]


def flagged(events: Sequence[Event], rules: Thresholds = THRESHOLDS) -> pd.DataFrame:
    """Valid events, in Kafka order, with the answers at rest: the engine, no Spark.

    Returns:
        one row per event (repeats and conflicts left out): the fields of Event and
        the answer columns of silver/scored, null as -1, NaN or None (see
        ``lib.detectors.vectorised_rules.Answers``).
    """
    frame = pd.DataFrame(list(events), columns=Event._fields)
    scored = Bucket.of({}, rules).score(arrivals(events))
    for field in fields(scored.answers):
        frame[field.name] = getattr(scored.answers, field.name)
    return frame[scored.status == NEW].reset_index(drop=True)


def judged(flags: pd.DataFrame, labels: Sequence[Label]) -> pd.DataFrame:
    """The flags with the truth beside them.

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
    for name in DETECTORS:
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


def mistakes(rows: pd.DataFrame) -> pd.DataFrame:
    """The false alarms and the misses, one row each, with what the rule saw.

    Returns:
        the rows concerned with ``detector`` and ``mistake`` in front; an event that
        two detectors misjudge is there twice.
    """
    parts = []
    for name in DETECTORS:
        fired = rows[f"is_{name}"].astype(bool)
        true = (rows["pattern"] == name) & (rows["role"] == "alert")
        wrong = rows[fired != true]
        kind = np.where(fired[fired != true], "false alarm", "miss")
        parts.append(wrong.assign(detector=name, mistake=kind))
    found = pd.concat(parts, ignore_index=True)
    front = ["detector", "mistake"]
    return found[front + [c for c in found.columns if c not in front]]


def detections(rows: pd.DataFrame) -> pd.DataFrame:
    """When each planted anomaly was first flagged by its own detector.

    Args:
        rows: of ``judged``, with ``ts_us`` (µs).

    Returns:
        index anomaly_id; ``pattern``, ``events`` in it, ``seconds`` of event time
        from its first event to the first flag on one of them, null if there is none,
        and ``undetected`` events that passed before it.
    """
    marked = rows[rows["anomaly_id"].notna()].sort_values(["ts_us", "event_id"])
    found = []
    for (anomaly, pattern), own in marked.groupby(["anomaly_id", "pattern"]):
        fired = own[f"is_{pattern}"].to_numpy(bool)
        first = int(fired.argmax()) if fired.any() else None
        passed = own["ts_us"].to_numpy() - own["ts_us"].iloc[0]
        seconds = None if first is None else passed[first] / SECOND
        missed = len(own) if first is None else first
        found.append((anomaly, pattern, len(own), seconds, missed))
    columns = ["anomaly_id", "pattern", "events", "seconds", "undetected"]
    table = pd.DataFrame(found, columns=columns).set_index("anomaly_id")
    return table.astype({"seconds": float})


def amount_sweep(
    events: Sequence[Event],
    labels: Sequence[Label],
    thresholds: Sequence[float],
    rules_of: dict[str, Thresholds],
) -> pd.DataFrame:
    """Precision and recall of the amount rule by threshold, for several histories.

    Args:
        events: valid events in Kafka order.
        labels: the generator's.
        thresholds: values of |z| above which the rule shall fire.
        rules_of: name → rules that differ in what the z-score is taken over.

    Returns:
        one row per name and threshold: ``history``, ``threshold``, ``precision``,
        ``recall``, ``flags`` (events).
    """
    found = []
    for name, rules in rules_of.items():
        rows = judged(flagged(events, rules), labels)
        z = rows["z"].abs()
        for threshold in thresholds:
            line = confusion(rows.assign(is_amount=z > threshold)).loc["amount"]
            flags = int(line["hits"] + line["false_alarms"])
            found.append((name, threshold, line["precision"], line["recall"], flags))
    columns = ["history", "threshold", "precision", "recall", "flags"]
    return pd.DataFrame(found, columns=columns)
