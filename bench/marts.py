"""What an incremental run of the marts costs, compared with a full one.

    python -m bench.marts [--events N] [--new N] [--out FILE]

Writes a synthetic lake of N scored events, builds all marts, adds the new events (with
late ones and corrections of old scores among them) and builds again. Models and
snapshot only: the tests read all rows in either case, and are timed by themselves.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from delta import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from bench.machine import machine
from lib.marts import dbt_runner
from lib.marts.spark_catalog import SOURCES
from lib.settings import Settings
from lib.streaming.session import spark_session

EVENTS_PER_ACCOUNT = 50
SECONDS_APART = 3
"""Between two events of all: a million of them take five weeks."""

LATE_SHARE, CORRECTED = 0.05, 50
WARM_UP_EVENTS = 2_000
PARTITIONS = 4
BEGIN = 1_767_225_600  # 2026-01-01 UTC
UNTESTED = ["model", "snapshot"]


def main() -> None:
    """Run the benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description="incremental against full marts")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--new", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/marts.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.events, arguments.new)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")
    print(text)


def run(folder: Path, events: int, new: int) -> dict[str, object]:
    """One run in a home of its own."""
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    spark = spark_session(settings)
    warm = replace(settings, lake=str(folder / "warm"))
    for begin in (0, WARM_UP_EVENTS):
        add(spark, warm, begin, WARM_UP_EVENTS)
        timed(spark, warm)
    add(spark, settings, 0, events)
    full, full_nodes = timed(spark, settings)
    add(spark, settings, events, new)
    correct(spark, settings, CORRECTED, before=events)
    incremental, nodes = timed(spark, settings)
    facts = DeltaTable.forPath(spark, settings.table("gold/fct_transactions"))
    written = facts.history(1).first().operationMetrics
    if int(written["numTargetRowsInserted"]) != new:
        raise SystemExit(f"error: {new} events are new, the fact has it as {written}")
    if int(written["numTargetRowsUpdated"]) != CORRECTED:
        raise SystemExit(f"error: {CORRECTED} scores changed, not so in {written}")
    # What the run's statements cost by themselves, in a JVM as warm as it gets here.
    add(spark, warm, 2 * WARM_UP_EVENTS, new)
    fixed, _ = timed(spark, warm)
    begun = time.monotonic()
    tested = dbt_runner.build(spark, settings, command="test")
    tests = time.monotonic() - begun
    spark.stop()
    if tested.failures:
        raise SystemExit(f"error: {tested.failures}")
    return {
        "settings": {"events": events, "new": new, "master": settings.master},
        "full_seconds": round(full, 1),
        "incremental_seconds": round(incremental, 1),
        "incremental_share": round(incremental / full, 3),
        "fixed_seconds": round(fixed, 1),
        "tests_seconds": round(tests, 1),
        "full_by_node": full_nodes,
        "incremental_by_node": nodes,
    }


def timed(spark: SparkSession, settings: Settings) -> tuple[float, dict[str, float]]:
    """Build models and snapshot; seconds in all and by node."""
    begun = time.monotonic()
    built = dbt_runner.build(spark, settings, kinds=UNTESTED)
    seconds = time.monotonic() - begun
    by_node = built.nodes.set_index("name")["seconds"].round(1)
    return seconds, by_node.to_dict()


def add(spark: SparkSession, settings: Settings, begin: int, number: int) -> None:
    """Append events number ``begin`` and following to the lake."""
    events = _events(spark, begin, number).localCheckpoint()
    for table, schema in SOURCES.items():
        rows = events.limit(0) if table == "silver/quarantine" else events
        (
            rows.select(*schema.fieldNames())
            .write.format("delta")
            .mode("append")
            .save(settings.table(table))
        )


def correct(spark: SparkSession, settings: Settings, number: int, before: int) -> None:
    """Correct the scores of some events that came just before the newest ones: a
    correction reaches back 5 minutes within its account, and no further."""
    scored = DeltaTable.forPath(spark, settings.table("silver/scored"))
    old = F.substring("event_id", 2, 20).cast("long") < before
    keys = scored.toDF().where(~F.col("late") & old).orderBy(F.desc("ts"))
    chosen = [r.event_id for r in keys.select("event_id").limit(number).collect()]
    newest = scored.toDF().agg(F.max("scored_at")).first()[0]
    scored.update(
        F.col("event_id").isin(chosen),
        {
            "is_geo": F.lit(True),
            "revision": F.col("revision") + 1,
            "scored_at": F.lit(newest),
        },
    )


def _events(spark: SparkSession, begin: int, number: int) -> DataFrame:
    n = F.col("id")
    accounts = max(1, number // EVENTS_PER_ACCOUNT) if begin == 0 else 20_000
    dice = F.pmod(F.xxhash64(n, F.lit(7)), F.lit(1000)) / 1000
    late = dice < LATE_SHARE
    sent = F.timestamp_seconds(F.lit(BEGIN) + n * SECONDS_APART)
    account = F.concat(F.lit("ACCT_"), F.pmod(F.xxhash64(n), F.lit(accounts)))
    made = {
        "event_id": F.concat(F.lit("e"), n),
        "account_id": account,
        "ts": F.when(late, sent - F.expr("INTERVAL 2 HOURS")).otherwise(sent),
        "merchant": F.concat(F.lit("Shop "), F.pmod(F.xxhash64(n, n), F.lit(120))),
        "country": F.lit("US"),
        "amount": (dice * 100 + 1).cast("decimal(12,2)"),
        "currency": F.lit("USD"),
        "late": late,
        "is_velocity": dice.between(0.06, 0.08),
        "velocity_count": F.lit(1).cast("long"),
        "is_geo": dice.between(0.09, 0.11),
        "prev_country": F.lit("US"),
        "gap_seconds": dice * 1000,
        "is_amount": dice.between(0.12, 0.14),
        "z": dice,
        "baseline_n": F.lit(20).cast("long"),
        "baseline_mean": dice * 50,
        "baseline_stddev": dice,
        "revision": F.lit(0).cast("long"),
        "kafka_timestamp": sent,
        "scored_at": sent,
        "batch": F.lit(begin).cast("long"),
        "status": F.lit("new"),
        "ingested_at": sent,
        "topic": F.lit("t"),
        "partition": F.lit(0),
        "offset": n,
        "key": account.cast("binary"),
        "value": F.to_json(F.struct(account.alias("account_id"))).cast("binary"),
        "reason": F.lit("malformed_json"),
        "detail": F.lit(""),
    }
    ids = spark.range(begin, begin + number, 1, PARTITIONS)
    return ids.select(*(column.alias(name) for name, column in made.items()))


if __name__ == "__main__":
    main()
