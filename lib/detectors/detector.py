"""What a detector is: a rule to read, the same rule vectorised, columns and words.

`lib.detectors.rules.DETECTORS` lists them. The schema of `silver/scored`, the engine,
the charts and the dashboard take everything that differs between detectors from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lib.detectors.thresholds import Thresholds

if TYPE_CHECKING:
    from lib.detectors.account_state import Rows
    from lib.events.card_event import Event

NULLS = {"bool": False, "int64": -1, "float64": np.nan, "string": None}
"""Kind of column -> what stands for null, or for "no", in its numpy array."""


class Column(NamedTuple):
    """A column of `silver/scored`: its name, and its kind, a key of NULLS."""

    name: str
    kind: str


@dataclass(frozen=True)
class Places:
    """Events to answer (k), as places in the ordered histories of their accounts.

    Attributes:
        history: the events of all accounts, end to end; each account's are in the
            order (ts, event id).
        starts: where the account of each event begins in `history`.
        places: where each event stands in `history`.
    """

    history: Rows
    starts: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Detector:
    """One fraud rule, and everything about it that is shown or stored.

    Attributes:
        name: one word; its flag is the column ``is_<name>``.
        columns: what it answers, the flag first.
        rule: the columns' values for one event: the account's events in order (ts,
            event_id), the event's place in them, the thresholds.
        windows: for the events' times (k, µs) the times from which its windows
            count, as many arrays (k) as it has windows.
        vectorised: the same answers for many events. Its second argument has for
            each window the places (k) of the first event at or behind that time.
        label: the badge on the operator's page.
        reason: in one line, why it fires: of a row with the event's fields and the
            detector's columns.
        colour: of its marks in all charts, and of its badge.
        ink: a colour to write in upon `colour`.
        symbol: of its marks in a scatter plot: colour is never the only sign.
        hatch: of its bars.
    """

    name: str
    columns: tuple[Column, ...]
    rule: Callable[[Sequence[Event], int, Thresholds], dict]
    windows: Callable[[np.ndarray, Thresholds], Sequence[np.ndarray]]
    vectorised: Callable[[Places, Sequence[np.ndarray], Thresholds], dict]
    label: str
    reason: Callable[[Any], str]
    colour: str
    ink: str
    symbol: str
    hatch: str
