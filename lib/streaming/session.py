"""The Spark session, and what its errors and its streams look like to a reader."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from py4j.protocol import Py4JError
from pyspark import java_gateway
from pyspark.core import context
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from lib.errors import FraudError
from lib.lake.delta_log import damaged, demand_whole
from lib.settings import Settings, local_path
from lib.setup.class_cache import options
from lib.setup.jars import class_path
from lib.setup.java import JAVA_VARIABLES, Java, find_java, java_env, log_options
from lib.system.environment import (
    LOOPBACK_MASTERS,
    demand_open_files,
    jvm_locale,
    leave_out,
    on_this_machine,
    spark_home,
)
from lib.system.temporary import attribute, environment

SHUFFLE_PARTITIONS = 4
"""Tasks of a shuffle, and so the number of state stores of a stateful query, where
FRAUD_STATE_PARTITIONS gives none; on one machine not more than it has cores. Each costs
a small batch some 20 ms, and a drain wants one a core. A checkpoint keeps the number it
was made with."""

INTERPRETED = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
"""Properties that have plans interpreted: for some thousand rows, to compile them takes
longer than to run them."""

FEW_ROWS = {
    **INTERPRETED,
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
}
"""Properties for queries whose cost is that of their plans."""

_S3 = "s3a://"
_S3_PROPERTIES = {
    # One process writes a table, and its lock keeps commits apart: see docs/scaling.md
    # for what several writers need.
    "spark.delta.logStore.s3a.impl": "io.delta.storage.S3SingleDriverLogStore",
    # The plain stream: the others need libraries that are not in the lock.
    "spark.hadoop.fs.s3a.input.stream.type": "classic",
}
LONGEST_SOCKET = 103
"""Bytes of the path of a Unix socket, on any system."""

_STREAMING = "org.apache.spark.sql.execution.streaming"


_SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"
"""JVM options for a session of a few minutes: the optimising compiler would spend a
third of the CPU on code that is about to end. Without it the JVM would also make do
with 48 MB of code, which the plans of the marts fill: it then compiles no more."""
_LAST_WORDS_SECONDS = 2
"""How long a JVM whose sockets are closed may take to end."""

_STACK = "-Xss4m"
"""For Spark's own threads: a query that is stopped in mid-batch matches the whole text
of Python's error with an expression that takes a stack frame a character."""
_COLLECTOR = "-XX:+UseParallelGC"
"""For such a session, too: the default collector, G1, is told of each reference that is
written, which costs code that is not optimised a tenth of its time."""


def spark_session(
    settings: Settings,
    conf: Mapping[str, str] | None = None,
    *,
    short_lived: bool = False,
) -> SparkSession:
    """The process's Spark session with Kafka and Delta on board.

    Args:
        settings: master, home and lake.
        conf: further Spark properties, e.g. ``{"spark.sql.shuffle.partitions": "1"}``.
        short_lived: start sooner, at the price of a lower peak throughput.

    Raises:
        FraudError: no Java, jars missing, or the JVM does not start.
    """
    leave_out(on_this_machine(settings))
    if SparkSession.getActiveSession() is None:
        log = settings.log_dir / "spark-jvm.log"
        demand_open_files()
        java = find_java()
        variables = java_env(java, log) | _variables(settings)
        already = log.stat().st_size if log.exists() else 0
        builder = SparkSession.builder.appName("fraud-signals")
        properties = {**_properties(settings, java), **(conf or {})}
        if short_lived:
            properties["spark.driver.extraJavaOptions"] += f" {short_lived_options()}"
        for key, value in properties.items():
            builder = builder.config(key, value)
        # Only while the JVM starts: a process started later must find its own Java.
        with environment(variables), _pushed_home(settings):
            try:
                spark = builder.getOrCreate()
            except (PySparkException, OSError) as error:
                why = _why(log, already, error)
                raise FraudError(f"Spark does not start: {why}") from error
        # The thread that takes accumulators would print a traceback, beside the one
        # line that says so, when the JVM dies.
        spark.sparkContext._accumulatorServer.handle_error = lambda *_: None
        return spark
    spark = SparkSession.getActiveSession()
    for key, value in (conf or {}).items():
        spark.conf.set(key, value)
    return spark


