"""Settings: the only place that reads the environment."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from lib.errors import FraudError

ROOT = Path(__file__).resolve().parent.parent
"""The repository's root: fixtures, locked jars and the default home live below it."""


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
    """

    home: Path
    kafka: str
    kafka_properties: Path | None
    topic: str
    lake: str
    checkpoints: str
    master: str

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the FRAUD_* variables; an empty variable counts as unset.

        Raises:
            FraudError: FRAUD_KAFKA_PROPERTIES names no readable file.
        """
        env = os.environ if env is None else env
        home = Path(env.get("FRAUD_HOME") or ROOT / ".data").expanduser().absolute()
        properties = env.get("FRAUD_KAFKA_PROPERTIES") or None
        if properties is not None and not os.access(properties, os.R_OK):
            raise FraudError(
                f"FRAUD_KAFKA_PROPERTIES names {properties}, which can't be read: "
                "correct the path or unset the variable"
            )
        return cls(
            home=home,
            kafka=env.get("FRAUD_KAFKA", "").strip(),
            kafka_properties=Path(properties).absolute() if properties else None,
            topic=env.get("FRAUD_TOPIC") or "tx-events",
            lake=_location(env.get("FRAUD_LAKE"), home / "lake"),
            checkpoints=_location(env.get("FRAUD_CHECKPOINTS"), home / "checkpoints"),
            master=env.get("FRAUD_SPARK_MASTER") or "local[*]",
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


def _location(value: str | None, default: Path) -> str:
    """A URI as it stands; a path made absolute, because Spark's workers and a
    notebook do not share a current folder."""
    if not value:
        return str(default)
    value = value.rstrip("/")
    path = local_path(value)
    if path is None or value.startswith("file:"):
        return value
    return str(path.expanduser().absolute())
