"""Amount: far from the account's amounts of the last 30 days, on a z-score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.detectors.detector import Column, Detector, Places
from lib.detectors.thresholds import THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from lib.events.card_event import Event

# Amounts reach 1e11 cents (37 bits) and their squares do not fit in int64, so each is
# split as high·2**18 + low. Sums of high², high·low and low² then fit for 2**25 rows.
_LOW_BITS = 18
_SAFE = 2.0**62  # what is estimated below this fits in int64, estimate's error and all


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


def _windows(now: np.ndarray, rules: Thresholds) -> list[np.ndarray]:
    return [now - rules.amount_window_us, now]  # its baseline begins, and ends


def _vectorised(
    at: Places, window: Sequence[np.ndarray], rules: Thresholds
) -> dict[str, np.ndarray]:
    """`amount_from_sums` over the baseline of each event."""
    cents, places = at.history.amount, at.places
    firsts, lasts = window
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


def _reason(row: Any) -> str:
    return f"z = {score(row.z)} over {row.baseline_n} purchases"


def score(z: float) -> str:
    """A z-score as a person reads it: amounts that are all but equal make it huge."""
    return f"{z:.1f}" if abs(z) < 1e6 else f"{z:.0e}"


AMOUNT = Detector(
    name="amount",
    columns=(
        Column("is_amount", "bool"),
        Column("z", "float64"),
        Column("baseline_n", "int64"),
        Column("baseline_mean", "float64"),
        Column("baseline_stddev", "float64"),
    ),
    rule=amount,
    windows=_windows,
    vectorised=_vectorised,
    label="FRAUD: AMOUNT OUTLIER",
    reason=_reason,
    colour="#CC79A7",
    ink="#000",
    symbol="star",
    hatch=".",
)
