"""Silver and scored again, from bronze alone: it holds every record as it came."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lib import ingest, score
from lib.checkpoint import exclusive, remove
from lib.config import Settings
from lib.known import Known
from lib.lake import open_lake
from lib.spark import read_table
from lib.stream import drain

CHUNK = 200_000
"""Records that are classified at once."""


def rebuild(spark: SparkSession, settings: Settings, bootstrap: str) -> dict[str, int]:
    """Delete silver/transactions, silver/quarantine and silver/scored; make them anew.

    Bronze and the ingest query's checkpoint stay, so that the stream goes on where it
    was. The score query begins anew and reads bronze from then on. If this dies
    half-way, run it again: it begins by deleting.

    Returns:
        rows by table.

    Raises:
        FraudError: there is no bronze, a stream runs, or a query failed.
    """
    read_table(spark, settings, score.BRONZE_TABLE)
    made = [*list(ingest.TABLES)[1:], score.TABLE]
    with exclusive(settings):
        for table in made:
            remove(spark, settings.table(table))
        remove(spark, settings.checkpoint(score.QUERY))
        _silver(spark, settings)
    score.begin_on_bronze(spark, settings)
    drain(spark, settings, bootstrap, names=(score.QUERY,))
    return {table: read_table(spark, settings, table).count() for table in made}


def _silver(spark: SparkSession, settings: Settings) -> None:
    lake = open_lake(spark, settings)
    for name, schema in ingest.TABLES.items():
        lake.create(name, schema)
    known = Known(lake)
    for records in _bronze_in_order(spark, settings):
        classified = known.classify(records)
        for table, rows in (
            ("silver/quarantine", ingest.refused(classified)),
            ("silver/transactions", ingest.accepted(classified)),
        ):
            if len(rows):
                lake.append(table, rows, None)
        known.add(classified)


def _bronze_in_order(spark: SparkSession, settings: Settings) -> Iterator[pa.Table]:
    """Bronze's records, parsed, in chunks of whole micro-batches, oldest first."""
    bronze = read_table(spark, settings, score.BRONZE_TABLE)
    sizes = bronze.groupBy("ingested_at").count().orderBy("ingested_at").collect()
    while sizes:
        taken, size = [], 0
        while sizes and (not taken or size + sizes[0]["count"] <= CHUNK):
            taken.append(sizes.pop(0))
            size += taken[-1]["count"]
        when = F.col("ingested_at")
        chunk = bronze.where(when.between(taken[0][0], taken[-1][0]))
        yield ingest.parse_records(chunk.drop("ingested_at")).toArrow()
