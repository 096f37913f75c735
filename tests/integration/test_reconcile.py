"""Books that always balance prove nothing: each kind of harm must show."""

from __future__ import annotations

from pathlib import Path

import pytest
from delta import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.config import Settings
from lib.errors import FraudError
from lib.reconcile import Books, reconcile
from tests.integration.conftest import Story
from tests.integration.helpers import copied
from tests.integration.records import FIRST, SECOND

BRONZE, TRANSACTIONS, QUARANTINE, SCORED = (
    "bronze/tx_events",
    "silver/transactions",
    "silver/quarantine",
    "silver/scored",
)
PLACES = (
    *("kafka", "bronze", "transactions", "quarantine", "duplicates"),
    *("scored", "late"),
)
PLAIN = "account_id = 'ACCT_1' AND event_id = 'e-1'"
"""Where the record named "plain" is scored."""


def wrong(books: Books) -> dict[str, int]:
    """The counts that ought to be zero and are not."""
    return {n: count for n, count in books.counts.items() if n not in PLACES and count}


def row_of(
    spark: SparkSession, settings: Settings, table: str, where: tuple[int, int]
) -> DataFrame:
    return spark.read.format("delta").load(settings.table(table)).where(at(where))


def at(where: tuple[int, int]) -> Column:
    partition, offset = where
    return (F.col("partition") == partition) & (F.col("offset") == offset)


def delete(spark, settings: Settings, table: str, where: tuple[int, int]) -> None:
    DeltaTable.forPath(spark, settings.table(table)).delete(at(where))


def append(settings: Settings, table: str, rows: DataFrame) -> None:
    rows.write.format("delta").mode("append").save(settings.table(table))


def a_bronze_row_deleted(spark, settings, position):
    delete(spark, settings, BRONZE, position["plain"])


def a_bronze_row_doubled(spark, settings, position):
    append(settings, BRONZE, row_of(spark, settings, BRONZE, position["plain"]))


def a_transaction_deleted(spark, settings, position):
    delete(spark, settings, TRANSACTIONS, position["plain"])


def a_transaction_doubled(spark, settings, position):
    append(
        settings, TRANSACTIONS, row_of(spark, settings, TRANSACTIONS, position["plain"])
    )


def a_foreign_row_in_quarantine(spark, settings, position):
    row = row_of(spark, settings, QUARANTINE, position["zero"])
    append(settings, QUARANTINE, row.withColumn("topic", F.lit("another")))


def a_conflict_taken_out_of_quarantine(spark, settings, position):
    # Found nowhere, like a duplicate; but its fields are not those that stand.
    delete(spark, settings, QUARANTINE, position["conflict at once"])


def a_score_deleted(spark, settings, position):
    DeltaTable.forPath(spark, settings.table(SCORED)).delete(PLAIN)


def a_score_doubled(spark, settings, position):
    rows = spark.read.format("delta").load(settings.table(SCORED))
    append(settings, SCORED, rows.where(PLAIN))


def a_score_of_another_amount(spark, settings, position):
    table = DeltaTable.forPath(spark, settings.table(SCORED))
    table.update(PLAIN, {"amount": F.lit(1).cast("decimal(12,2)")})


@pytest.mark.parametrize(
    ("harm", "difference"),
    [
        (a_bronze_row_deleted, {"not_in_bronze": 1, "placed_without_bronze": 1}),
        (a_bronze_row_doubled, {"bronze_doubled": 1}),
        (a_transaction_deleted, {"unaccounted": 1, "scored_without_transaction": 1}),
        (a_transaction_doubled, {"placed_doubled": 1, "transactions_doubled": 1}),
        (a_foreign_row_in_quarantine, {"placed_without_bronze": 1}),
        (a_conflict_taken_out_of_quarantine, {"unaccounted": 1}),
        (a_score_deleted, {"not_scored": 1}),
        (a_score_doubled, {"scored_doubled": 1}),
        (a_score_of_another_amount, {"scored_differently": 1}),
    ],
)
def test_harm_shows(
    spark, story: Story, bootstrap: str, tmp_path: Path, harm, difference
):
    settings = copied(story.settings, tmp_path)
    harm(spark, settings, story.position)

    books = reconcile(spark, settings, bootstrap)

    assert wrong(books) == difference
    assert not books.balanced
    said = " ".join(books.differences)
    for count in difference.values():
        assert f"{count} " in said
    assert books.as_dict()["balanced"] is False


def test_records_that_were_not_drained_show(spark, story: Story, bootstrap: str):
    books = reconcile(spark, story.early, bootstrap)

    assert wrong(books) == {"not_in_bronze": len(SECOND)}
    assert books.differences == [f"{len(SECOND)} Kafka records are not in bronze"]
    assert books.counts["bronze"] == len(FIRST)


def test_no_lake_is_said_in_one_line(spark, settings: Settings, bootstrap: str):
    with pytest.raises(FraudError, match="stream --drain"):
        reconcile(spark, settings, bootstrap)
