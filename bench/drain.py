"""Drain rate of the whole stream, beside the same rules on Quix Streams.

    python -m bench.drain [--events N] [--quix PYTHON] [--out FILE]

Both read the same topic of the same broker, one after the other, each with all cores:
Spark with `local[*]`, Quix Streams with one process a core. Spark writes four Delta
tables, bronze and silver among them; Quix Streams writes the scores to a topic, and
nothing else. For Quix Streams make an environment of its own, and name its interpreter:

    python3 -m venv /tmp/quix && /tmp/quix/bin/pip install quixstreams numpy
    python -m bench.drain --quix /tmp/quix/bin/python

Without it only Spark is measured, and the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession

from bench.machine import machine
from lib.datagen.generator import generate, write
from lib.kafka.broker import Broker
from lib.kafka.clients import committed_records, end_offsets, ensure_topic
from lib.kafka.producer import replay
from lib.settings import ROOT, Settings
from lib.streaming.runner import pipeline
from lib.streaming.session import spark_session

EVENTS_PER_ACCOUNT = 50
WARM_UP_EVENTS = 20_000
QUIX_SECONDS = 3_600


def main() -> None:
    """Run the benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description="drain rate of the stream")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--quix", type=Path, help="a Python that has quixstreams")
    parser.add_argument("--out", type=Path, default=Path("bench/results/drain.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.events, arguments.quix)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")
    print(text)


def run(folder: Path, events: int, quix: Path | None) -> dict[str, object]:
    """Both engines over one topic."""
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    warm = replace(
        settings,
        topic="tx-warm",
        lake=str(folder / "warm" / "lake"),
        checkpoints=str(folder / "warm" / "checkpoints"),
    )
    broker = Broker(settings).start()
    try:
        _fill(warm, broker.bootstrap, folder / "warm", WARM_UP_EVENTS, seed=2)
        sent = _fill(settings, broker.bootstrap, folder / "file", events, seed=1)
        figures = {"events": sent, "events_per_account": EVENTS_PER_ACCOUNT}
        figures["spark"] = _spark(warm, settings, broker.bootstrap, sent)
        if quix is None:
            figures["quix"] = "not measured: no --quix"
        else:
            figures["quix"] = _quix(quix, settings, broker.bootstrap, sent, folder)
    finally:
        broker.close()
    return figures


def _fill(
    settings: Settings, bootstrap: str, folder: Path, events: int, seed: int
) -> int:
    made = generate(events, max(1, events // EVENTS_PER_ACCOUNT), seed=seed)
    file, _ = write(made, folder)
    return replay(settings, bootstrap, file).acked


def _spark(
    warm: Settings, settings: Settings, bootstrap: str, sent: int
) -> dict[str, object]:
    """The stream from its start to its end, and without the first batch, in which
    Python workers start and the JVM compiles."""
    spark = spark_session(settings)
    drained(spark, warm, bootstrap)
    seconds, reports = drained(spark, settings, bootstrap)
    scored = spark.read.format("delta").load(settings.table("silver/scored")).count()
    spark.stop()
    if scored != sent:
        raise SystemExit(f"error: {scored} of {sent} events are scored")
    later = reports[1:] or reports
    busy = sum(r["durationMs"]["triggerExecution"] for r in later) / 1000
    return {
        "seconds": round(seconds, 1),
        "events_per_second": round(sent / seconds),
        "batches": [
            {
                "rows": r["numInputRows"],
                "ms": r["durationMs"]["triggerExecution"],
            }
            for r in reports
        ],
        "steady_events_per_second": round(sum(r["numInputRows"] for r in later) / busy),
    }


def drained(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    max_offsets: int | None = None,
) -> tuple[float, list[dict]]:
    """Run the stream over what the topic holds: the seconds from its start to its end,
    and Spark's report of each batch that had rows."""
    begun = time.monotonic()
    with pipeline(
        spark,
        settings,
        bootstrap,
        drain=True,
        max_offsets=max_offsets,
    ) as running:
        running.query.awaitTermination()
        running.raise_failure()
        reports = [json.loads(p.json) for p in running.query.recentProgress]
    return time.monotonic() - begun, [r for r in reports if r["numInputRows"]]


def _quix(
    python: Path, settings: Settings, bootstrap: str, sent: int, folder: Path
) -> dict[str, object]:
    """One process a core in one consumer group, until the topic is silent; timed
    from the first record that any of them has processed to the last."""
    target = replace(settings, topic="tx-scored-quix")
    ensure_topic(target, bootstrap)
    command = [str(python), "-m", "bench.quix_worker", "--bootstrap", bootstrap]
    command += ["--topic", settings.topic, "--out", target.topic, "--group", "quix"]
    workers = [
        subprocess.Popen(
            [*command, "--state", str(folder / f"quix-{number}")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            # A file: a full pipe would stop a worker that nobody reads yet.
            stderr=(folder / f"quix-{number}.log").open("w"),
            text=True,
        )
        for number in range(os.cpu_count() or 1)
    ]
    try:
        told = []
        for number, worker in enumerate(workers):
            output, _ = worker.communicate(timeout=QUIX_SECONDS)
            if worker.returncode:
                log = (folder / f"quix-{number}.log").read_text()
                raise SystemExit(f"error: Quix Streams stopped: {log[-500:]}")
            told.append(json.loads(output.splitlines()[-1]))
    finally:
        for worker in workers:
            worker.kill()
    told = [one for one in told if one["records"]]
    answered = _committed(target, bootstrap)
    if answered < sent:
        raise SystemExit(f"error: Quix Streams gave {answered} of {sent} answers")
    seconds = max(t["last"] for t in told) - min(t["first"] for t in told)
    version = "import importlib.metadata as m; print(m.version('quixstreams'))"
    found = subprocess.run(
        [str(python), "-c", version], capture_output=True, text=True, check=True
    )
    return {
        "version": found.stdout.strip(),
        "processes": len(workers),
        "records": [one["records"] for one in told],
        "answers": answered,
        "seconds": round(seconds, 1),
        "events_per_second": round(sent / seconds),
    }


def _committed(settings: Settings, bootstrap: str) -> int:
    """Records of a topic that belong to a committed transaction."""
    spans = {part: (0, end) for part, end in end_offsets(settings, bootstrap).items()}
    return sum(1 for _ in committed_records(settings, bootstrap, spans))


if __name__ == "__main__":
    main()
