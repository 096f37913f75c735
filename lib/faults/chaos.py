"""The faults: each injects one into a running pipeline and counts the damage.

`make chaos` (`bench/chaos.py`) runs them all and writes their table.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from kafka import TopicPartition

from lib.errors import FraudError
from lib.faults.laboratory import (
    COMPLETION_POINTS,
    POINTS,
    REBUILD_POINTS,
    Child,
    Laboratory,
    Trial,
    laboratory,
    own_place,
    process_environment,
    standing_still,
)
from lib.kafka.clients import admin, end_offsets
from lib.lake.tables import BRONZE, SCORED, TRANSACTIONS
from lib.settings import Settings, local_path
from lib.streaming.query import QUERY
from lib.verify.expected_lake import Damage, damage

FIRST_BATCH_POINTS = (
    "state-store commit",
    "before bronze/tx_events",
    "after bronze/tx_events",
    "after silver/scored",
    "all tables written",
)
"""Where the first batch of a checkpoint with an initial state is killed."""

OPTIONS = ("--commits-a-checkpoint", "1")
PAUSE_SECONDS = 30
SOME_RECORDS = 10


# -- faults of the broker and the producer ------------------------------------------


def broker_killed(lab: Laboratory) -> Trial:
    """SIGKILL to the broker while the producer sends, and its restart."""
    with _sending(lab, rate=40.0) as producer:
        _until_some_arrived(lab)
        lab.broker.kill()
        lab.kills += 1
        lab.broker.start()
        _finish(producer)
    return _after(lab, "broker killed while the producer sends")


def broker_stopped(lab: Laboratory) -> Trial:
    """SIGSTOP to the broker, for longer than a request's timeout."""
    with _sending(lab, rate=40.0) as producer:
        _until_some_arrived(lab)
        with standing_still(lab.broker):
            time.sleep(PAUSE_SECONDS)  # the fault itself
        _finish(producer)
    return _after(lab, f"broker stopped for {PAUSE_SECONDS} s")


def producer_killed(lab: Laboratory) -> Trial:
    """SIGKILL to the producer; it is started again and sends its file from the top."""
    for last in (False, True):
        with _sending(lab, rate=40.0) as producer:
            if last:
                _finish(producer)
            else:
                _until_some_arrived(lab)
                producer.kill()
                lab.kills += 1
    return _after(lab, "producer killed, its file sent again")


# -- faults of the storage ----------------------------------------------------------


def metadata_deleted(lab: Laboratory) -> Trial:
    """The checkpoint's metadata is gone: refused; without the checkpoint it goes on."""
    lab.die_at("after silver/transactions")
    (_checkpoint(lab) / "metadata").unlink()
    refused = _refusal(lab)
    shutil.rmtree(_checkpoint(lab))
    return replace(_settled(lab, "checkpoint's metadata deleted"), refused=refused)


def checkpoint_deleted(lab: Laboratory) -> Trial:
    """All of the checkpoint is gone but the application id: batch 0 again."""
    lab.die_at("after silver/transactions")
    kept = (_checkpoint(lab) / "application_id").read_bytes()
    shutil.rmtree(_checkpoint(lab))
    _checkpoint(lab).mkdir()
    (_checkpoint(lab) / "application_id").write_bytes(kept)
    return _settled(lab, "checkpoint deleted, old application id put back")


def offsets_deleted(lab: Laboratory) -> Trial:
    """The checkpoint's deletion was broken off: state and commits are left behind."""
    lab.die_at("after bronze/tx_events")
    shutil.rmtree(_checkpoint(lab) / "offsets")
    return _settled(lab, "half of the checkpoint deleted")


def offsets_truncated(lab: Laboratory) -> Trial:
    """The newest offset file is empty: refused; without the checkpoint it goes on."""
    lab.die_at("before silver/scored")
    _newest(_checkpoint(lab) / "offsets").write_bytes(b"")
    refused = _refusal(lab)
    shutil.rmtree(_checkpoint(lab))
    return replace(_settled(lab, "offset file truncated"), refused=refused)


