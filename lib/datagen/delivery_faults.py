"""How events arrive: out of order, late, twice, contradicting, or as no event at all.

An arrival is a pair: the event time at which the line comes, and its turn among those
that come at that time. Whatever is on time comes at its own ts, in turn 0.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lib.datagen.purchases import HOUR_MS, MINUTE_MS, SECOND_MS
from lib.events.card_event import FIELDS, Event, to_json

LATENESS_MS = 5 * MINUTE_MS
DISPLACED_MS = 4 * MINUTE_MS
RESEND_MS = (1 * SECOND_MS, 6 * HOUR_MS)


class Shares(NamedTuple):
    """How much goes wrong, each a share of the valid events."""

    duplicates: float = 0.0
    out_of_order: float = 0.0
    late: float = 0.0
    malformed: float = 0.0
    conflicts: float = 0.0


class Delivered(NamedTuple):
    """Lines in arrival order; late and out_of_order are places among the events."""

    lines: list[str]
    late: np.ndarray
    out_of_order: np.ndarray
    duplicates: int
    conflicts: int
    malformed: list[str]  # the reason of each malformed line


class Times(NamedTuple):
    """When each row arrives."""

    at_ms: np.ndarray
    turn: np.ndarray
    late: np.ndarray
    out_of_order: np.ndarray


def send(
    rng: np.random.Generator, rows: np.ndarray, events: list[Event], shares: Shares
) -> Delivered:
    """Lines for these events (rows and events by account and time), as they arrive."""
    times = arrival_times(rng, rows, shares)
    wanted = Shares(*(round(len(rows) * share) for share in shares))
    again = rng.choice(len(rows), wanted.duplicates, replace=False)
    against = rng.choice(len(rows), wanted.conflicts, replace=False)
    beside = rng.integers(0, len(rows), wanted.malformed)
    reasons, bad_lines = _malformed([events[place] for place in beside])
    lines = [
        *map(to_json, events),
        *(_repeated(turn, events[place]) for turn, place in enumerate(again)),
        *(_contradicted(turn, events[place]) for turn, place in enumerate(against)),
        *bad_lines,
    ]
    sources = np.concatenate([again, against, beside])
    at_ms = times.at_ms[sources] + rng.integers(*RESEND_MS, len(sources))
    order = in_arrival_order(
        rng,
        np.concatenate([times.at_ms, at_ms]),
        np.concatenate([times.turn, np.zeros(len(sources), "i8")]),
    )
    return Delivered(
        lines=[lines[place] for place in order.tolist()],
        late=times.late,
        out_of_order=times.out_of_order,
        duplicates=len(again),
        conflicts=len(against),
        malformed=reasons,
    )


def in_arrival_order(
    rng: np.random.Generator, at_ms: np.ndarray, turn: np.ndarray
) -> np.ndarray:
    """Places by arrival; equal ones in any order, so that ids must break the tie."""
    return np.lexsort((rng.random(len(at_ms)), turn, at_ms))


def arrival_times(rng: np.random.Generator, rows: np.ndarray, shares: Shares) -> Times:
    """When each row arrives, with the wanted shares late and out of order."""
    late = _choose_late(rng, rows, round(len(rows) * shares.late))
    on_time = np.delete(np.arange(len(rows)), late)
    wanted = round(len(rows) * shares.out_of_order)
    behind, ahead = _choose_displaced(rng, rows, on_time, wanted)
    at_ms, turn = rows["ts_ms"].copy(), np.zeros(len(rows), "i8")
    at_ms[behind], turn[behind] = rows["ts_ms"][ahead], 1
    # A late row comes right after an on-time one that makes it late.
    witness = on_time[_first_later(rows[on_time], rows[late])]
    at_ms[late], turn[late] = at_ms[witness], turn[witness] + 1
    return Times(at_ms, turn, late, behind)


def _choose_late(rng: np.random.Generator, rows: np.ndarray, number: int) -> np.ndarray:
    """Rows outside anomalies that their account's last one can make late."""
    last = np.flatnonzero(np.diff(rows["account"], append=-1) != 0)
    lives = np.diff(last, prepend=-1)
    final = np.repeat(rows["ts_ms"][last], lives)
    eligible = (rows["pattern"] == 0) & (final - rows["ts_ms"] > LATENESS_MS)
    places = np.flatnonzero(eligible)
    return np.sort(rng.choice(places, min(number, len(places)), replace=False))


def _first_later(on_time: np.ndarray, late: np.ndarray) -> np.ndarray:
    """For each late row, the first on-time one of its account that makes it late."""
    stride = int(on_time["ts_ms"].max(initial=0)) + LATENESS_MS + 2
    key = on_time["account"] * np.int64(stride) + on_time["ts_ms"]
    wanted = late["account"] * np.int64(stride) + late["ts_ms"] + LATENESS_MS + 1
    return np.searchsorted(key, wanted)


