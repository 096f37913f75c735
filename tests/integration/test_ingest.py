"""Kafka to bronze and silver: each record in its place, once, whatever happens."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest
from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.faults import chaos
from lib.kafka.clients import ensure_topic
from lib.lake.tables import BRONZE, QUARANTINE, SCORED, TRANSACTIONS
from lib.settings import Settings
from lib.streaming.checkpoint import exclusive
from lib.streaming.query import QUERY
from lib.streaming.runner import drain, pipeline
from lib.streaming.session import properties
from lib.verify.reconciliation import reconcile
from tests.integration.conftest import Story
from tests.integration.helpers import (
    copied,
    delta_commits,
    lake,
    send,
    undo_last_batch_commit,
    undo_last_commit,
)
from tests.integration.records import (
    ARRIVED,
    ARRIVED_MS,
    DUPLICATE,
    EVERYTHING,
    FIRST,
    SECOND,
    TRANSACTION,
    line,
)

SILVER = (TRANSACTIONS, QUARANTINE, SCORED)
TABLES = (BRONZE, *SILVER)
"""In the order of their commits: the silver ones at the same time."""


def sent(settings: Settings, bootstrap: str, *values: bytes) -> None:
    ensure_topic(settings, bootstrap)
    send(settings, bootstrap, [(None, value) for value in values], ARRIVED_MS)


def drained(spark: SparkSession, settings: Settings, bootstrap: str, **options) -> int:
    return drain(spark, settings, bootstrap, **options)["records"]


class SmallBatches(NamedTuple):
    """A lake, the records drained into it, and how many each batch fetched."""

    settings: Settings
    records: int
    reads: list[int]


@pytest.fixture(scope="module")
def told(spark: SparkSession, story: Story) -> dict[str, list[tuple]]:
    """The rows of the story's lake."""
    return lake(spark, story.settings)


@pytest.fixture(scope="module")
def places(spark: SparkSession, story: Story) -> dict[str, list[str]]:
    """Where each record of the story stands, by its name."""
    name_at = {position: name for name, position in story.position.items()}
    found = {name: [] for name in story.position}
    read = spark.read.format("delta")
    for row in read.load(story.settings.table(TRANSACTIONS)).collect():
        found[name_at[row.partition, row.offset]].append(TRANSACTION)
    for row in read.load(story.settings.table(QUARANTINE)).collect():
        found[name_at[row.partition, row.offset]].append(row.reason)
    return found


@pytest.mark.parametrize("case", EVERYTHING, ids=lambda case: case.name)
def test_each_record_is_in_its_place(places, case):
    assert places[case.name] == ([] if case.place == DUPLICATE else [case.place])


def test_bronze_holds_every_record_byte_for_byte(told, story: Story):
    names = {position: name for name, position in story.position.items()}
    held = {names[row[3], row[4]]: row for row in told[BRONZE]}

    assert len(told[BRONZE]) == len(EVERYTHING)
    for case in EVERYTHING:
        key, value, topic, _partition, _offset, kafka_timestamp, _ = held[case.name]
        assert (key, value) == (case.key, case.value), case.name
        assert topic == story.settings.topic
        assert kafka_timestamp == ARRIVED.replace(tzinfo=None)


def test_a_transaction_is_the_event_as_it_was_written(spark, story: Story):
    table = spark.read.format("delta").load(story.settings.table(TRANSACTIONS))

    assert table.dtypes == [
        ("event_id", "string"),
        ("account_id", "string"),
        ("ts", "timestamp"),
        ("merchant", "string"),
        ("country", "string"),
        ("amount", "decimal(12,2)"),
        ("currency", "string"),
        ("kafka_timestamp", "timestamp"),
        ("topic", "string"),
        ("partition", "int"),
        ("offset", "bigint"),
    ]
    by_account = {r.account_id: r for r in table.where("event_id = 'e-1'").collect()}
    assert by_account["ACCT_1"].amount == Decimal("42.10")
    assert by_account["ACCT_1"].ts.isoformat() == "2025-01-15T11:59:58.250000"
    assert by_account["ACCT_5"].merchant == "Café 漢字 🦊 ½"
    assert by_account["ACCT_6"].merchant == "A\0B"
    assert by_account["ACCT_9"].amount == Decimal(10**9)
    assert by_account["ACCT_10"].amount == Decimal(15)


