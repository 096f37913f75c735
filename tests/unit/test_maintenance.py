"""Small files are merged while the writer goes on, and no reader sees a row twice."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lib.lake.follower import Commit, Follower
from lib.lake.maintenance import Maintenance
from lib.lake.tables import QUARANTINE
from lib.lake.writer import Batch, LocalLake
from tests.unit.small_table import compact, offsets, row, tables


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    lake = LocalLake(tmp_path)
    lake.create(QUARANTINE)
    return lake


def test_files_stay_few_and_each_row_is_seen_once(lake: LocalLake):
    maintenance = Maintenance(tables(lake), every=10)
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
    maintenance = Maintenance({str(tmp_path / "nowhere"): Lock()}, every=1)
    maintenance.after_batch()
    maintenance.finish()


def test_appends_beside_a_compaction(lake: LocalLake):
    """Neither waits for the other, and no row is lost or doubled."""
    maintenance = Maintenance(tables(lake), every=20)
    for number in range(300):
        lake.append(QUARANTINE, row(number), Batch("app", number))
        maintenance.after_batch()
    maintenance.finish()

    assert offsets(lake) == list(range(300))
    assert len(DeltaTable(lake.uri(QUARANTINE)).file_uris()) < 60
    log = Path(lake.uri(QUARANTINE)) / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet"))
