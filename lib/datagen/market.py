"""The scenario `market`: fraud, and honest payments that look like it.

Two label sets. `fraud` says what happened: the payments of thieves (role ``fraud``),
and the honest ones that may be taken for theft (role ``honest``). `alert` says what
the rules must answer, computed by `lib.detectors.rules` afterwards. What happens is
drawn without a look at the rules' thresholds, so they miss fraud and flag honest
payments.

Amounts are skewed: their logarithm is normal for each kind of shop. A thief's amount
lies `OUTLIER_SIGMAS` of that logarithm's standard deviation above the account's middle.
Only merchants that honest people use, too: no name gives a thief away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import numpy as np

from lib.datagen import delivery_faults
from lib.datagen.anomalies import MAX_CENTS, number_ids
from lib.datagen.catalog import COUNTRIES, PRICES
from lib.datagen.generator import (
    DEFAULT_SEED,
    END,
    Generated,
    Label,
    Story,
    as_events,
    by_time,
    check_counts,
    check_shares,
    deliver,
    labels_of,
    population,
)
from lib.datagen.purchases import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    SECOND_MS,
    elsewhere,
    in_order,
    life,
    to_cents,
    whole_units,
)
from lib.detectors import rules
from lib.detectors.thresholds import SECOND
from lib.events.card_event import Event, parse

NAME = "market"
LEAST_EVENTS, LEAST_DAYS, MOST_FRAUD = 1_000, 2, 0.2  # all cases find a place
FRAUD_SHARE = 0.02  # of the payments, a third for each kind

THEFTS = ("card_testing", "cloned_card", "outlier")
LOOK_ALIKES = ("fair", "commute", "online_abroad", "first_fridge", "holiday")
PATTERNS = ("", *THEFTS, *LOOK_ALIKES)
ROLES = ("", "fraud", "honest")
TESTING, CLONE, OUTLIER, FAIR, COMMUTE, ONLINE, FRIDGE, HOLIDAY = range(1, 9)

# Of all payments, whatever the share of fraud. Holidays are the travellers' trips.
FAIR_SHARE, COMMUTE_SHARE, ONLINE_SHARE, FRIDGE_SHARE = 0.006, 0.004, 0.006, 0.002

SKEW = 0.6  # standard deviation of ln(price) in one kind of shop
SIGMA = float(np.hypot(SKEW, np.std(np.log(PRICES))))  # ... over all of them
MIDDLE = float(np.exp(np.mean(np.log(PRICES))))  # dollars, of a middling account

TESTING_SIZE, TESTING_PACE_MS = (4, 15), (1 * SECOND_MS, 120 * SECOND_MS)
TESTING_DOLLARS = (0.5, 5)
CLONE_SIZE, CLONE_PACE_MS = (1, 4), (2 * MINUTE_MS, 2 * HOUR_MS)
CLONE_TIMES = 2.0  # dearer than the owner's purchases
THEFT_AFTER_MS = (2 * MINUTE_MS, 12 * HOUR_MS)  # since the owner's last payment
OUTLIER_SIGMAS = (2, 6)
FAIR_SIZE, FAIR_PACE_MS, FAIR_DOLLARS = (5, 15), (3 * SECOND_MS, 90 * SECOND_MS), (2, 9)
COMMUTERS = 0.03  # of the accounts
CROSSING_MS, WORK_MS = (15 * MINUTE_MS, 90 * MINUTE_MS), 8 * HOUR_MS
ONLINE_AFTER_MS = (1 * MINUTE_MS, 6 * HOUR_MS)
FRIDGE_SIGMAS = (2.5, 4.5)
HOLIDAY_NEAR = 0.5  # of the trips; from where there is a neighbour
HOLIDAY_TIMES = (1.5, 3)  # dearer than life at home
NEAR_MS, FAR_MS = (40 * MINUTE_MS, 120 * MINUTE_MS), (3 * HOUR_MS, 6 * HOUR_MS)

_STREAMING, _CLOTHES, _ELECTRONICS = 1, 6, 7  # places in PRICES
_AT_A_FAIR, _ONLINE, _DEAR = (0, 3), (_STREAMING, _CLOTHES), (_CLOTHES, _ELECTRONICS)
_CODES = [country.code for country in COUNTRIES]
_BORDERS = ("US CA", "US MX", "GB FR", "FR DE", "FR ES")
NEIGHBOURS = {
    code: [pair.replace(code, "").strip() for pair in _BORDERS if code in pair]
    for code in _CODES
    if any(code in pair for pair in _BORDERS)
}
_NEIGHBOURS = {
    _CODES.index(code): [_CODES.index(other) for other in near]
    for code, near in NEIGHBOURS.items()
}


class Case(NamedTuple):
    """New payments that follow one of the account's own."""

    pattern: int
    size: int  # payments


