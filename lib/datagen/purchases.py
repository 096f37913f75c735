"""Believable card life: who the account holders are and what they buy, when, where.

Everything is drawn from the generator that is passed in: the same one, the same life.
"""

import numpy as np

from lib.datagen.catalog import COUNTRIES, HOURS, PRICES, WHOLE_UNITS

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

LEVEL_SIGMA = 0.5  # of the lognormal that sets rich accounts apart from poor ones
ACTIVITY_SIGMA = 0.8  # the same for busy and quiet ones
PRICE_SPREAD = 0.25  # a price is its usual one, more or less by this share
FOLLOW_UP = 0.3  # share of purchases that come minutes after another one
FOLLOW_UP_MS = (5 * SECOND_MS, 200 * SECOND_MS)
TRAVELLERS = 0.35  # share of accounts with a trip
TRIP_DAYS = (2, 8)
TRAVEL_MS = 6 * HOUR_MS  # nobody changes countries faster

PERSON = np.dtype(
    [
        ("home", "i2"),  # index into COUNTRIES
        ("level", "f8"),  # multiplies PRICES
        ("activity", "f8"),  # weight when purchases are handed out
        ("shift_ms", "i8"),  # late riser (+) or early bird (-)
        ("abroad", "i2"),  # where the trip goes
        ("leaves_ms", "i8"),
        ("returns_ms", "i8"),  # = leaves_ms for those who stay
    ]
)
ROW = np.dtype(
    [
        ("account", "i4"),  # index into the people
        ("ts_ms", "i8"),  # milliseconds since the first day's midnight, UTC
        ("country", "i2"),  # index into COUNTRIES
        ("merchant", "i2"),  # index into the generator's MERCHANTS
        ("cents", "i8"),  # hundredths of the account's currency
        ("id", "u4"),  # event_id, within the account
        ("pattern", "i1"),  # of the anomaly that it belongs to, 0 = none
        ("role", "i1"),
        ("anomaly", "i4"),
        ("stays", "?"),  # must not make way for an anomaly
    ]
)

_UTC_MS = np.array([int(c.utc_hours * HOUR_MS) for c in COUNTRIES])
_PER_DOLLAR = np.array([c.per_dollar for c in COUNTRIES])
_WHOLE = np.array([c.currency in WHOLE_UNITS for c in COUNTRIES])
_HOMES = np.array([c.homes for c in COUNTRIES]) / sum(c.homes for c in COUNTRIES)
_HOURS = np.array(HOURS) / sum(HOURS)
_PRICES = np.array(PRICES, dtype=float)


def people(rng: np.random.Generator, number: int, days: int) -> np.ndarray:
    """`number` account holders (PERSON) for a story of `days` days."""
    persons = np.zeros(number, PERSON)
    persons["home"] = rng.choice(len(COUNTRIES), number, p=_HOMES)
    persons["level"] = rng.lognormal(0, LEVEL_SIGMA, number)
    persons["activity"] = rng.lognormal(0, ACTIVITY_SIGMA, number)
    persons["shift_ms"] = rng.integers(-HOUR_MS, HOUR_MS, number)
    persons["abroad"] = elsewhere(rng, persons["home"])
    length = rng.integers(*TRIP_DAYS, number, endpoint=True) * DAY_MS
    persons["leaves_ms"] = rng.integers(0, days * DAY_MS, number)
    travels = rng.random(number) < TRAVELLERS
    persons["returns_ms"] = persons["leaves_ms"] + np.where(travels, length, 0)
    return persons


def life(
    rng: np.random.Generator, persons: np.ndarray, events: int, days: int
) -> np.ndarray:
    """`events` ordinary purchases (ROW) of these people, by account and time."""
    rows = np.zeros(events, ROW)
    _hand_out(rng, rows, persons)
    _set_times(rng, rows, persons, days)
    rows = in_order(rows)
    _follow_up(rng, rows, days)
    rows = in_order(rows)
    _set_countries(rows, persons)
    category = rng.integers(0, len(PRICES), events)
    rows["merchant"] = rows["country"] * len(PRICES) + category
    rows["cents"] = price(rng, persons[rows["account"]], _PRICES[category])
    return rows


