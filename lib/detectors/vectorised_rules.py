"""The three rules for many events at once, over accounts laid end to end.

The same rules as `lib.detectors.rules`, with binary searches in place of walking back
and differences of running sums in place of adding up.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from lib.detectors.account_state import Rows, country_names
from lib.detectors.ragged_arrays import first_at_least
from lib.detectors.rules import SECOND, Thresholds, amount_from_sums

# Amounts reach 1e11 cents (37 bits) and their squares do not fit in int64, so each is
# split as high·2**18 + low. Sums of high², high·low and low² then fit for 2**25 rows.
_LOW_BITS = 18
_SAFE = 2.0**62  # what is estimated below this fits in int64, estimate's error and all


@dataclass(frozen=True)
class Answers:
    """The answer columns of `silver/scored`, k long.

    Null is -1 in the two counts, None in `prev_country` and NaN in the floats.
    """

    late: np.ndarray  # bool
    is_velocity: np.ndarray  # bool
    velocity_count: np.ndarray  # int64, or -1
    is_geo: np.ndarray  # bool
    prev_country: np.ndarray  # object: str or None
    gap_seconds: np.ndarray  # float64, s
    is_amount: np.ndarray  # bool
    z: np.ndarray  # float64
    baseline_n: np.ndarray  # int64, or -1
    baseline_mean: np.ndarray  # float64, the account's currency
    baseline_stddev: np.ndarray  # float64, the account's currency
    revision: np.ndarray  # int64

    @classmethod
    def unscored(cls, late: np.ndarray) -> Answers:
        """Flags false, numbers null, revision 0."""
        k = len(late)
        return cls(
            late=late,
            is_velocity=np.zeros(k, bool),
            velocity_count=np.full(k, -1),
            is_geo=np.zeros(k, bool),
            prev_country=np.full(k, None),
            gap_seconds=np.full(k, np.nan),
            is_amount=np.zeros(k, bool),
            z=np.full(k, np.nan),
            baseline_n=np.full(k, -1),
            baseline_mean=np.full(k, np.nan),
            baseline_stddev=np.full(k, np.nan),
            revision=np.zeros(k, np.int64),
        )

    def take(self, index: np.ndarray) -> Answers:
        """The answers at `index`, in that order."""
        return Answers(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: np.ndarray, answers: Answers) -> None:
        """Overwrite the answers at `index`."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(answers, field.name)


def answer_places(
    history: Rows,
    starts: np.ndarray,
    stops: np.ndarray,
    places: np.ndarray,
    revision: np.ndarray,
    rules: Thresholds,
) -> Answers:
    """The answers for the events at `places` in `history` (k each).

    Event `places[i]` belongs to the account that fills `starts[i]:stops[i]`, in the
    order (ts, event id).
    """
    now = history.ts[places]
    # one search for all three windows: their first indices, and the first equal ts
    opens = [now - rules.velocity_window_us + 1, now - rules.amount_window_us, now]
    since_velocity, since_amount, since_now = first_at_least(
        history.ts, np.tile(starts, 3), np.tile(stops, 3), np.concatenate(opens)
    ).reshape(3, -1)
    velocity_count = places - since_velocity + 1
    return Answers(
        late=np.zeros(len(places), bool),
        is_velocity=velocity_count > rules.velocity_count,
        velocity_count=velocity_count,
        **_geo(history, starts, places, rules),
        **_amount(history.amount, since_amount, since_now, places, rules),
        revision=revision,
    )


def _geo(
    history: Rows, starts: np.ndarray, places: np.ndarray, rules: Thresholds
) -> dict[str, np.ndarray]:
    before = np.maximum(places - 1, starts)
    gap = history.ts[places] - history.ts[before]
    found = (places > starts) & (gap <= rules.previous_us)
    other = history.country[before] != history.country[places]
    prev_country = np.full(len(places), None)
    prev_country[found] = country_names(history.country[before[found]])
    return {
        "is_geo": found & other & (gap < rules.geo_gap_us),
        "prev_country": prev_country,
        "gap_seconds": np.where(found, gap / SECOND, np.nan),
    }


def _amount(
    cents: np.ndarray,
    firsts: np.ndarray,
    lasts: np.ndarray,
    places: np.ndarray,
    rules: Thresholds,
) -> dict[str, np.ndarray]:
    """`lib.detectors.rules.amount_from_sums` over `cents[first:last]` for each
    place."""
    high, low = cents >> _LOW_BITS, cents & ((1 << _LOW_BITS) - 1)
    s1, hh, hl, ll = (
        _window_sums(column, firsts, lasts)
        for column in (cents, high * high, high * low, low * low)
    )
    n, own = lasts - firsts, cents[places]
    squares = (
        hh * 2.0 ** (2 * _LOW_BITS) + hl * 2.0 ** (_LOW_BITS + 1) + ll.astype(float)
    )
    exact = (n * squares < _SAFE) & (n * own.astype(float) < _SAFE)
    # where it is not exact this wraps around, and is replaced below
    s2 = (hh << 2 * _LOW_BITS) + (hl << _LOW_BITS + 1) + ll
    spread, pairs = n * s2 - s1 * s1, n * (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(n >= 1, s1 / n / 100, np.nan)
        stddev_cents = np.where(n >= 2, np.sqrt(spread / pairs), np.nan)
        z = (n * own - s1) / n / stddev_cents
    z[(n < rules.amount_min_n) | (stddev_cents == 0)] = np.nan
    result = {
        "is_amount": np.abs(z) > rules.amount_z,
        "z": z,
        "baseline_n": n,
        "baseline_mean": mean,
        "baseline_stddev": stddev_cents / 100,
    }
    for row in np.flatnonzero(~exact).tolist():
        sums = [int(column[row]) for column in (hh, hl, ll)]
        wide = (sums[0] << 2 * _LOW_BITS) + (sums[1] << _LOW_BITS + 1) + sums[2]
        answer = amount_from_sums(int(own[row]), int(n[row]), int(s1[row]), wide, rules)
        for name, value in answer.items():
            result[name][row] = np.nan if value is None else value
    return result


def _window_sums(
    values: np.ndarray, firsts: np.ndarray, lasts: np.ndarray
) -> np.ndarray:
    """int64: the sum of values[first:last] for each pair, by running sums."""
    running = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=running[1:])
    return running[lasts] - running[firsts]