def checkpoint_lost(lab: Laboratory, point: str) -> Trial:
    """A torn batch, and the checkpoint that could repeat it is gone."""
    lab.die_at(point)
    shutil.rmtree(_checkpoint(lab))
    return _settled(lab, f"checkpoint lost, {lab.fault}")


def completion_killed(lab: Laboratory, point: str) -> Trial:
    """A torn batch without its checkpoint: the start that completes it is killed."""
    lab.die_at("after bronze/tx_events")
    shutil.rmtree(_checkpoint(lab))
    lab.die_starting(point)
    return _settled(lab, f"checkpoint lost, killed when it had {lab.fault}")


def first_batch_killed(lab: Laboratory, point: str) -> Trial:
    """The first batch of a new checkpoint, which has an initial state, is killed."""
    lab.die_at("after bronze/tx_events")
    shutil.rmtree(_checkpoint(lab))
    lab.send()
    lab.die_starting(point)
    return _settled(lab, f"first batch of a new checkpoint, {lab.fault}")


def ancient_first(lab: Laboratory, *, lost: bool) -> Trial:
    """An ancient event is torn by a kill, then comes its event_id with a recent time.

    The first is older than what is remembered of its account, so only the table can say
    that it is new. It stands, late; the second is a conflict.
    """
    first = lab.new_event()
    lab.send_event(first)
    recent = first._replace(event_id="again")
    lab.up().ask("catch-up")
    lab.up().ask("arm after bronze/tx_events")
    lab.send_event(recent._replace(ts_us=0))
    lab.dead("after bronze/tx_events")
    if lost:
        shutil.rmtree(_checkpoint(lab))
    lab.send_event(recent)
    more = ", checkpoint lost" if lost else ""
    return _settled(lab, f"ancient event torn{more}, then its id with a recent time")


def commit_lost(lab: Laboratory) -> Trial:
    """A table's last commit is gone: refused; with it put back it goes on."""
    last = _last_commit(lab, TRANSACTIONS)
    kept = last.read_bytes()
    last.unlink()
    refused = _refusal(lab)
    last.write_bytes(kept)
    return replace(_settled(lab, "a table's last commit lost"), refused=refused)


def commit_emptied(lab: Laboratory) -> Trial:
    """A table's last commit is empty: refused; with its text back it goes on."""
    last = _last_commit(lab, BRONZE)
    kept = last.read_bytes()
    last.write_bytes(b"")
    refused = _refusal(lab)
    last.write_bytes(kept)
    return replace(_settled(lab, "a table's last commit emptied"), refused=refused)


def _last_commit(lab: Laboratory, table: str) -> Path:
    """The table's last commit, at rest, of which no checkpoint has a copy."""
    lab.up().ask("catch-up")
    lab.stop()
    log = Path(local_path(lab.settings.table(table))) / "_delta_log"
    for copy in log.glob("*checkpoint*"):
        copy.unlink()
    return max(path for path in log.glob("*.json") if path.stem.isdigit())


def compacted_by_spark(lab: Laboratory) -> Trial:
    """OPTIMIZE by a Spark session without our properties: times become INT96."""
    lab.up().ask("catch-up")
    lab.stop()
    tables = [lab.settings.table(name) for name in (TRANSACTIONS, SCORED)]
    code = f"""
from delta import DeltaTable
from lib.settings import Settings
from lib.streaming.session import spark_session

usual = {{"spark.sql.parquet.outputTimestampType": "INT96"}}
spark = spark_session(Settings.from_env(), usual, short_lived=True)
for table in {tables!r}:
    DeltaTable.forPath(spark, table).optimize().executeCompaction()
spark.stop()
"""
    env = process_environment(lab.settings)
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    lab.send_again()
    return _settled(lab, "compacted by plain Spark, then duplicates")


def half_a_file(lab: Laboratory) -> Trial:
    """A Parquet file that was never finished lies in every table."""
    lab.die_at("after bronze/tx_events")
    for name in (BRONZE, TRANSACTIONS, SCORED):
        folder = Path(local_path(lab.settings.table(name)))
        whole = next(folder.glob("*.parquet"))
        (folder / "part-99999-half.parquet").write_bytes(whole.read_bytes()[:100])
    return _settled(lab, "half-written Parquet file left behind")


