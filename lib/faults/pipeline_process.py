"""The process that the fault laboratory kills: the real query, with a fuse.

    python -m lib.faults.pipeline_process [--lake KIND] [--commits-a-checkpoint N]
    [--large N]

Reads commands from stdin, one a line, and answers each with a JSON line on stdout:
``start`` (the query), ``arm POINT`` (kill this whole process group, JVM included, when
POINT is reached), ``catch-up`` (answers when all that is in the topic has been
committed), ``rebuild`` (stop the query, make silver anew), ``stop``. A command that
fails answers with its error.

Production code has no hooks: the points are the calls into the lake and of the rebuild,
wrapped here, and files that appear.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.kafka.broker import bootstrap_servers
from lib.kafka.clients import end_offsets
from lib.lake import maintenance, writer
from lib.lake.maintenance import Maintenance
from lib.lake.tables import BRONZE, MADE_OF_BRONZE, SCORED
from lib.settings import Settings, local_path
from lib.streaming import query, rebuild
from lib.streaming.runner import Pipeline, pipeline
from lib.streaming.session import INTERPRETED, spark_session

CATCH_UP_SECONDS = 240
TOGETHER = MADE_OF_BRONZE
"""The tables whose commits a batch makes at the same time."""

WATCHED = {
    # the batch is planned, no task has run
    "offsets written": ("checkpoints", "pipeline/offsets/[0-9]*"),
    # the first partition's state of a batch is on disk, the batch is not done
    "state-store commit": ("checkpoints", "pipeline/state/0/*/[0-9]*.changelog"),
    # ... or all of a partition's state, and no table has the batch
    "state snapshot": ("checkpoints", "pipeline/state/0/*/[0-9]*.zip"),
    # written behind the batch that is due one
    "delta checkpoint": ("lake", f"{SCORED}/_delta_log/*.checkpoint.parquet"),
    # the batch is done
    "batch noted as done": ("checkpoints", "pipeline/commits/[0-9]*"),
}
"""Points that are files: where they appear."""

_SNAPSHOTS = {
    "spark.sql.streaming.stateStore.minDeltasForSnapshot": "1",
    "spark.sql.streaming.stateStore.maintenanceInterval": "1s",
}
"""Snapshots of the state with every batch, though a process lives for seconds only."""


class Fuse:
    """Kills the process group at the point it is armed with, and at no other.

    Tables that are committed at the same time get an order from the armed point, so
    that each kill finds the same tables written: *after* a table means after it alone,
    *before* a table means that only this one is missing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._armed = ""
        self._news = threading.Condition()
        self._done: set[str] = set()

    def arm(self, point: str) -> None:
        """Die when the point is reached next."""
        self._armed = point
        if point in WATCHED:
            threading.Thread(target=self._watch, args=(point,), daemon=True).start()

    def at(self, point: str) -> None:
        """The point is reached."""
        if point == self._armed:
            blow()

    def is_at(self, point: str) -> bool:
        """Whether it is armed with this point."""
        return point == self._armed

    @contextmanager
    def commit(self, table: str, how: str) -> Iterator[None]:
        """One table's commit in a micro-batch; ``how`` is "" or "merge of "."""
        with self._news:
            if table == BRONZE:
                self._done.clear()  # a new batch
                if self._armed == "state snapshot":
                    self._until("that file is there, and kills")
            elif self._armed in (f"before {table}", f"before {how}{table}"):
                self._until(*(other for other in TOGETHER if other != table))
            else:
                self._until(*self._first(table))
        self.at(f"before {table}")
        self.at(f"before {how}{table}")
        yield
        self.at(f"after {how}{table}")
        self.at(f"after {table}")
        with self._news:
            self._done.add(table)
            self._news.notify_all()
            whole = self._done.issuperset(TOGETHER)
        if whole:
            self.at("all tables written")

    def _first(self, table: str) -> list[str]:
        """The tables whose commit must come before this one's."""
        when, _, what = self._armed.partition(" ")
        target = what.removeprefix("merge of ")
        return [target] if when == "after" and target in {*TOGETHER} - {table} else []

    def _until(self, *tables: str) -> None:
        self._news.wait_for(lambda: self._done.issuperset(tables))

    def _watch(self, point: str) -> None:
        place, pattern = WATCHED[point]
        root = local_path(getattr(self._settings, place))
        newest = _newest(root, pattern.replace("zip", "changelog"))
        while _newest(root, pattern) <= newest:
            time.sleep(0.0005)
        blow()


def _newest(root: Path, pattern: str) -> int:
    """The greatest number that a file's name begins with."""
    names = (path.name.partition(".")[0] for path in root.glob(pattern))
    return max((int(name) for name in names if name.isdigit()), default=-1)


def blow() -> None:
    """Nothing runs after this: no handler, no flush, no goodbye to Kafka."""
    os.killpg(0, signal.SIGKILL)


# -- lakes -----------------------------------------------------------------------------


class FusedLake(writer.LocalLake):
    """A lake whose every commit has a point before it and one behind it."""

    def __init__(self, root: Path, fuse: Fuse) -> None:
        super().__init__(root)
        self._fuse = fuse

    def append(self, name: str, rows: pa.Table, batch, files=()) -> None:
        """See `LocalLake.append`."""
        with self._passing(name, batch):
            super().append(name, rows, batch, files)

    def merge(self, name: str, rows: pa.Table, batch) -> None:
        """See `LocalLake.merge`."""
        with self._passing(name, batch, "merge of "):
            super().merge(name, rows, batch)

    @contextmanager
    def _passing(self, name: str, batch, how: str = "") -> Iterator[None]:
        if batch is not None:
            with self._fuse.commit(name, how):
                yield
            return
        yield  # no batch of the query: recovery completes one
        self._fuse.at(f"completed {name}")