@contextmanager
def handed_over(started: Callable[[subprocess.Popen], None]) -> Iterator[None]:
    """Sessions that are started in the block leave Ctrl-C to their owner.

    PySpark would take the signal for itself, and keep the JVM's process to itself
    until the JVM answers, some seconds after it has started. The process leads a group
    of its own here: what is sent to ours does not reach it, and whoever ends the group
    ends the scripts that start the JVM, too.

    Args:
        started: called with the process, as soon as there is one.
    """

    class Announced(subprocess.Popen):
        def __init__(self, *arguments, **options) -> None:
            super().__init__(*arguments, **options, start_new_session=True)
            started(self)

    deaf = SimpleNamespace(signal=lambda *_: None, SIGINT=signal.SIGINT)
    with (
        attribute(java_gateway, "Popen", Announced),
        attribute(context, "signal", deaf),
    ):
        yield


def short_lived_options() -> str:
    """JVM options for a session of a few minutes.

    Whoever has chosen a collector in the environment keeps it: a JVM that is told of
    two does not start.
    """
    given = " ".join(os.environ.get(name, "") for name in JAVA_VARIABLES)
    if re.search(r"-XX:\+Use\w+GC\b", given):
        return _SHORT_LIVED
    return f"{_SHORT_LIVED} {_COLLECTOR}"


def _variables(settings: Settings) -> dict[str, str]:
    """Variables for the session's JVM, beside those of `lib.setup.java`."""
    variables = {
        "SPARK_HOME": str(spark_home()),
        "PYSPARK_PYTHON": sys.executable,
        # What spark.local.dir is for, which takes a comma for the end of a folder.
        "SPARK_EXECUTOR_DIRS": str(_scratch(settings)),
        # RocksDB allocates in every thread of the JVM, and glibc keeps for each core
        # eight arenas of what was freed: over 5 million events the JVM came to hold
        # 1,340 MB beside its heap, and 860 with two arenas.
        "MALLOC_ARENA_MAX": "2",
        **jvm_locale(),
    }
    if settings.master.startswith(LOOPBACK_MASTERS):
        # Else Spark asks what address the machine's name has, which may have none.
        variables["SPARK_LOCAL_IP"] = "127.0.0.1"
    return variables


def _scratch(settings: Settings) -> Path:
    """Folder of the session's temporary files."""
    scratch = settings.home / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def sockets_fit(folder: Path) -> bool:
    """Whether Unix sockets of Spark's, ``.UUID.sock``, may lie in the folder.

    Their whole path has 103 bytes at most on macOS, and 107 on Linux.
    """
    return len(os.fsencode(folder / f".{uuid.UUID(int=0)}.sock")) <= LONGEST_SOCKET


def java_options(*words: str) -> str:
    """JVM options as Spark's properties want them: in quotes, for any character."""
    return " ".join(
        '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words
    )


