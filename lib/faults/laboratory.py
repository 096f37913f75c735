"""The fault laboratory: runs the real query in a process, kills it, and counts.

A trial is: bring the query up on a lake that a kill may have left half-done, wait
until it has caught up, count the damage, arm a point, send more, and watch it die
there. Every restart is therefore the recovery from the trial before it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import psutil

from lib.datagen.generator import generate
from lib.detectors.thresholds import MINUTE
from lib.errors import FraudError
from lib.events.card_event import Event, parse, to_json
from lib.kafka.broker import Broker
from lib.kafka.clients import ensure_topic
from lib.kafka.producer import Sent, replay
from lib.lake.tables import SCORED
from lib.settings import ROOT, Settings, local_path
from lib.verify.expected_lake import (
    Damage,
    ExpectedLake,
    damage,
    expected,
    topic_records,
)

START_SECONDS = 240
DIE_SECONDS = 240
STOP_SECONDS = 30
STOP_POLL_SECONDS = 0.001
POINTS = (
    "offsets written",
    "state-store commit",
    "before bronze/tx_events",
    "after bronze/tx_events",
    "after silver/transactions",
    "after silver/quarantine",
    "after silver/scored",
    "before silver/transactions",
    "before silver/quarantine",
    "before silver/scored",
    "before merge of silver/scored",
    "after merge of silver/scored",
    "all tables written",
    "tables compacted",
    "delta checkpoint",
    "state snapshot",
    "batch noted as done",
)
"""Where a process can be told to die, in the order in which a batch passes them.

