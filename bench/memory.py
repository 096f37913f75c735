"""Memory of the running stream over 10,000,000 events of 1,000,000 accounts.

    python -m bench.memory [--accounts 1000000] [--waves 10] [--days-apart 30]
        [--out FILE]

In each wave every account pays once, some days after the wave before, in some order.
Four days apart, the state grows to the end; thirty days apart, it has its full size in
the fourth wave, because what is older than 91 days is forgotten.
The waves are made and sent by processes of their own, so that what is measured is the
stream's: resident memory of the driver's Python, of the JVM and of the Python workers
(local mode: the JVM is driver and executor), the greatest that was seen in each wave,
every two seconds, and what a full collection leaves of the heap. At the end the books
are closed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from pyspark.sql import SparkSession

from bench.machine import machine
from lib.kafka.broker import Broker
from lib.kafka.clients import end_offsets
from lib.settings import ROOT, Settings
from lib.streaming.runner import pipeline
from lib.streaming.session import spark_session
from lib.verify.reconciliation import reconcile

START = datetime(2026, 1, 1, tzinfo=UTC)
SAMPLE_SECONDS = 2


def main() -> None:
    """Run the waves and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description="memory over many events")
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--waves", type=int, default=10)
    parser.add_argument("--days-apart", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("bench/results/memory.json"))
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        number, file = arguments.write
        begin = START + int(number) * timedelta(days=arguments.days_apart)
        write_wave(int(number), arguments.accounts, Path(file), begin)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def write_wave(number: int, accounts: int, file: Path, begin: datetime) -> None:
    """One event of each account as lines of JSON."""
    draw = random.Random(number)
    order = list(range(accounts))
    draw.shuffle(order)
    step = timedelta(days=1) / accounts
    with file.open("w") as lines:
        for place, account in enumerate(order):
            event = {
                "event_id": f"{number}-{account}",
                "account_id": f"ACCT_{account:08d}",
                "ts": (begin + place * step).isoformat(),
                "merchant": "Target",
                "country": "US",
                "amount": round(draw.uniform(1, 100), 2),
                "currency": "USD",
            }
            lines.write(json.dumps(event) + "\n")


def run(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """All waves through one stream."""
    asked = {k: getattr(arguments, k) for k in ("accounts", "days_apart")}
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    file, pause = folder / "wave.jsonl", threading.Event()
    broker = Broker(settings).start()
    told = []
    try:
        spark = spark_session(settings)
        with pipeline(spark, settings, broker.bootstrap) as running:
            for number in range(arguments.waves):
                begun, most = time.monotonic(), dict.fromkeys(_resident(spark), 0)
                sending = _send(number, asked, file, broker.bootstrap)
                while sending.poll() is None or not running.reached(
                    end_offsets(settings, broker.bootstrap)
                ):
                    running.raise_failure()
                    most = {k: max(most[k], v) for k, v in _resident(spark).items()}
                    pause.wait(SAMPLE_SECONDS)
                if sending.returncode:
                    raise SystemExit("error: the wave could not be sent")
                seconds = round(time.monotonic() - begun)
                wave = {
                    "events": (number + 1) * arguments.accounts,
                    "seconds": seconds,
                    **most,
                    "heap_live_mb": _live(spark),
                }
                told.append(wave)
                print(wave, file=sys.stderr, flush=True)
        books = reconcile(spark, settings, broker.bootstrap)
        spark.stop()
    finally:
        broker.close()
    if not books.balanced:
        raise SystemExit(f"error: {books.differences}")
    return {**asked, "waves": told, "books": books.as_dict()}


def _send(
    number: int, asked: dict[str, int], file: Path, bootstrap: str
) -> subprocess.Popen[bytes]:
    """Make the wave and send it."""
    words = [sys.executable, "-m", "bench.memory", "--write", str(number), str(file)]
    for name, value in asked.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    subprocess.run(words, cwd=ROOT, check=True)
    home = {"FRAUD_HOME": str(file.parent / "producer"), "FRAUD_KAFKA": bootstrap}
    return subprocess.Popen(
        [sys.executable, "-m", "lib", "produce", str(file)],
        cwd=ROOT,
        env=os.environ | home,
        stdout=subprocess.DEVNULL,
    )


def _resident(spark: SparkSession) -> dict[str, int]:
    """MB of the three kinds of processes, of the JVM's heap and of RocksDB in it."""
    jvm = spark.sparkContext._gateway.proc.pid
    workers = [p for p in psutil.Process(jvm).children(recursive=True)]
    progress = [query.lastProgress for query in spark.streams.active]
    return {
        "driver_python_mb": psutil.Process().memory_info().rss // 2**20,
        "jvm_mb": psutil.Process(jvm).memory_info().rss // 2**20,
        "heap_mb": _heap(spark).getCommitted() // 2**20,
        "state_store_mb": sum(
            operator["memoryUsedBytes"]
            for each in progress
            if each
            for operator in each["stateOperators"]
        )
        // 2**20,
        "workers_mb": sum(p.memory_info().rss for p in workers if p.is_running())
        // 2**20,
    }


def _live(spark: SparkSession) -> int:
    """MB of the heap that a full collection leaves."""
    spark._jvm.System.gc()
    return _heap(spark).getUsed() // 2**20


def _heap(spark: SparkSession) -> Any:
    """Java's MemoryUsage of the heap."""
    beans = spark._jvm.java.lang.management.ManagementFactory
    return beans.getMemoryMXBean().getHeapMemoryUsage()


if __name__ == "__main__":
    main()
