"""A lake in a folder with an odd name, read and written without a JVM."""

from __future__ import annotations

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lib.lake import data_files
from lib.lake.follower import Follower, rows_of
from lib.marts.spark_catalog import quotable
from lib.settings import Settings
from lib.streaming.session import java_options
from tests.integration.helpers import ODD_NAME

TABLE = "silver/scored"


def rows(*offsets: int) -> pa.Table:
    return pa.table(
        {
            "account_id": ["ACCT_1"] * len(offsets),
            "event_id": [f"e-{offset}" for offset in offsets],
            "offset": pa.array(offsets, pa.int64()),
        }
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A table of two commits."""
    home = tmp_path_factory.mktemp("odd") / ODD_NAME
    settings = Settings.from_env({"FRAUD_HOME": str(home)})
    for part in (rows(1, 2), rows(3)):
        write_deltalake(settings.table(TABLE), part, mode="append")
    return settings


def test_all_rows_are_found(settings: Settings):
    table = DeltaTable(settings.table(TABLE))
    found = pa.concat_tables(data_files.scan(table, ["offset"]))["offset"].to_pylist()
    near = data_files.rows_with_values(table, "offset", [2, 3], ["offset"])

    assert sorted(found) == [1, 2, 3]
    assert sorted(near["offset"].to_pylist()) == [2, 3]


def test_every_file_is_known_and_whole(settings: Settings):
    table = DeltaTable(settings.table(TABLE))

    assert data_files.broken_file(table) is None
    # A file that is younger than the last commit is news only if no commit names it.
    assert list(data_files.orphan_files(table)) == []


def test_the_page_follows_it(settings: Settings):
    follower = Follower(settings.table(TABLE))
    for change in follower.poll():
        for file in getattr(change, "added", ()):
            assert list(follower.read(file, ["offset"]))
    assert follower.version == 1
    assert sum(map(len, rows_of(settings.table(TABLE), "ACCT_1", ["offset"]))) == 3


def test_it_stands_in_sql_and_among_the_options_of_a_jvm():
    assert quotable("José's \\ lake") == "José\\'s \\\\ lake"
    assert java_options('-Da=b c"d\\e', "-Xmx1g") == '"-Da=b c\\"d\\\\e" "-Xmx1g"'
