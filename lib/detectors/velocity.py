"""Velocity: more than eight payments of one account within a minute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.detectors.detector import Column, Detector, Places
from lib.detectors.thresholds import THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from lib.events.card_event import Event


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


def _windows(now: np.ndarray, rules: Thresholds) -> list[np.ndarray]:
    return [now - rules.velocity_window_us + 1]


def _vectorised(
    at: Places, firsts: Sequence[np.ndarray], rules: Thresholds
) -> dict[str, np.ndarray]:
    (since,) = firsts
    count = at.places - since + 1
    return {"is_velocity": count > rules.velocity_count, "velocity_count": count}


def _reason(row: Any) -> str:
    return f"{row.velocity_count} transactions in 60 s"


VELOCITY = Detector(
    name="velocity",
    columns=(Column("is_velocity", "bool"), Column("velocity_count", "int64")),
    rule=velocity,
    windows=_windows,
    vectorised=_vectorised,
    label="FRAUD: VELOCITY",
    reason=_reason,
    colour="#E69F00",
    ink="#000",
    symbol="diamond",
    hatch="/",
)
