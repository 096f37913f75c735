"""The lake's tables under the names that SQL uses: ``silver.scored``, ``gold.…``.

Spark's catalog lives in memory and ends with the process; the lake is the truth. So
each run of the marts registers anew what it finds there. Sources are registered as
views of one version each: all models and all tests of a run then see the same rows,
while the streams go on writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import deltalake
from delta import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from lib.errors import FraudError
from lib.lake.hadoop import remove
from lib.lake.tables import BRONZE, QUARANTINE, SCHEMAS, SCORED, TRANSACTIONS
from lib.settings import Settings, local_path
from lib.streaming.session import table_exists, table_version

SOURCES: dict[str, T.StructType] = {
    name: from_arrow_schema(schema) for name, schema in SCHEMAS.items()
}
"""The tables that the models read, and the columns that they must have."""

STAGED_AS = {
    BRONZE: "stg_records",
    TRANSACTIONS: "stg_transactions",
    QUARANTINE: "stg_quarantine",
    SCORED: "stg_scores",
}
"""The model that reads each of them first."""

GOLD = "gold"
_PIN_ATTEMPTS = 20


def register(
    spark: SparkSession, settings: Settings, marts: Iterable[str]
) -> dict[str, int]:
    """Register the lake's sources, each at its present version, and its marts.

    Args:
        spark: the session.
        settings: where the lake lies.
        marts: names of the tables that may lie in ``gold``.

    Returns:
        mart → its version, of those that are there.

    Raises:
        FraudError: a source is missing or lacks a column; nothing was written.
    """
    for table, schema in SOURCES.items():
        _require(spark, settings, table, schema)
    for table, version in _pin(spark, settings).items():
        schema, name = table.split("/")
        spark.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        spark.sql(
            f"CREATE OR REPLACE VIEW {schema}.{name} AS "
            f"SELECT * FROM {_path(settings, table)} VERSION AS OF {version}"
        )
    return register_marts(spark, settings, marts)


def register_marts(
    spark: SparkSession, settings: Settings, marts: Iterable[str]
) -> dict[str, int]:
    """Register the marts of this lake in place of any other's; table → version."""
    spark.sql(f"CREATE SCHEMA IF NOT EXISTS {GOLD}")
    found = {}
    for name in marts:
        table = f"{GOLD}/{name}"
        spark.sql(f"DROP TABLE IF EXISTS {GOLD}.{name}")  # the name, not the files
        if table_exists(spark, settings.table(table)):
            spark.sql(
                f"CREATE TABLE {GOLD}.{name} USING delta "
                f"LOCATION '{quotable(settings.table(table))}'"
            )
            found[name] = _version(spark, settings, table)
    return found


def quotable(text: str) -> str:
    """The text as it stands between the quotes of Spark's SQL."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


@contextmanager
def in_memory(
    spark: SparkSession, marts: Iterable[str]
) -> Iterator[Callable[[], None]]:
    """Keep the registered sources in memory, once they were read, until the block ends;
    then forget them and whatever marts were kept in it.

    Yields:
        a function that waits until all are. A MERGE that has begun by then would fail:
        Delta refuses a source that is kept only when it is read a second time.
    """
    sources = [table.replace("/", ".") for table in SOURCES]
    # In a new JVM it takes seconds, in which the caller has other work.
    with ThreadPoolExecutor(2, "sources") as pool:
        kept = [pool.submit(spark.sql, f"CACHE LAZY TABLE {name}") for name in sources]

        def ready() -> None:
            for future in kept:
                future.result()

        try:
            yield ready
        finally:
            wait(kept)
            for name in [*sources, *(f"{GOLD}.{mart}" for mart in marts)]:
                spark.sql(f"UNCACHE TABLE IF EXISTS {name}")


def table_bytes(spark: SparkSession, settings: Settings, table: str) -> int:
    """Size of a table's present version in bytes."""
    log = _log(settings, table)
    if log is not None:
        return sum(log.get_add_actions().column("size_bytes").to_pylist())
    detail = DeltaTable.forPath(spark, settings.table(table)).detail()
    return detail.select("sizeInBytes").first()[0]


def restore(
    spark: SparkSession,
    settings: Settings,
    marts: Iterable[str],
    before: dict[str, int],
) -> None:
    """Make the marts what they were before: a failed run leaves no half of itself.

    Args:
        spark: the session.
        settings: where the lake lies.
        marts: names of the tables that may lie in ``gold``.
        before: what `register` returned before the run.
    """
    for name in marts:
        table = f"{GOLD}/{name}"
        uri = settings.table(table)
        if not table_exists(spark, uri):
            continue
        if name not in before:
            spark.sql(f"DROP TABLE IF EXISTS {GOLD}.{name}")
            remove(spark, uri)
        elif _version(spark, settings, table) != before[name]:
            DeltaTable.forPath(spark, uri).restoreToVersion(before[name])


def _require(
    spark: SparkSession, settings: Settings, table: str, schema: T.StructType
) -> None:
    if not table_exists(spark, settings.table(table)):
        raise FraudError(
            f"model {STAGED_AS[table]}: there is no table {table} in {settings.lake} "
            "yet: run `python -m lib stream --drain` first"
        )
    frame = spark.read.format("delta").load(settings.table(table))
    there = {field.name: field.dataType.simpleString() for field in frame.schema}
    for field in schema:
        wanted, found = field.dataType.simpleString(), there.get(field.name)
        if found != wanted:
            cause = (
                f"has no column {field.name}"
                if found is None
                else f"has {field.name} as {found}, not {wanted}"
            )
            raise FraudError(
                f"model {STAGED_AS[table]}: {table} {cause}: restore the table "
                "(`RESTORE TABLE … TO VERSION AS OF …`) or rebuild it with `stream`"
            )


def _pin(spark: SparkSession, settings: Settings) -> dict[str, int]:
    """One version of each source, such that together they make sense.

    The stream writes bronze before silver, batch after batch. If bronze has not
    moved while silver was looked at, silver holds all of bronze's batches but perhaps
    the newest one.
    """
    bronze, *others = SOURCES
    pinned: dict[str, int] = {}
    for _attempt in range(_PIN_ATTEMPTS):
        pinned[bronze] = _version(spark, settings, bronze)
        pinned |= {table: _version(spark, settings, table) for table in others}
        if _version(spark, settings, bronze) == pinned[bronze]:
            return pinned
    raise FraudError(
        f"the stream commits faster than its tables can be looked at "
        f"({_PIN_ATTEMPTS} times): give it a longer --trigger"
    )


def _log(settings: Settings, table: str) -> deltalake.DeltaTable | None:
    """A local table's log as delta-rs reads it, None for a lake elsewhere.

    Spark asks a log by jobs of its own: a third of a second each in a new JVM, for
    twenty questions before the first model.
    """
    path = local_path(settings.table(table))
    return None if path is None else deltalake.DeltaTable(path)


def _version(spark: SparkSession, settings: Settings, table: str) -> int:
    log = _log(settings, table)
    return table_version(spark, settings.table(table)) if log is None else log.version()


def _path(settings: Settings, table: str) -> str:
    path = settings.table(table).replace("`", "``")
    return f"delta.`{path}`"
