"""What a streaming checkpoint holds, and who may use it."""

from __future__ import annotations

import fcntl
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark.sql import SparkSession

from lib.config import Settings, local_path
from lib.errors import FraudError

_APPLICATION = "application_id"


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
        """Delete a batch's plan, which nothing has been done of."""
        self._fs.delete(self._path(f"{self.uri}/offsets/{batch}"), False)

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
