"""Reconciliation: account for every Kafka record by counting the tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.kafka.clients import begin_offsets, end_offsets, topic_identity
from lib.lake.tables import (
    BRONZE,
    CONTENT,
    IDENTITY,
    POSITION,
    QUARANTINE,
    SCORED,
    TRANSACTIONS,
)
from lib.settings import Settings
from lib.streaming.parsing import parse_records
from lib.streaming.query import source_options
from lib.streaming.session import FEW_ROWS, properties, read_table

_FEW_RECORDS = 100_000
"""Up to so many a run's cost is that of its plans."""


@dataclass(frozen=True)
class Reconciliation:
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


def reconcile(
    spark: SparkSession, settings: Settings, bootstrap: str
) -> Reconciliation:
    """Check the identities of the lake against the topic.

    - Kafka's committed records = bronze rows, compared by (partition, offset) and by
      what each of them holds, not by count only;
    - bronze = transactions + quarantine + duplicates, where a duplicate is a record
      found nowhere else that *is* a repeat: it parses, and an earlier record of the
      same identity and content stands in transactions;
    - transactions and scored hold the same events, with the same fields, each once.

    Raises:
        FraudError: there is no lake yet, or no broker.
    """
    begins = begin_offsets(settings, bootstrap)
    # Bronze may hold more than Kafka does, but not more than Kafka ever held.
    records = sum(end_offsets(settings, bootstrap).values())
    with properties(spark, FEW_ROWS if records <= _FEW_RECORDS else {}):
        return _books(spark, settings, bootstrap, begins)


def _books(
    spark: SparkSession, settings: Settings, bootstrap: str, begins: dict[int, int]
) -> Reconciliation:
    bronze = read_table(spark, settings, BRONZE)
    silver = read_table(spark, settings, TRANSACTIONS)
    quarantine = read_table(spark, settings, QUARANTINE)
    scored = read_table(spark, settings, SCORED)
    topic_identity(settings, bootstrap)  # there is one, or it says so in one line
    options = source_options(settings, bootstrap)
    places = {
        "kafka": spark.read.format("kafka").options(**options).load(),
        "bronze": bronze,
        "transactions": silver,
        "quarantine": quarantine,
    }
    counts = _count_positions(_positions(places), begins)
    counts |= _count_events(silver, scored)
    left_over, counts["duplicates"] = counts.pop("left_over"), 0
    if left_over:
        placed = silver.select(*POSITION).unionByName(quarantine.select(*POSITION))
        rest = bronze.join(placed, on=list(POSITION), how="left_anti")
        counts["duplicates"] = _duplicates(rest, silver).count()
    counts["unaccounted"] = left_over - counts["duplicates"]
    reasons = dict(sorted(quarantine.groupBy("reason").count().collect()))
    return Reconciliation(counts, reasons, _differences(counts))


def _positions(places: dict[str, DataFrame]) -> DataFrame:
    """One row per (topic, partition, offset): its number of rows in each place, and
    whether all that Kafka and bronze hold of it is the same."""
    columns = [
        F.count(F.when(F.col("place") == place, 1)).alias(place) for place in places
    ]
    same = F.min("digest").eqNullSafe(F.max("digest")).alias("same")
    rows = [
        f.select(
            *POSITION,
            F.lit(p).alias("place"),
            (_digest() if p in ("kafka", "bronze") else F.lit(None)).alias("digest"),
        )
        for p, f in places.items()
    ]
    return reduce(DataFrame.unionByName, rows).groupBy(*POSITION).agg(*columns, same)


def _digest() -> Column:
    """Of a record's key and value; a null is no empty text, and never moves over."""
    # The hash passes over a null: which of the two are there is hashed, too.
    there = (F.col(name).isNotNull() for name in ("key", "value"))
    return F.xxhash64("key", "value", *there)


