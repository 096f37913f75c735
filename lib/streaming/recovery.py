"""Recovery at start: resume a checkpoint, or seed a new one from what the lake holds.

A checkpoint that is lost takes two things with it: how far Kafka was read, and what the
detectors remember. Both are in the lake. Bronze says what was taken in, and
silver/scored holds every event with its lateness and its revision, which is all that an
account's memory is made of. So a new checkpoint begins behind bronze's last record,
with the accounts of silver/scored as its initial state.

Before that the last batch is completed: it may have reached bronze and died before
silver, and Kafka will not be asked for it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.detectors import account_state
from lib.detectors.account_state import NEVER, Rows, State
from lib.detectors.thresholds import THRESHOLDS
from lib.errors import FraudError
from lib.kafka.clients import end_offsets
from lib.lake.tables import (
    BRONZE,
    CONFLICT,
    IDENTITY,
    NEW,
    POSITION,
    QUARANTINE,
    SCORED,
    TRANSACTIONS,
    table_rows,
)
from lib.lake.writer import LocalLake, SparkLake, with_corrections
from lib.settings import Settings
from lib.streaming.checkpoint import Checkpoint
from lib.streaming.parsing import integers
from lib.streaming.scoring import INPUT, JUDGED, as_conflicts, judge, parse, settle
from lib.streaming.session import table_version

_ROWS_A_TASK = 200_000
_EARLIEST = -2  # Spark's code for "the first offset there is"
_FIRST_BATCH, _SLOTS, _ACCOUNTS = "first_batch", "slots", "accounts_version"


@dataclass(frozen=True)
class Beginning:
    """What a start of the query needs.

    Attributes:
        offsets: ``startingOffsets`` for Spark's Kafka source.
        first_batch: bronze's number of the checkpoint's batch 0.
        slots: keys of the operator, one per state partition.
        accounts: the initial state, ``account_id`` and ``value``, or None.
    """

    offsets: str
    first_batch: int
    slots: int
    accounts: DataFrame | None


def beginning(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    lake: LocalLake | SparkLake,
    checkpoint: Checkpoint,
) -> Beginning:
    """Starting offsets and initial state; completes the last batch if the checkpoint
    is lost.

    Raises:
        FraudError: silver is not what bronze says that it must be.
    """
    offsets = "earliest"
    if not checkpoint.has_offsets() or _first_batch_died(spark, settings, checkpoint):
        offsets = _take_over(spark, settings, bootstrap, lake, checkpoint)
    accounts = None
    if checkpoint.recall(_ACCOUNTS) and not checkpoint.has_commits():
        scored = _read(spark, settings, SCORED)
        # As they are now, and not as a plan: Spark plans the whole query anew with each
        # batch, and a scan of a Delta table costs it half a second for as long as the
        # query runs, although only the first batch reads the accounts.
        accounts = accounts_of(scored, watermark_of(scored)).localCheckpoint(
            storageLevel=StorageLevel.DISK_ONLY
        )
    return Beginning(
        offsets=offsets,
        first_batch=int(checkpoint.recall(_FIRST_BATCH) or 0),
        slots=int(checkpoint.recall(_SLOTS)),
        accounts=accounts,
    )


def _first_batch_died(
    spark: SparkSession, settings: Settings, checkpoint: Checkpoint
) -> bool:
    """Whether the first batch, which begins with silver/scored, changed it and died.

    What the table was before may be gone: Delta refuses to read a version that was
    replaced longer ago than `lib.lake.maintenance.RETENTION`. Bronze knows the batch.
    """
    version = checkpoint.recall(_ACCOUNTS)
    if not version or checkpoint.has_commits():
        return False
    return int(version) != table_version(spark, settings.table(SCORED))


def _take_over(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    lake: LocalLake | SparkLake,
    checkpoint: Checkpoint,
) -> str:
    """Note in a new checkpoint what it takes over from the lake.

    Returns:
        ``startingOffsets`` for Spark's Kafka source.
    """
    checkpoint.clear()
    offsets, first_batch, version = "earliest", 0, ""
    if not lake.is_empty(BRONZE):
        last = _read(spark, settings, BRONZE).agg(F.max("batch")).first()[0]
        complete_batch(spark, settings, lake, last)
        _require_silver(spark, settings)
        offsets = _behind_bronze(spark, settings, bootstrap)
        first_batch = last + 1
        version = str(table_version(spark, settings.table(SCORED)))
    checkpoint.begin(offsets)
    checkpoint.remember(_FIRST_BATCH, str(first_batch))
    checkpoint.remember(_SLOTS, spark.conf.get("spark.sql.shuffle.partitions"))
    checkpoint.remember(_ACCOUNTS, version)
    return offsets


def drop_plan(lake: LocalLake | SparkLake, checkpoint: Checkpoint) -> None:
    """Let the query plan its next batch anew, if the lake has nothing of it yet.

    A batch that was planned and not completed would be tried again as it is, also if it
    is what stopped the query: too large for the memory, for one.
    """
    planned = checkpoint.newest("offsets")
    if planned is None or planned == checkpoint.newest("commits"):
        return
    seen = lake.last_batch(BRONZE, checkpoint.known_application())
    if seen is None or seen < planned:
        checkpoint.drop_plan(planned)


def _behind_bronze(spark: SparkSession, settings: Settings, bootstrap: str) -> str:
    """``startingOffsets`` behind what bronze holds of the topic."""
    bronze = _read(spark, settings, BRONZE).where(F.col("topic") == settings.topic)
    ends = bronze.groupBy("partition").agg(F.max("offset") + 1)
    stored = dict(ends.collect())
    if not stored:
        return "earliest"
    partitions = end_offsets(settings, bootstrap)
    offsets = {str(p): stored.get(p, _EARLIEST) for p in partitions}
    return json.dumps({settings.topic: offsets})


def _require_silver(spark: SparkSession, settings: Settings) -> None:
    """The events that bronze counts are in silver."""
    bronze = _read(spark, settings, BRONZE).where(F.col("status") == NEW).count()
    for name in (TRANSACTIONS, SCORED):
        found = _read(spark, settings, name).count()
        if found != bronze:
            raise FraudError(
                f"{name} has {found} rows where bronze has {bronze} events: run "
                "`python -m lib rebuild`, which makes silver anew from bronze"
            )


# -- the last batch ------------------------------------------------------------------


def complete_batch(
    spark: SparkSession, settings: Settings, lake: LocalLake | SparkLake, batch: int
) -> None:
    """Write a torn batch's missing rows to the other tables, from bronze, if any.

    Each of their commits is there as a whole or not at all.
    """
    bronze = _read(spark, settings, BRONZE).where(F.col("batch") == batch).toArrow()
    if not len(bronze):
        return
    topic = bronze["topic"][0].as_py()
    parsed = parse(bronze.select(INPUT.names).cast(INPUT))
    everything = _read(spark, settings, SCORED)
    watermark = watermark_of(everything)
    scored = _of(everything, parsed.accounts)
    remembered = accounts_of(scored, watermark).toArrow().to_pydict()
    values = dict(zip(remembered["account_id"], remembered["value"], strict=True))
    transactions = _read(spark, settings, TRANSACTIONS)

    def stored(accounts: list[str]) -> Iterator[pa.Table]:
        yield _of(transactions, accounts).toArrow()

    judged = judge(parsed, values, watermark)
    records = settle(judged.records, stored)
    # Once the batch is in silver/scored its own events are remembered there, and the
    # records would be taken for duplicates of themselves; bronze knows what they are.
    status = bronze.sort_by([("partition", "ascending"), ("offset", "ascending")])
    status = status["status"].combine_chunks()
    texts = as_conflicts(pc.equal(status, CONFLICT), records)
    for name, column in {"status": status, **texts}.items():
        records = records.set_column(JUDGED.get_field_index(name), name, column)
    now = datetime.now(UTC)
    rows = table_rows(records, topic, batch, now)
    for name in (TRANSACTIONS, QUARANTINE):
        table = _read(spark, settings, name)
        ends = pc.min_max(bronze["offset"]).as_py()
        near = table.where(F.col("offset").between(ends["min"], ends["max"]))
        there = near.select(*POSITION).toArrow()
        owed = _without(rows[name], there, POSITION)
        _append(spark, lake, name, owed)
    if len(_without(rows[SCORED], scored.select(*IDENTITY).toArrow(), IDENTITY)):
        merged = with_corrections(rows[SCORED], judged.corrections, now)
        if isinstance(lake, SparkLake):
            merged = spark.createDataFrame(merged)
        lake.merge(SCORED, merged, None)


def _append(spark, lake: LocalLake | SparkLake, name: str, rows: pa.Table) -> None:
    if len(rows):
        if isinstance(lake, SparkLake):
            rows = spark.createDataFrame(rows)
        lake.append(name, rows, None)


def _of(rows: DataFrame, accounts: list[str]) -> DataFrame:
    """The rows of these accounts; a batch may have a hundred thousand."""
    names = pa.table({"account_id": pa.array(accounts, pa.string())})
    names = rows.sparkSession.createDataFrame(names)
    return rows.join(F.broadcast(names), "account_id", "left_semi")


def _without(rows: pa.Table, there: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """The rows whose key is not there."""
    seen = set(zip(*(there[key].to_pylist() for key in keys), strict=True))
    mine = zip(*(rows[key].to_pylist() for key in keys), strict=True)
    return rows.filter(pa.array([key not in seen for key in mine], pa.bool_()))


# -- the initial state ---------------------------------------------------------------


def watermark_of(scored: DataFrame) -> int | None:
    """µs: where the stream's watermark stands behind these rows; None if nowhere."""
    punctual = F.when(~F.col("late"), F.unix_micros("ts"))
    newest = scored.agg(F.max(punctual)).first()[0]
    return None if newest is None else newest - THRESHOLDS.lateness_us


