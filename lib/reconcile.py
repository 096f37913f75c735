"""The books: every Kafka record accounted for, counted from the tables themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib import ingest
from lib.clients import begin_offsets, spark_options
from lib.config import Settings
from lib.spark import read_table


@dataclass(frozen=True)
class Books:
    """Counts of one lake at rest, and the differences between them.

    Attributes:
        counts: name → number of records or rows.
        differences: one sentence per identity that does not hold; empty if balanced.
    """

    counts: dict[str, int]
    reasons: dict[str, int]
    differences: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether every identity holds."""
        return not self.differences

    def as_dict(self) -> dict[str, object]:
        """The JSON that ``python -m lib reconcile`` prints."""
        return {
            **self.counts,
            "quarantine_reasons": self.reasons,
            "balanced": self.balanced,
            "differences": self.differences,
        }


def reconcile(spark: SparkSession, settings: Settings, bootstrap: str) -> Books:
    """Check the identities of the lake against the topic.

    - Kafka records = bronze rows, compared by (partition, offset), not by count only;
    - bronze = transactions + quarantine + duplicates, where a duplicate is a record
      found nowhere else that *is* a repeat: it parses, and an earlier record of the
      same identity and content stands in transactions.

    Raises:
        FraudError: there is no lake yet, or no broker.
    """
    bronze = read_table(spark, settings, "bronze/tx_events")
    silver = read_table(spark, settings, "silver/transactions")
    quarantine = read_table(spark, settings, "silver/quarantine")
    topic = _topic(spark, settings, bootstrap)
    position = list(ingest.POSITION)
    placed = silver.select(*position).unionByName(quarantine.select(*position))
    left_over = bronze.join(placed, on=position, how="left_anti")
    duplicates = _duplicates(left_over, silver)
    n_left_over, n_duplicates = left_over.count(), duplicates.count()
    reasons = dict(quarantine.groupBy("reason").count().orderBy("reason").collect())
    counts = {
        "kafka": topic.count(),
        "bronze": bronze.count(),
        "transactions": silver.count(),
        "quarantine": quarantine.count(),
        "duplicates": n_duplicates,
        "not_in_bronze": topic.join(bronze, on=position, how="left_anti").count(),
        "not_in_kafka": _gone_or_foreign(
            bronze, topic, begin_offsets(settings, bootstrap)
        ),
        "bronze_doubled": _doubled(bronze, position),
        "transactions_doubled": _doubled(silver, list(ingest.IDENTITY)),
        "placed_doubled": _doubled(placed, position),
        "placed_without_bronze": placed.join(
            bronze, on=position, how="left_anti"
        ).count(),
        "unaccounted": n_left_over - n_duplicates,
    }
    return Books(counts, reasons, _differences(counts))


def _differences(n: dict[str, int]) -> list[str]:
    said = []

    def must_be_zero(name: str, sentence: str) -> None:
        if n[name]:
            said.append(f"{n[name]} {sentence}")

    must_be_zero("not_in_bronze", "Kafka records are not in bronze")
    must_be_zero("not_in_kafka", "bronze rows are no record that Kafka holds or held")
    must_be_zero("bronze_doubled", "bronze rows repeat a Kafka record")
    must_be_zero("transactions_doubled", "transactions repeat an event")
    must_be_zero("placed_doubled", "silver rows repeat a Kafka record")
    must_be_zero("placed_without_bronze", "silver rows have no bronze row")
    must_be_zero(
        "unaccounted",
        "bronze rows are neither transaction nor quarantine nor duplicate",
    )
    right = n["transactions"] + n["quarantine"] + n["duplicates"]
    if n["bronze"] != right:
        said.append(
            f"bronze has {n['bronze']} rows, transactions + quarantine + duplicates "
            f"make {right}"
        )
    return said


def _topic(spark: SparkSession, settings: Settings, bootstrap: str) -> DataFrame:
    """The position of every record that the topic holds, read from Kafka itself."""
    options = spark_options(settings, bootstrap)
    kafka = spark.read.format("kafka").options(**options).load()
    return kafka.select(*ingest.POSITION)


def _gone_or_foreign(
    bronze: DataFrame, topic: DataFrame, begins: dict[int, int]
) -> int:
    """Bronze rows that Kafka can't have given us.

    A record older than the first one that Kafka still holds has left by retention;
    that is what bronze is for.
    """
    held = [(int(part), int(first)) for part, first in begins.items()]
    begin = bronze.sparkSession.createDataFrame(held, "partition int, begin long")
    extra = bronze.join(topic, on=list(ingest.POSITION), how="left_anti")
    extra = extra.join(F.broadcast(begin), on="partition", how="left")
    return extra.where("begin IS NULL OR offset >= begin").count()


def _doubled(rows: DataFrame, key: list[str]) -> int:
    """Rows in excess of one per key."""
    keys = rows.groupBy(*key).count().where("count > 1")
    return keys.agg(F.coalesce(F.sum("count") - F.count("*"), F.lit(0))).first()[0]


def _duplicates(left_over: DataFrame, silver: DataFrame) -> DataFrame:
    """Those left-over records that repeat a transaction which stands before them."""
    standing = silver.select(
        *ingest.IDENTITY,
        F.struct(*ingest.CONTENT).alias("content"),
        F.struct("topic", "partition").alias("log"),
        F.col("offset").alias("first_offset"),
    )
    repeats = ingest.parse_records(left_over.drop("ingested_at"))
    same = F.struct(*ingest.CONTENT) == F.col("content")
    # Offsets have an order within a partition only.
    here = F.struct("topic", "partition") == F.col("log")
    after = ~here | (F.col("offset") > F.col("first_offset"))
    return repeats.join(standing, on=list(ingest.IDENTITY), how="inner").where(
        same & after
    )
