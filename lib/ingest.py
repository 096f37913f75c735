"""Query "ingest": Kafka → bronze, silver/transactions, silver/quarantine.

Exactly once: each table's append carries the batch id in the same Delta commit
(txnAppId, txnVersion), so Delta skips the tables that a crashed batch had reached
already, and what the batch decides depends only on data that a replay finds again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lib import preflight
from lib.checkpoint import Checkpoint
from lib.clients import end_offsets, spark_options
from lib.config import Settings
from lib.known import CONFLICT, NEW, POSITION, REJECTED, Known
from lib.lake import Batch, Lake, arrow_schema, open_lake
from lib.parsing import PARSED, parsed

QUERY = "ingest"

FETCH_WAIT_MS = "1"
"""How long a broker may hold back a fetch that finds nothing new. A task of Spark's
Kafka source asks for a partition's first and last offset behind the fetch of the
records that may come next, on the same connection, where the broker answers in order:
with the client's default of 500 ms a task waits up to half a second. Source: thread
dumps, and Spark's InternalKafkaConsumer.getAvailableOffsetRange."""

BRONZE = T.StructType(
    [
        T.StructField("key", T.BinaryType()),
        T.StructField("value", T.BinaryType()),
        T.StructField("topic", T.StringType()),
        T.StructField("partition", T.IntegerType()),
        T.StructField("offset", T.LongType()),
        T.StructField("kafka_timestamp", T.TimestampType()),
        T.StructField("ingested_at", T.TimestampType()),
    ]
)
SILVER = T.StructType(
    [f for f in PARSED.fields if f.name not in ("reason", "detail")]
    + [f for f in BRONZE.fields if f.name in ("kafka_timestamp", *POSITION)]
)
QUARANTINE = T.StructType(
    [
        T.StructField("value", T.BinaryType()),
        T.StructField("reason", T.StringType()),
        T.StructField("detail", T.StringType()),
    ]
    + [f for f in BRONZE.fields if f.name in ("kafka_timestamp", *POSITION)]
)
TABLES = {
    "bronze/tx_events": BRONZE,
    "silver/transactions": SILVER,
    "silver/quarantine": QUARANTINE,
}


def source_options(settings: Settings, bootstrap: str) -> dict[str, str]:
    """Options of Spark's Kafka source, whose tasks then wait for no long poll."""
    return {
        "kafka.fetch.max.wait.ms": FETCH_WAIT_MS,
        **spark_options(settings, bootstrap),
    }


def read_topic(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    starting: str = "earliest",
    max_offsets: int | None = None,
) -> DataFrame:
    """The topic as a stream with bronze's columns, less ``ingested_at``.

    Args:
        spark: the session.
        settings: topic and client properties.
        bootstrap: bootstrap servers.
        starting: ``earliest`` or offsets as JSON; a checkpoint overrides it.
        max_offsets: records per micro-batch at most; None for no limit.
    """
    options = {
        **source_options(settings, bootstrap),
        "startingOffsets": starting,
        "failOnDataLoss": "true",
    }
    if max_offsets:
        options["maxOffsetsPerTrigger"] = str(max_offsets)
    return records(spark.readStream.format("kafka").options(**options).load())


def records(kafka: DataFrame) -> DataFrame:
    """Spark's Kafka columns under the names that bronze gives them."""
    return kafka.select(
        "key", "value", *POSITION, F.col("timestamp").alias("kafka_timestamp")
    )


def parse_records(raw: DataFrame) -> DataFrame:
    """Bronze's columns and the parsed struct's (lib.parsing.PARSED) beside them."""
    columns = map(F.col, ("value", "kafka_timestamp", "key"))
    event = parsed(*columns).alias("event")
    return raw.select(*raw.columns, event).select(*raw.columns, "event.*")


def accepted(classified: pa.Table) -> pa.Table:
    """The rows for silver/transactions."""
    rows = classified.filter(pc.equal(classified["status"], NEW))
    return rows.select(SILVER.fieldNames()).cast(arrow_schema(SILVER))


def refused(classified: pa.Table) -> pa.Table:
    """The rows for silver/quarantine, each with its reason."""
    bad = pc.is_in(classified["status"], pa.array([CONFLICT, REJECTED]))
    rows = classified.filter(bad)
    conflict = pc.equal(rows["status"], CONFLICT)
    texts = {
        "reason": "conflicting_event_id",
        "detail": "another record of this account came first under this event_id",
    }
    for name, text in texts.items():
        column = pc.if_else(conflict, text, rows[name])
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows.select(QUARANTINE.fieldNames()).cast(arrow_schema(QUARANTINE))


