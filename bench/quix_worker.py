"""The rules of `lib.detectors` on Quix Streams: one worker, a program of its own.

`bench.drain` starts it with the interpreter of an environment that has quixstreams;
of this project it needs `lib.events` and `lib.detectors` only. Kafka → Kafka, exactly
once, with each account's history as its state. What an answer is, and which earlier
answers it corrects, is the same as in `lib.history`.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from bisect import insort

from quixstreams import Application

from lib.detectors import THRESHOLDS, amount, geo, velocity
from lib.events import Event, Rejection, mask_account, parse

_KNOWN = "history"


def _order(event: Event) -> tuple[int, str]:
    return event.ts_us, event.event_id


def score(
    value: bytes, key: bytes | None, kafka_ms: int, _headers: object, state
) -> list:
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


def main() -> None:
    """Process the topic until it is silent; print the counts and times as JSON."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "out", "group", "state"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--idle", type=float, default=15.0)
    arguments = parser.parse_args()
    seen = {"records": 0, "first": None, "last": None}

    def processed(_topic: str, _partition: int, _offset: int) -> None:
        now = time.time()
        seen["first"] = seen["first"] or now
        seen["last"] = now
        seen["records"] += 1

    app = Application(
        broker_address=arguments.bootstrap,
        consumer_group=arguments.group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        state_dir=arguments.state,
        on_message_processed=processed,
        loglevel="WARNING",
    )
    source = app.topic(arguments.topic, value_deserializer="bytes")
    target = app.topic(arguments.out, value_serializer="json")
    answers = app.dataframe(source).apply(
        score, stateful=True, expand=True, metadata=True
    )
    answers.to_topic(target)
    app.run(timeout=arguments.idle)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
