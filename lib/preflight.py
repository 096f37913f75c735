"""What must hold before a query starts: its topic, its checkpoint and its tables still
are those that belong together, and nothing of them is missing.

Each check costs milliseconds. What fails one would lose records or store them twice,
and nothing would say so.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lib import datafiles
from lib.checkpoint import Checkpoint, another_log
from lib.clients import (
    begin_offsets,
    committed_records,
    demand_bounded_timestamps,
    end_offsets,
    topic_identity,
)
from lib.config import Settings, local_path
from lib.deltalog import LOG, damaged, demand_whole
from lib.errors import FraudError
from lib.known import IDENTITY, POSITION
from lib.lake import Lake

BRONZE = "bronze/tx_events"
_COLUMNS = ["key", "value", "topic", "partition", "offset", "kafka_timestamp"]


def check(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    lake: Lake,
    checkpoint: Checkpoint,
    *,
    writes: Iterable[str],
    reads: Iterable[str] = (),
    every_batch: str | None = None,
    reads_topic: bool = True,
) -> None:
    """Refuse a start that would lose something; call it before any table is made.

    Args:
        spark: the session.
        settings: topic, lake and checkpoints.
        bootstrap: bootstrap servers.
        lake: the lake behind ``settings``.
        checkpoint: the query's checkpoint.
        writes: the tables that the query writes.
        reads: further tables that it needs.
        every_batch: the table in which each batch with records leaves its number.
        reads_topic: whether the query reads Kafka; one that reads bronze has nothing
            to do with what became of the topic.

    Raises:
        FraudError: one line that says what is wrong, and what to do.
    """
    tables = [*writes, *reads]
    there = {name for name in tables if demand_whole(settings.table(name), spark)}
    checkpoint.demand_whole()
    for name in there.intersection(writes):
        _demand_no_lost_commit(settings, checkpoint, name)
    if not reads_topic:
        return
    demand_bounded_timestamps(settings, bootstrap)
    identity = topic_identity(settings, bootstrap)
    known = checkpoint.claim(identity)
    if not known and BRONZE in there:
        demand_same_log(settings, bootstrap, lake)
    _demand_offsets_exist(settings, bootstrap, checkpoint)
    if every_batch is not None:
        _demand_batches(settings, bootstrap, lake, checkpoint, every_batch, there)
    if not known:
        checkpoint.bind(identity)


def demand_same_log(settings: Settings, bootstrap: str, lake: Lake) -> None:
    """Refuse if what bronze holds is not what the topic holds at the same offsets.

    Of each partition the first and the last record are compared that both hold: key,
    value and timestamp.

    Raises:
        FraudError: the topic is another log.
    """
    begins = begin_offsets(settings, bootstrap)
    samples = _samples(settings.topic, lake, begins)
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
    topic: str, lake: Lake, begins: dict[int, int]
) -> dict[tuple[int, int], tuple[bytes | None, bytes | None, int]]:
    """(partition, offset) → key, value and timestamp in milliseconds, from bronze."""
    bounds: dict[int, list[int]] = {}
    for rows in lake.scan(BRONZE, ["topic", "partition", "offset"]):
        own = rows.filter(pc.equal(rows["topic"], topic))
        for part in pc.unique(own["partition"]).to_pylist():
            offsets = own.filter(pc.equal(own["partition"], part))["offset"]
            held = offsets.filter(pc.greater_equal(offsets, begins.get(part, 0)))
            if len(held):
                found = [*bounds.get(part, []), *pc.min_max(held).as_py().values()]
                bounds[part] = [min(found), max(found)]
    places = {(part, offset) for part, two in bounds.items() for offset in two}
    if not places:
        return {}
    rows = lake.at(BRONZE, sorted({offset for _, offset in places}), _COLUMNS)
    rows = rows.filter(pc.equal(rows["topic"], topic))
    stamps = pc.divide(rows["kafka_timestamp"].cast(pa.int64()), 1000).to_pylist()
    return {
        (row["partition"], row["offset"]): (row["key"], row["value"], stamp)
        for row, stamp in zip(
            rows.drop_columns("kafka_timestamp").to_pylist(), stamps, strict=True
        )
        if (row["partition"], row["offset"]) in places
    }


def _demand_no_lost_commit(
    settings: Settings, checkpoint: Checkpoint, name: str
) -> None:
    """No data file on a local disk is younger than the table's last commit, and holds
    rows of batches that are done: its commit is lost."""
    folder, done = local_path(settings.table(name)), checkpoint.newest_commit()
    if folder is None or done is None:
        return
    table = DeltaTable(str(folder))
    for file in datafiles.unnamed(table):
        if "offset" in file.schema.names:
            ends = checkpoint.offsets(done).get(settings.topic, {})
            lost = _positions(file.read(list(POSITION)), settings.topic, ends)
            offsets = [offset for _, offset in lost]
            held = datafiles.near(table, "offset", offsets, POSITION)
            lost -= _positions(held, settings.topic, ends)
        elif checkpoint.is_idle():  # else the batch in flight writes them again
            held = datafiles.scan(table, IDENTITY)
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
    lake: Lake,
    checkpoint: Checkpoint,
    table: str,
    there: set[str],
) -> None:
    """Every batch that is noted as done is in the table, if it had any record."""
    done = checkpoint.newest_commit()
    if done is None:
        return
    app = checkpoint.known_application()
    seen = lake.last_batch(table, app) if table in there else None
    if seen is not None and seen >= done:
        return
    before = {} if seen is None else checkpoint.offsets(seen)
    first = begin_offsets(settings, bootstrap) | before.get(settings.topic, {})
    behind = checkpoint.offsets(done).get(settings.topic, {})
    spans = {part: (first.get(part, 0), end) for part, end in behind.items()}
    if next(committed_records(settings, bootstrap, spans), None) is None:
        return  # nothing but transaction markers, or a batch without records
    raise FraudError(
        f"the checkpoint {checkpoint.uri} says that batch {done} is done, and "
        f"{settings.table(table)} does not hold it: its last commit is lost, or it is "
        "another table; put it back from a backup, or run `python -m lib rebuild`, "
        f"then delete the folder {checkpoint.uri}, and Kafka is asked again for what "
        "is missing; nothing was written"
    )
