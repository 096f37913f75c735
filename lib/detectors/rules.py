"""The three fraud rules as plain Python over the events of one account.

This is the version to read: one event at a time, walking back from its place as
far as the rule looks. `lib.detectors.engine` gives the same answers, bit for bit, for
many accounts at once.

Times are integer microseconds UTC, amounts integer cents, and an account's events
are ordered by `(ts_us, event_id)`, ids compared as Unicode code points.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lib.events.card_event import Event

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND


@dataclass(frozen=True)
class Thresholds:
    """Every number in the rules; times in microseconds.

    `previous_us` is how far back the event just before an event is still named, and
    `retention_us` how long an account's events are remembered behind its newest, and
    a silent account behind the watermark. Together they leave `arrival_us`, how far
    behind the watermark an account may first be seen: within it, nothing that was
    forgotten could have changed an answer.

    Raises:
        ValueError: if state kept for `retention_us` could not answer the rules.
    """

    lateness_us: int = 5 * MINUTE
    velocity_window_us: int = 60 * SECOND
    velocity_count: int = 8
    geo_gap_us: int = 3600 * SECOND
    amount_window_us: int = 30 * DAY
    amount_min_n: int = 10
    amount_z: float = 3.5
    previous_us: int = 45 * DAY
    retention_us: int = 91 * DAY

    def __post_init__(self) -> None:
        """Refuse a memory shorter than the rules need."""
        if self.arrival_us <= 0:
            raise ValueError("retention_us must exceed the look-back plus lateness")

    @property
    def lookback_us(self) -> int:
        """How far before an event any rule looks: what is older is not there."""
        return max(self.amount_window_us, self.previous_us, self.velocity_window_us)

    @property
    def arrival_us(self) -> int:
        """How far behind the watermark an unknown account's event is still scored."""
        return self.retention_us - self.lookback_us - self.lateness_us


THRESHOLDS = Thresholds()


class Answer(NamedTuple):
    """What the rules say of one record; the defaults are those of an unscored one.

    `status` is "new", "duplicate" (same identity and fields as an earlier record)
    or "conflict" (same identity, other fields). `gap_seconds` is in seconds,
    `baseline_mean` and `baseline_stddev` in the account's currency.
    """

    status: str = "new"
    late: bool = False
    is_velocity: bool = False
    velocity_count: int | None = None
    is_geo: bool = False
    prev_country: str | None = None
    gap_seconds: float | None = None
    is_amount: bool = False
    z: float | None = None
    baseline_n: int | None = None
    baseline_mean: float | None = None
    baseline_stddev: float | None = None
    revision: int = 0


def velocity(
    history: Sequence[Event], place: int, rules: Thresholds = THRESHOLDS
) -> dict:
    """Events in (ts − 60 s, ts], itself included, up to its own place."""
    opens = history[place].ts_us - rules.velocity_window_us
    first = place
    while first > 0 and history[first - 1].ts_us > opens:
        first -= 1
    count = place - first + 1
    return {"is_velocity": count > rules.velocity_count, "velocity_count": count}


def geo(history: Sequence[Event], place: int, rules: Thresholds = THRESHOLDS) -> dict:
    """The event just before it: another country, less than an hour ago?"""
    event = history[place]
    if place == 0 or history[place - 1].ts_us < event.ts_us - rules.previous_us:
        return {"is_geo": False, "prev_country": None, "gap_seconds": None}
    previous = history[place - 1]
    gap = event.ts_us - previous.ts_us
    return {
        "is_geo": previous.country != event.country and gap < rules.geo_gap_us,
        "prev_country": previous.country,
        "gap_seconds": gap / SECOND,
    }


def amount(
    history: Sequence[Event], place: int, rules: Thresholds = THRESHOLDS
) -> dict:
    """z-score against the earlier events in [ts − 30 days, ts), itself excluded."""
    event = history[place]
    opens = event.ts_us - rules.amount_window_us
    n = s1 = s2 = 0
    for earlier in reversed(history[:place]):
        if earlier.ts_us < opens:
            break
        if earlier.ts_us < event.ts_us:  # one of the same instant is not earlier
            n += 1
            s1 += earlier.amount_cents
            s2 += earlier.amount_cents**2
    return amount_from_sums(event.amount_cents, n, s1, s2, rules)


def amount_from_sums(
    cents: int, n: int, s1: int, s2: int, rules: Thresholds = THRESHOLDS
) -> dict:
    """The amount rule from exact integer sums over the baseline, all in cents.

    `n` events with sum `s1` and sum of squares `s2`. The sums are integers, so
    they do not depend on the order of adding. To be equal to the last bit in
    numpy and in Spark SQL, each integer in `double()` is converted once, and the
    operations are these, in this order:

        mean   = double(s1) / double(n) / 100
        stddev = sqrt(double(n·s2 − s1²) / double(n·(n−1))) / 100
        z      = double(n·cents − s1) / double(n)
                 / sqrt(double(n·s2 − s1²) / double(n·(n−1)))

    The textbook formula for the sample variance, safe because nothing is rounded
    before the subtraction. `mean` is None when n = 0, `stddev` when n < 2, `z` when
    n < `amount_min_n` or stddev = 0.
    """
    mean = stddev = z = None
    if n >= 1:
        mean = float(s1) / float(n) / 100
    if n >= 2:
        stddev_cents = math.sqrt(float(n * s2 - s1 * s1) / float(n * (n - 1)))
        stddev = stddev_cents / 100
        if n >= rules.amount_min_n and stddev_cents > 0:
            z = float(n * cents - s1) / float(n) / stddev_cents
    return {
        "is_amount": z is not None and abs(z) > rules.amount_z,
        "z": z,
        "baseline_n": n,
        "baseline_mean": mean,
        "baseline_stddev": stddev,
    }


def admit(
    events: Sequence[Event], rules: Thresholds = THRESHOLDS
) -> tuple[list[Answer], list[Event]]:
    """Who takes part: one unscored Answer per record, and the ordered history.

    `events` are one account's valid records in Kafka order. The history holds the
    new, punctual ones in the order (ts, event_id). Each of them raises the revision
    of all that stand behind it already: it joined their baseline or their minute.
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
            answers[index] = answer._replace(
                **velocity(history, place, rules),
                **geo(history, place, rules),
                **amount(history, place, rules),
            )
    return answers


def _order(event: Event) -> tuple[int, str]:
    return event.ts_us, event.event_id
