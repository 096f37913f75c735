"""Books that always balance prove nothing: each kind of harm must show."""

from __future__ import annotations

from pathlib import Path

import pytest
from delta import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lib.errors import FraudError
from lib.lake.tables import SCHEMAS
from lib.lake.writer import LocalLake
from lib.settings import Settings
from lib.verify.reconciliation import Reconciliation, reconcile
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
OTHER = "the same id on another account"
"""A record whose score is harmed."""


def wrong(books: Reconciliation) -> dict[str, int]:
    """The counts that ought to be zero and are not."""
    return {n: count for n, count in books.counts.items() if n not in PLACES and count}


def at(table: str, name: str, story: Story) -> Column:
    """Where the record of that name is; scores have no place in the topic."""
    if table == SCORED:
        account = next(case.key.decode() for case in FIRST if case.name == name)
        return F.col("account_id") == account
    partition, offset = story.position[name]
    return (F.col("partition") == partition) & (F.col("offset") == offset)


def deleted(table: DeltaTable, where: Column) -> None:
    table.delete(where)


def doubled(table: DeltaTable, where: Column) -> None:
    _append(table, table.toDF().where(where))


def copied_from_another_topic(table: DeltaTable, where: Column) -> None:
    _append(table, table.toDF().where(where).withColumn("topic", F.lit("another")))


def of_another_amount(table: DeltaTable, where: Column) -> None:
    table.update(where, {"amount": F.lit(1).cast("decimal(12,2)")})


def _append(table: DeltaTable, rows: DataFrame) -> None:
    (place,) = table.detail().select("location").first()
    rows.write.format("delta").mode("append").save(place)


@pytest.mark.parametrize(
    ("harms", "difference"),
    [
        pytest.param(
            [
                (deleted, BRONZE, "plain"),
                (deleted, SCORED, OTHER),
                # Found nowhere, like a duplicate; but its fields are not those that
                # stand.
                (deleted, QUARANTINE, "conflict at once"),
            ],
            {
                **{"not_in_bronze": 1, "placed_without_bronze": 1},
                "not_scored": 1,
                "unaccounted": 1,
            },
            id="deleted",
        ),
        pytest.param(
            [
                (doubled, BRONZE, "plain"),
                (doubled, SCORED, OTHER),
                (deleted, TRANSACTIONS, "Unicode"),
            ],
            {
                "bronze_doubled": 1,
                "scored_doubled": 1,
                **{"unaccounted": 1, "scored_without_transaction": 1},
            },
            id="doubled",
        ),
        pytest.param(
            [
                (copied_from_another_topic, QUARANTINE, "zero"),
                (of_another_amount, SCORED, OTHER),
                (doubled, TRANSACTIONS, "plain"),
            ],
            {
                "placed_without_bronze": 1,
                "scored_differently": 1,
                **{"placed_doubled": 1, "transactions_doubled": 1},
            },
            id="changed",
        ),
    ],
)
def test_harm_shows(
    spark, story: Story, bootstrap: str, tmp_path: Path, harms, difference
):
    """Harms that can't be taken for each other, each to a record of its own."""
    settings = copied(story.settings, tmp_path)
    for harm, table, name in harms:
        place = DeltaTable.forPath(spark, settings.table(table))
        harm(place, at(table, name, story))

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


def test_no_topic_is_said_in_one_line(spark, settings: Settings, bootstrap: str):
    empty = LocalLake(Path(settings.lake))
    for name in SCHEMAS:
        empty.create(name)

    with pytest.raises(FraudError, match=f"no topic {settings.topic} .* FRAUD_TOPIC"):
        reconcile(spark, settings, bootstrap)


def test_the_log_of_the_jvm_names_no_account(spark, base_settings: Settings):
    """Whatever Spark, Delta or Kafka quotes there, also in a stack trace."""
    jvm = spark.sparkContext._jvm
    error = jvm.java.lang.RuntimeException("no place for ACCT_0000085")
    log = jvm.org.apache.logging.log4j.LogManager.getLogger("masking")
    log.warn("ACCT_0000084, ACCT_1234, ACCT_123 and ACCT_70", error)

    file = base_settings.log_dir / "spark.log"
    text = file.read_text(encoding="utf-8")
    assert "ACCT_••84, ACCT_••34, ACCT_•• and ACCT_••\n" in text
    assert text.count("RuntimeException: no place for ACCT_••85\n") == 1
    assert "ACCT_0000085" not in text