def in_order(rows: np.ndarray) -> np.ndarray:
    """The rows by account, time and id: the order in which detectors judge them."""
    return rows[np.lexsort((rows["id"], rows["ts_ms"], rows["account"]))]


def gap_before(rows: np.ndarray) -> np.ndarray:
    """Milliseconds since the account's previous row; without one, very many."""
    gap = np.diff(rows["ts_ms"], prepend=0)
    gap[np.diff(rows["account"], prepend=-1) != 0] = np.iinfo("i8").max
    return gap


def elsewhere(rng: np.random.Generator, country: np.ndarray) -> np.ndarray:
    """For each country some other one."""
    step = rng.integers(1, len(COUNTRIES), len(country))
    return (country + step) % len(COUNTRIES)


def price(
    rng: np.random.Generator, buyers: np.ndarray, dollars: np.ndarray
) -> np.ndarray:
    """Cents that these people pay for what usually costs so many US dollars."""
    spread = rng.uniform(1 - PRICE_SPREAD, 1 + PRICE_SPREAD, len(buyers))
    return to_cents(buyers, dollars * buyers["level"] * spread)


def to_cents(buyers: np.ndarray, dollars: np.ndarray) -> np.ndarray:
    """US dollars in hundredths of the buyers' own currencies, at least one unit."""
    units = dollars * _PER_DOLLAR[buyers["home"]]
    cents = np.rint(units * 100).astype("i8")
    return np.maximum(whole_units(buyers, cents), 100)


def whole_units(buyers: np.ndarray, cents: np.ndarray) -> np.ndarray:
    """Cents, without the cents where the buyer's currency has none."""
    return np.where(_WHOLE[buyers["home"]], cents // 100 * 100, cents)


def _hand_out(rng: np.random.Generator, rows: np.ndarray, persons: np.ndarray) -> None:
    """Give every purchase an account: busy ones get more, and if possible all some."""
    weights = persons["activity"] / persons["activity"].sum()
    rows["account"] = rng.choice(len(persons), len(rows), p=weights)
    if len(rows) >= 2 * len(persons):
        rows["account"][: len(persons)] = np.arange(len(persons))
        rows["stays"][: len(persons)] = True


def _set_times(
    rng: np.random.Generator, rows: np.ndarray, persons: np.ndarray, days: int
) -> None:
    """Spread the purchases over the days and, by local time, over the hours."""
    day = rng.integers(0, days, len(rows))
    hour = rng.choice(len(HOURS), len(rows), p=_HOURS)
    local = day * DAY_MS + hour * HOUR_MS + rng.integers(0, HOUR_MS, len(rows))
    buyers = persons[rows["account"]]
    utc = local - _UTC_MS[buyers["home"]] + buyers["shift_ms"]
    rows["ts_ms"] = utc % (days * DAY_MS)


def _follow_up(rng: np.random.Generator, rows: np.ndarray, days: int) -> None:
    """Move some purchases to minutes after the one before: shopping in rounds."""
    follows = (rng.random(len(rows)) < FOLLOW_UP) & (gap_before(rows) < DAY_MS)
    follows[1:] &= ~follows[:-1]
    after = np.flatnonzero(follows)
    moved = rows["ts_ms"][after - 1] + rng.integers(*FOLLOW_UP_MS, len(after))
    fits = moved < days * DAY_MS
    rows["ts_ms"][after[fits]] = moved[fits]


def _set_countries(rows: np.ndarray, persons: np.ndarray) -> None:
    """Home, or abroad for the stays that begin during the trip.

    A stay ends only where the account is quiet for TRAVEL_MS, so that ordinary life
    never looks like impossible travel.
    """
    begins = gap_before(rows) >= TRAVEL_MS
    since = rows["ts_ms"][begins][np.cumsum(begins) - 1]
    buyers = persons[rows["account"]]
    away = (buyers["leaves_ms"] <= since) & (since < buyers["returns_ms"])
    rows["country"] = np.where(away, buyers["abroad"], buyers["home"])
