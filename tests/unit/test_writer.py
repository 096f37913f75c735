"""The sink of the query, without Spark: what happens when a commit fails."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from lib.lake import LocalLake
from lib.processor import Target
from lib.query import local_writer
from lib.tables import QUARANTINE, SCORED

NOTHING = pa.table({"kind": pa.array([], "string"), "payload": pa.array([], "binary")})


class Output:
    """Of a batch without records."""

    def toArrow(self) -> pa.Table:
        return NOTHING


class OneDiskFull(LocalLake):
    """One table's commit fails, another's takes until that is known, or a while."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.failed = threading.Event()
        self.written: list[str] = []

    def append(self, name, rows, batch, files=()) -> None:
        if name == SCORED:
            raise OSError("no space left")
        if name == QUARANTINE:
            self.failed.wait(1)
        self.written.append(name)


def test_a_failed_commit_leaves_no_other_under_way():
    """The query ends with it, and the next one would write beside the other."""
    lake = OneDiskFull()
    write = local_writer(lake, "app", Target("topic", 0, None), lambda *_: None)

    with pytest.raises(OSError, match="no space"):
        write(Output(), 0)
    written = list(lake.written)
    lake.failed.set()

    assert QUARANTINE in written
