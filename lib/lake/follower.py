"""A Delta table followed commit by commit, through delta-rs and without a JVM.

A whole snapshot is read once; from then on only the files that new commits added or
removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from lib.errors import FraudError
from lib.lake import data_files
from lib.settings import local_path

TAIL = 400
"""Commits that are read one by one, as if live, at the start: they are where the
newest rows and their commit times are. What lies before comes as one snapshot."""

BATCH_ROWS = 16_384
_MICROS = pa.timestamp("us")


@dataclass(frozen=True)
class File:
    """A data file as a commit names it.

    Attributes:
        path: relative to the table.
        rows: its number of rows, from the commit's statistics; None if it has none.
    """

    path: str
    rows: int | None


@dataclass(frozen=True)
class Commit:
    """What one commit changed in the data.

    Attributes:
        version: the table's version after it.
        at_ms: the commit's own timestamp, milliseconds since the epoch.
        added: files that hold new or changed rows.
        removed: files whose rows went, or stand in ``added``, changed or not.
    """

    version: int
    at_ms: int
    added: tuple[File, ...]
    removed: tuple[File, ...]


@dataclass(frozen=True)
class Snapshot:
    """All files of one version: the beginning, or a new beginning."""

    version: int
    files: tuple[File, ...]


class NoTable(Exception):
    """There is no readable table (yet); the text says what there is."""


class Unreadable(NoTable):
    """There is a table, and it can't be followed; the text says why, and the remedy."""


class Follower:
    """One table's changes since the last look.

    Attributes:
        uri: the table's path or URI.
        version: the version seen last; -1 before the first.
    """

    def __init__(self, uri: str, tail: int | None = None) -> None:
        """Follow the table at the URI.

        Args:
            uri: the table's path or URI.
            tail: commits read one by one at the start; None means TAIL.
        """
        self.uri = uri
        self.version = -1
        self._fs: pafs.FileSystem | None = None
        self._seen: tuple[int, int] | None = None  # of the last commit: mtime, size
        self._tail = TAIL if tail is None else tail

    def poll(self, most: int = TAIL) -> Iterator[Snapshot | Commit]:
        """The changes since the last call, oldest first; a Snapshot means that what
        was known before is void.

        Args:
            most: commits at most; the next call goes on.

        Raises:
            NoTable: there is none, or its log can't be read.
        """
        if self._fs is None or not self._same_table():
            yield self._begin()
        for _ in range(most):
            commit = self._commit(self.version + 1)
            if commit is None:
                return
            self.version = commit.version
            yield commit

    def read(self, file: File, columns: Sequence[str]) -> Iterator[pa.Table]:
        """A data file's rows in pieces; timestamps are UTC, naive, in microseconds.

        Raises:
            FileNotFoundError: it has been vacuumed meanwhile.
            Unreadable: it is damaged.
        """
        with self._fs.open_input_file(file.path) as opened:
            try:
                parquet = pq.ParquetFile(opened, coerce_int96_timestamp_unit="us")
            except pa.ArrowInvalid as error:
                raise Unreadable(
                    f"{self.uri}/{file.path} is damaged ({error})"
                ) from error
            for batch in parquet.iter_batches(
                BATCH_ROWS, columns=list(columns), use_threads=False
            ):
                yield _plain(pa.Table.from_batches([batch]))

    def restart(self) -> None:
        """Begin anew at the next poll, with the newest version and nothing before: it
        is the one whose files are sure to be there."""
        self._fs = None
        self._tail = 0

    def _begin(self) -> Snapshot:
        try:
            table = DeltaTable(self.uri)
            fs = pafs.PyFileSystem(DeltaStorageHandler(self.uri))
            _demand_plain(table)
            newest = table.version()
            whole = fs.get_file_info(_name(0)).type != pafs.FileType.NotFound
            if newest < self._tail and whole:
                table = None  # every commit there is comes one by one
            elif self._tail:
                earlier = self._earlier(newest - self._tail)
                if earlier and not _is_mapped_or_marked(earlier):
                    table = earlier
            files = _files(table) if table else ()
        except TableNotFoundError as error:
            raise NoTable("there is no such table yet") from error
        except (DeltaError, OSError, ValueError) as error:
            raise NoTable(str(error).strip().splitlines()[0]) from error
        self._fs, self._tail = fs, TAIL
        self.version = table.version() if table else -1
        self._seen = self._identity(self.version)
        return Snapshot(self.version, files)

    def _earlier(self, version: int) -> DeltaTable | None:
        """An earlier version; None if the log has been cleaned up that far."""
        try:
            return DeltaTable(self.uri, version=max(0, version))
        except DeltaError:
            return None

    def _same_table(self) -> bool:
        """Whether the last commit still is the one that was read: a lake that was
        deleted and filled again counts from 0 again."""
        return self._identity(self.version) == self._seen

    def _identity(self, version: int) -> tuple[int, int] | None:
        try:
            info = self._fs.get_file_info(_name(version))
        except OSError:
            return None
        if info.type == pafs.FileType.NotFound:
            return None
        return info.mtime_ns, info.size

    def _commit(self, version: int) -> Commit | None:
        try:
            with self._fs.open_input_file(_name(version)) as file:
                text = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NoTable(str(error).strip().splitlines()[0]) from error
        identity = self._identity(version)
        if b'"deletionVector"' in text or b'"delta.columnMapping.mode"' in text:
            # Counted file by file it would come out wrong, even if it is over by now.
            _demand_plain(DeltaTable(self.uri))
            self.restart()
            raise NoTable("the table was written anew; reading it again")
        try:
            commit = parse_commit(version, text)
        except (ValueError, KeyError, TypeError) as error:
            raise Unreadable(f"commit {version} of {self.uri} is damaged") from error
        self._seen = identity
        return commit


