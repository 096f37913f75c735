"""Rebuild silver and scored from bronze, which holds every record as it came."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from lib.lake.hadoop import remove
from lib.lake.tables import BRONZE, MADE_OF_BRONZE, NEW, POSITION, spark_rows
from lib.lake.writer import SparkLake, open_lake
from lib.settings import Settings
from lib.streaming.checkpoint import exclusive, unfinished_rebuild
from lib.streaming.query import QUERY, shuffle_key
from lib.streaming.scoring import INPUT, JUDGED, judge, parse, settle
from lib.streaming.session import read_table

_RECORDS_A_TASK = 100_000


def rebuild(spark: SparkSession, settings: Settings) -> dict[str, int]:
    """Delete silver/transactions, silver/quarantine and silver/scored; make them anew.

    One batch job: all records of an account meet in one task, in the order in which
    they were taken in, and are judged as the stream judges them. The checkpoint goes,
    too: the next stream begins behind bronze, with what the detectors remember from
    silver/scored. If this dies half-way, no stream starts
    (`lib.streaming.checkpoint.unfinished_rebuild`): run it again.

    Returns:
        rows by table.

    Raises:
        FraudError: there is no bronze, or a stream runs.
    """
    lake = SparkLake(spark, settings)
    unfinished = unfinished_rebuild(spark, settings)
    with exclusive(settings):
        judged = judge_all(read_table(spark, settings, BRONZE))
        judged.persist(StorageLevel.DISK_ONLY)
        try:
            judged.count()  # all of it can be read: only now anything is deleted
            unfinished.set()
            remove(spark, settings.checkpoint(QUERY))
            stream = open_lake(spark, settings)
            for table in MADE_OF_BRONZE:
                remove(spark, settings.table(table))
                stream.create(table)  # with its properties: how long its log stays
            stamped = judged.withColumn("scored_at", F.current_timestamp())
            for table in MADE_OF_BRONZE:
                lake.append(table, spark_rows(stamped, table), None)
            _correct_status(spark, settings, judged)
            unfinished.unset()
        finally:
            judged.unpersist()
    return {
        table: read_table(spark, settings, table).count() for table in MADE_OF_BRONZE
    }


def judge_all(bronze: DataFrame) -> DataFrame:
    """Bronze's records with what becomes of each: JUDGED's columns and ``topic``."""
    tasks = max(1, bronze.count() // _RECORDS_A_TASK)
    schema = pa.schema([*JUDGED, ("topic", pa.string())])
    columns = [*INPUT.names, "batch", "topic"]
    together = bronze.select(*columns).repartition(tasks, "topic", shuffle_key())
    return together.mapInArrow(_judge_task, from_arrow_schema(schema))


def _judge_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    parts = list(batches)
    if not parts:
        return
    records = pa.Table.from_batches(parts)
    for topic in pc.unique(records["topic"]).to_pylist():
        mine = records.filter(pc.equal(records["topic"], topic)).drop_columns("topic")
        judged = judge(parse(mine), {}, None).records
        new = judged.filter(pc.equal(judged["status"], NEW))
        judged = settle(judged, lambda _accounts, new=new: iter([new]))
        names = pa.repeat(pa.scalar(topic), len(judged))
        yield from judged.append_column("topic", names).to_batches()


def _correct_status(spark: SparkSession, settings: Settings, judged: DataFrame) -> None:
    """Bronze's ``status`` where a new version of the rules says something else."""
    from delta import DeltaTable

    table = DeltaTable.forPath(spark, settings.table(BRONZE))
    stored = table.toDF().select(*POSITION, F.col("status").alias("was"))
    changed = (
        judged.select(*POSITION, "status")
        .join(stored, list(POSITION))
        .where(~F.col("was").eqNullSafe(F.col("status")))
        .drop("was")
    )
    if changed.isEmpty():
        return
    same = " AND ".join(f"old.{c} = new.{c}" for c in POSITION)
    merging = table.alias("old").merge(changed.alias("new"), same)
    merging.whenMatchedUpdate(set={"status": "new.status"}).execute()