def test_a_rejected_record_is_kept_whole_with_its_reason(told):
    by_reason = Counter(row[1] for row in told[QUARANTINE])
    expected = Counter(
        c.place for c in EVERYTHING if c.place not in (TRANSACTION, DUPLICATE)
    )

    assert by_reason == expected
    rejected = [c.value for c in EVERYTHING if c.place in expected]
    assert sorted(map(repr, rejected)) == sorted(repr(r[0]) for r in told[QUARANTINE])
    assert all(row[2] for row in told[QUARANTINE])  # each with a detail


def test_the_books_of_the_story_balance(spark, story: Story, bootstrap: str):
    books = reconcile(spark, story.settings, bootstrap)

    places = Counter(case.place for case in EVERYTHING)
    assert story.drained == [len(FIRST), len(SECOND)]
    assert books.differences == []
    assert books.counts["kafka"] == books.counts["bronze"] == len(EVERYTHING)
    assert books.counts["transactions"] == places[TRANSACTION]
    assert books.counts["duplicates"] == places[DUPLICATE]
    assert sum(books.reasons.values()) == books.counts["quarantine"]


@pytest.fixture(scope="module")
def small_batches(spark, story: Story, bootstrap, tmp_path_factory) -> SmallBatches:
    """The story's lake, its second part drained three records at a time."""
    settings = copied(story.early, tmp_path_factory.mktemp("small-batches"))
    with pipeline(*(spark, settings, bootstrap), drain=True, max_offsets=3) as running:
        running.wait(threading.Event())
        reports = running.query.recentProgress
    return SmallBatches(
        settings, running.records, [report.numInputRows for report in reports]
    )


def test_batch_boundaries_decide_nothing(spark, told, small_batches: SmallBatches):
    assert small_batches.records == len(SECOND)
    assert len(small_batches.reads) > 3  # small they were

    assert lake(spark, small_batches.settings) == told


def test_a_checkpoint_goes_on_in_a_session_with_other_rules_of_sql(
    spark, told, story: Story, bootstrap: str, tmp_path: Path
):
    """dbt leaves the session it has used without ANSI's."""
    settings = copied(story.early, tmp_path)

    with properties(spark, {"spark.sql.ansi.enabled": "false"}):
        assert drained(spark, settings, bootstrap) == len(SECOND)

    assert lake(spark, settings) == told


def test_a_batch_reads_kafka_once(small_batches: SmallBatches):
    """Spark counts a record each time that a batch fetches and parses it."""
    assert sum(small_batches.reads) == len(SECOND)


@pytest.mark.parametrize(
    "unreached",
    [(), (TRANSACTIONS,), (QUARANTINE, SCORED), SILVER, TABLES],
    ids=["checkpoint", "transactions", "scored", "silver", "bronze"],
)
def test_a_batch_that_crashed_before(
    spark, told, story: Story, bootstrap: str, tmp_path: Path, unreached
):
    """The query died in the last batch, before it reached some of the tables."""
    settings = copied(story.settings, tmp_path)
    versions = {table: len(delta_commits(settings, table)) for table in TABLES}
    batch = undo_last_batch_commit(settings)
    for table in unreached:
        undo_last_commit(settings, table)

    assert drained(spark, settings, bootstrap) == len(SECOND)

    assert lake(spark, settings) == told
    # What had been reached was not written again.
    assert {t: len(delta_commits(settings, t)) for t in TABLES} == versions
    assert (Path(settings.checkpoint(QUERY)) / "commits" / str(batch)).exists()