def two_at_once(lab: Laboratory) -> Trial:
    """A second copy of the query on the same checkpoint."""
    lab.up().ask("catch-up")
    refused = _refusal(lab)
    return replace(_after(lab, "two copies at once"), refused=refused)


def topic_made_again(settings: Settings) -> Trial:
    """The topic is deleted, and one of its name is filled beyond: refused. On a lake of
    its own, because that one can't go on."""
    with laboratory(settings, "remade", options=OPTIONS) as lab:
        lab.send()
        lab.up().ask("catch-up")
        lab.stop()
        truth = lab.truth()
        _delete_topic(lab)
        for _ in range(2):
            lab.send()
        refused = _refusal(lab)
        found = damage(lab.settings, truth)
    return Trial("topic deleted and made again", found, float("nan"), refused)


def _delete_topic(lab: Laboratory) -> None:
    client = admin(lab.settings, lab.broker.bootstrap)
    try:
        client.delete_topics([lab.settings.topic])
        deadline = time.monotonic() + 60
        while lab.settings.topic in client.list_topics():
            if time.monotonic() > deadline:
                raise FraudError("the topic is not deleted within 60 s")
            time.sleep(0.05)
    finally:
        client.close()


def retention_passed(lab: Laboratory) -> Trial:
    """Kafka has dropped records that were not read yet: refused, not skipped."""
    lab.up().ask("catch-up")
    lab.die_at("offsets written")
    truth = lab.truth()
    before = damage(lab.settings, truth)  # the killed batch is still owed
    lab.send()
    ends = end_offsets(lab.settings, lab.broker.bootstrap)
    client = admin(lab.settings, lab.broker.bootstrap)
    try:
        topic = lab.settings.topic
        client.delete_records({TopicPartition(topic, p): e for p, e in ends.items()})
    finally:
        client.close()
    refused = _refusal(lab)
    lab.forget()
    after = damage(lab.settings, truth)
    more = {n: count - asdict(before)[n] for n, count in asdict(after).items()}
    return Trial(
        "retention passed the stored offset", Damage(**more), float("nan"), refused
    )


class NoSmallDiskError(FraudError):
    """This system permits no file system of a few megabytes."""


def disk_full(settings: Settings) -> Trial:
    """The disk under lake and checkpoints fills up: the queries end in one line, and go
    on once there is room again. On a lake of its own, on a small disk in memory.

    Raises:
        NoSmallDiskError: this system permits no such disk.
    """
    name = f"full-{uuid.uuid4().hex[:6]}"  # a lake that is gone leaves a topic behind
    folder = Path(own_place(settings, name).lake).parent
    with small_disk(folder), laboratory(settings, name, options=OPTIONS) as lab:
        lab.send()
        lab.settle()
        lab.up().ask("catch-up")
        ballast = fill(folder)
        lab.send()
        refused = _said(lab.given_up("disk full"), "catch-up")
        ballast.unlink()
        return replace(_settled(lab, "disk full"), refused=refused)


