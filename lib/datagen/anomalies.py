"""Inject anomalies into ordinary purchases, each with its label.

Three patterns, in even shares: a burst of payments (velocity), a payment from a place
that can't be reached in time (geo), an amount out of all proportion (amount).
"""

from typing import NamedTuple

import numpy as np

from lib.datagen.catalog import (
    BURST_MERCHANTS,
    COUNTRIES,
    GEO_MERCHANTS,
    LUXURY_MERCHANTS,
    PRICES,
)
from lib.datagen.purchases import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    SECOND_MS,
    elsewhere,
    gap_before,
    in_order,
    price,
    whole_units,
)

PATTERNS = ("", "velocity", "geo", "amount")
VELOCITY, GEO, AMOUNT = 1, 2, 3
ROLES = ("", "alert", "part")
ALERT, PART = 1, 2
MERCHANTS = [
    *(name for country in COUNTRIES for name in country.merchants),
    *BURST_MERCHANTS,
    *GEO_MERCHANTS,
    *LUXURY_MERCHANTS,
]

BURST_PARTS = 8  # as many as a minute may have; the next one is the first alert
BURST_ALERTS = (1, 5)
BURST_MS = 55 * SECOND_MS
BURST_MARGIN_MS = 61 * SECOND_MS  # nothing ordinary counts as part of a burst
BURST_GAP_MS = 5 * MINUTE_MS
GEO_MS = (2 * MINUTE_MS, 50 * MINUTE_MS)
GEO_GAP_MS = 2 * HOUR_MS  # after the jump, home is more than an hour away again
AMOUNT_HISTORY = 12  # the rule needs 10; two may turn out to be late
AMOUNT_WINDOW_MS = 30 * DAY_MS
AMOUNT_TIMES_MEAN = (12, 40)
AMOUNT_SIGMAS = (6, 12)
AMOUNT_ABROAD = 0.3
AMOUNT_GAP_MS = 62 * MINUTE_MS  # abroad only if that is no impossible travel
MAX_CENTS = 100_000_000_000

_BURST_FIRST = len(COUNTRIES) * len(PRICES)
_GEO_FIRST = _BURST_FIRST + len(BURST_MERCHANTS)
_LUXURY_FIRST = _GEO_FIRST + len(GEO_MERCHANTS)


class Slots(NamedTuple):
    """Where bursts and jumps go: rows that they come after."""

    bursts: np.ndarray
    sizes: np.ndarray  # events of each burst
    jumps: np.ndarray


