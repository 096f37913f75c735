"""Ctrl-C and SIGTERM, at every stage of every command: it ends, and nothing stays.

Few stages need a JVM of their own, which is what such a test costs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from lib.faults.laboratory import standing_still
from lib.kafka.broker import Broker
from lib.kafka.clients import end_offsets, ensure_topic
from lib.lake.tables import SCHEMAS
from lib.lake.writer import LocalLake
from lib.settings import ROOT, Settings
from lib.streaming.checkpoint import exclusive
from lib.streaming.runner import drain
from lib.system.signals import INTERRUPTED
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import (
    PATIENCE_SECONDS,
    PYTHON,
    Ran,
    copied,
    environment,
    eventually,
    finished,
    living,
    nothing_left_of,
    send,
)
from tests.integration.records import ARRIVED_MS, line

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks at processes by /proc"
)

START = ["--events", 500_000, "--accounts", 100, "--seed", 1, "--out", "{home}/made"]
GENERATE = ["generate", *START]


@dataclass(frozen=True)
class Running:
    """A command that was started as a shell does: in a group of its own."""

    process: subprocess.Popen[str]

    @classmethod
    def of(cls, *arguments: object, env: dict[str, str]) -> Running:
        return cls(
            subprocess.Popen(
                [PYTHON, "-m", "lib", *map(str, arguments)],
                cwd=ROOT,
                env=env,
                text=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        )

    def at(self, moment: Callable[[], object], what: str) -> Running:
        """Wait until it is there."""

        def there() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return bool(moment())

        eventually(there, what, self.family, timeout=2 * PATIENCE_SECONDS)
        return self

    def runs(self, word: str) -> bool:
        """Whether it has a child, or a child's child, with that on its command line."""
        return any(word in command for command in self.family().values())

    def family(self) -> dict[int, str]:
        """Its processes' command lines by id."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found[child.pid] = " ".join(child.cmdline())
            except psutil.Error:
                continue  # it ended while we looked
        return found

    def end(self, number: int, *, group: bool = False) -> Ran:
        """Signal it once, or its group as a terminal does, and see all of it end."""
        family = self.family()
        (os.killpg if group else os.kill)(self.process.pid, number)
        ran = finished(self.process)
        eventually(
            lambda: not living(family),
            "what it had started ended",
            lambda: {pid: family[pid] for pid in living(family)},
        )
        return ran

    def takes_signals(self) -> bool:
        """Whether SIGTERM has a handler, which Python itself never gives it."""
        return signal.SIGTERM in self._caught()

    def has_taken_one(self) -> bool:
        """Whether its handlers are gone: the next signal is the system's."""
        return not self._caught() & {signal.SIGINT, signal.SIGTERM}

    def _caught(self) -> set[int]:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (mask,) = [x.split()[1] for x in status.splitlines() if "SigCgt" in x]
        return {n for n in range(1, 64) if int(mask, 16) >> (n - 1) & 1}


def stopped(ran: Ran) -> None:
    """It ended by the signal and said no more than that."""
    assert (ran.code, ran.out) == (INTERRUPTED, ""), ran
    said = [x for x in ran.err.replace("\r", "\n").splitlines() if x.strip()]
    assert said[-1] == "stopped", ran.err
    assert ran.errors == [], ran.err


# -- before a JVM of Spark ---------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A command, and how one sees that it has come to a certain stage."""

    arguments: list[object]
    name: str
    reached: Callable[[Running, Path], object]
    number: int
    group: bool


def importing(running: Running, _home: Path) -> bool:
    return running.takes_signals()


def child(word: str) -> Callable[[Running, Path], bool]:
    return lambda running, _home: running.runs(word)


def writing(running: Running, home: Path) -> bool:
    """Whether it has begun to write: a moment too short for a look now and then."""
    while running.process.poll() is None:
        if list(home.glob("made/.*.tmp")):
            return True
    return False


