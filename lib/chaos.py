"""The whole matrix of faults, run one after the other, and its table.

python -m lib.chaos [--kills 94] [--random 22] [--seed 1] [--out docs/chaos.md]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path

from kafka import TopicPartition

from lib.clients import admin, end_offsets
from lib.config import ROOT, Settings, local_path
from lib.errors import FraudError
from lib.faults import (
    POINTS,
    Child,
    Laboratory,
    Trial,
    laboratory,
    standing_still,
)
from lib.progress import percentiles
from lib.stop import Stop, run
from lib.stream import QUERIES
from lib.truth import Damage, damage, expected, read_topic

NO_DAMAGE = Damage(0, 0, 0, 0)
OPTIONS = ("--commits-a-checkpoint", "1")
PAUSE_SECONDS = 30
_SCORED = "silver/scored"


# -- faults of the broker and the producer ------------------------------------------


def broker_killed(lab: Laboratory) -> Trial:
    """SIGKILL to the broker while the producer sends, and its restart."""
    with _sending(lab, rate=40.0) as producer:
        _until_some_arrived(lab)
        lab.broker.kill()
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
    return _after(lab, "producer killed, its file sent again")


# -- faults of the storage ----------------------------------------------------------


def metadata_deleted(lab: Laboratory) -> Trial:
    """The checkpoints' metadata is gone: refused; without them it goes on."""
    lab.die_at("after silver/transactions")
    for query in QUERIES:
        (_checkpoint(lab, query) / "metadata").unlink()
    refused = _refusal(lab)
    for query in QUERIES:
        shutil.rmtree(_checkpoint(lab, query))
    return replace(_settled(lab, "checkpoint's metadata deleted"), refused=refused)


def checkpoint_deleted(lab: Laboratory) -> Trial:
    """All of the checkpoints is gone but the application ids: batch 0 again."""
    lab.die_at("after silver/transactions")
    for query in QUERIES:
        folder = _checkpoint(lab, query)
        kept = (folder / "application_id").read_bytes()
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "application_id").write_bytes(kept)
    return _settled(lab, "checkpoint deleted, old application id put back")


def offsets_truncated(lab: Laboratory) -> Trial:
    """The newest offset file is empty: refused; without the checkpoint it goes on."""
    lab.die_at("before silver/scored")
    offsets = _checkpoint(lab, "score") / "offsets"
    newest = max((p for p in offsets.iterdir() if p.name.isdigit()), key=_number)
    newest.write_bytes(b"")
    refused = _refusal(lab)
    shutil.rmtree(_checkpoint(lab, "score"))
    return replace(_settled(lab, "offset file truncated"), refused=refused)


def half_a_file(lab: Laboratory) -> Trial:
    """A Parquet file that was never finished lies in every table."""
    lab.die_at("after bronze/tx_events")
    for name in ("bronze/tx_events", "silver/transactions", _SCORED):
        folder = Path(local_path(lab.settings.table(name)))
        whole = next(folder.glob("*.parquet"))
        (folder / "part-99999-half.parquet").write_bytes(whole.read_bytes()[:100])
    return _settled(lab, "half-written Parquet file left behind")


def two_at_once(lab: Laboratory) -> Trial:
    """A second copy of the queries on the same checkpoints."""
    lab.up().ask("catch-up")
    second = Child(lab.settings, lab.broker.bootstrap, list(OPTIONS))
    refused = _said(second)
    return replace(_after(lab, "two copies at once"), refused=refused)


def retention_passed(lab: Laboratory) -> Trial:
    """Kafka has dropped records that were not read yet: refused, not skipped."""
    lab.up().ask("catch-up")
    lab.die_at("offsets written")
    truth = expected(read_topic(lab.settings, lab.broker.bootstrap))
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
    folder = settings.home / "faults" / "full"
    with small_disk(folder), laboratory(settings, "full", options=OPTIONS) as lab:
        lab.send()
        lab.settle()
        lab.up().ask("catch-up")
        ballast = fill(folder)
        lab.send()
        refused = _said(lab.given_up("disk full"), ready=True)
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


UNKILLED = ("disk full", "two copies", "broker stopped")
"""What the faults that send no SIGKILL begin with."""

FAULTS: tuple[Callable[[Laboratory], Trial], ...] = (
    broker_killed,
    broker_stopped,
    producer_killed,
    metadata_deleted,
    checkpoint_deleted,
    offsets_truncated,
    half_a_file,
    two_at_once,
)
"""In any order, on one lake. `retention_passed` ends a lake, so it comes last."""


# -- the matrix ---------------------------------------------------------------------


def matrix(
    lab: Laboratory, kills: int, at_random: int, rng: random.Random
) -> Iterable[Trial]:
    """Trials one by one: faults, then points in turn with random moments between."""
    lab.send()
    lab.settle()
    for fault in FAULTS:
        yield fault(lab)
    points = cycle(POINTS)
    for number in range(kills):
        # Every so often at a random moment, spread over the whole run.
        if (number + 1) * at_random // kills == number * at_random // kills:
            yield lab.trial(next(points))
            continue
        lab.up().ask("catch-up")
        lab.die_after(rng.uniform(0, 3))
        lab.send()
        yield lab.settle()
    yield retention_passed(lab)