@pytest.mark.parametrize(
    "unreached",
    [
        SILVER,
        pytest.param((TRANSACTIONS,), marks=pytest.mark.slow),
        pytest.param((QUARANTINE, SCORED), marks=pytest.mark.slow),
    ],
    ids=["silver", "transactions", "scored"],
)
def test_a_lost_checkpoint_goes_on_from_bronze(
    spark, told, story: Story, bootstrap: str, tmp_path: Path, unreached
):
    """The checkpoint is gone, and the last batch had not reached some tables."""
    settings = copied(story.settings, tmp_path)
    shutil.rmtree(settings.checkpoints)
    for table in unreached:
        undo_last_commit(settings, table)

    assert drained(spark, settings, bootstrap) == 0

    assert lake(spark, settings) == told


def test_a_lost_checkpoint_may_owe_nothing(
    spark, told, small_batches: SmallBatches, bootstrap: str, tmp_path: Path
):
    settings = copied(small_batches.settings, tmp_path)
    shutil.rmtree(settings.checkpoints)

    assert drained(spark, settings, bootstrap) == 0

    assert lake(spark, settings) == told


def test_garbage_then_a_lost_checkpoint_then_more(
    spark, settings: Settings, bootstrap: str
):
    sent(settings, bootstrap, b"garbage", b"", b"[]")
    assert drained(spark, settings, bootstrap) == 3
    shutil.rmtree(settings.checkpoints)
    sent(settings, bootstrap, line(), line(), b"more garbage")
    assert drained(spark, settings, bootstrap) == 3

    # Batch 0 again, under another application: it must not be taken for the first.
    books = reconcile(spark, settings, bootstrap)
    assert books.differences == []
    placed = [books.counts[n] for n in ("transactions", "quarantine", "duplicates")]
    assert placed == [1, 4, 1]


def test_nothing_to_do_is_done_at_once(
    spark, told, story: Story, bootstrap: str, tmp_path: Path
):
    settings = copied(story.settings, tmp_path)
    versions = [len(delta_commits(settings, table)) for table in TABLES]

    assert drained(spark, settings, bootstrap) == 0

    assert [len(delta_commits(settings, table)) for table in TABLES] == versions
    assert lake(spark, settings) == told


def test_an_interval_that_is_none(spark, settings: Settings, bootstrap: str):
    with (
        pytest.raises(FraudError, match="nonsense") as caught,
        pipeline(spark, settings, bootstrap, trigger="nonsense"),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("unforeseen")])
def test_a_start_that_is_cut_short_leaves_no_query_behind(
    spark, settings: Settings, bootstrap: str, monkeypatch, error: BaseException
):
    def struck(*_arguments: object) -> None:
        assert spark.streams.active != []  # the query has started by then
        raise error

    monkeypatch.setattr("lib.streaming.runner.publishing", struck)

    with pytest.raises(type(error)), pipeline(spark, settings, bootstrap):
        pass

    assert spark.streams.active == []
    with exclusive(settings):
        pass  # it is free again


@pytest.fixture
def small_disk(tmp_path: Path):
    """A folder on a file system of 24 MB."""
    folder = tmp_path / "disk"
    try:
        with chaos.small_disk(folder, megabytes=24):
            yield folder
    except chaos.NoSmallDiskError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("before", ["the tables", "the batch"])
def test_a_full_disk_loses_nothing(
    spark, settings: Settings, bootstrap: str, small_disk: Path, before: str
):
    settings = replace(
        settings,
        lake=str(small_disk / "lake"),
        checkpoints=str(small_disk / "checkpoints"),
    )
    sent(settings, bootstrap, line(), line(event_id="e-2"), b"garbage")
    if before == "the batch":
        assert drained(spark, settings, bootstrap, max_offsets=3) == 3
        sent(settings, bootstrap, line(event_id="e-3"), line(), b"garbage")
    ballast = chaos.fill(small_disk)

    with pytest.raises(FraudError, match=r"(?i)no space") as caught:
        drained(spark, settings, bootstrap)
    assert "\n" not in str(caught.value)

    ballast.unlink()
    drained(spark, settings, bootstrap)
    held = {table: len(rows) for table, rows in lake(spark, settings).items()}
    assert list(held.values()) == (
        [3, 2, 1, 2] if before == "the tables" else [6, 3, 2, 3]
    )
