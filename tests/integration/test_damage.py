"""What other writers and damaged disks leave behind: read rightly, or refused in one
line that names the file, with nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from delta import DeltaTable as SparkTable
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.kafka.clients import ensure_topic
from lib.lake import data_files
from lib.lake.follower import Follower, Unreadable, rows_of
from lib.settings import Settings
from lib.streaming.query import QUERY
from lib.streaming.rebuild import rebuild
from lib.streaming.runner import drain
from lib.streaming.session import cause_of, properties
from lib.verify import oracle
from lib.verify.reconciliation import reconcile
from tests.integration.conftest import Story
from tests.integration.helpers import (
    copied,
    delta_commits,
    rows,
    send,
    undo_last_commit,
)
from tests.integration.records import ARRIVED_MS, line

BRONZE, TRANSACTIONS, QUARANTINE, SCORED = TABLES = (
    "bronze/tx_events",
    "silver/transactions",
    "silver/quarantine",
    "silver/scored",
)


def sent(settings: Settings, bootstrap: str, *changes: dict[str, object]) -> None:
    ensure_topic(settings, bootstrap)
    pairs = [(b"ACCT_1", line(**change)) for change in changes]
    send(settings, bootstrap, pairs, ARRIVED_MS)


def sql_name(settings: Settings, table: str) -> str:
    return f"delta.`{settings.table(table)}`"


# -- other writers ----------------------------------------------------------------


def optimized(spark: SparkSession, settings: Settings) -> None:
    """OPTIMIZE as a Spark session without our properties runs it."""
    usual = {"spark.sql.parquet.outputTimestampType": "INT96"}
    with properties(spark, usual):
        for table in TABLES:
            place = settings.table(table)
            SparkTable.forPath(spark, place).optimize().executeCompaction()


def test_spark_may_compact_every_table(spark, settings: Settings, bootstrap: str):
    """Then a duplicate, a conflict and a correction arrive; then the score query's
    checkpoint is lost."""
    for number in (2, 3):
        at = f"2025-01-15T11:5{number}:00Z"
        sent(settings, bootstrap, {"event_id": f"e-{number}", "ts": at}, {"amount": 0})
        drain(spark, settings, bootstrap)
    optimized(spark, settings)
    for table in (TRANSACTIONS, SCORED):
        (file,) = DeltaTable(settings.table(table)).file_uris()
        schema = pq.read_metadata(file).schema
        kinds = {schema.column(i).physical_type for i in range(len(schema))}
        assert "INT96" in kinds

    sent(
        settings,
        bootstrap,
        {"event_id": "e-3", "ts": "2025-01-15T11:53:00Z"},
        {"event_id": "e-2", "ts": "2025-01-15T11:52:00Z", "country": "DE"},
        {"event_id": "e-0", "ts": "2025-01-15T11:50:30Z"},
    )
    drain(spark, settings, bootstrap)

    def demand_balanced() -> None:
        books = reconcile(spark, settings, bootstrap)
        assert books.differences == []
        assert books.counts["duplicates"] == 1
        assert books.counts["transactions"] == 3
        assert oracle.check(spark, settings).collect() == []

    demand_balanced()
    shutil.rmtree(settings.checkpoint(QUERY))
    drain(spark, settings, bootstrap)
    demand_balanced()


def test_rows_deleted_by_a_deletion_vector_are_gone(
    spark, settings: Settings, bootstrap: str
):
    """... for every reader; and the books say that silver lacks an event."""
    sent(settings, bootstrap, *({"event_id": f"e-{n}"} for n in range(1, 4)))
    drain(spark, settings, bootstrap)
    for table in (TRANSACTIONS, SCORED):
        name = sql_name(settings, table)
        spark.sql(
            f"ALTER TABLE {name} SET TBLPROPERTIES (delta.enableDeletionVectors=true)"
        )
        spark.sql(f"DELETE FROM {name} WHERE event_id = 'e-2'")
    table = DeltaTable(settings.table(TRANSACTIONS))
    assert data_files.has_deletion_vectors(table)
    # The page can't follow such a table, and says so; a look on demand is right.
    with pytest.raises(Unreadable, match="REORG"):
        list(Follower(settings.table(SCORED)).poll())
    pieces = rows_of(settings.table(SCORED), "ACCT_1", ["event_id"])
    assert sorted(r["event_id"] for p in pieces for r in p.to_pylist()) == [
        "e-1",
        "e-3",
    ]

    sent(settings, bootstrap, {"event_id": "e-2"}, {"event_id": "e-1"})
    drain(spark, settings, bootstrap)

    held = spark.read.format("delta").load(settings.table(TRANSACTIONS))
    found = [row.event_id for row in held.orderBy("event_id").collect()]
    assert found == ["e-1", "e-3"]  # the stream remembers e-2, whoever deletes its row
    assert reconcile(spark, settings, bootstrap).differences != []


@pytest.mark.parametrize(
    "written",
    [
        pytest.param({"delta.columnMapping.mode": "name"}, id="mapped by name"),
        pytest.param({"delta.columnMapping.mode": "id"}, id="mapped by id"),
        pytest.param({"delta.checkpointPolicy": "v2"}, id="v2 checkpoints"),
        pytest.param({"delta.enableInCommitTimestamps": "true"}, id="commit times"),
    ],
)
def test_tables_of_other_writers_are_read(spark, tmp_path: Path, written):
    frame = spark.range(4).selectExpr("id AS offset", "timestamp_seconds(id) AS ts")
    frame.write.format("delta").options(**written).save(str(tmp_path / "table"))
    table = DeltaTable(tmp_path / "table")

    found = data_files.rows_with_values(table, "offset", [1, 3], ["ts", "offset"])

    seconds = [(row["offset"], row["ts"].timestamp()) for row in found.to_pylist()]
    assert sorted(seconds) == [(1, 1.0), (3, 3.0)]
    assert sum(map(len, data_files.scan(table, ["ts"]))) == 4


def test_a_feature_that_nobody_here_knows_is_refused(
    spark, story: Story, bootstrap: str, tmp_path: Path
):
    settings = copied(story.early, tmp_path)
    name = sql_name(settings, BRONZE)
    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES (delta.enableTypeWidening=true)")

    with pytest.raises(FraudError, match="DROP FEATURE") as caught:
        drain(spark, settings, bootstrap)

    assert settings.table(BRONZE) in str(caught.value)
    assert "\n" not in str(caught.value)


# -- damage -----------------------------------------------------------------------


def newest(folder: Path) -> Path:
    return max(
        (p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    )


def emptied(path: Path) -> Path:
    path.write_bytes(b"")
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    return path


def offsets_emptied(settings: Settings) -> Path:
    return emptied(newest(Path(settings.checkpoint(QUERY)) / "offsets"))


def commits_emptied(settings: Settings) -> Path:
    return emptied(newest(Path(settings.checkpoint(QUERY)) / "commits"))


def metadata_gone(settings: Settings) -> Path:
    path = emptied(Path(settings.checkpoint(QUERY)) / "metadata")
    path.unlink()
    return path


def application_emptied(settings: Settings) -> Path:
    return emptied(Path(settings.checkpoint(QUERY)) / "application_id")


def last_commit_gone(settings: Settings, table: str = BRONZE) -> Path:
    undo_last_commit(settings, table)
    return Path(settings.table(table))


def last_transactions_gone(settings: Settings) -> Path:
    return last_commit_gone(settings, TRANSACTIONS)


def last_quarantine_gone(settings: Settings) -> Path:
    return last_commit_gone(settings, QUARANTINE)


def last_scored_gone(settings: Settings) -> Path:
    return last_commit_gone(settings, SCORED)


def last_commit_emptied(settings: Settings) -> Path:
    return emptied(delta_commits(settings, BRONZE)[-1])


def log_gone(settings: Settings) -> Path:
    log = Path(settings.table(TRANSACTIONS)) / "_delta_log"
    shutil.rmtree(log)
    return log


def table_gone(settings: Settings) -> Path:
    table = Path(settings.table(BRONZE))
    shutil.rmtree(table)
    return table


def file_cut(settings: Settings) -> Path:
    file = Path(DeltaTable(settings.table(TRANSACTIONS)).file_uris()[0])
    with file.open("r+b") as opened:
        opened.truncate(4)
    return file


@pytest.mark.parametrize(
    "harm",
    [
        offsets_emptied,
        commits_emptied,
        metadata_gone,
        application_emptied,
        last_commit_gone,
        last_transactions_gone,
        last_quarantine_gone,
        last_scored_gone,
        last_commit_emptied,
        log_gone,
        table_gone,
    ],
)
def test_damage_is_named_and_nothing_is_written(
    spark,
    story: Story,
    bootstrap: str,
    tmp_path: Path,
    harm: Callable[[Settings], Path],
):
    settings = copied(story.settings, tmp_path)
    file = harm(settings)

    def state() -> dict[str, int]:
        roots = (settings.lake, settings.checkpoints)
        paths = (path for root in roots for path in Path(root).rglob("*"))
        return {str(p): p.stat().st_size for p in paths if p.is_file()}

    before = state()
    with pytest.raises(FraudError, match="put it back from a backup") as caught:
        drain(spark, settings, bootstrap)

    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state() == before


def test_what_reconcile_says_of_a_damaged_file(
    spark, story: Story, bootstrap: str, tmp_path: Path
):
    """The stream reads no data file; who does names it."""
    settings = copied(story.settings, tmp_path)
    file = file_cut(settings)

    with pytest.raises(Exception) as caught:  # noqa: PT011 - Spark's own
        reconcile(spark, settings, bootstrap)

    said = cause_of(caught.value)
    assert str(file) in said
    assert "put it back from a backup" in said
    assert "\n" not in said


def test_the_remedy_for_a_lost_commit_loses_nothing(
    spark, story: Story, bootstrap: str, tmp_path: Path
):
    settings = copied(story.settings, tmp_path)
    last_commit_gone(settings)
    with pytest.raises(FraudError, match="rebuild"):
        drain(spark, settings, bootstrap)

    rebuild(spark, settings)
    drain(spark, settings, bootstrap)

    assert reconcile(spark, settings, bootstrap).differences == []
    for table in (TRANSACTIONS, QUARANTINE):
        assert rows(spark, settings, table) == rows(spark, story.settings, table)
