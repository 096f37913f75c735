"""Small files are merged while the writer goes on, and no reader sees a row twice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lib.dashboard.follow import Commit, Follower
from lib.lake import Batch, LocalLake
from lib.maintenance import Maintenance
from lib.tables import ARROW, QUARANTINE

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(offset: int) -> pa.Table:
    record = {
        "value": b"garbage",
        "reason": "malformed_json",
        "detail": "The value is not JSON.",
        "topic": "tx-events",
        "partition": 0,
        "offset": offset,
        "kafka_timestamp": NOW,
    }
    return pa.Table.from_pylist([record], schema=ARROW[QUARANTINE])


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    lake = LocalLake(tmp_path)
    lake.create(QUARANTINE)
    return lake


def test_files_stay_few_and_each_row_is_seen_once(lake: LocalLake):
    maintenance = Maintenance([lake.uri(QUARANTINE)], every=10)
    follower = Follower(lake.uri(QUARANTINE))
    seen: list[int] = []
    for number in range(35):
        lake.append(QUARANTINE, row(number), Batch("app", number))
        maintenance.after_batch()
        maintenance.finish()
        for change in follower.poll():
            files = change.added if isinstance(change, Commit) else change.files
            for file in files:
                for rows in follower.read(file, ["offset"]):
                    seen += rows["offset"].to_pylist()

    assert seen == list(range(35))
    held = pa.concat_tables(lake.read(QUARANTINE, ["offset"]))["offset"].to_pylist()
    assert sorted(held) == list(range(35))
    assert len(DeltaTable(lake.uri(QUARANTINE)).file_uris()) < 10


def test_a_batch_is_known_after_a_compaction(lake: LocalLake):
    lake.append(QUARANTINE, row(0), Batch("app", 0))
    lake.append(QUARANTINE, row(1), Batch("app", 1))
    compact(lake)

    lake.append(QUARANTINE, row(1), Batch("app", 1))

    held = pa.concat_tables(lake.read(QUARANTINE, ["offset"]))["offset"].to_pylist()
    assert sorted(held) == [0, 1]


def test_a_table_that_cannot_be_compacted_stops_nobody(tmp_path: Path):
    maintenance = Maintenance([str(tmp_path / "nowhere")], every=1)
    maintenance.after_batch()
    maintenance.finish()


def offsets(lake: LocalLake) -> list[int]:
    """What the table holds, read by delta-rs from the log alone."""
    table = DeltaTable(lake.uri(QUARANTINE)).to_pyarrow_table(columns=["offset"])
    return sorted(table["offset"].to_pylist())


def test_an_append_meets_entries_of_others(lake: LocalLake, tmp_path: Path):
    other = LocalLake(tmp_path)
    for number in range(4):
        lake.append(QUARANTINE, row(2 * number), Batch("app", number))
        other.append(QUARANTINE, row(2 * number + 1), Batch("other", number))
        if number == 2:
            compact(lake)

    assert offsets(lake) == list(range(8))
    assert lake.last_batch(QUARANTINE, "app") == 3
    assert lake.last_batch(QUARANTINE, "other") == 3


def test_nothing_is_written_into_the_past(lake: LocalLake, tmp_path: Path):
    """Versions that others made and whose entries are gone are not free."""
    other = LocalLake(tmp_path)
    lake.append(QUARANTINE, row(0), Batch("app", 0))
    for number in range(1, 6):
        other.append(QUARANTINE, row(number), Batch("other", number))
    DeltaTable(lake.uri(QUARANTINE)).create_checkpoint()
    log = Path(lake.uri(QUARANTINE)) / "_delta_log"
    for version in range(5):
        (log / f"{version:020d}.json").unlink()

    lake.append(QUARANTINE, row(6), Batch("app", 1))

    assert offsets(lake) == list(range(7))


@pytest.mark.parametrize("when", ["before the first append", "between two"])
def test_a_table_that_asks_for_more_is_left_to_the_library(lake: LocalLake, when: str):
    """A constraint is a feature of the table: whoever appends must know it."""
    if when == "between two":
        lake.append(QUARANTINE, row(0), Batch("app", 0))
    DeltaTable(lake.uri(QUARANTINE)).alter.add_constraint({"early": "offset < 100"})

    lake.append(QUARANTINE, row(1), Batch("app", 1))
    lake.append(QUARANTINE, row(1), Batch("app", 1))

    assert offsets(lake) == [0, 1] if when == "between two" else [1]


def test_appends_beside_a_compaction(lake: LocalLake):
    """Neither waits for the other, and no row is lost or doubled."""
    maintenance = Maintenance([lake.uri(QUARANTINE)], every=20)
    for number in range(300):
        lake.append(QUARANTINE, row(number), Batch("app", number))
        maintenance.after_batch()
    maintenance.finish()

    assert offsets(lake) == list(range(300))
    assert len(DeltaTable(lake.uri(QUARANTINE)).file_uris()) < 60
    log = Path(lake.uri(QUARANTINE)) / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet"))


def compact(lake: LocalLake) -> None:
    maintenance = Maintenance([lake.uri(QUARANTINE)], every=1)
    maintenance.after_batch()
    maintenance.finish()