@contextmanager
def small_disk(folder: Path, megabytes: int = 64) -> Iterator[None]:
    """A new folder on a file system of its own, in memory.

    Raises:
        NoSmallDiskError: this system permits none.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        raise NoSmallDiskError(f"no small disk to fill: {error}") from error
    if done.returncode:
        raise NoSmallDiskError(f"no small disk to fill: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take the disk's last byte; returns the file to delete."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return ballast


# -- rebuild ------------------------------------------------------------------------


def rebuilt_after_crash(lab: Laboratory) -> Trial:
    """A batch is in all tables and not noted as done; then silver is made anew."""
    lab.die_at("all tables written")
    done = _checkpoint(lab) / "commits"
    planned = _number(_newest(_checkpoint(lab) / "offsets"))
    if (done / str(planned)).exists():
        raise FraudError("the batch is noted as done: the kill came too late")
    lab.process().ask("rebuild")
    lab.process().ask("start")
    return _rebuilt(lab, "crash before a batch was noted as done, then rebuild")


def rebuild_killed(lab: Laboratory, point: str) -> Trial:
    """A rebuild dies half-way: no stream starts until another one has ended."""
    lab.up().ask("catch-up")
    lab.send()
    lab.up().ask(f"arm {point}")
    lab.up().tell("rebuild")
    lab.dead(point)
    refused = _refused_start(lab)
    lab.process().ask("rebuild")
    lab.process().ask("start")
    return replace(_rebuilt(lab, point), refused=refused)


def _rebuilt(lab: Laboratory, name: str) -> Trial:
    lab.forget()
    lab.send()
    return _after(lab, name)


def _refused_start(lab: Laboratory) -> str:
    """What `start` says, in a process that goes on."""
    try:
        lab.process().ask("start")
    except FraudError as error:
        return str(error)
    raise FraudError("it went on although it should have refused")


FAULTS: tuple[Callable[[Laboratory], Trial], ...] = (
    broker_killed,
    broker_stopped,
    producer_killed,
    metadata_deleted,
    checkpoint_deleted,
    offsets_deleted,
    offsets_truncated,
    commit_lost,
    commit_emptied,
    compacted_by_spark,
    half_a_file,
    two_at_once,
    rebuilt_after_crash,
    *(partial(ancient_first, lost=lost) for lost in (False, True)),
    *(partial(checkpoint_lost, point=point) for point in POINTS),
    *(partial(completion_killed, point=point) for point in COMPLETION_POINTS),
    *(partial(first_batch_killed, point=point) for point in FIRST_BATCH_POINTS),
    *(partial(rebuild_killed, point=point) for point in REBUILD_POINTS),
)
"""In any order, on one lake. `retention_passed` ends a lake, so it comes last."""


# -- plumbing -----------------------------------------------------------------------


def _number(path: Path) -> int:
    return int(path.name)


def _newest(folder: Path) -> Path:
    """The file of the newest batch."""
    return max((p for p in folder.iterdir() if p.name.isdigit()), key=_number)


def _checkpoint(lab: Laboratory) -> Path:
    return Path(local_path(lab.settings.checkpoint(QUERY)))


class _sending:
    """A producer in a process of its own, sending the laboratory's next file."""

    def __init__(self, lab: Laboratory, rate: float) -> None:
        self._lab, self._rate = lab, rate

    def __enter__(self) -> subprocess.Popen:
        lab = self._lab
        lab.up()
        env = process_environment(replace(lab.settings, kafka=lab.broker.bootstrap))
        command = ["produce", str(lab.next_file()), "--rate", str(self._rate)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lib", *command],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lab.topic_size = sum(_ends(lab).values())
        return self._process

    def __exit__(self, *_error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def _ends(lab: Laboratory) -> dict[int, int]:
    return end_offsets(lab.settings, lab.broker.bootstrap)


def _until_some_arrived(lab: Laboratory) -> None:
    deadline = time.monotonic() + 60
    while sum(_ends(lab).values()) < lab.topic_size + SOME_RECORDS:
        if time.monotonic() > deadline:
            raise FraudError("the producer has sent nothing for 60 s")
        time.sleep(0.02)


def _finish(producer: subprocess.Popen) -> None:
    _, said = producer.communicate(timeout=300)
    if producer.returncode:
        raise FraudError(f"the producer ended with {producer.returncode}: {said}")


def _after(lab: Laboratory, name: str) -> Trial:
    """The trial of a fault that has not killed the queries."""
    lab.up().ask("catch-up", timeout=180)
    trial = Trial(name, lab.damage(), float("nan"))
    lab.trials.append(trial)
    return trial


def _settled(lab: Laboratory, name: str) -> Trial:
    lab.send()
    return replace(lab.settle(name), fault=name)


def _refusal(lab: Laboratory) -> str:
    """What a process says that refuses to go on.

    Raises:
        FraudError: it does not refuse.
    """
    child = Child(lab.settings, lab.broker.bootstrap, list(OPTIONS))
    child.answer()
    return _said(child, "start", "catch-up")


def _said(child: Child, *commands: str) -> str:
    try:
        for command in commands:
            child.ask(command)
    except FraudError as error:
        return str(error)
    finally:
        child.kill()
    raise FraudError("it went on although it should have refused")
