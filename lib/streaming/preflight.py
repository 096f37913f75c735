"""What must hold before a query starts: its topic, its checkpoint and its tables still
are those that belong together, and nothing of them is missing.

Each check costs milliseconds. What fails one would lose records or store them twice,
and nothing would say so.
"""

from __future__ import annotations

import pyarrow as pa
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lib.errors import FraudError
from lib.kafka.clients import (
    begin_offsets,
    committed_records,
    demand_bounded_timestamps,
    end_offsets,
    topic_identity,
)
from lib.lake import data_files
from lib.lake.delta_log import LOG, damaged, demand_whole
from lib.lake.tables import BRONZE, IDENTITY, POSITION, SCHEMAS
from lib.lake.writer import LocalLake, SparkLake
from lib.settings import Settings, local_path
from lib.streaming.checkpoint import Checkpoint, another_log


def check(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    lake: LocalLake | SparkLake,
    checkpoint: Checkpoint,
) -> None:
    """Refuse a start that would lose something; call it before any table is made.

    Args:
        spark: the session.
        settings: topic, lake and checkpoints.
        bootstrap: bootstrap servers.
        lake: the lake behind ``settings``.
        checkpoint: the query's checkpoint.

    Raises:
        FraudError: one line that says what is wrong, and what to do.
    """
    there = {name for name in SCHEMAS if demand_whole(settings.table(name), spark)}
    checkpoint.demand_whole()
    for name in there - {BRONZE}:  # what bronze lacks, Kafka may still hold: below
        _demand_no_lost_commit(settings, checkpoint, name)
    demand_bounded_timestamps(settings, bootstrap)
    identity = topic_identity(settings, bootstrap)
    known = checkpoint.claim(identity)
    if not known and BRONZE in there:
        demand_same_log(spark, settings, bootstrap)
    _demand_offsets_exist(settings, bootstrap, checkpoint)
    _demand_batches(settings, bootstrap, lake, checkpoint, BRONZE in there)
    if not known:
        checkpoint.bind(identity)


def demand_same_log(spark: SparkSession, settings: Settings, bootstrap: str) -> None:
    """Refuse if what bronze holds is not what the topic holds at the same offsets.

    Of each partition the first and the last record are compared that both hold: key,
    value and timestamp.

    Raises:
        FraudError: the topic is another log.
    """
    begins = begin_offsets(settings, bootstrap)
    samples = _samples(spark, settings, begins)
    if not samples:
        return
    ends = end_offsets(settings, bootstrap)
    what = "does not hold what bronze has of it"
    wanted = {place: ends.get(place[0], 0) for place in samples}
    if any(offset >= end for (_, offset), end in wanted.items()):
        raise another_log(settings.topic, what)
    for part, offset in samples:
        span = {part: (offset, offset + 1)}
        found = [
            (record.key, record.value, record.timestamp)
            for record in committed_records(settings, bootstrap, span)
        ]
        if found != [samples[part, offset]]:
            raise another_log(settings.topic, what)


def _samples(
    spark: SparkSession, settings: Settings, begins: dict[int, int]
) -> dict[tuple[int, int], tuple[bytes | None, bytes | None, int]]:
    """(partition, offset) → key, value and timestamp in milliseconds, from bronze."""
    bronze = spark.read.format("delta").load(settings.table(BRONZE))
    bronze = bronze.where(F.col("topic") == settings.topic)
    held = F.lit(False)
    for part, first in begins.items():
        held |= (F.col("partition") == part) & (F.col("offset") >= first)
    ends = bronze.where(held).groupBy("partition").agg(F.min("offset"), F.max("offset"))
    wanted = F.lit(False)
    for part, *offsets in ends.collect():
        wanted |= (F.col("partition") == part) & F.col("offset").isin(offsets)
    stamp = F.unix_millis("kafka_timestamp")
    rows = bronze.where(wanted).select("partition", "offset", "key", "value", stamp)
    return {
        (part, offset): (key and bytes(key), value and bytes(value), millis)
        for part, offset, key, value, millis in rows.collect()
    }


def _demand_no_lost_commit(
    settings: Settings, checkpoint: Checkpoint, name: str
) -> None:
    """No data file on a local disk is younger than the table's last commit, and holds
    rows of batches that are done: its commit is lost."""
    folder, done = local_path(settings.table(name)), checkpoint.newest("commits")
    if folder is None or done is None:
        return
    table = DeltaTable(str(folder))
    for file in data_files.orphan_files(table):
        if "offset" in file.schema.names:
            ends = checkpoint.offsets(done).get(settings.topic, {})
            lost = _positions(file.read(list(POSITION)), settings.topic, ends)
            offsets = [offset for _, offset in lost]
            held = data_files.rows_with_values(table, "offset", offsets, POSITION)
            lost -= _positions(held, settings.topic, ends)
        elif checkpoint.is_idle():  # else the batch in flight writes them again
            held = data_files.scan(table, IDENTITY)
            lost = _keys(file.read(list(IDENTITY))).difference(*map(_keys, held))
        else:
            continue
        if lost:
            raise damaged(
                f"{folder}/{LOG}",
                f"has lost its last commit: {len(lost)} rows of batches that are done "
                "stand in a file that no commit names",
                str(folder),
            )


def _positions(
    rows: pa.Table, topic: str, ends: dict[int, int]
) -> set[tuple[int, int]]:
    """(partition, offset) of the topic's rows before these offsets."""
    return {
        (row["partition"], row["offset"])
        for row in rows.to_pylist()
        if row["topic"] == topic and row["offset"] < ends.get(row["partition"], 0)
    }


def _keys(rows: pa.Table) -> set[tuple[str, ...]]:
    return set(zip(*(rows[name].to_pylist() for name in IDENTITY), strict=True))


def _demand_offsets_exist(
    settings: Settings, bootstrap: str, checkpoint: Checkpoint
) -> None:
    planned = checkpoint.planned().get(settings.topic, {})
    ends = end_offsets(settings, bootstrap) if planned else {}
    for part, offset in planned.items():
        if offset > ends.get(part, 0):
            raise another_log(
                settings.topic,
                f"ends at offset {ends.get(part, 0)} in partition {part}, and the "
                f"stream has been at {offset}",
            )


def _demand_batches(
    settings: Settings,
    bootstrap: str,
    lake: LocalLake | SparkLake,
    checkpoint: Checkpoint,
    there: bool,
) -> None:
    """Every batch that is noted as done is in bronze, if it had any record."""
    done = checkpoint.newest("commits")
    if done is None:
        return
    app = checkpoint.known_application()
    seen = lake.last_batch(BRONZE, app) if there else None
    if seen is not None and seen >= done:
        return
    # A new checkpoint's first batch may have had nothing to do behind bronze.
    before = checkpoint.began() if seen is None else checkpoint.offsets(seen)
    first = begin_offsets(settings, bootstrap) | before.get(settings.topic, {})
    behind = checkpoint.offsets(done).get(settings.topic, {})
    spans = {part: (first.get(part, 0), end) for part, end in behind.items()}
    if next(committed_records(settings, bootstrap, spans), None) is None:
        return  # nothing but transaction markers, or a batch without records
    raise FraudError(
        f"the checkpoint {checkpoint.uri} says that batch {done} is done, and "
        f"{settings.table(BRONZE)} does not hold it: its last commit is lost, or it is "
        "another table; put it back from a backup, or run `python -m lib rebuild`: the "
        "next stream asks Kafka again for what is missing; nothing was written"
    )