Bronze is committed first, the other three tables at the same time, so that a crash may
find any of them written: *after* one of them, only it is; *before* one, only it isn't.
"""

COMPLETION_POINTS = (
    "completed silver/transactions",
    "completed silver/quarantine",
    "completed silver/scored",
)
"""... while a start without a checkpoint completes the last batch."""

REBUILD_POINTS = (
    "rebuild: half of the checkpoint deleted",
    "rebuild: the checkpoint deleted",
    "rebuild: half of silver/transactions deleted",
    "rebuild: silver/transactions deleted",
    "rebuild: silver/quarantine deleted",
    "rebuild: silver/scored deleted",
    "rebuild: silver/transactions written",
    "rebuild: silver/quarantine written",
    "rebuild: silver/scored written",
)
"""... between the steps of a rebuild."""

WORKERS_FILES = ("--large", "1")
"""Options of the child: all rows leave in files that the workers write."""

_NOW_US = time.time_ns() // 1000

STORY = {
    "duplicates": 0.03,
    "out_of_order": 0.10,
    "late": 0.03,
    "malformed": 0.04,
    "conflicts": 0.02,
}
"""What the laboratory sends is never only well-formed."""


class Child:
    """The process that is killed: `lib.faults.pipeline_process` in a group of its own.

    Attributes:
        pid: its process id, and its group's.
        options: what it was started with.
    """

    def __init__(
        self,
        settings: Settings,
        bootstrap: str,
        options: Sequence[str] = (),
        module: str = "lib.faults.pipeline_process",
    ) -> None:
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        self._log = settings.log_dir / "faults-child.log"
        self.options = tuple(options)
        env = process_environment(replace(settings, kafka=bootstrap))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._answers: Queue[dict] = Queue()
        Thread(target=self._listen, daemon=True).start()

    def ask(self, command: str, timeout: float = START_SECONDS) -> dict:
        """Send a command and return the answer.

        Raises:
            FraudError: the process ended, failed, or does not answer in time.
        """
        self.tell(command)
        return self.answer(timeout)

    def tell(self, command: str) -> None:
        """Send a command that will be the process's end: there is no answer."""
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()

    def answer(self, timeout: float = START_SECONDS) -> dict:
        """Its next answer; errors as `ask`."""
        try:
            said = self._answers.get(timeout=timeout)
        except Empty:
            raise FraudError(
                f"no answer within {timeout:g} s: see {self._log}"
            ) from None
        if "error" in said:
            raise FraudError(said["error"])
        return said

    def wait_dead(self) -> None:
        """Until the process has been killed.

        Raises:
            FraudError: it lives on, or ended by itself.
        """
        try:
            code = self._process.wait(DIE_SECONDS)
        except subprocess.TimeoutExpired:
            raise FraudError(
                f"the point was not reached in {DIE_SECONDS:g} s"
            ) from None
        if code != -signal.SIGKILL:
            raise FraudError(f"it ended by itself with {code}: see {self._log}")

    def kill(self) -> None:
        """SIGKILL to Python, JVM and Python workers at once."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> None:
        """Let it end in order."""
        self.tell("stop")
        self._process.wait(START_SECONDS)

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put({"error": f"the process has ended: see {self._log}"})


@dataclass(frozen=True)
class Trial:
    """One fault and what was counted after the recovery from it.

    Attributes:
        fault: its name.
        damage: what was wrong after the recovery.
        recovery_seconds: from the restart to the first new row in silver/scored.
        refused: the error, where refusing loudly is the right answer.
    """

    fault: str
    damage: Damage
    recovery_seconds: float
    refused: str | None = None


@dataclass
class Laboratory:
    """A broker, a lake, and a process to kill.

    Attributes:
        settings: where everything lies.
        broker: the laboratory's broker.
        events: valid events per sending.
        options: of `lib.faults.pipeline_process`.
        workers_files: whether the next child lets workers write all rows' files.
        trials: what was counted so far.
        kills: SIGKILLs so far, to whatever process.
        topic_size: records in the topic when a producer was last started.
    """

    settings: Settings
    broker: Broker
    events: int = 60
    options: list[str] = field(default_factory=list)
    workers_files: bool = False
    trials: list[Trial] = field(default_factory=list)
    kills: int = 0
    topic_size: int = 0
    _child: Child | None = None
    _sent: int = 0
    _pending: str | None = None
    _begun: float = 0.0

    def send(self) -> Sent:
        """Send the next events of the story."""
        return replay(self.settings, self.broker.bootstrap, self.next_file())

    def next_file(self) -> Path:
        """The next part of the story: new accounts' lives, in disorder."""
        self._sent += 1
        return self._file(
            generate(self.events, 3, seed=1_000 + self._sent, **STORY).lines
        )

    def _file(self, lines: list[str]) -> Path:
        file = self.settings.home / "faults" / f"{self.settings.topic}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(lines) + "\n"
        file.write_bytes(text.encode(errors="surrogateescape"))
        return file

    def send_again(self) -> Sent:
        """Send the last part of the story once more: nothing but duplicates."""
        file = self.settings.home / "faults" / f"{self.settings.topic}.jsonl"
        return replay(self.settings, self.broker.bootstrap, file)

    def stop(self) -> None:
        """Let the process end in order."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def process(self) -> Child:
        """The child with Spark up and no query yet, unless it runs already."""
        if self._child is None:
            self._begun = time.monotonic()
            more = WORKERS_FILES if self.workers_files else ()
            options = [*self.options, *more]
            self._child = Child(self.settings, self.broker.bootstrap, options)
            self._child.answer()
        return self._child

    def up(self) -> Child:
        """Start the query, unless it runs."""
        if self._child is None:
            self.process().ask("start")
        return self._child

    def settle(self, fault: str | None = None) -> Trial | None:
        """Recover from the last fault, catch up, count; None if there was none.

        Args:
            fault: the name of one that killed no process.
        """
        self._pending = self._pending or fault
        before = _scored_version(self.settings)
        child = self.up()
        first = _wait(
            lambda: _scored_version(self.settings) > before or None, START_SECONDS
        )
        seconds = time.monotonic() - self._begun if first else float("nan")
        child.ask("catch-up")
        if self._pending is None:
            return None
        found = Trial(self._pending, self.damage(), seconds)
        self._pending = None
        self.trials.append(found)
        return found

    def die_at(self, point: str) -> None:
        """Arm the point, send, and wait until the process is dead there."""
        straggler = self._straggler() if "merge" in point else None
        self.up().ask(f"arm {point}")
        self.send()
        if straggler:
            self.send_event(straggler)
        self.dead(point)

    def die_starting(self, point: str) -> None:
        """Start the query with this point armed, and wait until it is dead there."""
        self.process().ask(f"arm {point}")
        self._child.tell("start")
        self.dead(point)

    def dead(self, point: str) -> None:
        """Wait until the process has died at the point that it is armed with."""
        self._child.wait_dead()
        self._gone(point)

    def _gone(self, fault: str) -> None:
        self.kills += 1
        by_workers = set(WORKERS_FILES) <= set(self._child.options)
        self._pending = f"{fault}, workers' files" if by_workers else fault
        self._child = None

    def _straggler(self) -> Event:
        """Let an event be scored, and return one that belongs before it."""
        event = self.new_event()
        self.send_event(event)
        self.up().ask("catch-up")
        return event._replace(event_id="earlier", ts_us=event.ts_us - MINUTE)

    def new_event(self) -> Event:
        """The first event of an account that nobody has seen before."""
        self._sent += 1
        event = parse(generate(1, 1, seed=self._sent).lines[0].encode(), _NOW_US)
        return event._replace(account_id=f"ACCT_9{self._sent:07}")

    def send_event(self, event: Event) -> None:
        """Send this one event."""
        replay(self.settings, self.broker.bootstrap, self._file([to_json(event)]))

    def die_after(self, seconds: float) -> None:
        """Send, and kill after a time: wherever it is then."""
        self.up()
        self.send()
        time.sleep(seconds)  # the fault itself: a random moment, no condition
        self._child.kill()
        self._gone("random time")

    def given_up(self, fault: str) -> Child:
        """Hand over the process, which the fault will make end by itself."""
        child, self._child = self._child, None
        self._pending = fault
        return child

    def trial(self, point: str) -> Trial:
        """One kill at a point, and the recovery from it.

        Raises:
            FraudError: there is no such point, and nothing would ever die there.
        """
        if point not in POINTS:
            raise FraudError(
                f"a batch does not pass {point!r}: choose from {', '.join(POINTS)}"
            )
        self.up().ask("catch-up")
        self.die_at(point)
        self.send()
        return self.settle()

    def damage(self) -> Damage:
        """What is wrong now; the process must have caught up."""
        return damage(self.settings, self.truth())

    def truth(self) -> ExpectedLake:
        """What the lake must hold of the topic."""
        return expected(topic_records(self.settings, self.broker.bootstrap))

    @property
    def fault(self) -> str | None:
        """The last fault, if the recovery from it is still to be counted."""
        return self._pending

    def forget(self) -> None:
        """The last fault is not to be recovered from."""
        self._pending = None

    def close(self) -> None:
        """Kill what still runs."""
        if self._child is not None:
            self._child.kill()
            self._child = None


def process_environment(settings: Settings) -> dict[str, str]:
    """The variables of a process that runs this checkout with these settings."""
    return os.environ | settings.as_env() | {"PYTHONPATH": str(ROOT)}


@contextmanager
def standing_still(broker: Broker) -> Iterator[None]:
    """SIGSTOP to the broker, and SIGCONT behind.

    A process of a hundred threads stops milliseconds after the signal, on a busy
    machine some tens of them, and answers until then: it has stopped when this begins.

    Raises:
        TimeoutError: it did not stop.
    """
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        until = time.monotonic() + STOP_SECONDS
        while running := _running_threads(broker.pid):
            if time.monotonic() > until:
                raise TimeoutError(f"{running} threads still run after SIGSTOP")
            time.sleep(STOP_POLL_SECONDS)
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def _running_threads(pid: int) -> int:
    """Threads that are not stopped (see proc(5)); without /proc the process counts."""
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir():
        return psutil.Process(pid).status() != psutil.STATUS_STOPPED
    running = 0
    for stat in tasks.glob("*/stat"):
        with suppress(OSError):  # this thread has ended meanwhile
            # The name of a thread stands in parentheses, and may hold some itself.
            running += stat.read_text().rpartition(")")[2].split()[0] != "T"
    return running


def own_place(settings: Settings, name: str) -> Settings:
    """The settings of a laboratory: lake and checkpoints belong to its topic, so a
    topic of another name finds none of theirs."""
    topic = f"{settings.topic}-{name}"
    folder = settings.home / "faults" / topic
    return replace(
        settings,
        kafka="",
        topic=topic,
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )


@contextmanager
def laboratory(
    settings: Settings, name: str, *, events: int = 60, options: tuple[str, ...] = ()
) -> Iterator[Laboratory]:
    """A laboratory with a broker, a topic, a lake and checkpoints of its own."""
    own = own_place(settings, name)
    broker = Broker(own).start()
    lab = Laboratory(own, broker, events=events, options=list(options))
    try:
        ensure_topic(own, broker.bootstrap)
        yield lab
    finally:
        lab.close()
        broker.close()


def _scored_version(settings: Settings) -> int:
    log = Path(local_path(settings.table(SCORED))) / "_delta_log"
    return max((int(p.stem) for p in log.glob("*.json") if p.stem.isdigit()), default=0)


def _wait(condition: Callable[[], object], timeout: float) -> object:
    """The condition's first answer that is not None; None if none comes in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (found := condition()) is not None:
            return found
        time.sleep(0.02)
    return None
