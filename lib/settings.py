"""Settings: the only place that reads the environment."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from lib.errors import FraudError

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root: fixtures, locked jars and the default home live below it."""

DASHBOARD_PORT = 8501
"""Where the operator's page is, if nobody asks for another port."""


_IMPOSSIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\\[\]^|%:\"`]|\$\{")
"""See `trouble_with`."""

_MOST = 10_000
"""State partitions: far more than any cluster has cores."""

_LONGEST = 255
"""Bytes of a file's name, on all file systems in use."""


@dataclass(frozen=True)
class Settings:
    """Where a run reads and writes. Only values differ between laptop and cluster.

    Attributes:
        home: folder for everything a run writes (FRAUD_HOME).
        kafka: bootstrap servers; empty means the embedded broker (FRAUD_KAFKA).
        kafka_properties: Kafka client properties file or None
            (FRAUD_KAFKA_PROPERTIES).
        topic: the Kafka topic (FRAUD_TOPIC).
        lake: URI or path of the Delta lake (FRAUD_LAKE).
        checkpoints: URI or path of the streaming checkpoints (FRAUD_CHECKPOINTS).
        master: Spark master (FRAUD_SPARK_MASTER).
        state_partitions: tasks that parse and score, each with its part of the state
            (FRAUD_STATE_PARTITIONS); None for as many as this machine has cores, four
            at most. A checkpoint keeps the number that it was made with.
    """

    home: Path
    kafka: str
    kafka_properties: Path | None
    topic: str
    lake: str
    checkpoints: str
    master: str
    state_partitions: int | None = None

    @classmethod
    def from_env(
        cls, env: Mapping[str, str] | None = None, *, check: bool = True
    ) -> Settings:
        """Read the FRAUD_* variables; an empty variable counts as unset.

        Args:
            env: the variables; by default this process's.
            check: False for settings that may not do, see `check`.

        Raises:
            FraudError: the settings can't be used.
        """
        env = os.environ if env is None else env
        home = Path(env.get("FRAUD_HOME") or ROOT / ".data").expanduser().absolute()
        properties = env.get("FRAUD_KAFKA_PROPERTIES") or None
        settings = cls(
            home=home,
            kafka=env.get("FRAUD_KAFKA", "").strip(),
            kafka_properties=Path(properties).absolute() if properties else None,
            topic=env.get("FRAUD_TOPIC") or "tx-events",
            lake=_location(env.get("FRAUD_LAKE"), home / "lake"),
            checkpoints=_location(env.get("FRAUD_CHECKPOINTS"), home / "checkpoints"),
            master=env.get("FRAUD_SPARK_MASTER") or "local[*]",
            state_partitions=_tasks(env.get("FRAUD_STATE_PARTITIONS")),
        )
        if check:
            settings.check()
        return settings

    def check(self) -> None:
        """See that the folders have names that every program on the way can use.

        Raises:
            FraudError: a folder has not, or FRAUD_KAFKA_PROPERTIES names no file that
                can be read.
        """
        folders = {
            "FRAUD_HOME": str(self.home),
            "FRAUD_LAKE": self.lake,
            "FRAUD_CHECKPOINTS": self.checkpoints,
        }
        for variable, folder in folders.items():
            path = local_path(folder)
            if path is not None and (trouble := trouble_with(path)):
                raise FraudError(
                    f"the folder {shown(path)} has {trouble}: set {variable} to a "
                    "folder without"
                )
        properties = self.kafka_properties
        if properties is not None and not os.access(properties, os.R_OK):
            raise FraudError(
                f"FRAUD_KAFKA_PROPERTIES names {shown(properties)}, which can't be "
                "read: correct the path or unset the variable"
            )

    def as_env(self) -> dict[str, str]:
        """The variables from which ``from_env`` makes these settings again."""
        properties = self.kafka_properties
        return {
            "FRAUD_HOME": str(self.home),
            "FRAUD_KAFKA": self.kafka,
            "FRAUD_KAFKA_PROPERTIES": str(properties) if properties else "",
            "FRAUD_TOPIC": self.topic,
            "FRAUD_LAKE": self.lake,
            "FRAUD_CHECKPOINTS": self.checkpoints,
            "FRAUD_SPARK_MASTER": self.master,
            "FRAUD_STATE_PARTITIONS": str(self.state_partitions or ""),
        }

    def table(self, name: str) -> str:
        """URI of one table, e.g. ``table("silver/transactions")``."""
        return f"{self.lake}/{name}"

    def checkpoint(self, query: str) -> str:
        """URI of one query's checkpoint."""
        return f"{self.checkpoints}/{query}"

    @property
    def log_dir(self) -> Path:
        """Folder of the log files of Spark, the broker and the commands."""
        return self.home / "logs"

    @property
    def own_dir(self) -> Path:
        """Folder below the home for files of this pipeline alone.

        What tells two pipelines of one home apart is topic, lake and checkpoints: a
        notebook's drain beside the demo leaves the demo's files as they are.
        """
        own = "\0".join((self.topic, self.lake, self.checkpoints))
        digest = hashlib.sha256(own.encode(errors="surrogateescape")).hexdigest()
        name = re.sub(r"[^\w.-]", "_", self.topic)[:60]
        return self.home / "pipelines" / f"{name}-{digest[:12]}"

    @property
    def fingerprint(self) -> str:
        """Short stable hash of the home: tells two homes apart in names."""
        return hashlib.sha256(str(self.home).encode()).hexdigest()[:12]


def local_path(uri: str) -> Path | None:
    """The local path behind a path or ``file:`` URI; None for any other scheme."""
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(uri) if not parsed.scheme or uri.startswith("/") else None


def trouble_with(path: Path) -> str:
    """What keeps a program on the way from using a folder of this name; or nothing.

    delta-rs makes addresses of its paths that some characters can't be part of, and
    takes ``%41`` for ``A``; log4j sees a pattern in ``%`` and a variable in ``${``; a
    colon separates the parts of a class path.
    """
    text = str(path)
    try:
        if os.fsencode(text) != text.encode():
            return f"a name that is not read as UTF-8 here ({_encoding()})"
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    if any(len(os.fsencode(part)) > _LONGEST for part in path.parts):
        return f"a name longer than {_LONGEST} bytes"
    if found := _IMPOSSIBLE.search(text):
        return f"{found.group()!r} in its name, which not every program can read"
    return ""


def shown(path: Path) -> str:
    """The path in one line of letters that any terminal takes."""
    text = str(path).encode(errors="backslashreplace").decode()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _encoding() -> str:
    return f"names are {sys.getfilesystemencoding()}; LC_ALL=C.UTF-8 helps"


def _tasks(given: str | None) -> int | None:
    """FRAUD_STATE_PARTITIONS as a number; None if it is unset."""
    given = (given or "").strip()
    if not given:
        return None
    if not (given.isdecimal() and given.isascii() and 0 < int(given) <= _MOST):
        raise FraudError(
            f"FRAUD_STATE_PARTITIONS is {given!r}: set it to a number of tasks, from 1 "
            f"to {_MOST}, or unset it"
        )
    return int(given)


def _location(value: str | None, default: Path) -> str:
    """A URI as it stands; a local path made absolute, because Spark's workers and a
    notebook do not share a current folder.

    A ``file:`` URI becomes the path that it names: Spark does not decode ``%20`` in
    one, others do.
    """
    if not value:
        return str(default)
    path = local_path(value)
    if path is None:
        return value.rstrip("/")
    return str(path.expanduser().absolute())