def table(trials: list[Trial]) -> str:
    """The trials as a Markdown table, one row a fault."""
    by_fault: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_fault[trial.fault].append(trial)
    lines = [
        "| fault | runs | lost | doubled | out of order | not as the rules say "
        "| recovery, s (median) | refused with |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for fault, runs in by_fault.items():
        sums = [
            sum(getattr(run.damage, name) for run in runs)
            for name in ("lost", "doubled", "out_of_order", "differs")
        ]
        seconds = [r.recovery_seconds for r in runs if r.recovery_seconds > 0]
        median = f"{percentiles(seconds)['p50']:.1f}" if seconds else "–"
        refused = next((run.refused for run in runs if run.refused), "")
        cells = [fault, str(len(runs)), *map(str, sums), median, _short(refused)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(refused: str) -> str:
    """Without the places of this one run."""
    return re.sub(r"(file:)?/\S*/faults/", "…/", refused).replace("|", "/")[:150]


# -- plumbing -----------------------------------------------------------------------


def _number(path: Path) -> int:
    return int(path.name)


def _checkpoint(lab: Laboratory, query: str) -> Path:
    return Path(local_path(lab.settings.checkpoint(query)))


class _sending:
    """A producer in a process of its own, sending the laboratory's next file."""

    def __init__(self, lab: Laboratory, rate: float) -> None:
        self._lab, self._rate = lab, rate

    def __enter__(self) -> subprocess.Popen:
        lab = self._lab
        lab.up()
        env = os.environ | {
            "FRAUD_HOME": str(lab.settings.home),
            "FRAUD_KAFKA": lab.broker.bootstrap,
            "FRAUD_TOPIC": lab.settings.topic,
            "PYTHONPATH": str(ROOT),
        }
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


def _until_some_arrived(lab: Laboratory, records: int = 10) -> None:
    deadline = time.monotonic() + 60
    while sum(_ends(lab).values()) < lab.topic_size + records:
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
    return replace(lab.settle(), fault=name)


def _refusal(lab: Laboratory) -> str:
    """What the queries say when they refuse to go on.

    Raises:
        FraudError: they do not refuse.
    """
    child = Child(lab.settings, lab.broker.bootstrap, list(OPTIONS))
    return _said(child)


def _said(child: Child, *, ready: bool = False) -> str:
    try:
        if not ready:
            child.answer()
        child.ask("catch-up")
    except FraudError as error:
        return str(error)
    finally:
        child.kill()
    raise FraudError("it went on although it should have refused")


def main(_stop: Stop) -> int:
    """Run the matrix; 1 if any trial found damage, or if it was stopped."""
    parser = argparse.ArgumentParser(description="kill the pipeline, and count")
    parser.add_argument("--kills", type=int, default=94)
    parser.add_argument("--random", type=int, default=22)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "chaos.md")
    arguments = parser.parse_args()
    begun, trials, skipped, whole = time.monotonic(), [], "", False

    def keep(trial: Trial) -> None:
        trials.append(trial)
        sys.stderr.write(f"{len(trials):4} {trial}\n")

    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_env({"FRAUD_HOME": home})
        try:
            keep(disk_full(settings))
        except NoSmallDiskError as error:
            skipped = f"Skipped: disk full ({error}).\n"
        with (
            laboratory(settings, "chaos", options=OPTIONS) as lab,
            suppress(KeyboardInterrupt),
        ):
            rng = random.Random(arguments.seed)
            for trial in matrix(lab, arguments.kills, arguments.random, rng):
                keep(trial)
            whole = True
    if not whole:
        skipped += f"Stopped by Ctrl-C after {len(trials)} trials.\n"
    minutes = (time.monotonic() - begun) / 60
    arguments.out.write_text(report(trials, arguments, minutes, skipped))
    return int(not whole or any(trial.damage for trial in trials))


def report(
    trials: list[Trial], arguments: argparse.Namespace, minutes: float, skipped: str
) -> str:
    """The page: what was done, the table, the recovery times."""
    from bench.machine import machine

    seconds = [t.recovery_seconds for t in trials if t.recovery_seconds > 0]
    recovery = percentiles(seconds)
    here = machine()
    kills = sum(not trial.fault.startswith(UNKILLED) for trial in trials)
    at_random = sum(trial.fault == "random time" for trial in trials)
    return f"""# Faults, counted

Generated by `make chaos` (seed {arguments.seed}) in {minutes:.0f} minutes:
{len(trials)} trials with {kills} SIGKILLs, {at_random} of them at random moments;
on {here["cores"]} cores of {here["cpu"]}, {here["system"]},
Python {here["python"]}, PySpark {here["pyspark"]}.

All but a few runs kill the real queries (Python, JVM and workers, SIGKILL); the others
fill the disk, start a second copy, or stop or kill the broker or the producer. Each
then starts again on what is left, waits until all is caught up, and compares the lake
with the topic, event by event: [`lib/faults.py`](../lib/faults.py),
[`lib/truth.py`](../lib/truth.py).

{table(trials)}
{skipped}
Recovery, from the start of a new process (JVM included) to the first new row in
silver/scored: p50 {recovery["p50"]:.1f} s, p95 {recovery["p95"]:.1f} s, over
{len(seconds)} restarts.
"""


if __name__ == "__main__":
    run(main)