def _choose_displaced(
    rng: np.random.Generator, rows: np.ndarray, on_time: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows close in time; the first of each is to come after the second."""
    gap = np.diff(rows["ts_ms"][on_time])
    same = np.diff(rows["account"][on_time]) == 0
    close = same & (gap > 0) & (gap < DISPLACED_MS)
    # Of a run of close rows take every other, or the second would be away as well.
    place = np.arange(len(close))
    run_end = np.where(close, len(close), place)
    run_end = np.minimum.accumulate(run_end[::-1])[::-1]
    pairs = np.flatnonzero(close & ((run_end - place) % 2 == 1))
    pairs = rng.choice(pairs, min(number, len(pairs)), replace=False)
    pairs.sort()
    return on_time[pairs], on_time[pairs + 1]


def _fields(event: Event) -> dict[str, Any]:
    return json.loads(to_json(event))


def _repeated(turn: int, event: Event) -> str:
    """The same event again: verbatim, with other spaces, or with its keys reversed."""
    if turn % 3 == 0:
        return to_json(event)
    fields = _fields(event)
    if turn % 3 == 1:
        return f" {json.dumps(fields, ensure_ascii=False, separators=(' , ', ' : '))}\t"
    return json.dumps(dict(reversed(fields.items())))


def _contradicted(turn: int, event: Event) -> str:
    """The same identity with another amount, merchant, country or time."""
    changed = (
        {"amount_cents": event.amount_cents + (1 if event.amount_cents < 100 else -1)},
        {"merchant": f"{event.merchant} 2"},
        {"country": "NZ"},  # not in the catalog
        {"ts_us": event.ts_us + 1_000_000},
    )[turn % 4]
    return to_json(event._replace(**changed))


def _malformed(events: list[Event]) -> tuple[list[str], list[str]]:
    """One bad line beside each event, way after way: the reasons and the lines."""
    ways = [MALFORMED[turn % len(MALFORMED)] for turn in range(len(events))]
    lines = [
        write(event._replace(event_id=f"bad-{turn:06d}"))
        for turn, (event, (_, write)) in enumerate(zip(events, ways, strict=True))
    ]
    return [reason for reason, _ in ways], lines


def _with(**changes: Any) -> Callable[[Event], str]:
    return lambda event: json.dumps(_fields(event) | changes)


def _without(name: str) -> Callable[[Event], str]:
    kept = [field for field in FIELDS if field != name]
    return lambda event: json.dumps({k: _fields(event)[k] for k in kept})


MALFORMED: Sequence[tuple[str, Callable[[Event], str]]] = (
    ("malformed_json", lambda event: to_json(event)[:-20]),
    ("missing_field", _without("merchant")),
    ("bad_type", _with(amount="12.50")),
    ("bad_account", _with(account_id="ACCT_12x4")),
    ("bad_timestamp", _with(ts="2026-06-01T12:00:00")),
    ("future_timestamp", _with(ts="2099-01-01T00:00:00Z")),
    ("bad_country", _with(country="UK")),
    ("bad_amount", _with(amount=0)),
    ("bad_currency", _with(currency="BTC")),
    ("malformed_json", lambda event: ""),
    ("missing_field", _with(country=None)),
    ("bad_type", _with(amount=True)),
    ("bad_account", _with(account_id="acct_0000001")),
    ("bad_timestamp", _with(ts="2026-02-30T12:00:00Z")),
    ("bad_country", _with(country="us")),
    ("bad_amount", _with(amount=-42.1)),
    ("bad_currency", _with(currency="usd")),
    ("malformed_json", lambda event: f"[{to_json(event)}]"),
    ("missing_field", _without("account_id")),
    ("bad_type", _with(event_id="e" * 65)),
    ("bad_account", _with(account_id="ACCT_٣٤")),
    ("bad_timestamp", _with(ts="yesterday")),
    ("bad_country", _with(country="")),
    ("bad_amount", _with(amount=1.005)),
    ("malformed_json", _with(amount=float("nan"))),
    ("bad_type", _with(ts=1_780_000_000)),
    ("bad_amount", _with(amount=10**10)),
    ("malformed_json", lambda event: f"\ufeff{to_json(event)}"),
    ("bad_type", _with(merchant="\ud800")),
    ("malformed_json", lambda event: to_json(event).replace(event.merchant, "\udcff")),
)
"""Reasons with a way to deserve each; the first nine show every one that a line can
have: the producer gives it its key.
The last line's \\udcff stands for the byte 0xFF, which is not UTF-8."""
