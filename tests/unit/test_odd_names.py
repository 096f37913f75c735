"""A lake in a folder with an odd name, read and written without a JVM."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyspark.sql import types as T

from lib.config import Settings
from lib.dashboard.follow import Follower, rows_of
from lib.lake import Batch, LocalLake, Upsert
from lib.registry import quotable
from lib.spark import java_options
from lib.truth import _rows
from tests.integration.helpers import ODD_NAME

TABLE = "silver/scored"
SCHEMA = T.StructType(
    [
        T.StructField("account_id", T.StringType()),
        T.StructField("event_id", T.StringType()),
        T.StructField("offset", T.LongType()),
    ]
)


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
    """Two appends and an upsert."""
    home = tmp_path_factory.mktemp("odd") / ODD_NAME
    settings = Settings.from_env({"FRAUD_HOME": str(home)})
    lake = LocalLake(settings)
    lake.create(TABLE, SCHEMA)
    lake.append(TABLE, rows(1, 2), Batch("app", 1))
    lake.append(TABLE, rows(3), Batch("app", 2))
    keys = ("account_id", "event_id")
    how = Upsert(keys, ("offset",), ("offset",), (1,), (1,), (9,), ())
    changed = rows(3, 4).append_column("kind", pa.array([1, 1], pa.int32()))
    lake.upsert(TABLE, changed, how, Batch("app", 3))
    return settings


def test_all_rows_are_found(settings: Settings):
    lake = LocalLake(settings)
    found = pa.concat_tables(lake.scan(TABLE, ["offset"]))["offset"].to_pylist()

    assert sorted(found) == [1, 2, 3, 4]
    assert lake.at(TABLE, [2, 4], ["offset"])["offset"].to_pylist() == [4, 2]
    assert len(_rows(settings, TABLE, ())) == 4


def test_the_page_follows_it(settings: Settings):
    follower = Follower(settings.table(TABLE))
    for change in follower.poll():
        for file in getattr(change, "added", ()):
            assert list(follower.read(file, ["offset"]))
    assert follower.version == 3
    assert sum(map(len, rows_of(settings.table(TABLE), "ACCT_1", ["offset"]))) == 4


def test_it_stands_in_sql_and_among_the_options_of_a_jvm():
    assert quotable("José's \\ lake") == "José\\'s \\\\ lake"
    assert java_options('-Da=b c"d\\e', "-Xmx1g") == '"-Da=b c\\"d\\\\e" "-Xmx1g"'
