"""The score query against the oracle: whatever the batches, the partitions, the order
of arrival or the crash, the same answers to the last bit."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from delta import DeltaTable
from kafka import TopicPartition
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from lib.datagen.generator import Generated, generate
from lib.kafka.clients import admin, end_offsets, ensure_topic
from lib.kafka.producer import replay
from lib.lake.tables import SCHEMAS, SCORED
from lib.settings import Settings
from lib.streaming import query
from lib.streaming.query import QUERY
from lib.streaming.rebuild import rebuild
from lib.streaming.runner import drain
from lib.streaming.state_map import GROUPS
from lib.verify import oracle
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import (
    copied,
    delta_commits,
    send,
    undo_last_commit,
)
from tests.integration.records import ARRIVED_MS, line

MADE_OF = {
    "duplicates": 0.03,
    "out_of_order": 0.06,
    "late": 0.02,
    "malformed": 0.01,
    "conflicts": 0.02,
}


@pytest.fixture(scope="module")
def made() -> Generated:
    return generate(1_500, 50, seed=11, **MADE_OF)


@pytest.fixture(scope="module")
def base(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    made: Generated,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """1,500 events in disorder, drained in one batch."""
    folder = tmp_path_factory.mktemp("score")
    settings = replace(
        base_settings,
        topic="tx-score",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    ensure_topic(settings, bootstrap)
    file = folder / "events.jsonl"
    file.write_text("\n".join(made.lines) + "\n", errors="surrogateescape")
    replay(settings, bootstrap, file)
    drain(spark, settings, bootstrap)
    return settings


def answers(spark: SparkSession, settings: Settings) -> list[Row]:
    """All that is to be the same: every column but the time of scoring."""
    rows = spark.read.format("delta").load(settings.table(SCORED)).drop("scored_at")
    return sorted(rows.collect(), key=lambda row: (row.account_id, row.event_id))


@pytest.fixture(scope="module")
def told(spark: SparkSession, base: Settings) -> list[Row]:
    return answers(spark, base)


def test_stream_equals_oracle(spark, base: Settings, told: list[Row], made):
    assert oracle.check(spark, base).collect() == []

    # ... on events of every kind.
    assert len(told) == made.events
    late = {(row.account_id, row.event_id) for row in told if row.late}
    assert late == set(made.late)
    fired = [sum(r[f"is_{d}"] for r in told) for d in ("velocity", "geo", "amount")]
    assert min(fired) > 0
    assert sum(row.revision for row in told) > 0
    assert SCHEMAS[SCORED].names == [
        f.name for f in spark.read.format("delta").load(base.table(SCORED)).schema
    ]


def groups_in_state(spark: SparkSession, settings: Settings) -> int:
    """Entries of the state that are groups of accounts."""
    reader = spark.read.format("statestore").option("stateVarName", "accounts")
    rows = reader.load(settings.checkpoint(QUERY)).select("user_map_key.account_id")
    return rows.where("account_id NOT LIKE 'ACCT%'").count()


@pytest.mark.parametrize(
    "groups", [40, pytest.param(GROUPS, marks=pytest.mark.slow)], ids="{} groups".format
)
def test_many_accounts_in_few_batches(
    spark,
    settings: Settings,
    bootstrap: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: int,
):
    """Where a batch touches most accounts, the state is read in one pass, and written
    in groups if they are many; small batches go on from there, and then a large one."""
    monkeypatch.setattr(query, "GROUPS", groups)
    lines = generate(2_400, 600, seed=12, **MADE_OF).lines
    ensure_topic(settings, bootstrap)
    for first, last, limit in (0, 1_600, 800), (1_600, 1_720, 60), (1_720, None, None):
        file = tmp_path / "events.jsonl"
        text = "\n".join(lines[first:last]) + "\n"
        file.write_text(text, errors="surrogateescape")
        replay(settings, bootstrap, file)
        drain(spark, settings, bootstrap, max_offsets=limit)

    assert (groups_in_state(spark, settings) > 0) == (groups < GROUPS)
    assert oracle.check(spark, settings).collect() == []
    books = reconcile(spark, settings, bootstrap)
    assert books.balanced, books.differences


def test_the_oracle_sees_a_wrong_answer(spark, base: Settings, tmp_path: Path):
    """One changed bit, one row too many, one too few: each is found."""
    settings = copied(base, tmp_path)
    table = DeltaTable.forPath(spark, settings.table(SCORED))
    scored = table.toDF()
    fired = scored.where("is_amount AND z > 0").first()
    other = scored.where("NOT late AND NOT is_amount").first()
    third = scored.where("is_velocity").first()

    def at(row: Row) -> str:
        return f"account_id = '{row.account_id}' AND event_id = '{row.event_id}'"

    table.update(at(fired), {"z": F.col("z") * F.lit(1 + 2**-52)})
    table.delete(at(other))
    scored.where(at(third)).write.format("delta").mode("append").save(
        settings.table(SCORED)
    )

    found = {
        (row.account_id, row.event_id): row.wrong
        for row in oracle.check(spark, settings).collect()
    }

    assert found == {
        (fired.account_id, fired.event_id): ["z"],
        (other.account_id, other.event_id): ["missing"],
        (third.account_id, third.event_id): ["doubled"],
    }


def rescored(
    spark: SparkSession, base: Settings, bootstrap: str, folder: Path, **options
) -> Settings:
    """The same topic scored into an empty lake."""
    settings = replace(
        base, lake=str(folder / "lake"), checkpoints=str(folder / "checkpoints")
    )
    drain(spark, settings, bootstrap, **options)
    return settings


def test_batch_boundaries_decide_nothing(
    spark, base: Settings, told, bootstrap: str, tmp_path: Path
):
    settings = rescored(spark, base, bootstrap, tmp_path, max_offsets=200)

    assert len(delta_commits(settings, SCORED)) > 7  # small they were
    assert answers(spark, settings) == told


def test_shuffle_partitions_decide_nothing(
    spark, base: Settings, told, bootstrap: str, tmp_path: Path
):
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "1")
    try:
        settings = rescored(spark, base, bootstrap, tmp_path, max_offsets=700)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)

    assert answers(spark, settings) == told


@pytest.mark.parametrize("table_too", [False, True], ids=["checkpoint", "table"])
def test_a_batch_that_crashed_before(
    spark, base: Settings, told, bootstrap: str, tmp_path: Path, table_too: bool
):
    """... its commit in the checkpoint, or before the table's, is done again."""
    settings = rescored(spark, base, bootstrap, tmp_path, max_offsets=800)
    commits = Path(settings.checkpoint(QUERY)) / "commits"
    last = max(int(path.name) for path in commits.iterdir() if path.name.isdigit())
    (commits / str(last)).unlink()
    if table_too:
        undo_last_commit(settings, SCORED)

    drain(spark, settings, bootstrap)

    assert answers(spark, settings) == told


