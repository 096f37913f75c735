"""Hadoop's file systems, through Spark's JVM: files wherever Spark can reach."""

from __future__ import annotations

from py4j.java_gateway import JavaClass, JavaObject
from pyspark.sql import SparkSession


def file_system(spark: SparkSession, uri: str) -> tuple[JavaClass, JavaObject]:
    """Hadoop's class ``Path``, and the file system that the URI is of."""
    path = spark.sparkContext._jvm.org.apache.hadoop.fs.Path
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    return path, path(uri).getFileSystem(conf)


def remove(spark: SparkSession, uri: str) -> None:
    """Delete a folder with all that is in it; none is fine."""
    path, files = file_system(spark, uri)
    files.delete(path(uri), True)
