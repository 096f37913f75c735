"""What grows with what: time, files, bytes and state against events and accounts.

    python -m bench.scaling [--events N …] [--accounts N …] [--out FILE]

Every pair of the two lists is one run of its own topic and lake in one warm session;
the books of each are closed, or its figures would be worth nothing. The slopes are
least squares through all runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from bench.machine import bytes_below, machine
from lib.datagen.generator import generate, write
from lib.kafka.broker import Broker
from lib.kafka.producer import replay
from lib.settings import Settings
from lib.streaming.runner import drain
from lib.streaming.session import spark_session
from lib.verify.reconciliation import reconcile

WARM_UP = (5_000, 100)


def main() -> None:
    """Run all pairs and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description="slopes against events and accounts")
    parser.add_argument("--events", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument(
        "--accounts", type=int, nargs="+", default=[10**2, 10**4, 10**6]
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/scaling.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env({"FRAUD_HOME": f"{folder}/home"})
        broker = Broker(settings).start()
        try:
            spark = spark_session(settings)
            _one(spark, settings, broker, *WARM_UP, name="warm-up")
            pairs = [(e, a) for e in arguments.events for a in arguments.accounts]
            runs = [
                _one(spark, settings, broker, *p, name="-".join(map(str, p)))
                for p in pairs
            ]
            spark.stop()
        finally:
            broker.close()
    figures = {"machine": machine(), "runs": runs, "slopes": slopes(runs)}
    text = json.dumps(figures, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def _one(
    spark, settings: Settings, broker: Broker, events: int, accounts: int, name: str
) -> dict[str, float]:
    """Produce and drain that many events of that many accounts, and measure."""
    folder = settings.home / "scaling" / name
    settings = replace(
        settings,
        topic=f"tx-{name}",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    write(generate(events, accounts, seed=events + accounts), folder)
    log_before = bytes_below(settings.home / "broker" / "data")
    sent = replay(settings, broker.bootstrap, folder / "tx_events.jsonl")
    begun = time.monotonic()
    drain(spark, settings, broker.bootstrap)
    seconds = time.monotonic() - begun
    books = reconcile(spark, settings, broker.bootstrap)
    if not books.balanced:
        raise SystemExit(f"error: {name}: {books.differences}")
    lake = Path(settings.lake)
    tables = {"bronze": "bronze/tx_events", "silver": "silver", "all": "."}
    sizes = {f"{n}_bytes": bytes_below(lake / place) for n, place in tables.items()}
    return {
        "events": sent.acked,
        "accounts": accounts,
        "produce_seconds": round(sent.seconds, 2),
        "drain_seconds": round(seconds, 2),
        **sizes,
        "data_files": sum(1 for _ in lake.rglob("*.parquet")),
        "kafka_bytes": bytes_below(settings.home / "broker" / "data") - log_before,
        "checkpoint_bytes": bytes_below(Path(settings.checkpoints)),
        "driver_mb": round(_resident() / 2**20),
    }


def slopes(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """For each figure: its fixed part, and what an event and an account add."""
    known = np.array([[1.0, r["events"], r["accounts"]] for r in runs])
    found = {}
    for name in runs[0]:
        if name in ("events", "accounts"):
            continue
        values = np.array([float(r[name]) for r in runs])
        fixed, event, account = np.linalg.lstsq(known, values, rcond=None)[0]
        found[name] = {
            "fixed": float(f"{fixed:.4g}"),
            "per_event": float(f"{event:.4g}"),
            "per_account": float(f"{account:.4g}"),
        }
    return found


def _resident() -> int:
    """Memory of this process and Spark's, but not the broker's."""
    me = psutil.Process()
    kin = [me, *me.children(recursive=True)]
    return sum(
        p.memory_info().rss
        for p in kin
        if "kafka.Kafka" not in p.cmdline() and p.is_running()
    )


if __name__ == "__main__":
    main()
