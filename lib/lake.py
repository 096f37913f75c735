"""The lake's tables as the queries write them: one Delta commit a table and batch.

A micro-batch is small, and Spark's way to a Delta commit (plan, job, log state, hooks)
costs a hundred times more than the rows do. On a local lake delta-rs writes the same
commits without Spark; any other URI goes through Spark. Both take Arrow tables, both
put the batch id into the commit.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from lib import datafiles
from lib.config import Settings, local_path
from lib.deltalog import demand_whole
from lib.errors import FraudError

COMMITS_A_CHECKPOINT = 100
"""Delta's own default of 10 writes the table's state anew five times a second."""


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
class Upsert:
    """How rows with a ``kind`` meet those of the table.

    Attributes:
        keys: columns that identify a row.
        values: columns that a newer row replaces, if one of ``compared`` differs.
        compared: see ``values``.
        known: kinds whose key may be in the table already; others are only added.
        replacing: kinds that replace a row found there.
        existing: kinds that are never added.
        same_ts: kinds whose ``ts`` is that of the row they may meet.
    """

    keys: tuple[str, ...]
    values: tuple[str, ...]
    compared: tuple[str, ...]
    known: tuple[int, ...]
    replacing: tuple[int, ...]
    existing: tuple[int, ...]
    same_ts: tuple[int, ...]

    def matches(self, rows: pa.Table, to_timestamp: str) -> str:
        """SQL: a new row that may be known meets a row of the table.

        With bounds of its ts where it has some, so that only files with such rows are
        read; ``to_timestamp`` is the dialect's function of whole microseconds.
        """
        tests = [f"old.{key} = new.{key}" for key in self.keys]
        tests.append(_kind_in(self.known))
        times = rows.filter(_of_kind(rows, self.known))
        if pc.all(_of_kind(times, self.same_ts)).as_py():
            bounds = pc.min_max(times["ts"].cast(pa.int64())).as_py()
            low, high = (f"{to_timestamp}({bounds[end]})" for end in ("min", "max"))
            tests.append(f"old.ts BETWEEN {low} AND {high}")
        return " AND ".join(tests)

    def supersedes(self) -> str:
        """SQL: the row that it met is to be replaced."""
        differs = " OR ".join(f"NOT (old.{c} <=> new.{c})" for c in self.compared)
        return f"{_kind_in(self.replacing)} AND ({differs})"

    def adds(self) -> str:
        """SQL: a row that met none is to be added."""
        return f"NOT ({_kind_in(self.existing)})"


def _kind_in(kinds: Sequence[int]) -> str:
    return f"new.kind IN ({', '.join(map(str, kinds))})"


class Lake(ABC):
    """Tables of a lake by their names, e.g. ``"silver/transactions"``."""

    @abstractmethod
    def create(self, name: str, schema: StructType) -> None:
        """Create the empty table if it is missing."""

    @abstractmethod
    def append(self, name: str, rows: pa.Table, batch: Batch | None) -> None:
        """Add the rows in one commit, unless the table has seen the batch."""

    @abstractmethod
    def upsert(self, name: str, rows: pa.Table, how: Upsert, batch: Batch) -> None:
        """Add and replace rows in one commit, unless the table has seen the batch.

        ``rows`` have the table's columns and ``kind``.
        """

    @abstractmethod
    def last_batch(self, name: str, app: str) -> int | None:
        """The newest batch of the application that the table has seen, if any."""

    @abstractmethod
    def scan(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all rows."""

    @abstractmethod
    def at(self, name: str, offsets: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """The rows of Kafka records with these offsets, in whatever partition."""


def open_lake(spark: SparkSession, settings: Settings) -> Lake:
    """The lake behind ``FRAUD_LAKE``."""
    if local_path(settings.lake) is None:
        return SparkLake(spark, settings)
    return LocalLake(settings)


class LocalLake(Lake):
    """A lake on a local disk, through delta-rs."""

    def __init__(self, settings: Settings) -> None:
        self.root = local_path(settings.lake)
        self._tables: dict[str, DeltaTable] = {}

    def create(self, name: str, schema: StructType) -> None:
        """See `Lake.create`."""
        if not demand_whole(self._uri(name)):
            (self.root / name).mkdir(parents=True, exist_ok=True)
            interval = {"delta.checkpointInterval": str(COMMITS_A_CHECKPOINT)}
            DeltaTable.create(
                self._uri(name), arrow_schema(schema), configuration=interval
            )

    def append(self, name: str, rows: pa.Table, batch: Batch | None) -> None:
        """See `Lake.append`."""
        table = self._table(name)
        if self._has_seen(table, name, batch):
            return
        with _explained(table):
            write_deltalake(
                table, rows, mode="append", commit_properties=_commit(name, batch)
            )

    def upsert(self, name: str, rows: pa.Table, how: Upsert, batch: Batch) -> None:
        """See `Lake.upsert`."""
        table = self._table(name)
        if self._has_seen(table, name, batch):
            return
        new = {column: f"new.{column}" for column in rows.column_names}
        del new["kind"]
        merge = (
            table.merge(
                rows,
                predicate=how.matches(rows, "to_timestamp_micros"),
                source_alias="new",
                target_alias="old",
                commit_properties=_commit(name, batch),
            )
            .when_matched_update(
                updates={column: new[column] for column in how.values},
                predicate=_datafusion(how.supersedes()),
            )
            .when_not_matched_insert(updates=new, predicate=how.adds())
        )
        with _explained(table):
            merge.execute()

    def last_batch(self, name: str, app: str) -> int | None:
        """See `Lake.last_batch`."""
        return self._table(name).transaction_version(Batch(app, 0).name(name))

    def scan(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Lake.scan`."""
        yield from datafiles.scan(self._table(name), columns)

    def at(self, name: str, offsets: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """See `Lake.at`; only files are opened whose statistics have such offsets."""
        return datafiles.near(self._table(name), "offset", offsets, columns)

    def _uri(self, name: str) -> str:
        return str(self.root / name)

    def _table(self, name: str) -> DeltaTable:
        """The table at its newest version."""
        if name in self._tables:
            self._tables[name].update_incremental()
        else:
            self._tables[name] = DeltaTable(self._uri(name))
        return self._tables[name]

    @staticmethod
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
        if "arquet" in str(error) and (broken := datafiles.broken_file(table)):
            raise broken from error
        raise


def _commit(name: str, batch: Batch | None) -> CommitProperties | None:
    if batch is None:
        return None
    return CommitProperties(
        app_transactions=[Transaction(batch.name(name), batch.number)]
    )


def _datafusion(sql: str) -> str:
    """Null-safe equality has another name there."""
    return sql.replace("<=>", "IS NOT DISTINCT FROM")


def _of_kind(rows: pa.Table, kinds: Sequence[int]) -> pa.ChunkedArray:
    return pc.is_in(rows["kind"], pa.array(kinds, rows["kind"].type))


class SparkLake(Lake):
    """A lake at any URI that Spark can write."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self._spark, self._settings = spark, settings

    def create(self, name: str, schema: StructType) -> None:
        """See `Lake.create`."""
        if not demand_whole(self._settings.table(name), self._spark):
            # An append, and not Delta's CREATE TABLE: that one refuses a folder in
            # which an earlier creation died half-way.
            self.append(name, arrow_schema(schema).empty_table(), None)

    def append(self, name: str, rows: pa.Table, batch: Batch | None) -> None:
        """See `Lake.append`."""
        writer = self._frame(rows).write.format("delta").mode("append")
        if batch is not None:
            writer = writer.option("txnAppId", batch.name(name))
            writer = writer.option("txnVersion", batch.number)
        writer.save(self._settings.table(name))

    def upsert(self, name: str, rows: pa.Table, how: Upsert, batch: Batch) -> None:
        """See `Lake.upsert`."""
        from delta import DeltaTable as SparkTable

        new = {c: F.col(f"new.{c}") for c in rows.column_names if c != "kind"}
        target = SparkTable.forPath(self._spark, self._settings.table(name))
        merge = (
            target.alias("old")
            .merge(
                self._frame(rows).alias("new"), how.matches(rows, "timestamp_micros")
            )
            .whenMatchedUpdate(
                condition=how.supersedes(), set={c: new[c] for c in how.values}
            )
            .whenNotMatchedInsert(condition=how.adds(), values=new)
        )
        transaction = {
            "spark.databricks.delta.write.txnAppId": batch.name(name),
            "spark.databricks.delta.write.txnVersion": str(batch.number),
        }
        for key, value in transaction.items():
            self._spark.conf.set(key, value)
        try:
            merge.execute()
        finally:
            for key in transaction:
                self._spark.conf.unset(key)

    def last_batch(self, name: str, app: str) -> int | None:
        """See `Lake.last_batch`."""
        log = self._spark.sparkContext._jvm.org.apache.spark.sql.delta.DeltaLog
        uri = self._settings.table(name)
        snapshot = log.forTable(
            self._spark._jsparkSession, uri
        ).unsafeVolatileSnapshot()
        found = snapshot.transactions().get(Batch(app, 0).name(name))
        return found.get() if found.isDefined() else None

    def scan(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Lake.scan`."""
        yield self._read(name).select(*columns).toArrow()

    def at(self, name: str, offsets: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """See `Lake.at`."""
        wanted = self._read(name).where(F.col("offset").isin(list(offsets)))
        return wanted.select(*columns).toArrow()

    def _read(self, name: str):
        return self._spark.read.format("delta").load(self._settings.table(name))

    def _frame(self, rows: pa.Table):
        return self._spark.createDataFrame(rows).coalesce(1)


def arrow_schema(schema: StructType) -> pa.Schema:
    """The schema as Arrow's: times in whole microseconds UTC."""
    return to_arrow_schema(schema, timezone="UTC")
