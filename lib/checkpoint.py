"""What a streaming checkpoint holds, and who may use it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pyspark.sql import SparkSession

from lib.clients import TopicIdentity
from lib.config import Settings, local_path
from lib.errors import FraudError

_APPLICATION = "application_id"
_TOPIC = "topic"


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
        return bool(self._batches("offsets"))

    def newest_commit(self) -> int | None:
        """The newest micro-batch that is noted as done; None if none is."""
        return max(self._batches("commits"), default=None)

    def is_idle(self) -> bool:
        """Whether no micro-batch is planned that is not done."""
        return max(self._batches("offsets"), default=None) == self.newest_commit()

    def offsets(self, batch: int) -> dict[str, dict[int, int]]:
        """Where a planned micro-batch ends: topic → partition → offset behind it.

        Empty if the batch is not planned, or does not read Kafka.
        """
        # Spark's offset log: a version, the batch's metadata, then a line a source.
        text = self.recall(f"offsets/{batch}") or ""
        sources = (json.loads(x) for x in text.splitlines()[2:] if x != "-")
        return {
            topic: {int(part): end for part, end in ends.items()}
            for source in sources
            for topic, ends in source.items()
            if isinstance(ends, dict)
        }

    def planned(self) -> dict[str, dict[int, int]]:
        """Where the newest planned micro-batch ends, as `offsets`."""
        newest = max(self._batches("offsets"), default=None)
        return {} if newest is None else self.offsets(newest)

    def demand_whole(self) -> None:
        """Refuse a checkpoint whose newest files are cut or empty.

        Raises:
            FraudError: one is; the text names it.
        """
        newest = (sorted(self._batches(kind))[-2:] for kind in ("offsets", "commits"))
        for kind, batches in zip(("offsets", "commits"), newest, strict=True):
            for batch in batches:
                self._demand_log(f"{kind}/{batch}")
        if not self.has_offsets():
            return
        if not _is_json(self.recall("metadata")):
            self._refuse("metadata")
        if not self.known_application():
            self._refuse(_APPLICATION)

    def _demand_log(self, name: str) -> None:
        """A version, and then lines of JSON; an offset log has two at least."""
        version, *lines = (self.recall(name) or "").splitlines() or [""]
        enough = len(lines) >= (2 if name.startswith("offsets") else 1)
        whole = all(line == "-" or _is_json(line) for line in lines)  # "-": no offset
        if version[:1] != "v" or not enough or not whole:
            self._refuse(name)

    def _refuse(self, name: str) -> None:
        raise FraudError(
            f"{self.uri}/{name} is missing, empty or cut, so nobody knows where the "
            f"query was: put it back from a backup, or delete the folder {self.uri}; "
            "the tables stay, and the query goes on behind what they hold"
        )

    def claim(self, identity: TopicIdentity) -> bool:
        """Whether the checkpoint is known to be this topic's; the first start makes it
        so.

        A checkpoint holds offsets, and an offset means nothing in another log: records
        would be skipped in silence.

        Returns:
            False if the checkpoint said nothing about its topic until now: it is new,
            or of a time when that was not noted. Call `bind` when you know.

        Raises:
            FraudError: it belongs to another topic, or to another log of that name.
        """
        for name in self.planned().keys() - {identity.name}:
            self._refuse_topic(name, identity.name)
        text = self.recall(_TOPIC)
        if not _is_json(text):
            return False
        before = TopicIdentity(**json.loads(text))
        if before == identity:
            return True
        if before.name != identity.name:
            self._refuse_topic(before.name, identity.name)
        what = "is in another cluster now"
        if before.cluster == identity.cluster:
            what = "was deleted and made again"
        raise another_log(identity.name, what)

    def _refuse_topic(self, ours: str, other: str) -> None:
        raise FraudError(
            f"the checkpoint {self.uri} belongs to the topic {ours}, and FRAUD_TOPIC "
            f"is {other}: set it back, or give this topic a FRAUD_HOME (or FRAUD_LAKE "
            "and FRAUD_CHECKPOINTS) of its own"
        )

    def bind(self, identity: TopicIdentity) -> None:
        """Note that the checkpoint is this topic's."""
        self.remember(_TOPIC, json.dumps(asdict(identity)))

    def _batches(self, kind: str) -> list[int]:
        folder = self._path(f"{self.uri}/{kind}")
        if not self._fs.exists(folder):
            return []
        names = (status.getPath().getName() for status in self._fs.listStatus(folder))
        return [int(name) for name in names if name.isdigit()]

    def application_id(self, query: str) -> str:
        """The id under which the query's batches are numbered in the tables.

        Delta ignores a batch whose (application, batch number) it has seen. A new
        checkpoint counts from 0 again, so it must not go on under the old name: its
        batches would be ignored, silently. The id therefore lives *in* the
        checkpoint and is made anew unless batches were planned here.
        """
        known = self.known_application()
        if known is not None:
            return known
        if self.has_offsets():
            # Under a new id the tables would take the batch in flight once more.
            self._refuse(_APPLICATION)
        application = f"{query}-{uuid.uuid4().hex}"
        self.remember(_APPLICATION, application)
        return application

    def known_application(self) -> str | None:
        """The id under which batches were planned here; None before the first."""
        return (self.recall(_APPLICATION) or None) if self.has_offsets() else None

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


def another_log(topic: str, what: str) -> FraudError:
    """The refusal to go on behind a log that is not there any more."""
    return FraudError(
        f"the topic {topic} {what}: its records are not those that the lake was made "
        "of, and going on would skip some; bring the old log back, or give the new one "
        "a FRAUD_HOME (or FRAUD_LAKE and FRAUD_CHECKPOINTS) of its own"
    )


def _is_json(text: str | None) -> bool:
    try:
        return json.loads(text or "") is not None
    except ValueError:
        return False


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
