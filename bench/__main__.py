"""Throughput of the producer and of the stream on this machine.

    python -m bench [--events N] [--out FILE]

Generates N events, sends them as fast as the producer can, and drains them into
bronze and silver, scores included. Every record is reconciled afterwards: a figure of a
run that lost one would be worth nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from bench.machine import machine
from lib.datagen.generator import generate
from lib.kafka.broker import Broker
from lib.kafka.producer import replay
from lib.settings import Settings
from lib.streaming.runner import pipeline
from lib.streaming.session import spark_session
from lib.verify.reconciliation import reconcile

EVENTS_PER_ACCOUNT = 50
WARM_UP_EVENTS = 20_000


def main() -> None:
    """Run the benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description="throughput of producer and stream")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/stream.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.events)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")
    print(text)


def run(folder: Path, events: int) -> dict[str, object]:
    """One run in a home of its own."""
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    broker = Broker(settings).start()
    try:
        spark = spark_session(settings)
        warm = _file(folder / "warm.jsonl", WARM_UP_EVENTS, seed=2)
        replay(settings, broker.bootstrap, warm)
        _drain(spark, settings, broker.bootstrap)
        file = _file(folder / "events.jsonl", events, seed=1)
        sent = replay(settings, broker.bootstrap, file)
        seconds, batches = _drain(spark, settings, broker.bootstrap)
        books = reconcile(spark, settings, broker.bootstrap)
        spark.stop()
    finally:
        broker.close()
    if not books.balanced or sent.acked != sent.sent:
        raise SystemExit(f"error: the books do not balance: {books.differences}")
    return {
        "settings": {"events": events, "master": settings.master, "partitions": 4},
        "producer_events_per_second": round(sent.acked / sent.seconds),
        "stream_events_per_second": round(sent.acked / seconds),
        "stream_seconds": round(seconds, 1),
        "stream_batches": batches,
        "books": books.as_dict(),
    }


def _drain(spark, settings: Settings, bootstrap: str) -> tuple[float, int]:
    """Drain the topic; seconds from the query's start to its end, and batches."""
    begun = time.monotonic()
    with pipeline(spark, settings, bootstrap, drain=True) as running:
        running.query.awaitTermination()
        running.raise_failure()
        reports = running.query.recentProgress
    batches = sum(report["numInputRows"] > 0 for report in reports)
    return time.monotonic() - begun, batches


def _file(path: Path, events: int, seed: int) -> Path:
    made = generate(events, max(1, events // EVENTS_PER_ACCOUNT), seed=seed)
    path.write_text("\n".join(made.lines) + "\n")
    return path


if __name__ == "__main__":
    main()