def accounts_of(scored: DataFrame, watermark_us: int | None) -> DataFrame:
    """All rows of some accounts in silver/scored → what is remembered of each account.

    Args:
        scored: the rows.
        watermark_us: see `watermark_of`; of the whole table.

    Returns:
        ``account_id`` and ``value``, see `lib.detectors.account_state`.
    """
    tasks = max(1, scored.count() // _ROWS_A_TASK)
    watermark = NEVER if watermark_us is None else watermark_us

    def encode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts = list(batches)
        if not parts:
            return
        values = account_state.encode(state_of(pa.Table.from_batches(parts), watermark))
        yield pa.record_batch(
            [pa.array(values, pa.string()), pa.array(values.values(), pa.binary())],
            names=["account_id", "value"],
        )

    columns = ("account_id", "event_id", "ts", "merchant", "country", "amount")
    columns = (*columns, "currency", "late", "revision")
    rows = scored.select(*columns).repartition(tasks, "account_id")
    return rows.mapInArrow(encode, "account_id string, value binary")


def state_of(scored: pa.Table, watermark_us: int) -> State:
    """All rows of some accounts in silver/scored → what is remembered of them.

    `watermark_us` stands for the time at which an account without a punctual event was
    met: its rows don't say.
    """
    scored = scored.sort_by(
        [(column, "ascending") for column in ("account_id", "ts", "event_id")]
    ).combine_chunks()
    names = scored["account_id"].combine_chunks().dictionary_encode()
    owner = names.indices.to_numpy().astype(np.int64)
    accounts = names.dictionary.to_pylist()
    late = scored["late"].to_numpy()
    ts = integers(scored["ts"].combine_chunks())
    newest = np.full(len(accounts), NEVER)
    np.maximum.at(newest, owner[~late], ts[~late])
    # An account of late events only was met when the watermark stood here.
    unseen = newest == NEVER
    known_from = np.where(
        unseen, max(NEVER, watermark_us - THRESHOLDS.retention_us), NEVER
    )
    clock = np.where(unseen, watermark_us, newest)
    rows = Rows(
        ts=ts,
        amount=integers(scored["amount"].combine_chunks()),
        identity=account_state.identities(scored["event_id"].to_pylist()),
        fingerprint=account_state.fingerprints(
            scored["merchant"].to_pylist(), scored["currency"].to_pylist()
        ),
        country=account_state.country_codes(scored["country"].to_pylist()),
    )
    kept = np.flatnonzero(~late & (ts >= newest[owner] - THRESHOLDS.retention_us))
    recent = np.flatnonzero(~late & (ts >= newest[owner] - THRESHOLDS.lateness_us))
    others = np.flatnonzero(late)
    size = len(accounts)
    return State(
        accounts=accounts,
        newest=newest,
        known_from=known_from,
        counts=np.bincount(owner[kept], minlength=size),
        recents=np.bincount(owner[recent], minlength=size),
        rows=rows.take(kept),
        recent_ids=scored["event_id"].take(recent).to_pylist(),
        revisions=scored["revision"].to_numpy()[recent],
        late=rows.take(others),
        late_account=owner[others],
        late_since=clock[owner[others]],
        late_unsure=np.zeros(len(others), bool),
    )


def _read(spark: SparkSession, settings: Settings, name: str) -> DataFrame:
    return spark.read.format("delta").load(settings.table(name))
