"""Memory of the running stream over 10,000,000 events of 1,000,000 accounts.

    python -m bench.memory [--accounts 1000000] [--waves 10] [--out FILE]

In each wave every account pays once, four days after the wave before, in some order.
The waves are made and sent by processes of their own, so that what is measured is the
stream's: resident memory of the driver's Python, of the JVM and of the Python workers
(local mode: the JVM is driver and executor), the greatest that was seen in each wave,
every two seconds. At the end the books are closed.
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

import psutil

from bench.machine import machine
from lib.kafka.broker import Broker
from lib.kafka.clients import end_offsets
from lib.settings import ROOT, Settings
from lib.streaming.runner import pipeline
from lib.streaming.session import spark_session
from lib.verify.reconciliation import reconcile

START = datetime(2026, 1, 1, tzinfo=UTC)
APART = timedelta(days=4)
SAMPLE_SECONDS = 2


def main() -> None:
    """Run the waves and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description="memory over many events")
    parser.add_argument("--accounts", type=int, default=1_000_000)
    parser.add_argument("--waves", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("bench/results/memory.json"))
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        number, file = arguments.write
        write_wave(int(number), arguments.accounts, Path(file))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.accounts, arguments.waves)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def write_wave(number: int, accounts: int, file: Path) -> None:
    """One event of each account as lines of JSON."""
    draw = random.Random(number)
    order = list(range(accounts))
    draw.shuffle(order)
    begin, step = START + number * APART, timedelta(days=1) / accounts
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


def run(folder: Path, accounts: int, waves: int) -> dict[str, object]:
    """All waves through one stream."""
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    file, pause = folder / "wave.jsonl", threading.Event()
    broker = Broker(settings).start()
    told = []
    try:
        spark = spark_session(settings)
        jvm = spark.sparkContext._gateway.proc.pid
        with pipeline(spark, settings, broker.bootstrap) as running:
            for number in range(waves):
                begun, most = time.monotonic(), dict.fromkeys(_resident(jvm), 0)
                sending = _send(number, accounts, file, broker.bootstrap)
                while sending.poll() is None or not running.reached(
                    end_offsets(settings, broker.bootstrap)
                ):
                    running.raise_failure()
                    most = {k: max(most[k], mb) for k, mb in _resident(jvm).items()}
                    pause.wait(SAMPLE_SECONDS)
                if sending.returncode:
                    raise SystemExit("error: the wave could not be sent")
                seconds = round(time.monotonic() - begun)
                wave = {"events": (number + 1) * accounts, "seconds": seconds, **most}
                told.append(wave)
                print(wave, file=sys.stderr, flush=True)
        books = reconcile(spark, settings, broker.bootstrap)
        spark.stop()
    finally:
        broker.close()
    if not books.balanced:
        raise SystemExit(f"error: {books.differences}")
    return {"accounts": accounts, "waves": told, "books": books.as_dict()}


def _send(
    number: int, accounts: int, file: Path, bootstrap: str
) -> subprocess.Popen[bytes]:
    """Make the wave and send it."""
    words = [sys.executable, "-m", "bench.memory", "--accounts", str(accounts)]
    words += ["--write", str(number), str(file)]
    subprocess.run(words, cwd=ROOT, check=True)
    home = {"FRAUD_HOME": str(file.parent / "producer"), "FRAUD_KAFKA": bootstrap}
    return subprocess.Popen(
        [sys.executable, "-m", "lib", "produce", str(file)],
        cwd=ROOT,
        env=os.environ | home,
        stdout=subprocess.DEVNULL,
    )


def _resident(jvm: int) -> dict[str, int]:
    """MB of the three kinds of processes."""
    workers = [p for p in psutil.Process(jvm).children(recursive=True)]
    return {
        "driver_python_mb": psutil.Process().memory_info().rss // 2**20,
        "jvm_mb": psutil.Process(jvm).memory_info().rss // 2**20,
        "workers_mb": sum(p.memory_info().rss for p in workers if p.is_running())
        // 2**20,
    }


if __name__ == "__main__":
    main()
