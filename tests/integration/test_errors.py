"""An error inside Spark reaches the reader with its own line."""

from __future__ import annotations

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from lib.streaming.session import cause_of


class Odd(Exception):
    """Its name ends like no error's."""


def refuse(*_arguments: object) -> None:
    raise Odd("the cause")


def test_an_error_in_a_worker(spark: SparkSession):
    def worker(batches):
        class Stranger(Exception):
            pass

        for batch in batches:
            raise Stranger("the cause")
            yield batch

    with pytest.raises(PySparkException) as caught:
        spark.range(1).mapInArrow(worker, "id long").collect()

    assert cause_of(caught.value).endswith("Stranger: the cause")


def test_an_error_in_a_batch(spark: SparkSession, tmp_path):
    (tmp_path / "in").mkdir()
    spark.range(1).write.mode("overwrite").parquet(str(tmp_path / "in"))
    stream = spark.readStream.schema("id long").parquet(str(tmp_path / "in"))
    query = (
        stream.writeStream.foreachBatch(refuse)
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    with pytest.raises(PySparkException):
        query.awaitTermination(60)

    assert cause_of(query.exception()).endswith("Odd: the cause")
