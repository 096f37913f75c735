"""An append to a table's log: whole or not at all, whoever else writes there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

from lib.lake.delta_log import demand_whole
from lib.lake.tables import QUARANTINE
from lib.lake.writer import Batch, LocalLake
from lib.settings import ROOT
from tests.unit.small_table import compact, offsets, row


@pytest.fixture
def lake(tmp_path: Path) -> LocalLake:
    lake = LocalLake(tmp_path)
    lake.create(QUARANTINE)
    return lake


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


KILLED = """
import os, signal, sys
from pathlib import Path
from lib.lake.writer import Batch, LocalLake
from lib.lake.tables import QUARANTINE
from tests.unit.small_table import row

link = os.link
def dying(source, target):
    if sys.argv[2] == "behind the entry":
        link(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.link = dying
LocalLake(Path(sys.argv[1])).append(QUARANTINE, row(0), Batch("app", 0))
"""


@pytest.mark.parametrize("place", ["before the entry", "behind the entry"])
def test_an_append_that_was_killed_is_done_once(lake: LocalLake, place: str):
    """Its files and its text lie there, and the batch comes again."""
    ran = subprocess.run([sys.executable, "-c", KILLED, lake.root, place], cwd=ROOT)
    assert ran.returncode == -signal.SIGKILL
    log = lake.root / QUARANTINE / "_delta_log"
    assert list(log.glob(".append-*"))
    assert demand_whole(lake.uri(QUARANTINE))
    assert offsets(lake) == ([0] if place == "behind the entry" else [])

    for number in (0, 1):
        lake.append(QUARANTINE, row(number), Batch("app", number))

    assert offsets(lake) == [0, 1]
    assert not list(log.glob(".append-*"))


def test_a_disk_without_room_for_the_entry(lake: LocalLake, monkeypatch):
    """The error is the system's, and the batch can come again."""

    def full(self: Path, text: str) -> None:
        with self.open("w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            lake.append(QUARANTINE, row(0), Batch("app", 0))
    assert offsets(lake) == []

    lake.append(QUARANTINE, row(0), Batch("app", 0))

    assert offsets(lake) == [0]
