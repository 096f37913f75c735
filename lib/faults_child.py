"""The process that the fault laboratory kills: the real queries, with a fuse.

    python -m lib.faults_child [--lake KIND] [--commits-a-checkpoint N]

Reads commands from stdin, one a line, and answers each with a JSON line on stdout:
``arm POINT`` (kill this whole process group, JVM included, when POINT is reached),
``catch-up`` (answers when all that is in the topic has been committed), ``stop``.
Production code has no hooks: the points are the calls into the lake, wrapped here,
and files that appear.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa

from lib import ingest, lake, score
from lib.broker import bootstrap_servers
from lib.clients import end_offsets
from lib.config import Settings, local_path
from lib.errors import FraudError
from lib.spark import INTERPRETED, spark_session
from lib.stream import Pipeline, pipeline

CATCH_UP_SECONDS = 120
WATCHED = {
    # the first partition's state of a batch is on disk, the batch is not done
    "state-store commit": ("checkpoints", "score/state/0/*/*.delta"),
    # delta-rs writes it right after the commit that is due one
    "delta checkpoint": ("lake", "silver/scored/_delta_log/*.checkpoint.parquet"),
    # the batch is planned, no task has run
    "offsets written": ("checkpoints", "*/offsets/*"),
}
"""Points that are files: where they appear."""


class Fuse:
    """Kills the process group at the point it is armed with, and at no other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._armed: str | None = None

    def arm(self, point: str) -> None:
        """Die when the point is reached next."""
        self._armed = point
        if point in WATCHED:
            threading.Thread(target=self._watch, args=(point,), daemon=True).start()

    def at(self, point: str) -> None:
        """The point is reached."""
        if point == self._armed:
            blow()

    def _watch(self, point: str) -> None:
        place, pattern = WATCHED[point]
        root = local_path(getattr(self._settings, place))
        before = set(root.glob(pattern))
        while not set(root.glob(pattern)) - before:
            time.sleep(0.0005)
        blow()


def blow() -> None:
    """Nothing runs after this: no handler, no flush, no goodbye to Kafka."""
    os.killpg(0, signal.SIGKILL)


class FusedLake(lake.Lake):
    """A lake whose every commit has a point before it and one behind it."""

    def __init__(self, inner: lake.Lake, fuse: Fuse) -> None:
        self._inner, self._fuse = inner, fuse

    def create(self, name, schema) -> None:
        """See `Lake.create`."""
        self._inner.create(name, schema)

    def append(self, name: str, rows: pa.Table, batch) -> None:
        """See `Lake.append`."""
        self._fuse.at(f"before {name}")
        self._inner.append(name, rows, batch)
        self._fuse.at(f"after {name}")

    def upsert(self, name: str, rows: pa.Table, how, batch) -> None:
        """See `Lake.upsert`."""
        self._fuse.at(f"before {name}")
        self._fuse.at(f"before upsert of {name}")
        self._inner.upsert(name, rows, how, batch)
        self._fuse.at(f"after upsert of {name}")
        self._fuse.at(f"after {name}")

    def last_batch(self, name, app):
        """See `Lake.last_batch`."""
        return self._inner.last_batch(name, app)

    def scan(self, name, columns):
        """See `Lake.scan`."""
        return self._inner.scan(name, columns)

    def at(self, name, offsets, columns):
        """See `Lake.at`."""
        return self._inner.at(name, offsets, columns)


class ForgetfulLake(FusedLake):
    """The wrong way, for the negative control: commits without the batch's id."""

    def append(self, name: str, rows: pa.Table, batch) -> None:
        """Append, whatever was there before."""
        super().append(name, rows, None)

    def last_batch(self, name, app):
        """Whatever is asked for: it keeps no numbers, and nobody shall miss them."""
        return sys.maxsize


class HastyLake(ForgetfulLake):
    """The wrong way, for the negative control: notes a batch as done, then writes."""

    def append(self, name: str, rows: pa.Table, batch) -> None:
        """Note the batch in a file of its own; skip it when it is noted."""
        note = (
            Path(f"{self._inner.root}/../hasty") / batch.name(name) / str(batch.number)
        )
        if note.exists():
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
        super().append(name, rows, None)


LAKES = {"right": FusedLake, "forgetful": ForgetfulLake, "hasty": HastyLake}


def main() -> None:
    """Run until told to stop, or until the fuse blows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", choices=LAKES, default="right")
    parser.add_argument("--commits-a-checkpoint", type=int)
    arguments = parser.parse_args()
    if arguments.commits_a_checkpoint:
        lake.COMMITS_A_CHECKPOINT = arguments.commits_a_checkpoint
    settings = Settings.from_env()
    fuse = Fuse(settings)

    def fused(spark, settings):
        return LAKES[arguments.lake](lake.open_lake(spark, settings), fuse)

    ingest.open_lake = score.open_lake = fused
    try:
        with bootstrap_servers(settings) as bootstrap:
            spark = spark_session(settings, INTERPRETED, short_lived=True)
            with pipeline(
                spark, settings, bootstrap, trigger="200 milliseconds"
            ) as running:
                say(ready=True)
                _obey(settings, bootstrap, fuse, running)
            spark.stop()
    except FraudError as error:
        say(error=str(error))
        sys.exit(1)


def _obey(settings: Settings, bootstrap: str, fuse: Fuse, running: Pipeline) -> None:
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "stop":
            return
        if command == "arm":
            fuse.arm(argument)
            say(armed=argument)
        if command == "catch-up":
            _catch_up(settings, bootstrap, running)
            say(caught_up=True)
    blow()  # whoever gave the commands is gone


def _catch_up(settings: Settings, bootstrap: str, running: Pipeline) -> None:
    ends = end_offsets(settings, bootstrap)
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while not running.reached(ends):
        running.raise_failure()
        if time.monotonic() > deadline:
            raise FraudError(f"not caught up with {ends} in {CATCH_UP_SECONDS} s")
        time.sleep(0.05)


def say(**what: object) -> None:
    """One answer: a JSON line on stdout."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
