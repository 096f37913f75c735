"""Whether a Delta table lies whole in its folder, before anybody reads or writes it.

A table whose log is gone, or has lost its end, looks like an empty or a shorter table:
what is written behind that is lost data that nobody misses.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.lake.hadoop import file_system
from lib.lake.tables import MADE_OF_BRONZE
from lib.settings import local_path

LOG = "_delta_log"
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*(parquet|json)")
_LAST = "_last_checkpoint"


@dataclass(frozen=True)
class Entry:
    """A file or folder: its name and its size in bytes."""

    name: str
    size: int


def demand_whole(uri: str, spark: SparkSession | None = None) -> bool:
    """Whether a Delta table lies at the URI; refuse what is left of one.

    Args:
        uri: the table's path or URI.
        spark: the session, needed for what is no local path.

    Raises:
        FraudError: data files without a log, or a log with a commit that is missing,
            empty or cut; the text names the file.
    """
    folder = Folder(uri, spark)
    data = [entry for entry in folder.list() if entry.name[0] not in "_."]
    log = folder.list(LOG)
    commits = {int(m[1]): e for e in log if (m := _COMMIT.fullmatch(e.name))}
    checkpoints = [(int(m[1]), e) for e in log if (m := _CHECKPOINT.fullmatch(e.name))]
    if not commits and not checkpoints:
        if any(folder.has_rows(entry.name) for entry in data):
            raise damaged(
                f"{uri}/{LOG}", "has no commit, and there are data files", uri
            )
        return False
    promised = newest_checkpoint(folder)
    if promised > max((version for version, _ in checkpoints), default=-1):
        # Asked again, because it may have been made since.
        names = [entry.name for entry in folder.list(LOG)]
        if not any(name.startswith(f"{promised:020d}.checkpoint.") for name in names):
            name = f"{uri}/{LOG}/{promised:020d}.checkpoint.parquet"
            raise damaged(name, "is missing, and the log's end with it", uri)
    newest, checkpoint = max(checkpoints, key=lambda c: c[0], default=(-1, None))
    if checkpoint is not None and not checkpoint.size:
        raise damaged(f"{uri}/{LOG}/{checkpoint.name}", "is empty", uri)
    last = max(commits, default=newest)
    for version in range(newest + 1, last + 1):
        name = f"{LOG}/{version:020d}.json"
        # Asked again, because a list made during a commit may lack it.
        size = commits[version].size if version in commits else folder.size(name)
        if not size:
            what = "is missing" if size is None else "is empty"
            raise damaged(f"{uri}/{name}", what, uri)
    if last > newest and not _is_commit(folder.read(name)):
        raise damaged(f"{uri}/{name}", "is cut", uri)
    return True


def damaged(file: str, what: str, uri: str) -> FraudError:
    """The error that names a damaged file of the table at the URI, and the remedy."""
    remedy = "put it back from a backup"
    if uri.rstrip("/").endswith(MADE_OF_BRONZE):
        remedy += ", or make silver anew from bronze with `python -m lib rebuild`"
    if "/gold/" in uri:
        remedy = "make the marts anew with `python -m lib marts --full-refresh`"
    return FraudError(f"{file} {what}: {remedy}; nothing was written")


def newest_checkpoint(folder: Folder) -> int:
    """The version of the newest checkpoint that a table's log says it has; -1 for
    none."""
    if not folder.size(f"{LOG}/{_LAST}"):
        return -1
    try:
        return int(json.loads(folder.read(f"{LOG}/{_LAST}"))["version"])
    except (ValueError, KeyError, TypeError):
        return -1  # a hint only: readers then look for themselves


class Folder:
    """A table's folder, on a local disk or wherever Spark can reach."""

    def __init__(self, uri: str, spark: SparkSession | None = None) -> None:
        self._uri, self._local = uri, local_path(uri)
        if self._local is None:
            self._path, self._fs = file_system(spark, uri)
            self._io = spark.sparkContext._jvm.org.apache.commons.io.IOUtils
        self._spark = spark

    def list(self, below: str = "") -> Iterable[Entry]:
        """What lies in the folder, or in one below it; nothing if there is none."""
        if self._local is not None:
            try:
                names = os.listdir(self._local / below)
            except (FileNotFoundError, NotADirectoryError):
                return []
            sized = ((name, self.size(f"{below}/{name}".strip("/"))) for name in names)
            return [Entry(*entry) for entry in sized if entry[1] is not None]
        place = self._path(f"{self._uri}/{below}".rstrip("/"))
        if not self._fs.exists(place):
            return []
        return [
            Entry(status.getPath().getName(), status.getLen())
            for status in self._fs.listStatus(place)
        ]

    def size(self, name: str) -> int | None:
        """A file's size in bytes; None if there is none."""
        if self._local is not None:
            try:
                return (self._local / name).stat().st_size
            except FileNotFoundError:
                return None
        place = self._path(f"{self._uri}/{name}")
        if not self._fs.exists(place):
            return None
        return self._fs.getFileStatus(place).getLen()

    def read(self, name: str) -> bytes:
        """A file's content."""
        if self._local is not None:
            return (self._local / name).read_bytes()
        stream = self._fs.open(self._path(f"{self._uri}/{name}"))
        try:
            return bytes(self._io.toByteArray(stream))
        finally:
            stream.close()

    def has_rows(self, name: str) -> bool:
        """Whether a Parquet file holds rows; one that can't be read may hold some.

        A creation that died half-way leaves a file without any.
        """
        try:
            return pq.read_metadata(pa.BufferReader(self.read(name))).num_rows > 0
        except (pa.ArrowException, OSError):
            return True


def _is_commit(text: bytes) -> bool:
    try:
        return all(isinstance(json.loads(line), dict) for line in text.splitlines())
    except ValueError:
        return False
