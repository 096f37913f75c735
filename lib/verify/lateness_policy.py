"""Counts of scored, late and rejected lines under another lateness policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lib.detectors.account_state import fingerprints
from lib.detectors.deduplication import CONFLICT_CODE, DUPLICATE_CODE, NEW_CODE
from lib.detectors.engine import Arrivals, Bucket
from lib.detectors.thresholds import Thresholds
from lib.events.card_event import Event, Rejection, parse


def books(lines: Sequence[str], rules: Thresholds, now_us: int) -> dict[str, int]:
    """Count what becomes of a file's lines under the rules.

    Args:
        lines: in the order of arrival.
        rules: the thresholds.
        now_us: the Kafka timestamp of all of them, microseconds since 1970.

    Returns:
        ``scored``, ``late``, ``quarantined`` (conflicts included) and ``duplicates``,
        which make up the lines, and ``remembered``, the events in the state then.
    """
    parsed = [parse(x.encode(errors="surrogateescape"), now_us) for x in lines]
    events = [event for event in parsed if not isinstance(event, Rejection)]
    bucket = Bucket.of({}, rules)
    scored = bucket.score(arrivals(events))
    new = scored.status == NEW_CODE
    late = int((new & scored.answers.late).sum())
    conflicts = int((scored.status == CONFLICT_CODE).sum())
    return {
        "scored": int(new.sum()) - late,
        "late": late,
        "quarantined": len(parsed) - len(events) + conflicts,
        "duplicates": int((scored.status == DUPLICATE_CODE).sum()),
        "remembered": Bucket.of(bucket.values()).events,
    }


def arrivals(events: Sequence[Event]) -> Arrivals:
    """Events in Kafka order as the engine's columns."""
    return Arrivals(
        event_id=[e.event_id for e in events],
        account_id=[e.account_id for e in events],
        ts_us=np.array([e.ts_us for e in events], np.int64),
        amount_cents=np.array([e.amount_cents for e in events], np.int64),
        country=[e.country for e in events],
        fingerprint=fingerprints(
            [e.merchant for e in events], [e.currency for e in events]
        ),
    )
