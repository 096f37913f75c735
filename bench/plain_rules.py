"""The rules over one account's history, one record at a time, for any engine.

The state of an account is one binary. What an answer is, and which earlier answers it
corrects, is the same as in `lib.detectors.engine`. Needs `lib.events.card_event` and
`lib.detectors.rules` only.
"""

from __future__ import annotations

import pickle
from bisect import insort
from typing import Protocol

from lib.detectors.rules import amount, geo, velocity
from lib.detectors.thresholds import THRESHOLDS
from lib.events.card_event import Event, Rejection, mask_account, parse

_KNOWN = "history"


class State(Protocol):
    """The binary of one account."""

    def get_bytes(self, key: str) -> bytes | None:
        """What was stored, or None."""

    def set_bytes(self, key: str, value: bytes) -> None:
        """Store it."""


def _order(event: Event) -> tuple[int, str]:
    return event.ts_us, event.event_id


def score(
    value: bytes, key: bytes | None, kafka_ms: int, _headers: object, state: State
) -> list[dict]:
    """The answers that one record gives rise to: its own, then the corrections."""
    event = parse(value, kafka_ms * 1000, key)
    if isinstance(event, Rejection):
        return []
    kept = state.get_bytes(_KNOWN)
    newest, history, late, revisions = (
        pickle.loads(kept) if kept else (event.ts_us, [], [], {})
    )
    history = [Event(*fields) for fields in history]
    if any(e.event_id == event.event_id for e in history) or event.event_id in late:
        return []
    if event.ts_us < newest - THRESHOLDS.lateness_us:
        late.append(event.event_id)
        answers = [{"event_id": event.event_id, "late": True}]
    else:
        newest = max(newest, event.ts_us)
        insort(history, event, key=_order)
        place = history.index(event)
        answers = []
        for index in range(place, len(history)):
            known = history[index].event_id
            if index > place:
                revisions[known] = revisions.get(known, 0) + 1
            answers.append(
                {
                    "event_id": known,
                    "account": mask_account(event.account_id),
                    "late": False,
                    "revision": revisions.get(known, 0),
                    **velocity(history, index),
                    **geo(history, index),
                    **amount(history, index),
                }
            )
        horizon = newest - THRESHOLDS.retention_us
        while history[0].ts_us < horizon:
            revisions.pop(history.pop(0).event_id, None)
    kept = (newest, [tuple(event) for event in history], late, revisions)
    state.set_bytes(_KNOWN, pickle.dumps(kept, protocol=5))
    return answers
