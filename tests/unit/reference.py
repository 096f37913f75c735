"""The detector rules a second time: plain loops, exact numbers, no cleverness.

Slow on purpose (every event looks at every other one). Times are integers of
microseconds and amounts integers of cents, so no comparison rounds; only the
numbers that are reported become floats, at the very end.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from lib.events.card_event import Event

SECOND = 1_000_000  # microseconds
LATENESS = 5 * 60 * SECOND
VELOCITY_WINDOW = 60 * SECOND
VELOCITY_LIMIT = 8
TRAVEL_GAP = 3600 * SECOND
AMOUNT_WINDOW = 30 * 24 * 3600 * SECOND
AMOUNT_MINIMUM = 10
Z_LIMIT = Fraction(7, 2)


def reference_scores(records: list[Event]) -> list[dict[str, Any]]:
    """Scores at rest for one account's valid events, given in Kafka order.

    A repeated event_id is dropped, whether a duplicate or a conflict: the first
    stands. Returns one dict per kept event, still in Kafka order: the event's
    event_id and ts_us, then late, is_velocity, velocity_count, is_geo,
    prev_country, gap_seconds, is_amount, z, baseline_n, baseline_mean,
    baseline_stddev, revision.
    """
    kept = first_of_each_id(records)
    late = lateness(kept)
    on_time = [event for event, is_late in zip(kept, late, strict=True) if not is_late]
    scores = []
    for event, is_late in zip(kept, late, strict=True):
        score = late_score() if is_late else on_time_score(event, on_time)
        scores.append({"event_id": event.event_id, "ts_us": event.ts_us, **score})
    return scores


def first_of_each_id(records: list[Event]) -> list[Event]:
    """The records without those whose event_id came before."""
    kept: list[Event] = []
    for record in records:
        if record.event_id not in [event.event_id for event in kept]:
            kept.append(record)
    return kept


def lateness(kept: list[Event]) -> list[bool]:
    """For each event: more than 5 minutes behind the greatest ts shown before it?"""
    late = []
    for place, event in enumerate(kept):
        shown = [earlier.ts_us for earlier in kept[:place]]
        late.append(bool(shown) and event.ts_us < max(shown) - LATENESS)
    return late


def late_score() -> dict[str, Any]:
    """Flags false, numbers null."""
    return {
        "late": True,
        "is_velocity": False,
        "velocity_count": None,
        "is_geo": False,
        "prev_country": None,
        "gap_seconds": None,
        "is_amount": False,
        "z": None,
        "baseline_n": None,
        "baseline_mean": None,
        "baseline_stddev": None,
        "revision": 0,
    }


def on_time_score(event: Event, on_time: list[Event]) -> dict[str, Any]:
    """All three rules for one event among its account's on-time events."""
    before = [other for other in on_time if order(other) < order(event)]
    return {
        "late": False,
        **velocity(event, before),
        **geo(event, before),
        **amount(event, before),
        "revision": revision(event, on_time),
    }


def order(event: Event) -> tuple[int, str]:
    """What comes first within an account."""
    return event.ts_us, event.event_id


def velocity(event: Event, before: list[Event]) -> dict[str, Any]:
    """Events in (ts - 60 s, ts] up to this one, itself included; more than 8."""
    start = event.ts_us - VELOCITY_WINDOW
    count = len([other for other in before if other.ts_us > start]) + 1
    return {"is_velocity": count > VELOCITY_LIMIT, "velocity_count": count}


def geo(event: Event, before: list[Event]) -> dict[str, Any]:
    """The event just before: another country, less than an hour ago."""
    if not before:
        return {"is_geo": False, "prev_country": None, "gap_seconds": None}
    previous = max(before, key=order)
    gap = event.ts_us - previous.ts_us
    return {
        "is_geo": previous.country != event.country and gap < TRAVEL_GAP,
        "prev_country": previous.country,
        "gap_seconds": float(Fraction(gap, SECOND)),
    }


def amount(event: Event, before: list[Event]) -> dict[str, Any]:
    """z of the amount against earlier events in [ts - 30 days, ts)."""
    start = event.ts_us - AMOUNT_WINDOW
    cents = [
        other.amount_cents for other in before if start <= other.ts_us < event.ts_us
    ]
    n = len(cents)
    mean = Fraction(sum(cents), n) if n >= 1 else None
    variance = sum((c - mean) ** 2 for c in cents) / (n - 1) if n >= 2 else None
    z, fires = None, False
    if n >= AMOUNT_MINIMUM and variance:
        distance = event.amount_cents - mean
        # |d| / s > 3.5 says the same as d² > 3.5² s², which needs no square root.
        fires = distance**2 > Z_LIMIT**2 * variance
        z = float(distance) / math.sqrt(variance)
    return {
        "is_amount": fires,
        "z": z,
        "baseline_n": n,
        "baseline_mean": None if mean is None else float(mean / 100),
        "baseline_stddev": None if variance is None else math.sqrt(variance) / 100,
    }


def revision(event: Event, on_time: list[Event]) -> int:
    """How many on-time events arrived after this one, yet sort before it."""
    later = on_time[on_time.index(event) + 1 :]
    return len([other for other in later if order(other) < order(event)])
