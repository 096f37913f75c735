"""The laboratory's fuse: tables that are committed at the same time, and yet a kill
always finds the same ones written."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from lib.faults import pipeline_process
from lib.faults.laboratory import POINTS
from lib.faults.pipeline_process import TOGETHER, Fuse
from lib.lake.tables import BRONZE, SCORED
from lib.settings import Settings

ALL = frozenset(TOGETHER)
FOUND = {f"after {table}": {table} for table in TOGETHER}
FOUND |= {f"before {table}": ALL - {table} for table in TOGETHER}
FOUND |= {
    "before merge of silver/scored": ALL - {SCORED},
    "after merge of silver/scored": {SCORED},
    "all tables written": ALL,
}


class Killed(BaseException):
    """Ends the thread, in the place of the process."""


def written_at(point: str, order: tuple[str, ...], monkeypatch) -> set[str]:
    """The tables that are written when the fuse blows."""
    fuse = Fuse(Settings.from_env({}))
    fuse.arm(point)
    written: set[str] = set()
    found: list[set[str]] = []
    blown = threading.Event()

    def blow() -> None:
        found.append(set(written))
        blown.set()
        raise Killed

    def commit(table: str, how: str) -> None:
        with fuse.commit(table, how):
            written.add(table)

    monkeypatch.setattr(pipeline_process, "blow", blow)
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    with fuse.commit(BRONZE, ""):
        pass
    threads = [
        threading.Thread(
            target=commit,
            args=(table, "merge of " if table == SCORED else ""),
            daemon=True,
        )
        for table in order
    ]
    for thread in threads:
        thread.start()
    assert blown.wait(30)
    return found[0]


@pytest.mark.parametrize("point", FOUND)
def test_a_point_finds_the_same_tables_written(point: str, monkeypatch):
    for order in itertools.permutations(TOGETHER):
        assert written_at(point, order, monkeypatch) == FOUND[point]


def test_every_point_between_tables_is_here():
    tables = {point for point in POINTS if "silver" in point or "tables w" in point}
    assert tables == set(FOUND)


def test_a_point_of_a_merge_lets_a_batch_without_one_pass(tmp_path: Path):
    """... and the batch does not wait for what does not come."""
    fuse = Fuse(Settings.from_env({"FRAUD_HOME": str(tmp_path)}))
    fuse.arm("after merge of silver/scored")
    done = []

    def commit(table: str) -> None:
        with fuse.commit(table, ""):
            done.append(table)

    threads = [threading.Thread(target=commit, args=(t,)) for t in TOGETHER]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert done[0] == SCORED
    assert set(done) == ALL
