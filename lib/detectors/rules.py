"""The detectors, and an account's answers by their rules as plain Python.

This is the version to read: one event at a time, each rule in its detector's module.
`lib.detectors.engine` gives the same answers, bit for bit, for many accounts at once.

Times are integer microseconds UTC, amounts integer cents, and an account's events
are ordered by `(ts_us, event_id)`, ids compared as Unicode code points.
"""

from __future__ import annotations

from bisect import bisect
from collections import namedtuple
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lib.detectors.amount import AMOUNT, amount
from lib.detectors.geo import GEO, geo
from lib.detectors.thresholds import THRESHOLDS, Thresholds
from lib.detectors.velocity import VELOCITY, velocity

if TYPE_CHECKING:
    from lib.events.card_event import Event

__all__ = [
    "COLUMNS",
    "DETECTORS",
    "NAMES",
    "Answer",
    "admit",
    "amount",
    "geo",
    "score_history",
    "velocity",
]

DETECTORS = (VELOCITY, GEO, AMOUNT)
"""In the order of their columns in `silver/scored`."""

NAMES = tuple(detector.name for detector in DETECTORS)
COLUMNS = tuple(column for detector in DETECTORS for column in detector.columns)

Answer = namedtuple(
    "Answer",
    ["status", "late", *(column.name for column in COLUMNS), "revision"],
    defaults=[
        "new",
        False,
        *(False if column.kind == "bool" else None for column in COLUMNS),
        0,
    ],
)
Answer.__doc__ = """What the rules say of a record; the defaults: nothing was scored.

`status` is "new", "duplicate" (same identity and fields as an earlier record) or
"conflict" (same identity, other fields). `gap_seconds` is in seconds, `baseline_mean`
and `baseline_stddev` in the account's currency.
"""


def admit(
    events: Sequence[Event], rules: Thresholds = THRESHOLDS
) -> tuple[list[Answer], list[Event]]:
    """Mark each record new, late, duplicate or conflict; return the ordered history.

    `events` are one account's valid records in Kafka order; of each there is one
    Answer, not scored yet. The history holds the new, punctual ones in the order (ts,
    event_id). Each of them raises the revision of all that stand behind it already: it
    joined their baseline or their minute.
    """
    first_with_id: dict[str, Event] = {}
    revisions: dict[str, int] = {}
    history: list[Event] = []
    answers = []
    newest = None
    for event in events:
        if event.event_id in first_with_id:
            same = event == first_with_id[event.event_id]
            answers.append(Answer(status="duplicate" if same else "conflict"))
            continue
        first_with_id[event.event_id] = event
        late = newest is not None and event.ts_us < newest - rules.lateness_us
        answers.append(Answer(late=late))
        if late:
            continue
        newest = event.ts_us if newest is None else max(newest, event.ts_us)
        place = bisect(history, _order(event), key=_order)
        for overtaken in history[place:]:
            revisions[overtaken.event_id] += 1
        history.insert(place, event)
        revisions[event.event_id] = 0
    revised = [
        answer._replace(revision=revisions.get(event.event_id, 0))
        if answer.status == "new"
        else answer
        for event, answer in zip(events, answers, strict=True)
    ]
    return revised, history


def score_history(
    events: Sequence[Event], rules: Thresholds = THRESHOLDS
) -> list[Answer]:
    """The answer at rest for each of one account's valid records, in Kafka order.

    O(n · window). Raises ValueError if the records are of several accounts.
    """
    if len({event.account_id for event in events}) > 1:
        raise ValueError("score_history takes the records of one account")
    answers, history = admit(events, rules)
    place_of = {event.event_id: place for place, event in enumerate(history)}
    for index, event in enumerate(events):
        answer = answers[index]
        if answer.status == "new" and not answer.late:
            place = place_of[event.event_id]
            for detector in DETECTORS:
                answer = answer._replace(**detector.rule(history, place, rules))
            answers[index] = answer
    return answers


def _order(event: Event) -> tuple[int, str]:
    return event.ts_us, event.event_id
