"""What a streaming checkpoint holds, and who may use it."""

from __future__ import annotations

import fcntl
import hashlib
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

from lib.config import Settings, local_path
from lib.errors import FraudError

_APPLICATION = "application_id"
_STATE_FILE = re.compile(r"(\d+)(?:_[\w-]+)?\.(?:changelog|zip|delta|snapshot)")
_SPARKS = ("metadata", "sources", "offsets", "commits", "state")


class Checkpoint:
    """A query's checkpoint folder, on any file system that Spark can reach.

    Attributes:
        uri: its URI or path.
    """

    def __init__(self, spark: SparkSession, uri: str) -> None:
        self.uri = uri
        jvm = spark.sparkContext._jvm
        self._path = jvm.org.apache.hadoop.fs.Path
        conf = spark.sparkContext._jsc.hadoopConfiguration()
        self._fs = self._path(uri).getFileSystem(conf)
        self._io = jvm.org.apache.commons.io.IOUtils

    def has_offsets(self) -> bool:
        """Whether a micro-batch was ever planned here."""
        return self.newest("offsets") is not None

    def has_commits(self) -> bool:
        """Whether a micro-batch was ever completed here."""
        return self.newest("commits") is not None

    def newest(self, name: str) -> int | None:
        """The newest batch in ``offsets`` (planned) or ``commits`` (completed)."""
        folder = self._path(f"{self.uri}/{name}")
        if not self._fs.exists(folder):
            return None
        names = (status.getPath().getName() for status in self._fs.listStatus(folder))
        return max((int(name) for name in names if name.isdigit()), default=None)

    def drop_plan(self, batch: int) -> None:
        """Delete a batch's plan, of which nothing has reached the tables.

        The state that it left goes first: the next plan has other records, and a
        snapshot of the old one under its version would be taken for what they made.
        """
        folder = self._path(f"{self.uri}/state")
        files = self._fs.listFiles(folder, True) if self._fs.exists(folder) else None
        while files is not None and files.hasNext():
            path = files.next().getPath()
            found = _STATE_FILE.fullmatch(path.getName())
            if found and int(found.group(1)) > batch:  # batch N makes version N + 1
                self._fs.delete(path, False)
        self._fs.delete(self._path(f"{self.uri}/offsets/{batch}"), False)

    def clear(self) -> None:
        """Delete what Spark keeps here, as if no query had ever run.

        Without a planned batch the rest is what a broken deletion has left behind: the
        next life would meet commits and state of the last one under its own numbers.
        """
        for name in _SPARKS:
            self._fs.delete(self._path(f"{self.uri}/{name}"), True)

    def application_id(self, query: str) -> str:
        """The id under which the query's batches are numbered in the tables.

        Delta ignores a batch whose (application, batch number) it has seen. A new
        checkpoint counts from 0 again, so it must not go on under the old name: its
        batches would be ignored, silently. The id therefore lives *in* the
        checkpoint and is made anew unless batches were planned here.
        """
        known = self.recall(_APPLICATION)
        if known is not None and self.has_offsets():
            return known
        application = f"{query}-{uuid.uuid4().hex}"
        self.remember(_APPLICATION, application)
        return application

    def remember(self, name: str, text: str) -> None:
        """Keep a text in the checkpoint under a name, in place of an earlier one."""
        out = self._fs.create(self._path(f"{self.uri}/{name}"), True)
        try:
            out.write(text.encode())
        finally:
            out.close()

    def recall(self, name: str) -> str | None:
        """The text kept under the name; None if there is none."""
        file = self._path(f"{self.uri}/{name}")
        if not self._fs.exists(file):
            return None
        stream = self._fs.open(file)
        try:
            return bytes(self._io.toByteArray(stream)).decode()
        finally:
            stream.close()


class Mark:
    """A file whose being there says something, on any file system Spark can reach."""

    def __init__(self, spark: SparkSession, uri: str) -> None:
        self._path = spark.sparkContext._jvm.org.apache.hadoop.fs.Path(uri)
        conf = spark.sparkContext._jsc.hadoopConfiguration()
        self._fs = self._path.getFileSystem(conf)

    def set(self) -> None:
        """Put it there; nothing if it is there."""
        self._fs.create(self._path, True).close()

    def unset(self) -> None:
        """Take it away; nothing if it is not there."""
        self._fs.delete(self._path, False)

    def is_set(self) -> bool:
        """Whether it is there."""
        return self._fs.exists(self._path)


def unfinished_rebuild(spark: SparkSession, settings: Settings) -> Mark:
    """Set while a rebuild is under way: silver and the checkpoint are not whole.

    To delete a folder or to write three tables is no single step. Without the mark a
    crash between would leave what a stream takes for the truth: a checkpoint that has
    forgotten its newest batch, a table that is empty.
    """
    return Mark(spark, f"{settings.lake}/rebuild_unfinished")


def remove(spark: SparkSession, uri: str) -> None:
    """Delete a folder, on any file system that Spark can reach; none is fine."""
    path = spark.sparkContext._jvm.org.apache.hadoop.fs.Path(uri)
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    path.getFileSystem(conf).delete(path, True)


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Hold the checkpoints for this process: two copies of one query would fight.

    The lock is a file lock, so it goes with the process, also after kill -9. It
    guards against a second command on this machine; across machines Spark itself
    refuses the second writer of an offset file.

    Raises:
        FraudError: another process holds it.
    """
    folder = local_path(settings.checkpoints)
    if folder is None:
        name = hashlib.sha256(settings.checkpoints.encode()).hexdigest()[:16]
        folder = settings.home / "locks" / name
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FraudError(
                f"another `stream` already runs on {settings.checkpoints}: stop it, "
                "or give this one its own FRAUD_HOME"
            ) from None
        yield


def _lock_file(folder: Path):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("a")
    except OSError as error:
        raise FraudError(
            f"can't write in {folder} ({error.strerror}): set FRAUD_CHECKPOINTS or "
            "FRAUD_HOME to a folder with space that you may write"
        ) from error