def generate(
    events: int,
    accounts: int,
    days: int = 40,
    seed: int = DEFAULT_SEED,
    *,
    fraud: float = FRAUD_SHARE,
    duplicates: float = 0.0,
    out_of_order: float = 0.0,
    late: float = 0.0,
    malformed: float = 0.0,
    conflicts: float = 0.0,
) -> Generated:
    """`events` valid events, `fraud` of them (a share) made by thieves.

    The other arguments are those of `lib.datagen.generator.generate`; late are only
    events outside the cases. The alert labels hold for the lines in their order. Raises
    ValueError, in one line, on a bad argument.
    """
    shares = delivery_faults.Shares(
        duplicates, out_of_order, late, malformed, conflicts
    )
    check_shares(**shares._asdict())
    rows, valid = _world(events, accounts, days, seed, fraud)
    made = deliver(rows, valid, seed, shares, labels=[])
    happened = labels_of(rows, valid, PATTERNS, ROLES)
    return replace(made, labels=alerts(made.lines), fraud=happened)


def story(
    events: int,
    accounts: int,
    days: int = 40,
    seed: int = DEFAULT_SEED,
    *,
    fraud: float = FRAUD_SHARE,
) -> Story:
    """What `generate` tells, as events by event time; the labels are `fraud`'s."""
    rows, valid = _world(events, accounts, days, seed, fraud)
    labels = labels_of(rows, valid, PATTERNS, ROLES)
    return Story(by_time(rows, valid, seed), labels)


def alerts(lines: Sequence[str]) -> list[Label]:
    """What the rules must say of these lines, in the order of arrival, by event time.

    Every flag is an anomaly of its own; an event on which two rules fire is there
    twice.
    """
    histories: dict[str, list[Event]] = defaultdict(list)
    kafka_us = int(END.timestamp()) * SECOND
    for line in lines:
        event = parse(line.encode("utf-8", "surrogateescape"), kafka_us)
        if isinstance(event, Event):
            histories[event.account_id].append(event)
    fired = []
    for own in histories.values():
        for event, answer in zip(own, rules.score_history(own), strict=True):
            for rule in ("velocity", "geo", "amount"):
                if getattr(answer, f"is_{rule}"):
                    fired.append((event.ts_us, event.account_id, event.event_id, rule))
    numbers: dict[str, int] = defaultdict(int)
    labels = []
    for _ts, account_id, event_id, rule in sorted(fired):
        numbers[rule] += 1
        name = f"{rule}-{numbers[rule]:04d}"
        labels.append(Label(name, rule, "alert", account_id, event_id))
    return labels


def _world(
    events: int, accounts: int, days: int, seed: int, fraud: float
) -> tuple[np.ndarray, list[Event]]:
    """What happens, as rows and as events, both by account and time."""
    check_counts(events=events, accounts=accounts, days=days, seed=seed)
    check_shares(fraud=fraud)
    for name, value, least in (
        ("events", events, LEAST_EVENTS),
        ("days", days, LEAST_DAYS),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least} in scenario {NAME}")
    if fraud > MOST_FRAUD:
        raise ValueError(f"fraud must be at most {MOST_FRAUD}, not {fraud}")
    rng = np.random.default_rng([seed, 2])
    ids, persons = population(rng, events, accounts, days)
    persons["abroad"] = _somewhere(rng, persons["home"], HOLIDAY_NEAR)
    rows = _payments(rng, persons, events, days, fraud)
    return rows, as_events(rows, ids, persons, days)


