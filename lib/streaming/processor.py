"""The stateful operator of the stream: one call per state partition and micro-batch.

`transformWithStateInPandas` wants it in a module that its workers can import. The
state, in RocksDB, is a map from account to what the detectors remember of it
(`lib.detectors.account_state`), so a batch reads and writes the accounts that it
touches and, unless it is a large one (`lib.streaming.state_map`), no others. The
grouping key is one number per state partition (`lib.streaming.query.slots`) and decides
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext
from pyspark.sql.streaming.stateful_processor import (
    StatefulProcessor,
    StatefulProcessorHandle,
    TimerValues,
)

from lib.detectors.account_state import NEVER, last_seen, newest_of
from lib.detectors.thresholds import THRESHOLDS
from lib.lake.tables import UNSURE, table_rows
from lib.lake.writer import DataFile
from lib.streaming import state_expiry
from lib.streaming.scoring import Judged, fold, input_table, judge, parse
from lib.streaming.state_map import GROUPS, AccountMap, StateMap
from lib.streaming.worker_tuning import (
    read_schemas_once,
    spare_the_collector,
    take_batches_whole,
)

OUTPUT = "kind string, payload binary"
ROWS, CORRECTIONS = "rows", "corrections"
"""Kinds of output: Arrow tables (schemas JUDGED and CORRECTION) as IPC streams. Any
other kind is the name of a table, and its payload a `DataFile` of it."""

LARGE, LARGE_BYTES = 5_000, 4 * 2**20
"""From so many records or bytes on a call writes its Parquet files itself, so that the
rows don't pass through the JVM to the driver. Below, one file for all calls is cheaper
to commit and to read."""

SLICE_BYTES = 64 * 2**20
"""Payload that is taken at once, many times that of a usual batch."""

_BATCH_ID = "streaming.sql.batchId"  # Spark's MicroBatchExecution sets it

# A worker imports this module for the operator's class, before it reads a record.
take_batches_whole()


@dataclass(frozen=True)
class Target:
    """Where the rows go.

    Attributes:
        topic: the topic they come from.
        first_batch: number in bronze of the checkpoint's batch 0.
        folder: the lake's folder if workers may write files there, or None.
        large: from so many records on a call does so, see LARGE.
        groups: of accounts in a state partition, see `lib.streaming.state_map`.
    """

    topic: str
    first_batch: int
    folder: str | None
    large: int = LARGE
    groups: int = GROUPS


class Clock(NamedTuple):
    """What a state partition knows beside its accounts.

    Attributes:
        newest_us: the greatest ts there was, or NEVER.
        accounts: how many accounts there are.
        week: of `_weeks`, the next to look at.
        part: and its part.
    """

    newest_us: int
    accounts: int
    week: int
    part: int

    @property
    def watermark_us(self) -> int | None:
        """The event-time watermark; None before there is one."""
        if self.newest_us == NEVER:
            return None
        return self.newest_us - THRESHOLDS.lateness_us


START = Clock(NEVER, 0, 0, 0)


class AccountProcessor(StatefulProcessor):
    """Parses, deduplicates and scores the records of some accounts."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Open the state."""
        read_schemas_once()
        self._accounts = AccountMap(
            StateMap(
                handle.getMapState("accounts", "account_id string", "value binary")
            ),
            self._target.groups,
        )
        self._clock = handle.getValueState(
            "clock", "newest_us long, accounts long, week int, part int"
        )
        self._weeks = handle.getMapState(
            "weeks", "week int, part int", "account_ids string"
        )

    def handleInputRows(
        self, key: tuple, rows: Iterator[pd.DataFrame], timerValues: TimerValues
    ) -> Iterator[pd.DataFrame]:
        """Take the records of one batch; yields rows of OUTPUT."""
        spare_the_collector()
        parts = fold([self._judge(records) for records in slices(rows)])
        packets = [packet for part in parts for packet in self._packets(part)]
        self._sweep()
        yield pd.DataFrame(packets, columns=["kind", "payload"])

    def handleInitialState(
        self, key: tuple, initialState: pd.DataFrame, timerValues: TimerValues
    ) -> None:
        """Remember accounts (columns ``account_id``, ``value``) in a new checkpoint."""
        values = dict(
            zip(
                initialState["account_id"],
                map(bytes, initialState["value"]),
                strict=True,
            )
        )
        self._remember({}, values)

    def _judge(self, records: pa.Table) -> Judged:
        parsed = parse(records)
        clock = self._read_clock()
        known = self._accounts.get(parsed.accounts, of=clock.accounts)
        judged = judge(parsed, known, clock.watermark_us)
        gone = known.keys() - judged.values.keys()
        self._accounts.remove(gone)
        self._remember(known, judged.values, len(gone))
        return judged

    def _remember(
        self, known: dict[str, bytes], values: dict[str, bytes], gone: int = 0
    ) -> None:
        """Store the accounts that differ, and when they were last seen."""
        seen = []
        changed = {a: value for a, value in values.items() if value != known.get(a)}
        self._accounts.put(changed)
        for account, value in changed.items():
            before = known.get(account)
            last = last_seen(value, THRESHOLDS)
            if before is None or state_expiry.week_of(last) != state_expiry.week_of(
                last_seen(before, THRESHOLDS)
            ):
                seen.append((account, last))
        clock = before = self._read_clock()
        newest = max((newest_of(value) for value in values.values()), default=NEVER)
        if clock.watermark_us is None and newest > NEVER:
            clock = clock._replace(week=state_expiry.week_of(newest))
        clock = clock._replace(
            newest_us=max(clock.newest_us, newest),
            accounts=clock.accounts + len(changed.keys() - known.keys()) - gone,
        )
        if clock != before:
            self._clock.update(tuple(clock))
        if seen and clock.watermark_us is not None:
            # The week that is being looked at has parts behind it already.
            state_expiry.enter(
                self._weeks, seen, not_before=clock.week + bool(clock.part)
            )

    def _sweep(self) -> None:
        """Forget accounts that the watermark has left a whole retention behind."""
        clock = self._read_clock()
        if clock.watermark_us is None:
            return
        forgotten = 0

        def forget(accounts: list[str]) -> None:
            nonlocal forgotten
            self._accounts.remove(accounts)
            forgotten += len(accounts)

        week, part = state_expiry.sweep(
            self._weeks,
            self._accounts.get,
            forget,
            (clock.week, clock.part),
            clock.watermark_us,
        )
        after = clock._replace(
            week=week, part=part, accounts=clock.accounts - forgotten
        )
        if after != clock:
            self._clock.update(tuple(after))

    def _read_clock(self) -> Clock:
        stored = self._clock.get()
        return Clock(*stored) if stored else START

    def close(self) -> None:
        """Nothing is open."""

    def _packets(self, judged: Judged) -> Iterator[tuple[str, bytes]]:
        rows, target = judged.records, self._target
        large = len(rows) >= target.large or rows.nbytes >= LARGE_BYTES
        if target.folder is not None and large:
            # What is not certain yet is decided by the driver, from the table.
            unsure = pc.equal(rows["status"], UNSURE)
            certain, rows = rows, rows.filter(unsure)
            if len(rows):
                certain = certain.filter(pc.invert(unsure))
            batch = target.first_batch + batch_id()
            made = table_rows(certain, target.topic, batch, datetime.now(UTC))
            for name, content in made.items():
                if len(content):
                    file = DataFile.write(Path(target.folder) / name, content)
                    yield name, file.to_json().encode()
        for kind, table in ((ROWS, rows), (CORRECTIONS, judged.corrections)):
            if len(table):
                yield kind, to_ipc(table)


def batch_id() -> int:
    """The micro-batch that this task belongs to."""
    return int(TaskContext.get().getLocalProperty(_BATCH_ID))


def to_ipc(table: pa.Table) -> bytes:
    """The table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(payload: pa.Buffer | bytes) -> pa.Table:
    """The table behind `to_ipc`."""
    return pa.ipc.open_stream(payload).read_all()


def slices(rows: Iterator[pd.DataFrame]) -> Iterator[pa.Table]:
    """The operator's input in Kafka order, in tables (schema
    `lib.streaming.scoring.INPUT`) of up to SLICE_BYTES.

    A batch may be planned on a thousand records of a megabyte each. However the records
    are cut, the answers are the same.
    """
    chunks = list(rows)
    columns = {
        name: np.concatenate([chunk[name].to_numpy() for chunk in chunks])
        for name in ("key", "value", "partition", "offset", "kafka_us")
    }
    order = np.lexsort((columns["offset"], columns["partition"]))
    sizes = [len(value or b"") for value in columns["value"][order].tolist()]
    part = np.cumsum(sizes) // SLICE_BYTES
    for indices in np.split(order, np.flatnonzero(np.diff(part)) + 1):
        cut = (column[indices] for column in columns.values())
        yield input_table(cut)
