"""Latency from an event's Kafka timestamp to the Delta commit that shows its score.

    python -m bench.latency [--rate 20] [--seconds 90] [--warm-up 60]

Open loop: the producer sends at its own rate whatever the stream does, which runs as
`python -m lib stream` runs it. Only events created after the warm-up count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from bench.machine import machine
from lib.datagen.generator import generate
from lib.kafka.broker import Broker
from lib.kafka.clients import end_offsets
from lib.kafka.producer import replay
from lib.lake.tables import SCORED
from lib.settings import Settings
from lib.streaming.progress import percentiles, progress_frame
from lib.streaming.runner import AT_ONCE, pipeline
from lib.streaming.session import spark_session

EVENTS_PER_ACCOUNT = 50
ARRIVE_SECONDS = 60


def main() -> None:
    """Run the benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description="event to visible score")
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=int, default=90)
    parser.add_argument("--warm-up", type=int, default=60)
    parser.add_argument("--out-of-order", type=float, default=0.0)
    parser.add_argument("--trigger", default=AT_ONCE)
    parser.add_argument("--out", type=Path, default=Path("bench/results/latency.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments)
    asked = {k: v for k, v in vars(arguments).items() if k != "out"}
    text = json.dumps({"machine": machine(), "settings": asked, **figures}, indent=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")
    print(text)


def run(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """One run in a home of its own: latencies in ms and what each stage took."""
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    broker = Broker(settings).start()
    try:
        spark = spark_session(settings)
        count = int(arguments.rate * (arguments.warm_up + arguments.seconds))
        made = generate(
            count,
            max(1, count // EVENTS_PER_ACCOUNT),
            seed=1,
            out_of_order=arguments.out_of_order,
        )
        file = folder / "events.jsonl"
        file.write_text("\n".join(made.lines) + "\n")
        with pipeline(
            spark,
            settings,
            broker.bootstrap,
            trigger=arguments.trigger,
        ) as running:
            sent = replay(settings, broker.bootstrap, file, rate=arguments.rate)
            ends = end_offsets(settings, broker.bootstrap)
            arrived = threading.Event()
            for _ in range(ARRIVE_SECONDS * 10):
                running.raise_failure()
                if running.reached(ends) or arrived.wait(0.1):
                    break
            report = progress_frame(running.query.recentProgress)
        rows = pd.DataFrame(visible(Path(settings.table(SCORED))))
        spark.stop()
    finally:
        broker.close()
    if len(rows) != sent.acked:
        raise SystemExit(f"error: {sent.acked} sent, {len(rows)} scored")
    created = rows["created_ms"] - rows["created_ms"].min()
    warm = rows[created >= arguments.warm_up * 1000]
    latency = warm["visible_ms"] - warm["created_ms"]
    return {
        "sent": asdict(sent),
        "events_measured": len(warm),
        "latency_ms": {k: round(v) for k, v in percentiles(latency).items()},
        "batches_ms": _stages(report),
    }


def visible(table: Path, behind: int = 0) -> Iterator[dict[str, object]]:
    """When each event was created and when a commit first showed its score, in ms.

    From the table's own log: the first commit with a file that has the event, of those
    behind the first `behind` ones.
    """
    seen = set()
    for entry in sorted((table / "_delta_log").glob("*.json"))[behind:]:
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        at = next(a["commitInfo"]["timestamp"] for a in actions if "commitInfo" in a)
        added = [a["add"] for a in actions if "add" in a]
        for path in (file["path"] for file in added if file["dataChange"]):
            rows = pq.read_table(
                table / path, columns=["account_id", "event_id", "kafka_timestamp"]
            ).to_pylist()
            for row in rows:
                identity = row["account_id"], row["event_id"]
                if identity not in seen:
                    seen.add(identity)
                    created = row["kafka_timestamp"].timestamp() * 1000
                    yield {"created_ms": created, "visible_ms": at}


def _stages(frame: pd.DataFrame) -> dict[str, float]:
    late = frame[frame["input_rows"] > 0].tail(len(frame) // 2)
    columns = [c for c in frame.columns if c.endswith("_ms")]
    return {c: round(float(late[c].median())) for c in columns} | {"batches": len(late)}


if __name__ == "__main__":
    main()