class ForgetfulLake(FusedLake):
    """The wrong way, for the negative control: commits without the batch's id."""

    def append(self, name: str, rows: pa.Table, batch, files=()) -> None:
        """Append, whatever was there before."""
        with self._passing(name, batch):
            writer.LocalLake.append(self, name, rows, None, files)

    def last_batch(self, name, app):
        """Whatever is asked for: it keeps no numbers, and nobody needs them."""
        return sys.maxsize


class HastyLake(ForgetfulLake):
    """The wrong way, for the negative control: notes a batch as done, then writes."""

    def append(self, name: str, rows: pa.Table, batch, files=()) -> None:
        """Note the batch in a file of its own; skip it when it is noted."""
        note = Path(f"{self.root}/../hasty") / batch.name(name) / str(batch.number)
        if note.exists():
            return
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()
        super().append(name, rows, batch, files)


LAKES = {"right": FusedLake, "forgetful": ForgetfulLake, "hasty": HastyLake}


def fused_maintenance(fuse: Fuse) -> type[Maintenance]:
    """Compactions while a process lives for seconds only, with a point behind them."""

    class Fused(Maintenance):
        def __init__(self, tables: Mapping) -> None:
            super().__init__(tables, every=3)

        def after_batch(self) -> None:
            if fuse.is_at("tables compacted"):
                self._every = 1
            super().after_batch()
            self.finish()
            fuse.at("tables compacted")

    return Fused


# -- the rebuild -----------------------------------------------------------------------


def fuse_rebuild(settings: Settings, fuse: Fuse) -> None:
    """Points between the steps of `lib.streaming.rebuild`."""
    label = {settings.checkpoint(query.QUERY): "the checkpoint"}
    label |= {settings.table(name): name for name in MADE_OF_BRONZE}
    remove = rebuild.remove

    def fused_remove(spark: SparkSession, uri: str) -> None:
        if fuse.is_at(f"rebuild: half of {label[uri]} deleted"):
            _delete_half(Path(local_path(uri)))
            blow()
        remove(spark, uri)
        fuse.at(f"rebuild: {label[uri]} deleted")

    class FusedTables(writer.SparkLake):
        def append(self, name, rows, batch) -> None:
            super().append(name, rows, batch)
            fuse.at(f"rebuild: {name} written")

    rebuild.remove, rebuild.SparkLake = fused_remove, FusedTables


def _delete_half(folder: Path) -> None:
    """Every second file: a deletion of many files is no single step."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file())[::2]:
        file.unlink()


# -- commands --------------------------------------------------------------------------


class Bench:
    """The query, up or down, and what can be asked of it."""

    def __init__(
        self, spark: SparkSession, settings: Settings, bootstrap: str, fuse: Fuse
    ) -> None:
        self._spark, self._settings, self._bootstrap = spark, settings, bootstrap
        self._fuse = fuse
        self._up = ExitStack()
        self._running: Pipeline | None = None

    def obey(self, command: str, argument: str) -> dict[str, object]:
        """Do as told; returns the answer.

        Raises:
            FraudError: it can't be done.
        """
        if command == "start":
            self._running = self._up.enter_context(
                pipeline(
                    self._spark,
                    self._settings,
                    self._bootstrap,
                    trigger="200 milliseconds",
                )
            )
        elif command == "arm":
            self._fuse.arm(argument)
        elif command == "catch-up":
            self._catch_up()
        elif command == "rebuild":
            self.down()
            return {"rebuilt": rebuild.rebuild(self._spark, self._settings)}
        return {command: True}

    def down(self) -> None:
        """Stop the query."""
        self._up.close()

    def _catch_up(self) -> None:
        ends = end_offsets(self._settings, self._bootstrap)
        if not self._running.wait_until(ends, CATCH_UP_SECONDS):
            raise FraudError(f"not caught up with {ends} in {CATCH_UP_SECONDS} s")


def main() -> None:
    """Run until told to stop, or until the fuse blows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", choices=LAKES, default="right")
    parser.add_argument("--commits-a-checkpoint", type=int)
    parser.add_argument("--large", type=int, default=query.LARGE)
    arguments = parser.parse_args()
    conf = INTERPRETED | _SNAPSHOTS
    if arguments.commits_a_checkpoint:
        maintenance.CHECKPOINT_COMMITS = arguments.commits_a_checkpoint
        interval = "spark.databricks.delta.properties.defaults.checkpointInterval"
        conf[interval] = str(arguments.commits_a_checkpoint)
    query.LARGE = arguments.large
    settings = Settings.from_env()
    fuse = Fuse(settings)
    root = local_path(settings.lake)
    query.open_lake = lambda _spark, _settings: LAKES[arguments.lake](root, fuse)
    query.Maintenance = fused_maintenance(fuse)
    fuse_rebuild(settings, fuse)
    with bootstrap_servers(settings) as bootstrap:
        spark = spark_session(settings, conf, short_lived=True)
        say(ready=True)
        _obey(Bench(spark, settings, bootstrap, fuse))
        spark.stop()


def _obey(bench: Bench) -> None:
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "stop":
            bench.down()
            return
        try:
            say(**bench.obey(command, argument))
        except FraudError as error:
            say(error=str(error))
    blow()  # the parent process has ended


def say(**what: object) -> None:
    """One answer: a JSON line on stdout."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
