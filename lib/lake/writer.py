"""The idempotent Delta writer: one commit per table and micro-batch, with its batch id.

A batch that is replayed after a crash finds its id in the table's log (txnAppId,
txnVersion) and changes nothing. On a local lake the rows are Parquet files that are
there before the commit names them, written by the executors or by the driver; an append
is a log entry (`lib.lake.append_log`), a merge is delta-rs's. Any other URI goes
through Spark's writer. All put the batch id into the commit that makes the rows
visible.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from lib.errors import FraudError
from lib.lake import data_files, maintenance
from lib.lake.append_log import AppendLog
from lib.lake.delta_log import Folder, demand_whole, newest_checkpoint
from lib.lake.tables import ANSWERS, SCHEMAS, SCORED, TABLES, TIME
from lib.settings import Settings, local_path

CORRECTION = "correction"
"""The column of a merge's rows that tells a correction from a first answer."""

_CORRECTED = (*ANSWERS.names, "scored_at")
_LONGEST_TEXT = 32
_KEYS = " AND ".join(f"old.{key} = new.{key}" for key in TABLES[SCORED].key)


@dataclass(frozen=True)
class Batch:
    """The transaction under which a micro-batch is written.

    Attributes:
        app: the checkpoint's application id.
        number: the micro-batch's id.
    """

    app: str
    number: int

    def name(self, table: str) -> str:
        """The application id in that table's log."""
        return f"{self.app}/{table}"


