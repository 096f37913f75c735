"""Does the stream say what the oracle says? Many worlds, to the last bit.

    python -m bench.equality [--seeds N] [--events N] [--small N] [--out FILE]

For each seed: EVENTS events with disorder, late ones, repeats, conflicts and records
that are no events go through Kafka and the stream, once with 1 shuffle partition and
once with 4, once in ten micro-batches that write the state in groups of accounts, and
SMALL of them in micro-batches of 100 records. One difference between
silver/scored and the oracle is an exit code of 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from pyspark.sql import SparkSession

from bench.machine import machine
from lib.datagen.generator import Generated, generate, write
from lib.kafka.broker import Broker
from lib.kafka.producer import replay
from lib.settings import Settings
from lib.streaming import query
from lib.streaming.runner import drain
from lib.streaming.session import spark_session
from lib.streaming.state_map import GROUPS
from lib.verify import oracle
from lib.verify.reconciliation import reconcile

EVENTS_PER_ACCOUNT = 50
DISORDER = {
    "duplicates": 0.03,
    "out_of_order": 0.06,
    "late": 0.02,
    "malformed": 0.01,
    "conflicts": 0.02,
}
PARTITIONS = (1, 4)
SMALL_BATCH = 100
FEW_GROUPS = 64
"""Fewer than any of the ten batches meets accounts, so that it writes groups."""


def main() -> None:
    """Run the sweep; exit 1 if an event differs or the books do not balance."""
    parser = argparse.ArgumentParser(description="stream against oracle")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--small", type=int, default=5_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/equality.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = sweep(Path(folder), arguments.seeds, arguments.events, arguments.small)
    text = json.dumps({"machine": machine(), "runs": runs}, indent=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")
    print(text)
    wrong = [run for run in runs if run["differences"] or not run["balanced"]]
    if wrong:
        raise SystemExit(f"error: {len(wrong)} of {len(runs)} runs are not right")


def sweep(folder: Path, seeds: int, events: int, small: int) -> list[dict]:
    """Every run's figures, see ``compare``."""
    base = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    broker = Broker(base).start()
    spark = spark_session(base)
    runs = []
    try:
        for seed in range(1, seeds + 1):
            for size, limit, partitions, groups in (
                *((events, None, number, GROUPS) for number in PARTITIONS),
                (events, events // 10, PARTITIONS[0], FEW_GROUPS),
                (small, SMALL_BATCH, PARTITIONS[-1], GROUPS),
            ):
                told = generate(
                    size, max(1, size // EVENTS_PER_ACCOUNT), seed=seed, **DISORDER
                )
                run = {"seed": seed, "partitions": partitions, "max_offsets": limit}
                with patch.object(query, "GROUPS", groups):
                    found = compare(
                        spark, base, broker.bootstrap, told, folder / "run", **run
                    )
                runs.append(run | {"groups": groups} | found)
    finally:
        spark.stop()
        broker.close()
    return runs


def compare(
    spark: SparkSession,
    base: Settings,
    bootstrap: str,
    told: Generated,
    folder: Path,
    *,
    seed: int,
    partitions: int,
    max_offsets: int | None,
) -> dict[str, object]:
    """One world through the stream: ``events``, what of them is ``late``, corrected
    (``revised``) and flagged, ``differences`` to the oracle, and whether the books
    are ``balanced``."""
    topic = f"tx-{seed}-{told.events}-{partitions}-{max_offsets or 'all'}"
    settings = replace(
        base,
        topic=topic,
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
    begun = time.monotonic()
    try:
        file, _ = write(told, folder)
        replay(settings, bootstrap, file)
        drain(spark, settings, bootstrap, max_offsets=max_offsets)
        scored = spark.read.format("delta").load(settings.table("silver/scored"))
        sums = ("late", "revision > 0", "is_velocity", "is_geo", "is_amount")
        row = scored.selectExpr("count(*)", *(f"count_if({s})" for s in sums)).first()
        return {
            "events": row[0],
            "late": row[1],
            "revised": row[2],
            "flagged": {"velocity": row[3], "geo": row[4], "amount": row[5]},
            "differences": oracle.check(spark, settings).count(),
            "balanced": reconcile(spark, settings, bootstrap).balanced,
            "seconds": round(time.monotonic() - begun, 1),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
