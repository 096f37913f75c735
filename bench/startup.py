"""What the archive of the JVM's classes saves: a session and its first micro-batches.

    python -m bench.startup [--pairs N] [--out FILE]

Starts a session in a new process, drains the fixture, and does the same
without the archive (`lib.setup.class_cache`), in turn, as often as asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench.machine import in_a_process, machine
from lib.kafka.broker import Broker
from lib.kafka.producer import replay
from lib.settings import ROOT, Settings
from lib.setup import class_cache
from lib.streaming.runner import drain
from lib.streaming.session import spark_session

WAYS = ("with", "without")


def main() -> None:
    """Run the pairs and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="a session's start, both ways")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results/startup.json"))
    parser.add_argument("--once", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(once(arguments.once)))
        return
    runs = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env({"FRAUD_HOME": f"{folder}/home"})
        broker = Broker(settings).start()
        try:
            replay(settings, broker.bootstrap, ROOT / "fixtures" / "tx_events.jsonl")
            for _ in range(arguments.pairs):
                for way in WAYS:
                    runs[way].append(_in_a_new_process(way, broker.bootstrap))
        finally:
            broker.close()
    figures = {
        way: {key: statistics.median(run[key] for run in done) for key in done[0]}
        for way, done in runs.items()
    }
    record = {"machine": machine(), "median of": arguments.pairs, **figures}
    text = json.dumps({**record, "runs": runs}, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def once(way: str) -> dict[str, float]:
    """A session, its first batches, and the CPU that the JVM took for both."""
    if way == "without":
        class_cache.FOLDER = Path("/nonexistent")
    settings = Settings.from_env()
    begun = time.monotonic()
    spark = spark_session(settings, short_lived=True)
    started = time.monotonic()
    drain(spark, settings, settings.kafka)
    drained = time.monotonic()
    cpu = _cpu_seconds(spark.sparkContext._gateway.proc.pid)
    spark.stop()
    return {
        "session_seconds": round(started - begun, 2),
        "first_batches_seconds": round(drained - started, 2),
        "jvm_cpu_seconds": round(cpu, 2),
    }


def _in_a_new_process(way: str, bootstrap: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        env = {"FRAUD_HOME": home, "FRAUD_KAFKA": bootstrap}
        return in_a_process("bench.startup", "--once", way, env=env)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