def test_a_lost_checkpoint_begins_with_what_the_table_holds(
    spark, base: Settings, told, bootstrap: str, tmp_path: Path
):
    """... and what the table has stays, each event once."""
    settings = copied(base, tmp_path)
    shutil.rmtree(settings.checkpoint(QUERY))

    drain(spark, settings, bootstrap, max_offsets=800)

    assert answers(spark, settings) == told


def silver(spark: SparkSession, settings: Settings) -> list[list[Row]]:
    tables = ("silver/transactions", "silver/quarantine")
    frames = (spark.read.format("delta").load(settings.table(t)) for t in tables)
    return [
        sorted(frame.collect(), key=lambda row: (row.partition, row.offset))
        for frame in frames
    ]


def test_everything_is_rebuilt_from_bronze_alone(
    spark, base: Settings, told, bootstrap: str, tmp_path: Path
):
    """... and the stream goes on behind it."""
    settings = copied(base, tmp_path)
    before = silver(spark, settings)

    rebuild(spark, settings)

    assert silver(spark, settings) == before
    assert answers(spark, settings) == told
    drain(spark, settings, bootstrap)  # finds nothing new
    assert answers(spark, settings) == told


def test_a_lost_checkpoint_when_kafka_has_forgotten(
    spark, settings: Settings, bootstrap: str
):
    ensure_topic(settings, bootstrap)
    records = [
        (b"ACCT_1", line(event_id=f"e-{n}", amount=n + 1.0)) for n in range(1, 13)
    ]
    send(settings, bootstrap, records[:8], ARRIVED_MS)
    drain(spark, settings, bootstrap)
    ends = end_offsets(settings, bootstrap)
    client = admin(settings, bootstrap)
    client.delete_records(
        {TopicPartition(settings.topic, p): e for p, e in ends.items()}
    )
    client.close()
    shutil.rmtree(settings.checkpoint(QUERY))
    send(settings, bootstrap, records[8:], ARRIVED_MS)

    drain(spark, settings, bootstrap)

    assert len(answers(spark, settings)) == len(records)
    assert oracle.check(spark, settings).collect() == []
    assert reconcile(spark, settings, bootstrap).differences == []


# -- strange events ---------------------------------------------------------------


def strange() -> list[tuple[bytes, bytes]]:
    """What a rule could trip over, as (key, value) in Kafka order."""

    def event(account: int, number: int, **changes: object) -> tuple[bytes, bytes]:
        name = f"ACCT_{account}"
        value = line(account_id=name, event_id=f"e-{number}", **changes)
        return name.encode(), value

    at_once = [event(1, n) for n in range(100, 0, -1)]
    cents = [event(2, n, amount=0.01) for n in range(30)]
    cents.append(event(2, 31, amount=1_000_000_000, ts="2025-01-15T12:00:00Z"))
    unicode = [event(3, n, merchant="🦊 漢字 \u0000 =1+1") for n in range(3)]
    hot = [
        event(4, n, ts=f"2025-01-15T11:{n // 60:02}:{n % 60:02}Z") for n in range(300)
    ]
    first_late = [event(5, 1, ts="2025-01-01T00:00:00Z"), event(5, 2), event(5, 3)]
    no_country = [event(6, 1, country=None), event(6, 2)]
    return at_once + cents + unicode + hot + first_late + no_country


def test_strange_events_are_scored_or_refused(
    spark, settings: Settings, bootstrap: str
):
    ensure_topic(settings, bootstrap)
    records = strange()
    send(settings, bootstrap, records, ARRIVED_MS)

    drain(spark, settings, bootstrap, max_offsets=150)

    assert oracle.check(spark, settings).collect() == []
    rows = answers(spark, settings)
    assert len(rows) == len(records) - 1  # all but the null country
    of = {(row.account_id, row.event_id): row for row in rows}
    counts = sorted(row.velocity_count for row in rows if row.account_id == "ACCT_1")
    assert counts == list(range(1, 101))
    assert of["ACCT_2", "e-31"].z is None  # thirty equal amounts have no spread
    assert not of["ACCT_5", "e-1"].late


@pytest.mark.skipif(sys.platform != "linux", reason="used on Linux only")
def test_workers_are_forked_with_their_imports_done(spark):
    def parent(rows):
        for frame in rows:
            command = psutil.Process(os.getppid()).cmdline()
            yield frame.assign(command=" ".join(command))

    (row,) = spark.range(1).mapInPandas(parent, "id long, command string").collect()
    assert "-m lib.streaming.worker_preload" in row.command
