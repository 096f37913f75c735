"""All detectors for many events at once, over accounts laid end to end.

The same rules as in `lib.detectors.rules`, with binary searches in place of walking
back and differences of running sums in place of adding up.
"""

from __future__ import annotations

from dataclasses import fields, make_dataclass

import numpy as np

from lib.detectors.account_state import Rows
from lib.detectors.detector import NULLS, Places
from lib.detectors.ragged_arrays import first_at_least
from lib.detectors.rules import COLUMNS, DETECTORS
from lib.detectors.thresholds import Thresholds


class _Columns:
    """The answer columns of `silver/scored`, k long.

    Null is -1 in the detectors' counts, None in texts and NaN in floats.
    """

    @classmethod
    def unscored(cls, late: np.ndarray) -> Answers:
        """Flags false, numbers null, revision 0."""
        nulls = {name: np.full(len(late), NULLS[kind]) for name, kind in COLUMNS}
        return cls(late=late, **nulls, revision=np.zeros(len(late), np.int64))

    def take(self, index: np.ndarray) -> Answers:
        """The answers at `index`, in that order."""
        return Answers(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: np.ndarray, answers: Answers) -> None:
        """Overwrite the answers at `index`."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(answers, field.name)


Answers = make_dataclass(
    "Answers",
    [(name, np.ndarray) for name in ("late", *(c.name for c in COLUMNS), "revision")],
    bases=(_Columns,),
    frozen=True,
)
Answers.__doc__ = _Columns.__doc__


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
    # one search for the windows of all detectors
    opens = [detector.windows(now, rules) for detector in DETECTORS]
    times = [time for windows in opens for time in windows]
    found = first_at_least(
        history.ts,
        np.tile(starts, len(times)),
        np.tile(stops, len(times)),
        np.concatenate(times),
    ).reshape(len(times), -1)
    firsts = iter(found)
    at = Places(history, starts, places)
    answers = {}
    for detector, windows in zip(DETECTORS, opens, strict=True):
        mine = [next(firsts) for _ in windows]
        answers |= detector.vectorised(at, mine, rules)
    return Answers(late=np.zeros(len(places), bool), **answers, revision=revision)