def _count_positions(positions: DataFrame, begins: dict[int, int]) -> dict[str, int]:
    """All that can be counted record by record, in one pass.

    A record older than the first one that Kafka still holds (``begins``) has left by
    retention; that is what bronze is for.
    """
    begin = F.lit(None).cast("long")
    for partition, first in begins.items():
        begin = F.when(F.col("partition") == partition, F.lit(first)).otherwise(begin)
    placed = F.col("transactions") + F.col("quarantine")
    excess = {
        "bronze_doubled": F.col("bronze") - 1,
        "placed_doubled": placed - 1,
    }
    tests = {
        "not_in_bronze": (F.col("kafka") > 0) & (F.col("bronze") == 0),
        "not_in_kafka": (
            (F.col("bronze") > 0)
            & (F.col("kafka") == 0)
            & (begin.isNull() | (F.col("offset") >= begin))
        ),
        "different_in_kafka": (
            (F.col("bronze") > 0) & (F.col("kafka") > 0) & ~F.col("same")
        ),
        "placed_without_bronze": (placed > 0) & (F.col("bronze") == 0),
        "left_over": (F.col("bronze") > 0) & (placed == 0),
    }
    return _sums(
        positions,
        **{p: F.col(p) for p in ("kafka", "bronze", "transactions", "quarantine")},
        **{name: F.greatest(e, F.lit(0)) for name, e in excess.items()},
        **{name: test.cast("long") for name, test in tests.items()},
    )


def _count_events(silver: DataFrame, scored: DataFrame) -> dict[str, int]:
    """Transactions and scores event by event, in one pass."""
    content = F.struct(*CONTENT)
    sides = [
        silver.select(*IDENTITY, content.alias("event"), F.lit(None).alias("copy")),
        scored.select(
            *IDENTITY, F.lit(None).alias("event"), content.alias("copy"), "late"
        ),
    ]
    events = (
        reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), sides)
        .groupBy(*IDENTITY)
        .agg(
            F.count("event").alias("events"),
            F.count("copy").alias("copies"),
            F.count(F.when(F.col("late"), 1)).alias("late"),
            F.first("event", ignorenulls=True).alias("event"),
            F.first("copy", ignorenulls=True).alias("copy"),
        )
    )
    missing, surplus = F.col("copies") == 0, F.col("events") == 0
    return _sums(
        events,
        transactions_doubled=F.greatest(F.col("events") - 1, F.lit(0)),
        scored=F.col("copies"),
        late=F.col("late"),
        not_scored=missing.cast("long"),
        scored_without_transaction=surplus.cast("long"),
        scored_doubled=F.greatest(F.col("copies") - 1, F.lit(0)),
        scored_differently=(
            ~missing & ~surplus & ~F.col("copy").eqNullSafe(F.col("event"))
        ).cast("long"),
    )


def _sums(rows: DataFrame, **columns: Column) -> dict[str, int]:
    """The sum of each column; 0 where there is no row."""
    totals = [F.coalesce(F.sum(c), F.lit(0)).alias(n) for n, c in columns.items()]
    return rows.agg(*totals).first().asDict()


def _differences(n: dict[str, int]) -> list[str]:
    said = []

    def must_be_zero(name: str, sentence: str) -> None:
        if n[name]:
            said.append(f"{n[name]} {sentence}")

    must_be_zero("not_in_bronze", "Kafka records are not in bronze")
    must_be_zero("not_in_kafka", "bronze rows are no record that Kafka holds or held")
    must_be_zero(
        "different_in_kafka", "bronze rows hold other bytes than their Kafka record"
    )
    must_be_zero("bronze_doubled", "bronze rows repeat a Kafka record")
    must_be_zero("transactions_doubled", "transactions repeat an event")
    must_be_zero("placed_doubled", "silver rows repeat a Kafka record")
    must_be_zero("placed_without_bronze", "silver rows have no bronze row")
    must_be_zero(
        "unaccounted",
        "bronze rows are neither transaction nor quarantine nor duplicate",
    )
    must_be_zero("not_scored", "transactions are not in scored")
    must_be_zero("scored_without_transaction", "scored events are no transactions")
    must_be_zero("scored_doubled", "scored rows repeat an event")
    must_be_zero("scored_differently", "scored events differ from their transactions")
    right = n["transactions"] + n["quarantine"] + n["duplicates"]
    if n["bronze"] != right:
        said.append(
            f"bronze has {n['bronze']} rows, transactions + quarantine + duplicates "
            f"make {right}"
        )
    return said


def _duplicates(left_over: DataFrame, silver: DataFrame) -> DataFrame:
    """Those left-over records that repeat a transaction which stands before them."""
    standing = silver.select(
        *IDENTITY,
        F.struct(*CONTENT).alias("content"),
        F.struct("topic", "partition").alias("log"),
        F.col("offset").alias("first_offset"),
    )
    repeats = parse_records(left_over)
    same = F.struct(*CONTENT) == F.col("content")
    # Offsets have an order within a partition only.
    here = F.struct("topic", "partition") == F.col("log")
    after = ~here | (F.col("offset") > F.col("first_offset"))
    return repeats.join(standing, on=list(IDENTITY), how="inner").where(same & after)
