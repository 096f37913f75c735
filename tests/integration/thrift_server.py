"""A Thrift server in front of a Spark session, for tools that speak JDBC.

It is the one in PySpark's own jars, in the session's JVM, over the session's catalog:
what is registered there is what a client sees. dbt's target ``thrift`` reaches it, and
so would a Spark cluster's server by its own address.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.settings import Settings
from lib.system.loopback import free_ports

HOST = "127.0.0.1"
CONNECT_SECONDS = 90


@contextmanager
def thrift_server(spark: SparkSession, settings: Settings) -> Iterator[int]:
    """Serve the session's catalog on loopback; yields the port.

    No password is asked for: whoever is on this machine may query, as with the session.

    Raises:
        FraudError: the server does not start, or does not answer.
    """
    (port,) = free_ports(1)
    scratch = settings.home / "tmp" / "hive"
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    for key, value in {
        "hive.server2.thrift.bind.host": HOST,
        "hive.server2.thrift.port": str(port),
        "hive.server2.logging.operation.enabled": "false",
        "hive.exec.scratchdir": str(scratch),
        "hive.exec.local.scratchdir": str(scratch),
        # A session looks for a metastore when it ends, and there is none: by default
        # ten times, two seconds apart, while the client waits.
        "hive.hmshandler.retry.attempts": "0",
    }.items():
        conf.set(key, value)
    servers = spark._jvm.org.apache.spark.sql.hive.thriftserver.HiveThriftServer2
    try:
        server = servers.startWithContext(spark._jsparkSession.sqlContext())
    except PySparkException as error:
        raise FraudError(f"the Thrift server does not start: {error}") from error
    try:
        _wait_for(port)
        yield port
    finally:
        server.stop()


def _wait_for(port: int) -> None:
    try:
        socket.create_connection((HOST, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise FraudError(
            f"the Thrift server does not answer at {port}: {error}"
        ) from error
