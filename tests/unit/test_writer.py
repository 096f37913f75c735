"""The sink of the query, without Spark: a commit that fails, and corrections."""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lib.lake.tables import QUARANTINE, SCHEMAS, SCORED, table_rows
from lib.lake.writer import DataFile, LocalLake
from lib.streaming.processor import CORRECTIONS, ROWS, Target, to_ipc
from lib.streaming.query import local_writer
from lib.streaming.scoring import INPUT, Judged, judge, parse
from tests.unit.operator_output import Output

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


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


def writer(lake: LocalLake):
    target = Target("topic", 0, None)
    return local_writer(lake, "app", target, lambda *_: None, ExitStack())


def test_a_failed_commit_leaves_no_other_under_way():
    """The query ends with it, and the next one would write beside the other."""
    lake = OneDiskFull()
    write = writer(lake)

    with pytest.raises(OSError, match="no space"):
        write(Output(), 0)
    written = list(lake.written)
    lake.failed.set()

    assert QUARANTINE in written


def judged(offset: int, event_id: str, second: int, known: dict[str, bytes]) -> Judged:
    """One payment of the account, so many seconds after noon."""
    event = {
        "event_id": event_id,
        "account_id": "ACCT_1",
        "ts": NOON.replace(second=second).isoformat(),
        "merchant": "Target",
        "country": "US",
        "amount": 1.5,
        "currency": "USD",
    }
    row = (b"ACCT_1", json.dumps(event).encode(), 0, offset, NOON)
    columns = [[value] for value in row]
    return judge(parse(pa.table(columns, schema=INPUT)), known, None)


def test_all_that_a_batch_with_corrections_writes_has_one_time(tmp_path: Path):
    """By it the page tells a merge's own rows from those that it only copies."""
    lake = LocalLake(tmp_path)
    for name in SCHEMAS:
        lake.create(name)
    write = writer(lake)
    first = judged(0, "second", 30, {})
    write(Output((ROWS, to_ipc(first.records))), 0)

    # Behind it comes one that belongs before it, and one in a file of a worker.
    again = judged(1, "first", 10, first.values)
    third = judged(2, "third", 40, again.values)
    (by_worker,) = (
        DataFile.write(tmp_path / SCORED, rows)
        for name, rows in table_rows(third.records, "topic", 1, NOON).items()
        if name == SCORED
    )
    assert len(again.corrections) == 1
    write(
        Output(
            (ROWS, to_ipc(again.records)),
            (CORRECTIONS, to_ipc(again.corrections)),
            (SCORED, by_worker.to_json().encode()),
        ),
        1,
    )

    (rows,) = lake.read(SCORED, ["event_id", "revision", "scored_at"])
    revisions = {row["event_id"]: row["revision"] for row in rows.to_pylist()}
    assert revisions == {"first": 0, "second": 1, "third": 0}
    assert len(set(rows["scored_at"].to_pylist())) == 1
