"""What a streaming checkpoint holds, and who may use it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.kafka.clients import TopicIdentity
from lib.lake.hadoop import file_system
from lib.settings import Settings, local_path

_APPLICATION = "application_id"
_STATE_FILE = re.compile(r"(\d+)(?:_[\w-]+)?\.(?:changelog|zip|delta|snapshot)")
_SPARKS = ("metadata", "sources", "offsets", "commits", "state")
_TOPIC = "topic"
_BEGIN = "starting_offsets"


class Checkpoint:
    """A query's checkpoint folder, on any file system that Spark can reach.

    Attributes:
        uri: its URI or path.
    """

    def __init__(self, spark: SparkSession, uri: str) -> None:
        self.uri = uri
        self._path, self._fs = file_system(spark, uri)
        self._io = spark.sparkContext._jvm.org.apache.commons.io.IOUtils

    def has_offsets(self) -> bool:
        """Whether a micro-batch was ever planned here."""
        return self.newest("offsets") is not None

    def has_commits(self) -> bool:
        """Whether a micro-batch was ever completed here."""
        return self.newest("commits") is not None

    def newest(self, name: str) -> int | None:
        """The newest batch in ``offsets`` (planned) or ``commits`` (completed)."""
        return max(self._batches(name), default=None)

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

    def is_idle(self) -> bool:
        """Whether no micro-batch is planned that is not done."""
        return self.newest("offsets") == self.newest("commits")

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

    def begin(self, offsets: str) -> None:
        """Note where the first batch begins: ``startingOffsets`` of Spark's source."""
        self.remember(_BEGIN, offsets)

    def began(self) -> dict[str, dict[int, int]]:
        """Where the first batch began, as `offsets`; empty for a topic's beginning."""
        text = self.recall(_BEGIN)
        if not _is_json(text):
            return {}
        return {
            topic: {int(part): offset for part, offset in begins.items() if offset >= 0}
            for topic, begins in json.loads(text).items()
        }

    def planned(self) -> dict[str, dict[int, int]]:
        """Where the newest planned micro-batch ends, as `offsets`."""
        newest = self.newest("offsets")
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


class Mark:
    """A file whose being there says something, on any file system Spark can reach."""

    def __init__(self, spark: SparkSession, uri: str) -> None:
        path, self._fs = file_system(spark, uri)
        self._path = path(uri)

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
                f"a `stream` or `rebuild` already runs on {settings.checkpoints}: stop "
                "it, or give this one its own FRAUD_HOME"
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
