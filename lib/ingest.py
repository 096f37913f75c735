"""Query "ingest": Kafka → bronze, silver/transactions, silver/quarantine.

Exactly once: each table's append carries the batch id in the same Delta commit
(txnAppId, txnVersion), so Delta skips the tables that a crashed batch had reached
already, and what the batch decides depends only on data that a replay finds again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lib.checkpoint import Checkpoint
from lib.clients import end_offsets, spark_options
from lib.config import Settings
from lib.parsing import PARSED, parsed
from lib.spark import table_exists

QUERY = "ingest"
IDENTITY = ("account_id", "event_id")
CONTENT = ("ts", "merchant", "country", "amount", "currency")
POSITION = ("topic", "partition", "offset")

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


def create_tables(spark: SparkSession, settings: Settings) -> None:
    """Create the empty tables that are missing, so that readers never find none."""
    for name, schema in TABLES.items():
        if not table_exists(spark, settings.table(name)):
            # An append, and not Delta's CREATE TABLE: that one refuses a folder in
            # which an earlier creation died half-way.
            empty = spark.createDataFrame([], schema).coalesce(1)
            empty.write.format("delta").mode("append").save(settings.table(name))


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
        **spark_options(settings, bootstrap),
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
    event = parsed(F.col("value"), F.col("kafka_timestamp")).alias("event")
    return raw.select(*raw.columns, event).select(*raw.columns, "event.*")


def classify(parsed_records: DataFrame, transactions: DataFrame) -> DataFrame:
    """Add ``status``: ``new``, ``duplicate``, ``conflict`` or ``rejected``.

    The first record of an identity stands, be it in the batch or in the table; a
    record that finds *itself* in the table (same topic, partition and offset) is
    ``new`` again, so that a replayed batch decides as it did the first time.

    Args:
        parsed_records: the output of ``parse_records``.
        transactions: silver/transactions as it stands.
    """
    first = Window.partitionBy(*IDENTITY).orderBy(*_KAFKA_ORDER)
    candidate = F.struct(*CONTENT, *POSITION)
    valid = parsed_records.where(F.col("reason").isNull())
    known = _known(transactions, valid)
    standing = F.coalesce("known", F.first(candidate).over(first)).alias("standing")
    judged = valid.join(known, on=list(IDENTITY), how="left").select(
        *parsed_records.columns, standing
    )
    status = (
        F.when(_same("standing", POSITION), "new")
        .when(_same("standing", CONTENT), "duplicate")
        .otherwise("conflict")
    )
    judged = judged.select(*parsed_records.columns, status.alias("status"))
    rejected = parsed_records.where(F.col("reason").isNotNull())
    return judged.unionByName(rejected.withColumn("status", F.lit("rejected")))


# Within an account this is Kafka's order, because the key keeps an account in one
# partition; the rest only makes the choice definite for records with foreign keys.
_KAFKA_ORDER = ("topic", "partition", "offset")


def _known(transactions: DataFrame, valid: DataFrame) -> DataFrame:
    """The rows of the table whose identity occurs in the batch.

    The batch is the small side: it is broadcast, and the table is scanned once for
    its two key columns.
    """
    keys = F.broadcast(valid.select(*IDENTITY).distinct())
    known = F.struct(*CONTENT, *POSITION).alias("known")
    return transactions.join(keys, on=list(IDENTITY), how="left_semi").select(
        *IDENTITY, known
    )


def _same(struct: str, fields: tuple[str, ...]) -> Column:
    same = F.lit(True)
    for field in fields:
        same = same & F.col(field).eqNullSafe(F.col(f"{struct}.{field}"))
    return same


def accepted(classified: DataFrame) -> DataFrame:
    """The rows for silver/transactions."""
    return classified.where("status = 'new'").select(*SILVER.fieldNames())


def refused(classified: DataFrame) -> DataFrame:
    """The rows for silver/quarantine, each with its reason."""
    conflict = F.col("status") == "conflict"
    reason = F.when(conflict, "conflicting_event_id").otherwise(F.col("reason"))
    detail = F.when(
        conflict, "another record of this account came first under this event_id"
    ).otherwise(F.col("detail"))
    return classified.where("status IN ('conflict', 'rejected')").select(
        "value",
        reason.alias("reason"),
        detail.alias("detail"),
        "kafka_timestamp",
        *POSITION,
    )


@dataclass(frozen=True)
class Writer:
    """Appends to the lake's tables, each commit with its transaction id."""

    settings: Settings
    app: str

    def append(self, rows: DataFrame, table: str, batch_id: int) -> None:
        """Append ``rows`` unless this batch's rows are in the table already."""
        (
            rows.write.format("delta")
            .mode("append")
            .option("txnAppId", f"{self.app}/{table}")
            .option("txnVersion", batch_id)
            .save(self.settings.table(table))
        )


