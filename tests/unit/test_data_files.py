"""A file of any writer comes out with the table's types, or is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from lib.errors import FraudError
from lib.lake import data_files
from lib.lake.follower import Follower

AT = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
]
ROWS = pa.table(
    {
        "offset": pa.array([1, 2, 3], pa.int64()),
        "name": ["a", None, "c"],
        "ts": pa.array(AT, pa.timestamp("us", "UTC")),
    }
)


def rewritten(folder: Path, rows: pa.Table, **options: object) -> DeltaTable:
    """A table whose file holds the rows as another writer writes them."""
    write_deltalake(folder, rows)
    table = DeltaTable(folder)
    (file,) = table.file_uris()
    if "coerce_timestamps" not in options:
        pq.write_table(rows, file, **options)
    else:
        kind = pa.timestamp("ns", "UTC")
        column = rows["ts"].cast(kind)
        pq.write_table(rows.set_column(2, "ts", column), file, version="2.6")
        assert pq.read_schema(file).field("ts").type == kind
    return table


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        pytest.param(ROWS, {}, id="as usual"),
        pytest.param(ROWS, {"use_deprecated_int96_timestamps": True}, id="INT96"),
        pytest.param(ROWS.slice(1, 1), {"coerce_timestamps": "ns"}, id="nanoseconds"),
    ],
)
def test_times_of_any_writer(tmp_path: Path, rows: pa.Table, options: dict):
    table = rewritten(tmp_path, rows, **options)
    columns = ["ts", "name", "offset"]

    scanned = pa.concat_tables(data_files.scan(table, columns))
    found = data_files.rows_with_values(table, "offset", [2, 7], columns)

    assert scanned.equals(rows.select(columns))
    assert found.equals(ROWS.slice(1, 1).select(columns))
    (file,) = next(iter(Follower(str(tmp_path), tail=0).poll())).files
    follower = Follower(str(tmp_path), tail=0)
    list(follower.poll())
    (piece,) = follower.read(file, ["ts"])
    assert piece["ts"].cast(pa.timestamp("us", "UTC")).equals(rows["ts"])


def test_a_file_without_statistics_may_hold_anything(tmp_path: Path):
    write_deltalake(
        tmp_path, ROWS, configuration={"delta.dataSkippingNumIndexedCols": "0"}
    )
    table = DeltaTable(tmp_path)
    assert (
        "min.offset" not in pa.table(table.get_add_actions(flatten=True)).schema.names
    )

    found = data_files.rows_with_values(table, "offset", [3], ["name"])
    assert found["name"].to_pylist() == ["c"]


def test_a_table_with_partitions(tmp_path: Path):
    write_deltalake(tmp_path, ROWS, partition_by=["name"])
    table = DeltaTable(tmp_path)

    found = data_files.rows_with_values(table, "offset", [3], ["name", "offset"])

    assert found.to_pylist() == [{"name": "c", "offset": 3}]
    assert sum(map(len, data_files.scan(table, ["name"]))) == len(ROWS)


@pytest.mark.parametrize("left", [0, 4])
def test_a_cut_file_is_named(tmp_path: Path, left: int):
    write_deltalake(tmp_path / "silver/scored", ROWS)
    table = DeltaTable(tmp_path / "silver/scored")
    (file,) = table.file_uris()
    with open(file, "r+b") as opened:
        opened.truncate(left)

    for read in (
        lambda: list(data_files.scan(table, ["ts"])),
        lambda: data_files.rows_with_values(table, "offset", [2], ["ts"]),
    ):
        with pytest.raises(FraudError, match="rebuild") as caught:
            read()
        assert file in str(caught.value)
        assert "\n" not in str(caught.value)