def plant(
    rng: np.random.Generator,
    rows: np.ndarray,
    persons: np.ndarray,
    alerts: int,
    days: int,
) -> np.ndarray:
    """The rows with up to `alerts` alerts planted; their number stays the same.

    For bursts and jumps as many ordinary rows go. Where a life is too short or too
    busy for an anomaly, there is one less. Returns rows in order, complete.
    """
    velocity, geo, amount = ((alerts + 2 - pattern) // 3 for pattern in range(3))
    gap = _gap_after(rows, days * DAY_MS)
    slots = _slots(rng, rows, gap, velocity, geo)
    bursts = _bursts(rng, rows, persons, gap, slots)
    jumps = _jumps(rng, rows, persons, slots.jumps)
    rows = _make_way(rng, rows, len(bursts) + len(jumps))
    rows = np.concatenate([rows, bursts, jumps])
    number_ids(rng, rows)
    rows = in_order(rows)
    _assign_burst_roles(rows)
    _plant_amounts(rng, rows, persons, amount, days * DAY_MS)
    return rows


def id_digits(events: int) -> int:
    """Digits that an event id needs, so that text and number sort alike."""
    return max(6, len(str(events)))


def _gap_after(rows: np.ndarray, end_ms: int) -> np.ndarray:
    """Milliseconds to the account's next row, or to the end of the story."""
    gap = np.roll(gap_before(rows), -1)
    last = np.diff(rows["account"], append=-1) != 0
    gap[last] = end_ms - rows["ts_ms"][last]
    return gap


def _slots(
    rng: np.random.Generator,
    rows: np.ndarray,
    gap: np.ndarray,
    velocity: int,
    geo: int,
) -> Slots:
    """As many slots as there are gaps for, and rows that can make way."""
    jumps = _spread(rng, rows, gap >= GEO_GAP_MS, geo)
    free = gap >= BURST_GAP_MS
    free[jumps] = False
    alerts = _burst_alerts(rng, velocity)
    bursts = _spread(rng, rows, free, len(alerts))
    sizes = alerts[: len(bursts)] + BURST_PARTS
    room = np.count_nonzero(~rows["stays"])
    jumps = jumps[: room // 2]  # each takes a row's place and holds another
    fits = np.cumsum(sizes) <= room - 2 * len(jumps)
    return Slots(bursts[fits], sizes[fits], jumps)


def _burst_alerts(rng: np.random.Generator, total: int) -> np.ndarray:
    """Alerts per burst, `total` together."""
    alerts = rng.integers(*BURST_ALERTS, max(total, 1), endpoint=True)
    ends = np.minimum(np.cumsum(alerts), total)
    alerts = np.diff(ends, prepend=0)
    return alerts[alerts > 0]


def _spread(
    rng: np.random.Generator, rows: np.ndarray, eligible: np.ndarray, number: int
) -> np.ndarray:
    """Up to `number` eligible rows, over as many accounts as possible, at random."""
    places = rng.permutation(np.flatnonzero(eligible))
    places = places[np.argsort(rows["account"][places], kind="stable")]
    turn = count_up(rows["account"][places])
    order = np.lexsort((rng.random(len(places)), turn))
    return places[order[:number]]


def count_up(groups: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values."""
    place = np.arange(len(groups))
    begins = np.diff(groups, prepend=-1) != 0
    return place - np.maximum.accumulate(np.where(begins, place, 0))


def _bursts(
    rng: np.random.Generator,
    rows: np.ndarray,
    persons: np.ndarray,
    gap: np.ndarray,
    slots: Slots,
) -> np.ndarray:
    """New rows: many payments within a minute, where the account is just then."""
    room = gap[slots.bursts] - 2 * BURST_MARGIN_MS - BURST_MS
    wait = BURST_MARGIN_MS + rng.integers(0, np.minimum(room, GEO_MS[1]), endpoint=True)
    new = np.repeat(rows[slots.bursts], slots.sizes)
    moment = rng.integers(0, BURST_MS, len(new))
    # Every other burst goes by whole seconds: then equal times occur.
    burst = np.repeat(np.arange(len(slots.sizes)), slots.sizes)
    moment = np.where(burst % 2 == 0, moment // SECOND_MS * SECOND_MS, moment)
    new["ts_ms"] += np.repeat(wait, slots.sizes) + moment
    shop = rng.integers(0, len(BURST_MERCHANTS), len(slots.sizes))
    new["merchant"] = _BURST_FIRST + np.repeat(shop, slots.sizes)
    dollars = rng.choice(np.array(PRICES, dtype=float), len(new))
    new["cents"] = price(rng, persons[new["account"]], dollars)
    new["pattern"], new["anomaly"], new["stays"] = VELOCITY, burst, True
    return new


def _jumps(
    rng: np.random.Generator, rows: np.ndarray, persons: np.ndarray, after: np.ndarray
) -> np.ndarray:
    """New rows: a payment in another country, within the hour. Marks those before."""
    number = np.arange(len(after))
    new = rows[after].copy()
    new["ts_ms"] += rng.integers(*GEO_MS, len(new))
    new["country"] = elsewhere(rng, new["country"])
    new["merchant"] = _GEO_FIRST + rng.integers(0, len(GEO_MERCHANTS), len(new))
    dollars = rng.choice(np.array(PRICES, dtype=float), len(new))
    new["cents"] = price(rng, persons[new["account"]], dollars)
    new["pattern"], new["role"], new["anomaly"] = GEO, ALERT, number
    rows["pattern"][after], rows["role"][after] = GEO, PART
    rows["anomaly"][after] = number
    return new


def _make_way(rng: np.random.Generator, rows: np.ndarray, number: int) -> np.ndarray:
    """The rows without `number` ordinary ones."""
    can_go = np.flatnonzero(~rows["stays"] & (rows["pattern"] == 0))
    return np.delete(rows, rng.choice(can_go, number, replace=False))


def number_ids(rng: np.random.Generator, rows: np.ndarray) -> None:
    """Give each row an id, unique in its account and out of step with time.

    Steps of 0.618 of all the numbers, and prime to them, visit each one once and go
    up and down. Every account starts anew: only with it does an id identify an event.
    """
    order = np.lexsort((rows["ts_ms"], rows["account"]))
    rank = count_up(rows["account"][order]).astype("u8")
    ids = 10 ** id_digits(len(rows))
    step = int(ids * 0.618) // 10 * 10 + 3
    first = int(rng.integers(ids))
    rows["id"][order] = (first + rank * np.uint64(step)) % np.uint64(ids)


def _assign_burst_roles(rows: np.ndarray) -> None:
    """The first payments of a burst make it up, those after them are alerts."""
    burst = np.flatnonzero(rows["pattern"] == VELOCITY)
    turn = count_up(rows["anomaly"][burst])
    rows["role"][burst] = np.where(turn < BURST_PARTS, PART, ALERT)


def _plant_amounts(
    rng: np.random.Generator,
    rows: np.ndarray,
    persons: np.ndarray,
    number: int,
    end_ms: int,
) -> None:
    """Turn ordinary payments with enough history into outliers."""
    account = rows["account"].astype("i8") * (end_ms + 1)
    key = account + rows["ts_ms"]
    since = np.maximum(rows["ts_ms"] - AMOUNT_WINDOW_MS, 0)
    first, last = np.searchsorted(key, account + since), np.searchsorted(key, key)
    eligible = (rows["pattern"] == 0) & (last - first >= AMOUNT_HISTORY)
    chosen = np.sort(_spread(rng, rows, eligible, number))  # each sees those before it
    times = rng.uniform(*AMOUNT_TIMES_MEAN, len(chosen))
    sigmas = rng.uniform(*AMOUNT_SIGMAS, len(chosen))
    for place, factor, sigma in zip(chosen, times, sigmas, strict=True):
        past = rows["cents"][first[place] : last[place]]
        cents = max(past.mean() * factor, past.mean() + sigma * past.std(ddof=1))
        rows["cents"][place] = min(round(cents), MAX_CENTS)
    buyers = persons[rows["account"][chosen]]
    rows["cents"][chosen] = whole_units(buyers, rows["cents"][chosen])
    shop = _LUXURY_FIRST + rng.integers(0, len(LUXURY_MERCHANTS), len(chosen))
    rows["merchant"][chosen] = shop
    rows["pattern"][chosen], rows["role"][chosen] = AMOUNT, ALERT
    rows["anomaly"][chosen] = np.arange(len(chosen))
    alone = np.minimum(gap_before(rows), _gap_after(rows, end_ms)) >= AMOUNT_GAP_MS
    abroad = chosen[alone[chosen] & (rng.random(len(chosen)) < AMOUNT_ABROAD)]
    rows["country"][abroad] = elsewhere(rng, rows["country"][abroad])
