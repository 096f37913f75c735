"""The rows of a Delta table on a local disk, whoever wrote its files.

Spark with its usual settings writes times as INT96, other writers count nanoseconds, a
merge leaves string views: all come out as the table's own schema says. Where a file
does not hold the table's rows as they are (deletion vectors, mapped or partition
columns), delta-rs reads, which costs more; what it can't read is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from lib.errors import FraudError
from lib.lake.delta_log import LOG, damaged
from lib.settings import local_path

_HARMLESS = {"v2Checkpoint", "vacuumProtocolCheck", "timestampNtz"}
"""Reader features that say nothing about what a data file holds."""


def scan(table: DeltaTable, columns: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of all rows, in pieces with the table's types.

    Raises:
        FraudError: a file is damaged, or the table has features that nobody here reads.
    """
    if not _readable_as_is(table):
        yield query(table, columns)
        return
    # File by file, and not as a dataset: its threads outlive an iterator that is
    # left early, and then Python does not end cleanly.
    for path in paths(table):
        yield _read(table, path, columns)


def rows_with_values(
    table: DeltaTable, column: str, values: Sequence[int], columns: Sequence[str]
) -> pa.Table:
    """These columns of the rows whose integer column has one of the values.

    Only files are opened whose statistics do not exclude them; errors as `scan`.
    """
    wanted = np.unique(np.asarray(values, np.int64))
    names = list(dict.fromkeys([*columns, column]))
    if not len(wanted):
        return schema_of(table, columns).empty_table()
    if _readable_as_is(table):
        paths = _paths_near(table, column, wanted)
        found = (_read(table, path, names) for path in paths)
    else:
        bounds = f'WHERE "{column}" BETWEEN {wanted[0]} AND {wanted[-1]}'
        found = iter([query(table, names, bounds)])
    held = pa.array(wanted)
    rows = [rows.filter(pc.is_in(rows[column], held)) for rows in found]
    return pa.concat_tables([schema_of(table, names).empty_table(), *rows]).select(
        columns
    )


def schema_of(table: DeltaTable, columns: Sequence[str]) -> pa.Schema:
    """The types of these columns."""
    whole = pa.schema(table.schema().to_arrow())
    return pa.schema([whole.field(name).remove_metadata() for name in columns])


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with these columns and types: a column that a file of earlier days does
    not have is null, and what is below a microsecond is cut off."""
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(len(rows), field.type))
            continue
        column = rows[field.name]
        # Nothing else may be cut: an amount that does not fit is an error.
        cut = pa.types.is_timestamp(column.type)
        columns.append(column.cast(field.type, safe=not cut))
    return pa.table(columns, schema=schema)


def paths(table: DeltaTable) -> list[str]:
    """The data files of a table on a local disk.

    delta-rs's own ``file_uris`` are percent-encoded where the folder's name has a
    space or a letter that is not ASCII's, and no file system knows such names.
    """
    root = local_path(table.table_uri)
    names = pa.table(table.get_add_actions())["path"].to_pylist()
    return [str(root / unquote(name)) for name in names]


def has_deletion_vectors(table: DeltaTable) -> bool:
    """Whether rows of the table's files are marked as deleted, beside the files."""
    if "deletionVectors" not in (table.protocol().reader_features or []):
        return False
    return any(batch.num_rows for batch in table.deletion_vectors())


def has_mapped_columns(table: DeltaTable) -> bool:
    """Whether the files have other column names than the table."""
    mode = table.metadata().configuration.get("delta.columnMapping.mode")
    return (mode or "none") != "none"


def orphan_files(table: DeltaTable) -> Iterator[pq.ParquetFile]:
    """Whole files in a local table's folder that are younger than its last commit, and
    that no commit names: a writer was killed before its commit, or the commit is lost.
    """
    folder = local_path(table.table_uri)
    commit = folder / LOG / f"{table.version():020d}.json"
    if not commit.exists():
        return
    last, named = commit.stat().st_mtime_ns, set(paths(table))
    for path in folder.glob("*.parquet"):
        if str(path) not in named and path.stat().st_mtime_ns > last:
            with suppress(pa.ArrowException, OSError):  # half a file was never whole
                yield pq.ParquetFile(path, coerce_int96_timestamp_unit="us")


def broken_file(table: DeltaTable) -> FraudError | None:
    """The error that names the first data file whose footer can't be read; None if all
    can. For a reader that only says that one of them can't."""
    for path in paths(table):
        try:
            pq.read_metadata(path)
        except (pa.ArrowException, OSError) as error:
            return _damaged(table, path, error)
    return None


def _readable_as_is(table: DeltaTable) -> bool:
    """Whether the files hold the table's rows as they are: all columns, none deleted,
    and no feature that nobody here knows."""
    features = set(table.protocol().reader_features or []) - _HARMLESS
    # These two may be allowed, and not used.
    features -= {"columnMapping", "deletionVectors"}
    partitioned = bool(table.metadata().partition_columns)
    marked = has_mapped_columns(table) or has_deletion_vectors(table)
    return not (features or partitioned or marked)


def _read(table: DeltaTable, path: str, columns: Sequence[str]) -> pa.Table:
    schema = schema_of(table, columns)
    try:
        rows = pq.read_table(
            path,
            columns=list(columns),
            use_threads=False,
            coerce_int96_timestamp_unit="us",
        )
    except (pa.ArrowException, OSError) as error:
        raise _damaged(table, path, error) from error
    return conform(rows, schema)


def _damaged(table: DeltaTable, path: str, error: BaseException) -> FraudError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return damaged(path, f"can't be read ({reason:.150})", table.table_uri)


def query(table: DeltaTable, columns: Sequence[str], bounds: str = "") -> pa.Table:
    """These columns of the rows within the bounds (SQL, ``WHERE …``), read by delta-rs;
    errors as `scan`."""
    names = ", ".join(f'"{name}"' for name in columns)
    query = f"SELECT {names} FROM t {bounds}"
    try:
        rows = pa.table(QueryBuilder().register("t", table).execute(query).read_all())
    except DeltaError as error:
        if (broken := broken_file(table)) is not None:
            raise broken from error
        features = ", ".join(table.protocol().reader_features or [])
        raise FraudError(
            f"the table {table.table_uri} has Delta features ({features}) of which one "
            "can't be read here: take it away with ALTER TABLE … DROP FEATURE in Spark"
        ) from error
    return conform(rows, schema_of(table, columns))


def _paths_near(table: DeltaTable, column: str, wanted: np.ndarray) -> list[str]:
    files = pa.table(table.get_add_actions(flatten=True))
    paths = [unquote(path) for path in files["path"].to_pylist()]
    names = [f"min.{column}", f"max.{column}"]
    root = local_path(table.table_uri)
    if not set(names) <= set(files.column_names):
        return [str(root / path) for path in paths]
    # A file without statistics may hold anything.
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    first = pc.fill_null(files[names[0]], least).to_numpy()
    last = pc.fill_null(files[names[1]], most).to_numpy()
    hit = np.searchsorted(wanted, last, "right") > np.searchsorted(wanted, first)
    return [str(root / paths[place]) for place in np.flatnonzero(hit).tolist()]