INT, TERM = signal.SIGINT, signal.SIGTERM
PID, GROUP = False, True
STAGES = [
    Stage(["stream"], "imports", importing, INT, PID),
    Stage(["marts"], "imports", importing, TERM, GROUP),
    Stage(GENERATE, "imports", importing, INT, GROUP),
    Stage(
        GENERATE,
        "writes",
        writing,
        INT,
        PID,
    ),
    # In this order: each finds what the one before has left of the broker's folder.
    Stage(["broker"], "formats its folder", child("StorageTool"), INT, GROUP),
    Stage(["broker"], "formats its folder", child("StorageTool"), TERM, PID),
    Stage(["stream"], "starts the broker", child("kafka.Kafka"), INT, PID),
    Stage(["broker"], "starts", child("kafka.Kafka"), INT, GROUP),
    Stage(["demo", "--port", 0], "starts the page", child("serve"), INT, GROUP),
    Stage(["dashboard", "--port", 0], "starts", child("serve"), TERM, PID),
    Stage(["cluster"], "formats its folders", child("StorageTool"), INT, PID),
    Stage(["reconcile"], "starts the JVM", child("SparkSubmit"), INT, PID),
]


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose lake has its tables, empty: `reconcile` has something to do."""
    home = tmp_path_factory.mktemp("stopped") / "home"
    lake = LocalLake(home / "lake")
    for name in SCHEMAS:
        lake.create(name)
    return home


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: f"{s.arguments[0]} {s.name}")
def test_it_ends_while_it(own_home: Path, stage: Stage):
    words = [str(word).replace("{home}", str(own_home)) for word in stage.arguments]
    running = Running.of(*words, env=environment(own_home))
    running.at(lambda: stage.reached(running, own_home), stage.name)

    stopped(running.end(stage.number, group=stage.group))

    nothing_left_of(own_home)
    assert list(own_home.glob("made/.*")) == []  # no half of a file


def test_a_command_works_after_all_that(own_home: Path):
    broker = Running.of("broker", env=environment(own_home))
    printed = broker.process.stdout.readline()
    assert "bootstrap" in json.loads(printed or "{}"), broker.process.communicate()

    ran = broker.end(signal.SIGTERM, group=True)

    # Until Ctrl-C is what it was to do.
    assert (ran.code, ran.errors) == (0, [])
    nothing_left_of(own_home)


# -- a broker that does not answer ---------------------------------------------------


LINES = 20_000
"""Far more than are sent, and sent fast enough that some are always under way."""


@pytest.fixture
def producing(mortal_broker: Broker, settings: Settings, tmp_path: Path):
    """A producer whose broker stands still after the first records."""
    (tmp_path / "lines").write_bytes((line() + b"\n") * LINES)
    there = {"FRAUD_KAFKA": mortal_broker.bootstrap, "FRAUD_TOPIC": settings.topic}
    env = environment(tmp_path / "home", **there)
    running = Running.of("produce", tmp_path / "lines", "--rate", 200, env=env)

    def some_arrived() -> bool:
        return sum(end_offsets(settings, mortal_broker.bootstrap).values()) > 0

    running.at(some_arrived, "the first records")
    with standing_still(mortal_broker):
        # What was sent before may all be acknowledged: then there is nothing to wait
        # for, and the producer ends at the first signal.
        running.at(lambda: unread(mortal_broker) > 0, "a request that nobody reads")
        yield running


def unread(broker: Broker) -> int:
    """Bytes in the sockets of a broker's port that it has not read (see proc(5))."""
    port = int(broker.bootstrap.rpartition(":")[2])
    found = 0
    for table in ("tcp", "tcp6"):
        for socket in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _number, local, _remote, _state, queues, *_ = socket.split()
            if int(local.rpartition(":")[2], 16) == port:
                found += int(queues.rpartition(":")[2], 16)
    return found


