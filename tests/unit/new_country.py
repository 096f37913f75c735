"""A fourth detector, as somebody would add it: copied to lib/detectors by its test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.detectors.detector import Column, Detector, Places
from lib.detectors.thresholds import THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from lib.events.card_event import Event

CENTS = 500_00


def new_country(
    history: Sequence[Event], place: int, rules: Thresholds = THRESHOLDS
) -> dict:
    """More than 500, in a country without another payment of the last 45 days."""
    event = history[place]
    opens = event.ts_us - rules.previous_us
    before = [e.country for e in history[:place] if e.ts_us >= opens]
    seen = before.count(event.country)
    return {
        "is_new_country": not seen and event.amount_cents > CENTS,
        "country_seen": seen,
    }


def _windows(now: np.ndarray, rules: Thresholds) -> list[np.ndarray]:
    return [now - rules.previous_us]


def _vectorised(
    at: Places, firsts: Sequence[np.ndarray], rules: Thresholds
) -> dict[str, np.ndarray]:
    country, places = at.history.country, at.places
    pairs = zip(firsts[0].tolist(), places.tolist(), strict=True)
    seen = np.array(
        [np.count_nonzero(country[a:b] == country[b]) for a, b in pairs], np.int64
    )
    flag = (seen == 0) & (at.history.amount[places] > CENTS)
    return {"is_new_country": flag, "country_seen": seen}


def _reason(row: Any) -> str:
    return f"first payment in {row.country}"


NEW_COUNTRY = Detector(
    name="new_country",
    columns=(Column("is_new_country", "bool"), Column("country_seen", "int64")),
    rule=new_country,
    windows=_windows,
    vectorised=_vectorised,
    label="FRAUD: NEW COUNTRY",
    reason=_reason,
    colour="#009E73",
    ink="#000",
    symbol="square",
    hatch="\\",
)