def _properties(settings: Settings, java: Java) -> dict[str, str]:
    scratch = _scratch(settings)
    properties = {
        "spark.master": settings.master,
        "spark.driver.memory": "2g",
        "spark.driver.extraClassPath": _class_path(settings),
        "spark.driver.extraJavaOptions": java_options(
            *log_options(settings.log_dir / "spark.log"),
            f"-Djava.io.tmpdir={scratch}",
            f"-Dderby.system.home={scratch}",
            _STACK,
            *_archive(settings, java),
        ),
        "spark.sql.warehouse.dir": str(settings.home / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(_partitions(settings)),
        # Micro-batches are small: re-planning them costs more than it wins.
        "spark.sql.adaptive.enabled": "false",
        "spark.scheduler.mode": "FAIR",
        **_daemon(),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": (
            "org.apache.spark.sql.delta.catalog.DeltaCatalog"
        ),
        # A micro-batch's commit reads the table's state: one partition, not 50.
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.databricks.delta.properties.defaults.checkpointInterval": "100",
        "spark.sql.streaming.numRecentProgressUpdates": "5000",
        # A batch reads and writes the accounts that it touches and no others, and its
        # checkpoint is what changed, not all there is.
        "spark.sql.streaming.stateStore.providerClass": (
            f"{_STREAMING}.state.RocksDBStateStoreProvider"
        ),
        "spark.sql.streaming.stateStore.rocksdb.changelogCheckpointing.enabled": "true",
        # Without it each exchange with a Python worker waits for TCP's timers.
        "spark.python.unix.domain.socket.enabled": str(sockets_fit(scratch)).lower(),
        # Delta's readers without Spark want no INT96.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    }
    if settings.master.startswith(LOOPBACK_MASTERS):
        properties |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }
    if not settings.master.startswith("local"):
        properties |= _executor_properties(settings, java)
    if local_path(settings.lake) is not None:
        # No fork of `readlink` or `chmod` per file operation.
        properties["spark.hadoop.fs.file.impl"] = (
            "com.globalmentor.apache.hadoop.fs.BareLocalFileSystem"
        )
    manager = "spark.sql.streaming.checkpointFileManagerClass"
    if local_path(settings.checkpoints) is not None:
        properties[manager] = (
            f"{_STREAMING}.checkpointing.FileSystemBasedCheckpointFileManager"
        )
    if settings.checkpoints.startswith(_S3):
        # A rename in an object store is a copy and a deletion, and a crash between
        # them leaves half of it. This one's upload is there when it is complete.
        properties[manager] = (
            "org.apache.spark.internal.io.cloud"
            ".AbortableStreamBasedCheckpointFileManager"
        )
    if on_object_store(settings):
        properties |= _S3_PROPERTIES
    return properties


def _partitions(settings: Settings) -> int:
    if settings.state_partitions:
        return settings.state_partitions
    if not settings.master.startswith("local"):
        return SHUFFLE_PARTITIONS
    return min(SHUFFLE_PARTITIONS, os.cpu_count() or 1)


def _daemon() -> dict[str, str]:
    """Workers forked from a process that has imported what they need
    (`lib.streaming.worker_preload`).

    Not on macOS, whose frameworks refuse to run in a fork once they were loaded.
    """
    if sys.platform != "linux":
        return {}
    return {"spark.python.daemon.module": "lib.streaming.worker_preload"}


def on_object_store(settings: Settings) -> bool:
    """Whether the lake or the checkpoints lie in an S3-compatible store."""
    return settings.lake.startswith(_S3) or settings.checkpoints.startswith(_S3)


def _class_path(settings: Settings) -> str:
    uses = ["spark", "s3"] if on_object_store(settings) else ["spark"]
    return os.pathsep.join(map(class_path, uses))


def _archive(settings: Settings, java: Java) -> list[str]:
    """Options for the archive of the classes, which fits one class path."""
    return [] if on_object_store(settings) else options(java, "spark")


def _executor_properties(settings: Settings, java: Java) -> dict[str, str]:
    """For executors in processes of their own, on machines with the same install."""
    return {
        "spark.executor.extraClassPath": _class_path(settings),
        "spark.executor.memory": "512m",
        "spark.executor.cores": "1",
        "spark.executor.extraJavaOptions": java_options(
            *log_options(settings.log_dir / "spark-executor.log"),
            *_archive(settings, java),
        ),
        # A micro-batch comes to the driver, which commits it; a whole table must
        # not: collecting one fails here, before the table is large.
        "spark.driver.maxResultSize": "512m",
    }