def test_a_producer_does_not_wait_for_what_does_not_come(producing: Running):
    ran = producing.end(signal.SIGINT)

    assert ran.code == INTERRUPTED, ran
    assert ran.result["acked"] <= ran.result["sent"] < LINES


def test_a_second_signal_ends_it_at_once(producing: Running):
    producing.process.send_signal(signal.SIGINT)
    producing.at(producing.has_taken_one, "it has taken one")

    assert producing.end(signal.SIGINT).code == -signal.SIGINT


# -- with a JVM of Spark -------------------------------------------------------------


def sent(settings: Settings, bootstrap: str, events: int) -> None:
    ensure_topic(settings, bootstrap)
    records = [(b"ACCT_1", line(event_id=f"e-{n}")) for n in range(events)]
    send(settings, bootstrap, records, ARRIVED_MS)


def books_balance_after(spark, settings: Settings, bootstrap: str, folder: Path):
    """The next run takes up what the stopped one has left."""
    with exclusive(settings):
        pass
    left = copied(settings, folder / "left")  # this session knows nothing of it
    drain(spark, left, bootstrap)
    books = reconcile(spark, left, bootstrap)
    assert books.differences == []
    return books


def log_of(settings: Settings, table: str) -> Path:
    return Path(settings.table(table)) / "_delta_log" / f"{0:020}.json"


def test_a_stream_ends_while_its_queries_start(
    spark, settings: Settings, bootstrap: str, tmp_path: Path
):
    sent(settings, bootstrap, 10)
    running = Running.of("stream", env=environment(settings.home) | settings.as_env())
    running.at(log_of(settings, "bronze/tx_events").exists, "the first table")

    stopped(running.end(signal.SIGINT, group=True))

    books = books_balance_after(spark, settings, bootstrap, tmp_path)
    assert books.counts["kafka"] == 10


def test_a_drain_that_is_cut_short_says_what_it_took(
    spark, settings: Settings, bootstrap: str, tmp_path: Path
):
    sent(settings, bootstrap, 100)
    words = ["stream", "--drain", "--max-offsets", 1]
    running = Running.of(*words, env=environment(settings.home) | settings.as_env())
    first = Path(settings.table("silver/transactions")) / "_delta_log"
    running.at(lambda: len(list(first.glob("*.json"))) > 1, "the first records")

    ran = running.end(signal.SIGTERM, group=True)

    assert ran.code == INTERRUPTED, ran
    assert 1 <= ran.result["records"] < 100
    books = books_balance_after(spark, settings, bootstrap, tmp_path)
    assert books.counts["kafka"] == 100


@pytest.fixture(scope="module")
def drained(
    spark,
    base_settings: Settings,
    bootstrap: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A lake of ten events; made here, harmed by commands only."""
    folder = tmp_path_factory.mktemp("drained")
    settings = replace(
        base_settings,
        topic="tx-stopped",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    sent(settings, bootstrap, 10)
    drain(spark, settings, bootstrap)
    return settings


def test_marts_end_while_dbt_builds_them(drained: Settings):
    running = Running.of("marts", env=environment(drained.home) | drained.as_env())
    gold = Path(drained.table("gold"))
    running.at(lambda: list(gold.glob("*/_delta_log/*.json")), "the first mart")

    stopped(running.end(signal.SIGTERM))


def test_a_rebuild_ends_half_way_and_the_next_one_completes_it(drained: Settings):
    env = environment(drained.home) | drained.as_env()
    running = Running.of("rebuild", env=env)
    unfinished = Path(drained.lake) / "rebuild_unfinished"
    running.at(unfinished.exists, "the tables are about to be deleted")

    stopped(running.end(signal.SIGINT, group=True))

    again = finished(Running.of("rebuild", env=env).process)
    assert again.code == 0, again.err
    assert again.result["silver/scored"] == 10
    books = finished(Running.of("reconcile", env=env).process)
    assert books.code == 0, books.err