def batch_writer(
    settings: Settings, app: str, on_batch: Callable[[int, dict[str, int]], None]
) -> Callable[[DataFrame, int], None]:
    """The foreachBatch function of the query.

    Args:
        settings: where the tables lie.
        app: the checkpoint's application id, one per life of the checkpoint.
        on_batch: called after each batch with its id and its records by status.
    """
    writer = Writer(settings, app)

    def write(batch: DataFrame, batch_id: int) -> None:
        spark = batch.sparkSession
        transactions = spark.read.format("delta").load(
            settings.table("silver/transactions")
        )
        # `classify` looks at the records three times: kept, or each look would read
        # Kafka and parse again.
        known = parse_records(batch).persist()
        classified = classify(known, transactions).persist()
        try:
            counts = dict(classified.groupBy("status").count().collect())
            bronze = classified.withColumn("ingested_at", F.current_timestamp())
            bronze = bronze.select(*BRONZE.fieldNames())
            writer.append(bronze, "bronze/tx_events", batch_id)
            if counts.get("rejected") or counts.get("conflict"):
                writer.append(refused(classified), "silver/quarantine", batch_id)
            # Last: `classified` reads this table, and Spark drops what it has kept of a
            # plan once a table that the plan reads has changed.
            if counts.get("new"):
                writer.append(accepted(classified), "silver/transactions", batch_id)
        finally:
            known.unpersist()
            classified.unpersist()
        on_batch(batch_id, counts)

    return write


def continue_from_bronze(
    spark: SparkSession, settings: Settings, bootstrap: str
) -> str:
    """Where a new checkpoint starts: behind what bronze holds, not at the beginning.

    Bronze is the record of what was ingested. The last batch that reached it may
    have died before silver; it is completed from bronze first, because Kafka will
    not be asked for it again.

    Returns:
        ``startingOffsets`` for Spark's Kafka source, as JSON.
    """
    bronze = spark.read.format("delta").load(settings.table("bronze/tx_events"))
    bronze = bronze.where(F.col("topic") == settings.topic)
    ends = bronze.groupBy("partition").agg((F.max("offset") + 1).alias("end"))
    stored = dict(ends.collect())
    if not stored:
        return "earliest"
    _complete_last_batch(spark, settings, bronze)
    partitions = end_offsets(settings, bootstrap)
    earliest = -2  # Spark's code for "the first offset there is"
    offsets = {str(p): stored.get(p, earliest) for p in partitions}
    return json.dumps({settings.topic: offsets})


def _complete_last_batch(
    spark: SparkSession, settings: Settings, bronze: DataFrame
) -> None:
    """Bring what the last batch owes to silver; nothing if it owes nothing."""
    last = bronze.agg(F.max("ingested_at")).first()[0]
    batch = bronze.where(F.col("ingested_at") == last).drop("ingested_at")
    tables = ("silver/transactions", "silver/quarantine")
    stored = {t: spark.read.format("delta").load(settings.table(t)) for t in tables}
    classified = classify(parse_records(batch), stored["silver/transactions"])
    for table, rows in zip(
        tables, (accepted(classified), refused(classified)), strict=True
    ):
        owed = rows.join(stored[table], on=list(POSITION), how="left_anti")
        if not owed.isEmpty():
            owed.select(*rows.columns).write.format("delta").mode("append").save(
                settings.table(table)
            )


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
    create_tables(spark, settings)
    checkpoint = Checkpoint(spark, settings.checkpoint(QUERY))
    starting = "earliest"
    if not checkpoint.has_offsets():
        starting = continue_from_bronze(spark, settings, bootstrap)
    app = checkpoint.application_id(QUERY)
    stream = read_topic(
        spark, settings, bootstrap, starting=starting, max_offsets=max_offsets
    )
    return (
        stream.writeStream.queryName(QUERY)
        .foreachBatch(batch_writer(settings, app, on_batch))
        .option("checkpointLocation", checkpoint.uri)
        .trigger(**trigger)
        .start()
    )
