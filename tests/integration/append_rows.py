"""A Spark process that appends rows to a table."""

from __future__ import annotations

import sys

from pyspark.sql.functions import lit

from lib.settings import Settings
from lib.streaming.session import spark_session


def main(table: str, rows: int) -> None:
    spark = spark_session(Settings.from_env(), short_lived=True)
    frame = spark.range(rows).withColumn("writer", lit("spark")).coalesce(1)
    frame.write.format("delta").mode("append").save(table)
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
