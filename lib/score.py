"""Query "score": Kafka → silver/scored, by stateful scoring per account.

The state is keyed by bucket of accounts, not by account: Python is entered once per
bucket and micro-batch, and `lib.history` answers all of a bucket's records at once.
What an account's answers are depends on its own records in Kafka order and on nothing
else, so neither the buckets nor the batches show in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.streaming.state import GroupState, GroupStateTimeout

from lib import preflight
from lib.checkpoint import Checkpoint
from lib.clients import begin_offsets
from lib.config import Settings
from lib.errors import FraudError
from lib.history import NEW, Arrivals, Bucket
from lib.ingest import parse_records, read_topic
from lib.known import IDENTITY
from lib.lake import Batch, Lake, Upsert, arrow_schema, open_lake
from lib.parsing import decimals, microseconds
from lib.spark import table_exists
from lib.state_codec import fingerprints
from lib.workers import spare_the_collector

QUERY = "score"
TABLE = "silver/scored"

BUCKETS = 32
"""State rows. A checkpoint keeps the number it was made with."""

WATERMARK = "5 minutes"
"""How far Spark's watermark stays behind the newest event. It bounds the state and
decides nothing else: what is late is judged per account."""

FRESH, UNSURE, CORRECTION, AGAIN = 0, 1, 2, 3
"""What a row is: an event's first answer; the same for an event that the state is too
young to know, to be stored only if the table lacks it; the new answer of an event that
is in the table; a first answer of a new checkpoint, which the table may hold from the
life of an earlier one."""

KINDS = {FRESH, UNSURE, CORRECTION, AGAIN}

_EVENT = [
    T.StructField("event_id", T.StringType()),
    T.StructField("account_id", T.StringType()),
    T.StructField("ts", T.TimestampType()),
    T.StructField("merchant", T.StringType()),
    T.StructField("country", T.StringType()),
    T.StructField("amount", T.DecimalType(12, 2)),
    T.StructField("currency", T.StringType()),
]
_ANSWER = [
    T.StructField("late", T.BooleanType()),
    T.StructField("is_velocity", T.BooleanType()),
    T.StructField("velocity_count", T.LongType()),
    T.StructField("is_geo", T.BooleanType()),
    T.StructField("prev_country", T.StringType()),
    T.StructField("gap_seconds", T.DoubleType()),
    T.StructField("is_amount", T.BooleanType()),
    T.StructField("z", T.DoubleType()),
    T.StructField("baseline_n", T.LongType()),
    T.StructField("baseline_mean", T.DoubleType()),
    T.StructField("baseline_stddev", T.DoubleType()),
    T.StructField("revision", T.LongType()),
]
_STAMPS = [
    T.StructField("kafka_timestamp", T.TimestampType()),
    T.StructField("scored_at", T.TimestampType()),
]
SCORED = T.StructType(_EVENT + _ANSWER + _STAMPS)
ANSWER_COLUMNS = [field.name for field in _ANSWER]

# What crosses into Python and back: whole microseconds and cents, because a pandas
# column of Decimals or dates is a list of Python objects.
_INPUT = (
    "event_id",
    "account_id",
    "ts_us",
    "merchant",
    "country",
    "cents",
    "currency",
    "kafka_us",
    "partition",
    "offset",
)
_OUTPUT = T.StructType(
    [
        T.StructField("kind", T.IntegerType()),
        T.StructField("event_id", T.StringType()),
        T.StructField("account_id", T.StringType()),
        T.StructField("ts_us", T.LongType()),
        T.StructField("merchant", T.StringType()),
        T.StructField("country", T.StringType()),
        T.StructField("cents", T.LongType()),
        T.StructField("currency", T.StringType()),
        T.StructField("kafka_us", T.LongType()),
        *_ANSWER,
    ]
)
_STATE = T.StructType([T.StructField("bucket", T.BinaryType())])


def scored_stream(
    raw: DataFrame, *, buckets: int = BUCKETS, watermark: str = WATERMARK
) -> DataFrame:
    """Raw records (bronze's columns) → the operator's rows (``kind`` and answers).

    Args:
        raw: a stream of Kafka records, see ``lib.ingest.read_topic``.
        buckets: number of state rows.
        watermark: how far Spark's watermark stays behind the newest event; an
            account's history is dropped `Thresholds.retention_us` behind it.
    """
    valid = parse_records(raw).where("reason IS NULL")
    # The watermark exists for the state's sake alone: without an event-time timeout
    # Spark tells the operator where it stands and drops no row behind it, and every
    # record must be accounted for.
    columns = valid.withWatermark("ts", watermark).select(
        F.pmod(F.xxhash64("account_id"), F.lit(buckets)).alias("bucket"),
        "event_id",
        "account_id",
        "ts",
        F.unix_micros("ts").alias("ts_us"),
        "merchant",
        "country",
        (F.col("amount") * 100).cast("long").alias("cents"),
        "currency",
        F.unix_micros("kafka_timestamp").alias("kafka_us"),
        "partition",
        "offset",
    )
    return columns.groupBy("bucket").applyInPandasWithState(
        score_bucket, _OUTPUT, _STATE, "append", GroupStateTimeout.NoTimeout
    )


def score_bucket(
    _key: tuple, chunks: Iterator[pd.DataFrame], state: GroupState
) -> Iterator[pd.DataFrame]:
    """The stateful operator: one bucket's new records, its state, its rows."""
    spare_the_collector()
    batch = pd.concat(list(chunks), ignore_index=True)
    batch = batch.sort_values(["partition", "offset"], ignore_index=True)
    bucket = Bucket.from_bytes(bytes(state.get[0]) if state.exists else None)
    watermark_us = state.getCurrentWatermarkMs() * 1000
    scored = bucket.score(
        Arrivals(
            event_id=batch["event_id"].tolist(),
            account_id=batch["account_id"].tolist(),
            ts_us=batch["ts_us"].to_numpy(),
            amount_cents=batch["cents"].to_numpy(),
            country=batch["country"].tolist(),
            fingerprint=fingerprints(
                batch["merchant"].tolist(), batch["currency"].tolist()
            ),
        ),
        watermark_us if watermark_us > 0 else None,
    )
    state.update((bucket.to_bytes(),))
    fresh = scored.status == NEW
    first = batch.loc[fresh, [c for c in _INPUT if c not in ("partition", "offset")]]
    kind = np.where(scored.check_table[fresh], UNSURE, FRESH)
    yield _rows(first.assign(kind=kind), scored.answers.take(np.flatnonzero(fresh)))
    if len(scored.event_id):
        known = {
            "kind": CORRECTION,
            "event_id": scored.event_id,
            "account_id": scored.account_id,
            "ts_us": scored.ts_us,
        }
        yield _rows(pd.DataFrame(known), scored.corrections)


def _rows(events: pd.DataFrame, answers) -> pd.DataFrame:
    """The operator's columns; -1 and NaN become null where they stand for it."""
    columns = {}
    for field in _OUTPUT.fields:
        if field.name not in ANSWER_COLUMNS:
            present = field.name in events
            columns[field.name] = events[field.name].to_numpy() if present else None
            continue
        values = getattr(answers, field.name)
        if field.name in ("velocity_count", "baseline_n"):
            values = pd.array(np.maximum(values, 0), "Int64")
            values[getattr(answers, field.name) < 0] = pd.NA
        elif field.name in ("gap_seconds", "z", "baseline_mean", "baseline_stddev"):
            values = pd.array(np.where(np.isnan(values), None, values), "Float64")
        columns[field.name] = values
    return pd.DataFrame(columns, index=range(len(events)))


UPSERT = Upsert(
    keys=IDENTITY,
    values=(*ANSWER_COLUMNS, "scored_at"),
    compared=tuple(ANSWER_COLUMNS),
    known=(UNSURE, CORRECTION, AGAIN),
    replacing=(CORRECTION, AGAIN),
    existing=(CORRECTION,),
    same_ts=(CORRECTION, AGAIN),
)
"""How the operator's rows meet the table's."""


def table_rows(operator: pa.Table) -> pa.Table:
    """The operator's rows under the table's names and types, ``kind`` kept."""
    now = pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC"))
    made = {
        "ts": microseconds(operator["ts_us"]),
        "amount": decimals(operator["cents"].combine_chunks()),
        "kafka_timestamp": microseconds(operator["kafka_us"]),
        "scored_at": pa.repeat(now, len(operator)),
    }
    schema = arrow_schema(SCORED)
    columns = [made[c] if c in made else operator[c] for c in schema.names]
    rows = pa.table(columns, schema=schema)
    return rows.append_column("kind", operator["kind"])


def met_again(rows: pa.Table, known_until: datetime) -> pa.Table:
    """The rows, with AGAIN for first answers to records of Kafka up to that time.

    A correction names no record, and stays what it is.
    """
    old = pc.less_equal(rows["kafka_timestamp"], known_until)
    again = pc.and_kleene(pc.equal(rows["kind"], FRESH), old)
    kind = pc.if_else(again, pa.scalar(AGAIN, pa.int32()), rows["kind"])
    return rows.set_column(rows.column_names.index("kind"), "kind", kind)


def batch_writer(
    lake: Lake,
    app: str,
    on_batch: Callable[[int, dict[int, int]], None],
    known_until: datetime | None = None,
) -> Callable[[DataFrame, int], None]:
    """The foreachBatch function of the query.

    A batch of first answers is an append; one with corrections is a MERGE, so that
    first answers and corrections become visible in one commit. Either carries the
    batch id, and a replayed batch is skipped.

    Args:
        lake: where the table lies.
        app: the checkpoint's application id, one per life of the checkpoint.
        on_batch: called after each batch with its id and its rows by kind.
        known_until: records of Kafka up to this time may be in the table although
            this checkpoint has not seen them.
    """

    def write(batch: DataFrame, batch_id: int) -> None:
        rows = table_rows(batch.toArrow())
        if known_until is not None:
            rows = met_again(rows, known_until)
        found = rows["kind"].value_counts().to_pylist()
        kinds = {pair["values"]: pair["counts"] for pair in found}
        if unknown := kinds.keys() - KINDS:
            # A MERGE would drop such rows without a word.
            raise FraudError(f"batch {batch_id}: rows of no known kind: {unknown}")
        if set(kinds) - {FRESH}:
            lake.upsert(TABLE, rows, UPSERT, Batch(app, batch_id))
        elif kinds:
            lake.append(TABLE, rows.drop_columns("kind"), Batch(app, batch_id))
        on_batch(batch_id, kinds)

    return write


def start(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    trigger: dict[str, object],
    max_offsets: int | None = None,
    on_batch: Callable[[int, dict[int, int]], None] = lambda _id, _kinds: None,
):
    """Start the query; arguments as ``lib.ingest.start``."""
    lake = open_lake(spark, settings)
    checkpoint = Checkpoint(spark, settings.checkpoint(QUERY))
    preflight.check(
        *(spark, settings, bootstrap, lake, checkpoint),
        writes=(TABLE,),
        reads=(BRONZE_TABLE,),
        reads_topic=checkpoint.recall(_SOURCE) != BRONZE_TABLE,
    )
    lake.create(TABLE, SCORED)
    if not checkpoint.has_offsets():
        _begin_anew(spark, settings, bootstrap, lake, checkpoint)
    app = checkpoint.application_id(QUERY)
    if checkpoint.recall(_SOURCE) == BRONZE_TABLE:
        raw = read_bronze(spark, settings)
    else:
        raw = read_topic(spark, settings, bootstrap, max_offsets=max_offsets)
    return (
        scored_stream(raw)
        .writeStream.queryName(QUERY)
        .foreachBatch(batch_writer(lake, app, on_batch, _known_until(checkpoint)))
        .outputMode("append")
        .option("checkpointLocation", checkpoint.uri)
        .trigger(**trigger)
        .start()
    )


BRONZE_TABLE = "bronze/tx_events"
_SOURCE, _KNOWN_UNTIL = "source", "known_until"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_bronze(spark: SparkSession, settings: Settings) -> DataFrame:
    """Bronze as a stream with the columns of ``lib.ingest.read_topic``.

    Its commits come in order, and each holds Kafka's order.
    """
    bronze = spark.readStream.format("delta").load(settings.table(BRONZE_TABLE))
    return bronze.where(F.col("topic") == settings.topic).drop("ingested_at")


def reads_bronze(spark: SparkSession, settings: Settings) -> bool:
    """Whether the query's checkpoint was begun on bronze, in Kafka's place."""
    checkpoint = Checkpoint(spark, settings.checkpoint(QUERY))
    return checkpoint.recall(_SOURCE) == BRONZE_TABLE


def begin_on_bronze(spark: SparkSession, settings: Settings) -> None:
    """Let the query's next start, which must be a new one, read bronze."""
    Checkpoint(spark, settings.checkpoint(QUERY)).remember(_SOURCE, BRONZE_TABLE)


def _begin_anew(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    lake: Lake,
    checkpoint: Checkpoint,
) -> None:
    """A new checkpoint has no histories: they are told again from the beginning.

    From Kafka's, or from bronze's if Kafka no longer holds it. What the table holds
    from an earlier checkpoint is met again on the way; until when is kept in the
    checkpoint, so that a restart on the way still knows.
    """
    newest = [
        pc.max(part["kafka_timestamp"].cast(pa.int64())).as_py() or 0
        for part in lake.scan(TABLE, ["kafka_timestamp"])
    ]
    checkpoint.remember(_KNOWN_UNTIL, str(max(newest, default=0)))
    begins = begin_offsets(settings, bootstrap)
    if any(begins.values()) and _bronze_goes_further_back(spark, settings, begins):
        begin_on_bronze(spark, settings)


def _bronze_goes_further_back(
    spark: SparkSession, settings: Settings, begins: dict[int, int]
) -> bool:
    if not table_exists(spark, settings.table(BRONZE_TABLE)):
        return False
    bronze = spark.read.format("delta").load(settings.table(BRONZE_TABLE))
    firsts = bronze.where(F.col("topic") == settings.topic).groupBy("partition")
    held = dict(firsts.agg(F.min("offset")).collect())
    return any(held.get(part, first) < first for part, first in begins.items())


def _known_until(checkpoint: Checkpoint) -> datetime | None:
    micros = int(checkpoint.recall(_KNOWN_UNTIL) or 0)
    return _EPOCH + timedelta(microseconds=micros) if micros else None
