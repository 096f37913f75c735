"""The stateful operator of the stream: one call per state partition and micro-batch.

`transformWithStateInPandas` wants it in a module that its workers can import. The
state, in RocksDB, is a map from account to what the detectors remember of it
(`lib.state_codec`), so a batch reads and writes the accounts that it touches and no
others. The grouping key is one number per state partition (`lib.query.slots`) and
decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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

from lib.detectors import THRESHOLDS
from lib.lake import DataFile
from lib.scoring import INPUT, Judged, judge, parse
from lib.state_codec import newest_of
from lib.tables import UNSURE, table_rows
from lib.workers import spare_the_collector

OUTPUT = "kind string, payload binary"
ROWS, CORRECTIONS = "rows", "corrections"
"""Kinds of output: Arrow tables (schemas JUDGED and CORRECTION) as IPC streams. Any
other kind is the name of a table, and its payload a `DataFile` of it."""

LARGE = 5_000
"""From so many records on a call writes its Parquet files itself, so that the rows
don't pass through the JVM to the driver. Below, one file for all calls is cheaper to
commit and to read."""

_BATCH_ID = "streaming.sql.batchId"  # Spark's MicroBatchExecution sets it


@dataclass(frozen=True)
class Target:
    """Where the rows go.

    Attributes:
        topic: the topic they come from.
        first_batch: number in bronze of the checkpoint's batch 0.
        folder: the lake's folder if workers may write files there, or None.
    """

    topic: str
    first_batch: int
    folder: str | None


class AccountProcessor(StatefulProcessor):
    """Parses, deduplicates and scores the records of some accounts."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Open the state."""
        self._accounts = handle.getMapState(
            "accounts", "account_id string", "value binary"
        )
        self._clock = handle.getValueState("clock", "newest_us bigint")

    def handleInputRows(
        self, key: tuple, rows: Iterator[pd.DataFrame], timerValues: TimerValues
    ) -> Iterator[pd.DataFrame]:
        """Take the records of one batch; yields rows of OUTPUT."""
        spare_the_collector()
        parsed = parse(_records(rows))
        clock = self._clock.get()
        values = {
            account: bytes(value[0])
            for account in parsed.accounts
            if (value := self._accounts.getValue((account,))) is not None
        }
        judged = judge(
            parsed, values, clock[0] - THRESHOLDS.lateness_us if clock else None
        )
        for account, value in judged.values.items():
            if values.get(account) != value:
                self._accounts.updateValue((account,), (value,))
        for account in values.keys() - judged.values.keys():
            self._accounts.removeKey((account,))
        newest = judged.newest_us
        if newest is not None and (clock is None or newest > clock[0]):
            self._clock.update((newest,))
        packets = list(self._packets(judged))
        yield pd.DataFrame(packets, columns=["kind", "payload"])

    def handleInitialState(
        self, key: tuple, initialState: pd.DataFrame, timerValues: TimerValues
    ) -> None:
        """Remember accounts (columns ``account_id``, ``value``) in a new checkpoint."""
        newest = []
        for account, value in zip(
            initialState["account_id"], initialState["value"], strict=True
        ):
            self._accounts.updateValue((account,), (bytes(value),))
            newest.append(newest_of(value))
        clock = self._clock.get()
        if newest and (clock is None or max(newest) > clock[0]):
            self._clock.update((max(newest),))

    def close(self) -> None:
        """Nothing is open."""

    def _packets(self, judged: Judged) -> Iterator[tuple[str, bytes]]:
        rows, target = judged.records, self._target
        if target.folder is not None and len(rows) >= LARGE:
            # What is not certain yet is decided by the driver, from the table.
            unsure = pc.equal(rows["status"], UNSURE)
            certain, rows = rows.filter(pc.invert(unsure)), rows.filter(unsure)
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


def _records(rows: Iterator[pd.DataFrame]) -> pa.Table:
    """The operator's input as a table of schema INPUT."""
    chunks = list(rows)
    columns = []
    for name, field in zip(
        ("key", "value", "partition", "offset", "kafka_us"), INPUT, strict=True
    ):
        values = np.concatenate([chunk[name].to_numpy() for chunk in chunks])
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=INPUT)