@contextmanager
def _pushed_home(settings: Settings) -> Iterator[None]:
    """Temporary files of the Python side of Spark go below the home, too."""
    before = tempfile.tempdir
    tempfile.tempdir = str(settings.home / "tmp")
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def properties(spark: SparkSession, conf: Mapping[str, str]) -> Iterator[None]:
    """The session with other properties; running streams keep those they began with."""
    before = {key: spark.conf.get(key) for key in conf}
    for key, value in conf.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.set(key, value)


def read_table(spark: SparkSession, settings: Settings, name: str) -> DataFrame:
    """One table of the lake, e.g. ``"silver/transactions"``.

    Raises:
        FraudError: there is no such table yet, or it is damaged.
    """
    if not demand_whole(settings.table(name), spark):
        raise FraudError(
            f"there is no table {name} in {settings.lake} yet: run "
            "`python -m lib stream --drain` first"
        )
    return spark.read.format("delta").load(settings.table(name))


def table_exists(spark: SparkSession, uri: str) -> bool:
    """Whether a Delta table lies at the URI."""
    from delta import DeltaTable

    return DeltaTable.isDeltaTable(spark, uri)


def table_version(spark: SparkSession, uri: str) -> int:
    """The newest version of the Delta table at the URI."""
    from delta import DeltaTable

    return DeltaTable.forPath(spark, uri).history(1).select("version").first()[0]


_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+(\S.*)")
"""A Python traceback in Spark's text: its last line, whatever name the error has."""


def cause_of(error: BaseException) -> str:
    """The innermost cause of a Spark error in one line, for a person.

    Spark wraps the thing that went wrong in a stack of its own exceptions; the last
    ``Caused by`` that carries a text is what the reader needs.
    """
    text = str(getattr(error, "desc", None) or error)
    causes = re.findall(r"^Caused by: ([^\n]+)", text, re.MULTILINE)
    python = _TRACEBACK.findall(text)
    # Py4J's own says only that Java failed.
    python = [line for line in python if not line.startswith("py4j.")]
    first = text.strip().splitlines()[:1] or [repr(error)]
    line = (python or causes or first)[-1]
    if "No space left on device" in text:
        return "no space left on the disk: free some, then run the command again"
    unread = re.search(r"FAILED_READ_FILE.*?file (?:file:)?/*(/\S+\.parquet)", text)
    if unread:
        file = unread[1]
        return str(damaged(file, "can't be read", file.rpartition("/")[0]))
    if "PARTITIONS_DELETED" in text or "PARTITION_OFFSET_CHANGED" in text:
        return (
            "the topic has lost partitions, or its log ends before what was read: it "
            "was deleted and made again, or cut back; nothing is skipped in silence: "
            "bring the old log back, or give the new one a FRAUD_HOME of its own"
        )
    if "OffsetOutOfRangeException" in text or "Some data may have been lost" in text:
        return (
            "Kafka has dropped records that were not read yet, and nothing is skipped "
            "in silence: give the topic a retention longer than the longest stop"
        )
    return line.strip()[:400]


def jvm_has_died(spark: SparkSession, error: BaseException) -> bool:
    """Whether the session's JVM is gone, which may be what the error is about."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    if not any(isinstance(each, (OSError, Py4JError)) for each in chain):
        return False
    try:
        spark.sparkContext._gateway.proc.wait(_LAST_WORDS_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True


def _why(log: Path, already: int, error: Exception) -> str:
    """Why there is no session: what the JVM wrote to the log behind its first
    ``already`` bytes, if it ended; else what it answered, or why there was none."""
    said = log.read_bytes()[already:] if log.exists() else b""
    lines = [x for x in said.decode(errors="replace").splitlines() if x.strip()]
    if not lines or "JAVA_GATEWAY_EXITED" not in str(error):
        return cause_of(error)
    telling = [x for x in lines[-50:] if "rror" in x or "xception" in x]
    return f"{(telling or lines)[-1][:300]} (see {log})"
