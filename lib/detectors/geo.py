"""Geo: another country than the payment before, less than an hour later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.detectors.account_state import country_names
from lib.detectors.detector import Column, Detector, Places
from lib.detectors.thresholds import SECOND, THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from lib.events.card_event import Event


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


def _windows(now: np.ndarray, rules: Thresholds) -> list[np.ndarray]:
    return []  # it looks at the event just before, which needs no search


def _vectorised(
    at: Places, firsts: Sequence[np.ndarray], rules: Thresholds
) -> dict[str, np.ndarray]:
    history, starts, places = at.history, at.starts, at.places
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


def _reason(row: Any) -> str:
    gap = duration(row.gap_seconds or 0)
    return f"{row.prev_country or '?'} → {row.country} in {gap}"


def duration(seconds: float) -> str:
    """A duration as people say it, e.g. ``14 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


GEO = Detector(
    name="geo",
    columns=(
        Column("is_geo", "bool"),
        Column("prev_country", "string"),
        Column("gap_seconds", "float64"),
    ),
    rule=geo,
    windows=_windows,
    vectorised=_vectorised,
    label="FRAUD: GEO ANOMALY",
    reason=_reason,
    colour="#0072B2",
    ink="#fff",
    symbol="x",
    hatch="x",
)