def _payments(
    rng: np.random.Generator, persons: np.ndarray, events: int, days: int, fraud: float
) -> np.ndarray:
    """Ordinary life with holidays, commuters, fridges and all other cases in it."""
    cases = _plan(rng, events, fraud)
    crossings = _crossings(rng, persons, round(events * COMMUTE_SHARE / 2), days)
    planted = sum(case.size for case in cases) + 2 * len(crossings)
    rows = life(rng, persons, events - planted, days)
    category = rows["merchant"] % len(PRICES)
    rows["cents"] = _ordinary_cents(rng, rows, persons, category)
    _holidays(rng, rows, persons)
    rows = in_order(rows)
    parts = [rows]
    parts += [
        _commute(rng, rows, persons, crossing, number)
        for number, crossing in enumerate(crossings)
    ]
    _fridges(rng, rows, persons, round(events * FRIDGE_SHARE))
    may_follow = np.flatnonzero(rows["ts_ms"] < (days - 1) * DAY_MS)
    chosen = rng.choice(may_follow, len(cases), replace=False)
    for number, (case, place) in enumerate(zip(cases, chosen, strict=True)):
        new = _MAKE[case.pattern](rng, np.repeat(rows[place], case.size), persons)
        _mark(new, slice(None), case.pattern, number)
        parts.append(new)
    rows = np.concatenate(parts)
    number_ids(rng, rows)
    return in_order(rows)


