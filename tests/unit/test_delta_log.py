"""A table that has lost something is refused: it must not count as a shorter one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lib.errors import FraudError
from lib.lake.delta_log import demand_whole
from lib.lake.tables import TRANSACTIONS
from lib.lake.writer import LocalLake
from lib.settings import Settings, local_path
from lib.streaming.session import read_table

TABLE = "silver/transactions"
LAST = 3


def commit(table: Path, version: int) -> Path:
    return table / "_delta_log" / f"{version:020d}.json"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "lake" / TABLE
    for number in range(LAST + 1):
        write_deltalake(folder, pa.table({"offset": [number]}), mode="append")
    return folder


def log_gone(table: Path) -> Path:
    shutil.rmtree(table / "_delta_log")
    return table / "_delta_log"


def log_emptied(table: Path) -> Path:
    for file in (table / "_delta_log").iterdir():
        file.unlink()
    return table / "_delta_log"


def last_commit_emptied(table: Path) -> Path:
    commit(table, LAST).write_bytes(b"")
    return commit(table, LAST)


def last_commit_cut(table: Path) -> Path:
    whole = commit(table, LAST).read_bytes()
    commit(table, LAST).write_bytes(whole[: len(whole) // 2])
    return commit(table, LAST)


def earlier_commit_emptied(table: Path) -> Path:
    commit(table, LAST - 1).write_bytes(b"")
    return commit(table, LAST - 1)


def earlier_commit_gone(table: Path) -> Path:
    commit(table, LAST - 1).unlink()
    return commit(table, LAST - 1)


def first_commit_gone(table: Path) -> Path:
    commit(table, 0).unlink()
    return commit(table, 0)


def checkpoint_emptied(table: Path) -> Path:
    DeltaTable(table).create_checkpoint()
    (checkpoint,) = (table / "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(b"")
    return checkpoint


def end_lost_with_its_checkpoint(table: Path) -> Path:
    """As a copy of the folder made a while ago would look, but for the hint."""
    checkpoint = checkpoint_emptied(table)
    checkpoint.unlink()
    commit(table, LAST).unlink()
    return checkpoint


@pytest.mark.parametrize(
    "harm",
    [
        log_gone,
        log_emptied,
        last_commit_emptied,
        last_commit_cut,
        earlier_commit_emptied,
        earlier_commit_gone,
        first_commit_gone,
        checkpoint_emptied,
        end_lost_with_its_checkpoint,
    ],
)
def test_a_damaged_log_is_refused_and_left_alone(
    table: Path, harm: Callable[[Path], Path]
):
    file = harm(table)
    before = sorted(str(path) for path in table.rglob("*"))
    settings = Settings.from_env({"FRAUD_LAKE": str(table.parents[1])})

    for look in (
        lambda: LocalLake(local_path(settings.lake)).create(TRANSACTIONS),
        lambda: read_table(None, settings, TABLE),
    ):
        with pytest.raises(FraudError, match="backup") as caught:
            look()
        assert f"{file} " in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(str(path) for path in table.rglob("*")) == before


def test_a_whole_log_is_none_of_them(table: Path):
    assert demand_whole(str(table))
    # What a checkpoint holds may be cleaned up.
    DeltaTable(table).create_checkpoint()
    for version in range(LAST):
        commit(table, version).unlink()
    assert demand_whole(str(table))
    commit(table, LAST).unlink()
    assert demand_whole(str(table))


def test_no_table_and_one_that_was_never_finished(tmp_path: Path):
    folder = tmp_path / "table"
    assert not demand_whole(str(folder))
    folder.mkdir()
    assert not demand_whole(str(folder))
    # Spark was killed while it made the table: a file without rows, and no commit.
    write_deltalake(folder, pa.table({"offset": pa.array([], pa.int64())}))
    shutil.rmtree(folder / "_delta_log")
    pa.parquet.write_table(
        pa.table({"offset": pa.array([], pa.int64())}), folder / "part-0.parquet"
    )
    os.mkdir(folder / "_delta_log")
    assert not demand_whole(str(folder))