def rows_of(uri: str, account_id: str, columns: Sequence[str]) -> list[pa.Table]:
    """One account's rows of the newest version, read on demand.

    Files are passed over by their statistics, then row groups by the account's column
    alone; only what holds the account is read in full.

    Raises:
        NoTable: there is none, or it can't be read just now.
    """
    try:
        table = DeltaTable(uri)
        fs = pafs.PyFileSystem(DeltaStorageHandler(uri))
        if _is_mapped_or_marked(table):
            name = account_id.replace("'", "''")
            bounds = f"WHERE account_id = '{name}'"
            return [_plain(data_files.query(table, columns, bounds))]
        found = []
        for path in _paths_with(table, account_id):
            with fs.open_input_file(path) as opened:
                parquet = pq.ParquetFile(opened, coerce_int96_timestamp_unit="us")
                for group in range(parquet.num_row_groups):
                    rows = _of_account(parquet, group, account_id, columns)
                    if rows is not None:
                        found.append(rows)
    except (DeltaError, FraudError, OSError, ValueError) as error:
        raise NoTable(str(error).strip().splitlines()[0]) from error
    return found


def _is_mapped_or_marked(table: DeltaTable) -> bool:
    """Whether the files have other column names than the table, or deleted rows."""
    return data_files.has_mapped_columns(table) or data_files.has_deletion_vectors(
        table
    )


def _demand_plain(table: DeltaTable) -> None:
    """A follower takes in file by file, so each must hold what it seems to."""
    if _is_mapped_or_marked(table):
        raise Unreadable(
            f"{local_path(table.table_uri) or table.table_uri} has deletion vectors or "
            "mapped columns, which this page can't follow: SET TBLPROPERTIES "
            "(delta.enableDeletionVectors=false), then REORG TABLE … APPLY (PURGE)"
        )


def _paths_with(table: DeltaTable, account_id: str) -> list[str]:
    """Files whose statistics do not exclude the account."""
    actions = table.get_add_actions(flatten=True)
    paths = actions["path"].to_pylist()
    names = actions.schema.names
    if not paths or "min.account_id" not in names or "max.account_id" not in names:
        return [unquote(path) for path in paths]
    bounds = (actions[f"{which}.account_id"].to_pylist() for which in ("min", "max"))
    return [
        unquote(path)
        for path, low, high in zip(paths, *bounds, strict=True)
        if low is None or high is None or low <= account_id <= high
    ]


def _of_account(
    parquet: pq.ParquetFile, group: int, account_id: str, columns: Sequence[str]
) -> pa.Table | None:
    names = _plain(parquet.read_row_group(group, columns=["account_id"]))["account_id"]
    own = pc.equal(names, account_id)
    if not pc.any(own).as_py():
        return None
    return _plain(parquet.read_row_group(group, columns=list(columns))).filter(own)


def concat(pieces: Iterable[pa.Table], empty: pa.Table) -> pa.Table:
    """One table of all; files of several writers may differ in metadata, no more."""
    pieces = [piece for piece in pieces if piece.num_rows]
    if not pieces:
        return empty
    return pa.concat_tables(pieces, promote_options="permissive")


def parse_commit(version: int, text: bytes) -> Commit:
    """A commit file's actions (Delta protocol, "Actions"); only data changes count,
    so that a compaction is none.

    Raises:
        ValueError: it is no commit.
    """
    at_ms, added, removed = 0, [], []
    for line in text.splitlines():
        action = json.loads(line)
        if info := action.get("commitInfo"):
            at_ms = info.get("inCommitTimestamp") or info.get("timestamp") or 0
        elif (add := action.get("add")) and add.get("dataChange", True):
            added.append(_file(add))
        elif (remove := action.get("remove")) and remove.get("dataChange", True):
            removed.append(_file(remove))
    return Commit(version, at_ms, tuple(added), tuple(removed))


def _files(table: DeltaTable) -> tuple[File, ...]:
    actions = table.get_add_actions(flatten=True)
    columns = (actions[name].to_pylist() for name in ("path", "num_records"))
    return tuple(File(unquote(p), rows) for p, rows in zip(*columns, strict=True))


def _plain(rows: pa.Table) -> pa.Table:
    """Spark writes timestamps without a zone, delta-rs with one; both are UTC. And a
    merge by delta-rs leaves string views, for which Arrow lacks functions."""
    for index, field in enumerate(rows.schema):
        column = rows[field.name]
        if pa.types.is_timestamp(field.type) and field.type != _MICROS:
            # Other writers count nanoseconds; what is below a microsecond is cut off.
            column = column.cast(_MICROS, safe=False)
        elif pa.types.is_string_view(field.type):
            column = column.cast(pa.string())
        rows = rows.set_column(index, field.name, column)
    return rows


def _file(action: dict) -> File:
    stats = json.loads(action.get("stats") or "{}")
    return File(unquote(action["path"]), stats.get("numRecords"))


def _name(version: int) -> str:
    return f"_delta_log/{version:020d}.json"