def _plan(rng: np.random.Generator, events: int, fraud: float) -> list[Case]:
    """The cases that follow a payment of the account; thieves' payments are exactly
    the share `fraud` of all."""
    thefts = round(events * fraud)
    testing = _sizes(rng, thefts // 3, *TESTING_SIZE)
    clones = _sizes(rng, thefts // 3, *CLONE_SIZE)
    fairs = _sizes(rng, round(events * FAIR_SHARE), *FAIR_SIZE)
    return [
        *(Case(TESTING, size) for size in testing),
        *(Case(CLONE, size) for size in clones),
        *[Case(OUTLIER, 1)] * (thefts - sum(testing) - sum(clones)),
        *(Case(FAIR, size) for size in fairs),
        *[Case(ONLINE, 1)] * round(events * ONLINE_SHARE),
    ]


def _sizes(rng: np.random.Generator, total: int, least: int, most: int) -> list[int]:
    """Sizes of cases, `total` together, or less by fewer than `least`."""
    sizes = []
    while total >= least:
        sizes.append(int(rng.integers(least, min(most, total), endpoint=True)))
        total -= sizes[-1]
    return sizes


# -- thefts: new payments in copies of the owner's one before ---------------------


def _card_testing(
    rng: np.random.Generator, new: np.ndarray, persons: np.ndarray
) -> np.ndarray:
    """Small sums one after the other, to see if the card works."""
    _follow(rng, new, THEFT_AFTER_MS, TESTING_PACE_MS)
    _shop(rng, new, [_STREAMING])
    new["cents"] = to_cents(
        persons[new["account"]], rng.uniform(*TESTING_DOLLARS, len(new))
    )
    return new


def _cloned_card(
    rng: np.random.Generator, new: np.ndarray, persons: np.ndarray
) -> np.ndarray:
    """A copy of the card shops in another country, half of them next door."""
    _follow(rng, new, THEFT_AFTER_MS, CLONE_PACE_MS)
    new["country"] = _somewhere(rng, new["country"][:1], 0.5)
    category = _shop(rng, new, range(len(PRICES)))
    cents = _ordinary_cents(rng, new, persons, category) * CLONE_TIMES
    new["cents"] = whole_units(persons[new["account"]], cents.astype("i8"))
    return new


def _outlier(
    rng: np.random.Generator, new: np.ndarray, persons: np.ndarray
) -> np.ndarray:
    """One dear payment, most of them not far above what an account may spend."""
    _follow(rng, new, THEFT_AFTER_MS, THEFT_AFTER_MS)
    _shop(rng, new, _DEAR)
    least, most = OUTLIER_SIGMAS
    sigmas = np.minimum(least + rng.exponential(1, len(new)), most)
    new["cents"] = _dear_cents(new, persons, sigmas)
    return new


# -- look-alikes -----------------------------------------------------------------


def _fair(rng: np.random.Generator, new: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """A family at a fair: rides and sweets, all with one card."""
    _follow(rng, new, THEFT_AFTER_MS, FAIR_PACE_MS)
    _shop(rng, new, _AT_A_FAIR)
    new["cents"] = to_cents(
        persons[new["account"]], rng.uniform(*FAIR_DOLLARS, len(new))
    )
    return new


def _online_abroad(
    rng: np.random.Generator, new: np.ndarray, persons: np.ndarray
) -> np.ndarray:
    """Minutes after a payment here, a purchase online from a shop elsewhere."""
    _follow(rng, new, ONLINE_AFTER_MS, ONLINE_AFTER_MS)
    new["country"] = elsewhere(rng, new["country"])
    category = _shop(rng, new, _ONLINE)
    new["cents"] = _ordinary_cents(rng, new, persons, category)
    return new


_MAKE = {
    TESTING: _card_testing,
    CLONE: _cloned_card,
    OUTLIER: _outlier,
    FAIR: _fair,
    ONLINE: _online_abroad,
}


def _crossings(
    rng: np.random.Generator, persons: np.ndarray, number: int, days: int
) -> list[tuple[int, int]]:
    """Up to `number` workdays of commuters: (account, day).

    Commuters live near a border and make no trip.
    """
    stays = persons["leaves_ms"] == persons["returns_ms"]
    near = np.flatnonzero(stays & np.isin(persons["home"], list(_NEIGHBOURS)))
    commuters = near[: max(1, round(len(persons) * COMMUTERS))].tolist()
    begin = END - timedelta(days=days)
    # Neither the first day nor the last: by local time they lie half outside.
    inside = range(1, days - 1)
    workdays = [day for day in inside if (begin + timedelta(day)).weekday() < 5]
    pairs = [(account, day) for account in commuters for day in workdays]
    return [pairs[place] for place in rng.permutation(len(pairs))[:number]]


def _commute(
    rng: np.random.Generator,
    rows: np.ndarray,
    persons: np.ndarray,
    crossing: tuple[int, int],
    number: int,
) -> np.ndarray:
    """A coffee at home and one at work across the border; the day's rows move there."""
    account, day = crossing
    home = int(persons["home"][account])
    work = _NEIGHBOURS[home][account % len(_NEIGHBOURS[home])]
    new = np.zeros(2, rows.dtype)
    new["account"], new["country"] = account, (home, work)
    local = day * DAY_MS + 7 * HOUR_MS + rng.integers(75 * MINUTE_MS)
    leaves = local - int(COUNTRIES[home].utc_hours * HOUR_MS)
    new["ts_ms"] = leaves, leaves + rng.integers(*CROSSING_MS)
    category = _shop(rng, new, [0])
    new["cents"] = _ordinary_cents(rng, new, persons, category)
    first, last = np.searchsorted(rows["account"], (account, account + 1))
    since = rows["ts_ms"][first:last] - new["ts_ms"][1]
    at_work = first + np.flatnonzero((since >= 0) & (since < WORK_MS))
    rows["country"][at_work] = work
    rows["merchant"][at_work] = work * len(PRICES) + (
        rows["merchant"][at_work] % len(PRICES)
    )
    _mark(rows, at_work, COMMUTE, number)
    _mark(new, slice(None), COMMUTE, number)
    return new


def _holidays(rng: np.random.Generator, rows: np.ndarray, persons: np.ndarray) -> None:
    """Trips are dearer than life at home, and begin with a payment on the way.

    That is the account's last one at home: it moves to an hour or two before a
    neighbouring country is reached, and to several before another one.
    """
    away = np.flatnonzero(rows["country"] != persons["home"][rows["account"]])
    ends = np.flatnonzero(np.diff(rows["account"][away])) + 1
    for number, trip in enumerate(np.split(away, ends) if len(away) else []):
        first, account = trip[0], rows["account"][trip[0]]
        times = rng.uniform(*HOLIDAY_TIMES)
        buyers = persons[rows["account"][trip]]
        cents = np.rint(rows["cents"][trip] * times).astype("i8")
        rows["cents"][trip] = whole_units(buyers, cents)
        _mark(rows, trip, HOLIDAY, number)
        near = rows["country"][first] in _NEIGHBOURS.get(int(buyers["home"][0]), ())
        wait = rng.integers(*(NEAR_MS if near else FAR_MS))
        if first > 0 and rows["account"][first - 1] == account:
            rows["ts_ms"][first - 1] = rows["ts_ms"][first] - wait
            _mark(rows, [first - 1], HOLIDAY, number)


def _fridges(
    rng: np.random.Generator, rows: np.ndarray, persons: np.ndarray, number: int
) -> None:
    """Some ordinary purchases at home become the dearest of the year."""
    at_home = rows["country"] == persons["home"][rows["account"]]
    ordinary = np.flatnonzero(at_home & (rows["pattern"] == 0))
    chosen = rng.choice(ordinary, min(number, len(ordinary)), replace=False)
    bought = rows[chosen]
    _shop(rng, bought, [_ELECTRONICS])
    sigmas = rng.uniform(*FRIDGE_SIGMAS, len(bought))
    bought["cents"] = _dear_cents(bought, persons, sigmas)
    _mark(bought, slice(None), FRIDGE, np.arange(len(bought)))
    rows[chosen] = bought


# -- what they have in common ----------------------------------------------------


def _mark(
    rows: np.ndarray,
    places: slice | Sequence[int] | np.ndarray,
    pattern: int,
    number: int | np.ndarray,
) -> None:
    """Label these rows as parts of a case."""
    rows["pattern"][places], rows["anomaly"][places] = pattern, number
    rows["role"][places] = 1 if PATTERNS[pattern] in THEFTS else 2


def _follow(
    rng: np.random.Generator,
    new: np.ndarray,
    after_ms: tuple[int, int],
    pace_ms: tuple[int, int],
) -> None:
    """Times from the payment that was copied on: a first wait, then a pace of its
    own for each case, kept more or less. Short ones are as likely as long ones."""
    pace = _log_uniform(rng, pace_ms)
    waits = pace * rng.uniform(0.5, 1.5, len(new))
    waits[0] = _log_uniform(rng, after_ms)
    new["ts_ms"] += np.cumsum(waits).astype("i8")


def _log_uniform(rng: np.random.Generator, bounds: tuple[int, int]) -> float:
    """A number between the bounds whose logarithm is uniform."""
    return float(np.exp(rng.uniform(*np.log(bounds))))


def _shop(
    rng: np.random.Generator, new: np.ndarray, categories: Sequence[int]
) -> np.ndarray:
    """Draw a category (place in PRICES) for each row, and its merchant there."""
    category = rng.choice(np.array(categories), len(new))
    new["merchant"] = new["country"] * len(PRICES) + category
    return category


def _somewhere(
    rng: np.random.Generator, countries: np.ndarray, near: float
) -> np.ndarray:
    """For each country another one: a neighbour with probability `near`, if any."""
    chosen = elsewhere(rng, countries)
    for place in np.flatnonzero(rng.random(len(countries)) < near).tolist():
        if neighbours := _NEIGHBOURS.get(int(countries[place])):
            chosen[place] = rng.choice(neighbours)
    return chosen


def _ordinary_cents(
    rng: np.random.Generator,
    rows: np.ndarray,
    persons: np.ndarray,
    category: np.ndarray,
) -> np.ndarray:
    """What these people pay in shops of these categories: skewed."""
    buyers = persons[rows["account"]]
    usual = np.array(PRICES, dtype=float)[category] * buyers["level"]
    return to_cents(buyers, usual * rng.lognormal(0, SKEW, len(rows)))


def _dear_cents(
    rows: np.ndarray, persons: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """So many standard deviations of ln(amount) above the account's middle."""
    buyers = persons[rows["account"]]
    dollars = MIDDLE * buyers["level"] * np.exp(sigmas * SIGMA)
    return np.minimum(to_cents(buyers, dollars), MAX_CENTS)
