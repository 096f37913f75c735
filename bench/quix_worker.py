"""The rules of `lib.detectors.rules` on Quix Streams: one worker, a program of its own.

`bench.drain` and `bench.peers` start it with the interpreter of an environment that has
quixstreams. Kafka → Kafka, exactly once, with each account's history as its state
(`bench.plain_rules`).
"""

from __future__ import annotations

import argparse
import json
import time

from quixstreams import Application

from bench.plain_rules import score


def main() -> None:
    """Process the topic until it is silent; print the counts and times as JSON."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "out", "group", "state"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--idle", type=float, default=15.0)
    parser.add_argument("--commit-seconds", type=float, default=5.0)
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
        commit_interval=arguments.commit_seconds,
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