@dataclass(frozen=True)
class DataFile:
    """A Parquet file below a table's folder that no commit names yet.

    Attributes:
        path: relative to the folder.
        size: bytes.
        rows: how many.
        stats: Delta's statistics of its columns, as JSON.
    """

    path: str
    size: int
    rows: int
    stats: str

    @classmethod
    def write(cls, folder: Path, rows: pa.Table) -> DataFile:
        """Write the rows into a new file below the folder."""
        path = f"part-{uuid.uuid4()}.snappy.parquet"
        pq.write_table(rows, folder / path)
        size = (folder / path).stat().st_size
        return cls(path, size, len(rows), statistics(rows))

    @classmethod
    def from_json(cls, text: str) -> DataFile:
        """The file behind `to_json`."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """All of it as one string."""
        return json.dumps(asdict(self))


class LocalLake:
    """A lake on a local disk: tables by their names. Appends are log entries of our own
    (`lib.lake.append_log`), all else is delta-rs's.

    Attributes:
        root: its folder.
        alone: a lock by a table's path, for those who rewrite files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.alone = {self.uri(name): Lock() for name in SCHEMAS}
        self._tables: dict[str, DeltaTable] = {}
        self._logs: dict[str, AppendLog] = {}

    def uri(self, name: str) -> str:
        """The table's folder."""
        return str(self.root / name)

    def create(self, name: str) -> None:
        """Create the empty table if it is missing."""
        if not demand_whole(self.uri(name)):
            (self.root / name).mkdir(parents=True, exist_ok=True)
            interval = {"delta.checkpointInterval": str(maintenance.CHECKPOINT_COMMITS)}
            DeltaTable.create(
                self.uri(name),
                SCHEMAS[name],
                configuration=interval | maintenance.RETENTION,
            )

    def append(
        self,
        name: str,
        rows: pa.Table,
        batch: Batch | None,
        files: Sequence[DataFile] = (),
    ) -> None:
        """Add rows and files in one commit, unless the table has seen the batch."""
        if not (len(rows) or files):
            return
        if name not in self._logs:
            self._logs[name] = AppendLog(self.root / name, SCHEMAS[name])
        log = self._logs[name]
        app, number = (batch.name(name), batch.number) if batch else (None, 0)
        if app is not None and log.has_seen(app, number):
            return
        if len(rows):
            files = [*files, DataFile.write(self.root / name, rows)]
        if not (log.is_plain and log.append(files, app, number)):
            self._append_by_library(name, files, batch)
            del self._logs[name]  # what it knows is out of date

    def _append_by_library(
        self, name: str, files: Sequence[DataFile], batch: Batch | None
    ) -> None:
        """The same for a table with features that an appender must know of."""
        table, now = self._table(name), int(time.time() * 1000)
        with _explained(table):
            table.create_write_transaction(
                [AddAction(f.path, f.size, {}, now, True, f.stats) for f in files],
                "append",
                SCHEMAS[name],
                commit_properties=_commit(name, batch),
            )

    def merge(self, name: str, rows: pa.Table, batch: Batch | None) -> None:
        """Add first answers and replace corrected ones in one commit, unless the table
        has seen the batch. ``rows`` have the table's columns and ``correction``."""
        with self.alone[self.uri(name)]:
            self._merge(name, rows, batch)

    def _merge(self, name: str, rows: pa.Table, batch: Batch | None) -> None:
        table = self._table(name)
        if _has_seen(table, name, batch):
            return
        new = {c: f"new.{c}" for c in rows.column_names if c != CORRECTION}
        merging = table.merge(
            rows,
            predicate=_meets(rows, "to_timestamp_micros"),
            source_alias="new",
            target_alias="old",
            commit_properties=_commit(name, batch),
        )
        merging = merging.when_matched_update(updates={c: new[c] for c in _CORRECTED})
        merging = merging.when_not_matched_insert(
            updates=new, predicate=f"NOT new.{CORRECTION}"
        )
        with _explained(table):
            merging.execute()

    def is_empty(self, name: str) -> bool:
        """Whether the table has no rows."""
        return not self._table(name).file_uris()

    def last_batch(self, name: str, app: str) -> int | None:
        """The newest batch of the application that the table has seen, if any."""
        return self._table(name).transaction_version(Batch(app, 0).name(name))

    def read(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all rows, in pieces."""
        return data_files.scan(self._table(name), columns)

    def files(self, name: str, files: Sequence[DataFile]) -> pa.Table:
        """The rows of files that no commit names yet."""
        parts = [pq.read_table(self.root / name / f.path) for f in files]
        return pa.concat_tables([SCHEMAS[name].empty_table(), *parts])

    def _table(self, name: str) -> DeltaTable:
        """The table at its newest version."""
        known, uri = self._tables.get(name), self.uri(name)
        if known is None or newest_checkpoint(Folder(uri)) > known.version():
            # From the checkpoint on, and not every entry since the last look.
            self._tables[name] = DeltaTable(uri)
        else:
            known.update_incremental()
        return self._tables[name]


class SparkLake:
    """A lake at any URI that Spark can write; no row passes the driver."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self._spark, self._settings = spark, settings

    def create(self, name: str) -> None:
        """Create the empty table if it is missing."""
        if not demand_whole(self._settings.table(name), self._spark):
            # An append, and not Delta's CREATE TABLE: that one refuses a folder in
            # which an earlier creation died half-way.
            empty = self._spark.createDataFrame([], from_arrow_schema(SCHEMAS[name]))
            self.append(name, empty, None)

    def append(self, name: str, rows: DataFrame, batch: Batch | None) -> None:
        """Add the rows in one commit, unless the table has seen the batch."""
        writer = rows.write.format("delta").mode("append")
        if batch is not None:
            writer = writer.option("txnAppId", batch.name(name))
            writer = writer.option("txnVersion", batch.number)
        writer.save(self._settings.table(name))

    def is_empty(self, name: str) -> bool:
        """Whether the table has no rows."""
        return self.read(name).isEmpty()

    def last_batch(self, name: str, app: str) -> int | None:
        """See `LocalLake.last_batch`."""
        log = self._spark.sparkContext._jvm.org.apache.spark.sql.delta.DeltaLog
        uri = self._settings.table(name)
        snapshot = log.forTable(
            self._spark._jsparkSession, uri
        ).unsafeVolatileSnapshot()
        found = snapshot.transactions().get(Batch(app, 0).name(name))
        return found.get() if found.isDefined() else None

    def read(self, name: str) -> DataFrame:
        """The table's rows."""
        return self._spark.read.format("delta").load(self._settings.table(name))

    def merge(self, name: str, rows: DataFrame, batch: Batch | None) -> None:
        """See `LocalLake.merge`."""
        from delta import DeltaTable as SparkTable

        new = {c: F.col(f"new.{c}") for c in rows.columns if c != CORRECTION}
        target = SparkTable.forPath(self._spark, self._settings.table(name))
        merging = target.alias("old").merge(
            rows.alias("new"), f"new.{CORRECTION} AND {_KEYS} AND old.ts = new.ts"
        )
        merging = merging.whenMatchedUpdate(set={c: new[c] for c in _CORRECTED})
        merging = merging.whenNotMatchedInsert(
            condition=f"NOT new.{CORRECTION}", values=new
        )
        transaction = {}
        if batch is not None:
            transaction = {
                "spark.databricks.delta.write.txnAppId": batch.name(name),
                "spark.databricks.delta.write.txnVersion": str(batch.number),
            }
        for key, value in transaction.items():
            self._spark.conf.set(key, value)
        try:
            merging.execute()
        finally:
            for key in transaction:
                self._spark.conf.unset(key)


def open_lake(spark: SparkSession, settings: Settings) -> LocalLake | SparkLake:
    """The lake behind ``FRAUD_LAKE``.

    Where it or Spark's master is on another machine, the executors write: there no row
    passes the driver.
    """
    root = local_path(settings.lake)
    if root is None or not settings.master.startswith("local"):
        return SparkLake(spark, settings)
    return LocalLake(root)


def with_corrections(
    scored: pa.Table, corrections: pa.Table, now: datetime
) -> pa.Table:
    """First answers and corrections with the table's columns and ``correction``.

    All of them have the same ``scored_at``, `now`: by it a reader tells what a merge
    has written from the rows that it only copied, because they share a file with one.
    """
    parts = [
        pa.table(
            [
                rows[c] if c in rows.column_names else pa.nulls(len(rows), kind)
                for c, kind in zip(
                    SCHEMAS[SCORED].names, SCHEMAS[SCORED].types, strict=True
                )
            ],
            schema=SCHEMAS[SCORED],
        ).append_column(CORRECTION, pa.repeat(pa.scalar(again), len(rows)))
        for rows, again in ((scored, False), (corrections, True))
    ]
    rows = pa.concat_tables(parts)
    at = pa.repeat(pa.scalar(now, TIME), len(rows))
    return rows.set_column(rows.column_names.index("scored_at"), "scored_at", at)


def statistics(rows: pa.Table) -> str:
    """Delta's statistics of the rows as JSON: count, and each column's least and
    greatest value and nulls, by which readers skip files.

    Binary columns, and text longer than 32 characters, have no bounds. Times have
    milliseconds, the upper bound rounded up. Source: Delta's protocol, "Per-file
    Statistics".
    """
    least, greatest, nulls = {}, {}, {}
    for name in rows.column_names:
        column = rows[name]
        nulls[name] = column.null_count
        if pa.types.is_binary(column.type) or column.null_count == len(column):
            continue
        ends = pc.min_max(column)
        if pa.types.is_timestamp(column.type):
            low, high = (ends[e].cast(pa.int64()).as_py() for e in ("min", "max"))
            least[name], greatest[name] = _stamp(low // 1000), _stamp(-(-high // 1000))
            continue
        low, high = ends["min"].as_py(), ends["max"].as_py()
        if pa.types.is_string(column.type) and max(len(low), len(high)) > _LONGEST_TEXT:
            continue
        if pa.types.is_decimal(column.type):
            low, high = float(low), float(high)
        least[name], greatest[name] = low, high
    return json.dumps(
        {
            "numRecords": len(rows),
            "minValues": least,
            "maxValues": greatest,
            "nullCount": nulls,
        }
    )


def _stamp(millis: int) -> str:
    moment = pa.scalar(millis, pa.timestamp("ms")).as_py()
    return f"{moment.isoformat(timespec='milliseconds')}Z"


def _meets(rows: pa.Table, to_timestamp: str) -> str:
    """SQL: a correction meets its row; with bounds of ts, so that only files with such
    rows are read."""
    times = rows.filter(rows[CORRECTION])["ts"].cast(pa.int64())
    if not len(times):
        return "FALSE"
    bounds = pc.min_max(times).as_py()
    low, high = (f"{to_timestamp}({bounds[end]})" for end in ("min", "max"))
    return f"new.{CORRECTION} AND {_KEYS} AND old.ts BETWEEN {low} AND {high}"


def _has_seen(table: DeltaTable, name: str, batch: Batch | None) -> bool:
    if batch is None:
        return False
    last = table.transaction_version(batch.name(name))
    return last is not None and last >= batch.number


@contextmanager
def _explained(table: DeltaTable) -> Iterator[None]:
    """What delta-rs says of a table that it can't write or read, as a line that names
    it. What has other causes is not changed."""
    try:
        yield
    except DeltaError as error:
        place = local_path(table.table_uri)
        if found := re.search(
            r"Unsupported table features required: (\S.*)", f"{error}"
        ):
            raise FraudError(
                f"the table {place} has Delta features that can't be written here "
                f"({found[1]}): take them away with ALTER TABLE … DROP FEATURE in Spark"
            ) from error
        if "arquet" in str(error) and (broken := data_files.broken_file(table)):
            raise broken from error
        raise


def _commit(name: str, batch: Batch | None) -> CommitProperties | None:
    if batch is None:
        return None
    return CommitProperties(
        app_transactions=[Transaction(batch.name(name), batch.number)]
    )