def raw(classified: pa.Table) -> pa.Table:
    """The rows for bronze: every record as it came, and when it was taken in."""
    now = pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC"))
    rows = classified.append_column("ingested_at", pa.repeat(now, len(classified)))
    return rows.select(BRONZE.fieldNames()).cast(arrow_schema(BRONZE))


def batch_writer(
    lake: Lake, app: str, on_batch: Callable[[int, dict[str, int]], None]
) -> Callable[[DataFrame, int], None]:
    """The foreachBatch function of the query.

    The batch comes to the driver once, parsed, and leaves it as three commits. It is
    as large as ``max_offsets`` allows and no larger.

    Args:
        lake: where the tables lie.
        app: the checkpoint's application id, one per life of the checkpoint.
        on_batch: called after each batch with its id and its records by status.
    """
    known = Known(lake)

    def write(batch: DataFrame, batch_id: int) -> None:
        classified = known.classify(parse_records(batch).toArrow())
        counts = _counts(classified)
        transaction = Batch(app, batch_id)
        lake.append("bronze/tx_events", raw(classified), transaction)
        if counts.get(REJECTED) or counts.get(CONFLICT):
            lake.append("silver/quarantine", refused(classified), transaction)
        if counts.get(NEW):
            lake.append("silver/transactions", accepted(classified), transaction)
        known.add(classified)
        on_batch(batch_id, counts)

    return write


def _counts(classified: pa.Table) -> dict[str, int]:
    found = classified["status"].value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in found}


def continue_from_bronze(
    spark: SparkSession, settings: Settings, bootstrap: str, lake: Lake
) -> str:
    """Where a new checkpoint starts: behind what bronze holds, not at the beginning.

    Bronze is the record of what was ingested. The last batch that reached it may
    have died before silver; it is completed from bronze first, because Kafka will
    not be asked for it again.

    Returns:
        ``startingOffsets`` for Spark's Kafka source, as JSON.
    """
    if not any(len(part) for part in lake.scan("bronze/tx_events", ["partition"])):
        return "earliest"
    bronze = spark.read.format("delta").load(settings.table("bronze/tx_events"))
    bronze = bronze.where(F.col("topic") == settings.topic)
    ends = bronze.groupBy("partition").agg((F.max("offset") + 1).alias("end"))
    stored = dict(ends.collect())
    if not stored:
        return "earliest"
    _complete_last_batch(bronze, lake)
    partitions = end_offsets(settings, bootstrap)
    earliest = -2  # Spark's code for "the first offset there is"
    offsets = {str(p): stored.get(p, earliest) for p in partitions}
    return json.dumps({settings.topic: offsets})


def _complete_last_batch(bronze: DataFrame, lake: Lake) -> None:
    """Bring what the last batch owes to silver; nothing if it owes nothing."""
    last = bronze.agg(F.max("ingested_at")).first()[0]
    batch = bronze.where(F.col("ingested_at") == last).drop("ingested_at")
    classified = Known(lake).classify(parse_records(batch).toArrow())
    for table, rows in (
        ("silver/quarantine", refused(classified)),
        ("silver/transactions", accepted(classified)),
    ):
        stored = lake.at(table, rows["offset"].to_pylist(), POSITION)
        owed = rows.join(stored, keys=list(POSITION), join_type="left anti")
        if len(owed):
            lake.append(table, owed.select(rows.column_names), None)


def start(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    trigger: dict[str, object],
    max_offsets: int | None = None,
    on_batch: Callable[[int, dict[str, int]], None] = lambda _id, _counts: None,
):
    """Start the query.

    Args:
        spark: the session.
        settings: topic, lake and checkpoints.
        bootstrap: bootstrap servers.
        trigger: arguments of ``DataStreamWriter.trigger``.
        max_offsets: records per micro-batch at most.
        on_batch: called after each batch with its id and its records by status.

    Returns:
        the running ``StreamingQuery``.
    """
    lake = open_lake(spark, settings)
    checkpoint = Checkpoint(spark, settings.checkpoint(QUERY))
    preflight.check(
        *(spark, settings, bootstrap, lake, checkpoint),
        writes=TABLES,
        every_batch="bronze/tx_events",
    )
    for name, schema in TABLES.items():
        lake.create(name, schema)  # so that readers never find none
    starting = "earliest"
    if not checkpoint.has_offsets():
        starting = continue_from_bronze(spark, settings, bootstrap, lake)
    app = checkpoint.application_id(QUERY)
    stream = read_topic(
        spark, settings, bootstrap, starting=starting, max_offsets=max_offsets
    )
    return (
        stream.writeStream.queryName(QUERY)
        .foreachBatch(batch_writer(lake, app, on_batch))
        .option("checkpointLocation", checkpoint.uri)
        .trigger(**trigger)
        .start()
    )
