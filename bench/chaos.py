"""The whole matrix of faults, run one after the other, and its table.

python -m bench.chaos [--trials 100] [--seed 1] [--out docs/chaos.md]
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path

from bench.machine import machine
from lib.errors import FraudError
from lib.faults.chaos import (
    FAULTS,
    OPTIONS,
    NoSmallDiskError,
    disk_full,
    retention_passed,
    topic_made_again,
)
from lib.faults.laboratory import POINTS, Laboratory, Trial, laboratory
from lib.settings import ROOT, Settings
from lib.streaming.progress import percentiles
from lib.system.signals import Stop, run


def at_random(lab: Laboratory, rng: random.Random) -> Trial:
    """A kill at a random moment."""
    lab.up().ask("catch-up")
    lab.die_after(rng.uniform(0, 3))
    lab.send()
    return lab.settle()


def deck(rng: random.Random) -> Iterator[Callable[[Laboratory], Trial]]:
    """All faults and points in an order of their own, then points without an end; every
    fifth trial is a kill at a random moment."""
    points = [partial(Laboratory.trial, point=point) for point in POINTS]
    first = [*FAULTS, *points]
    rng.shuffle(first)
    for number, trial in enumerate(chain(first, cycle(points)), 1):
        yield trial
        if number % 5 == 0:
            yield partial(at_random, rng=rng)


def matrix(lab: Laboratory, trials: int, rng: random.Random) -> Iterable[Trial]:
    """So many trials, one by one."""
    lab.send()
    lab.settle()
    for trial in islice(deck(rng), trials - 1):
        # Either way for the rows: through the driver, or in files of the workers.
        lab.workers_files = rng.random() < 0.5
        yield trial(lab)
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


def main(_stop: Stop) -> int:
    """Run the matrix; 1 if any trial found damage, or if it was stopped."""
    parser = argparse.ArgumentParser(description="kill the pipeline, and count")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "chaos.md")
    arguments = parser.parse_args()
    begun, trials, skipped, stopped = time.monotonic(), [], "", ""

    def keep(trial: Trial) -> None:
        trials.append(trial)
        sys.stderr.write(f"{len(trials):4} {trial}\n")

    with tempfile.TemporaryDirectory() as home:
        settings = Settings.from_env({"FRAUD_HOME": home})
        try:
            keep(disk_full(settings))
        except NoSmallDiskError as error:
            skipped = f"Skipped: disk full ({error}).\n"
        keep(topic_made_again(settings))
        with laboratory(settings, "chaos", options=OPTIONS) as lab:
            rng = random.Random(arguments.seed)
            try:
                for trial in matrix(lab, arguments.trials, rng):
                    keep(trial)
            except (KeyboardInterrupt, FraudError) as error:
                stopped = str(error) or "Ctrl-C"
                skipped += f"Stopped after {len(trials)} trials: {stopped}.\n"
    minutes = (time.monotonic() - begun) / 60
    arguments.out.write_text(report(trials, arguments, minutes, skipped, lab.kills))
    return int(bool(stopped) or any(trial.damage for trial in trials))


def report(
    trials: list[Trial],
    arguments: argparse.Namespace,
    minutes: float,
    skipped: str,
    kills: int,
) -> str:
    """The page: what was done, the table, the recovery times."""
    seconds = [t.recovery_seconds for t in trials if t.recovery_seconds > 0]
    recovery = percentiles(seconds)
    here = machine()
    random_times = sum(trial.fault.startswith("random time") for trial in trials)
    return f"""# Faults, counted

Generated by `make chaos` (seed {arguments.seed}) in {minutes:.0f} minutes:
{len(trials)} trials with {kills} SIGKILLs, {random_times} of them at random moments;
on {here["cores"]} cores of {here["cpu"]}, {here["system"]},
Python {here["python"]}, PySpark {here["pyspark"]}.

All but a few runs kill the real query or a rebuild (Python, JVM and workers, SIGKILL),
some twice; the others fill the disk, start a second copy, or stop or kill the broker or
the producer. Each then starts again on what is left, waits until all is caught up, and
compares the lake with the topic, record by record:
[`lib/faults/laboratory.py`](../lib/faults/laboratory.py),
[`lib/verify/expected_lake.py`](../lib/verify/expected_lake.py).
*After* a table means that of the three that are committed at the same time only it
was written, *before* one that only it was not.

{table(trials)}
{skipped}
Recovery, from the start of a new process (JVM included) to the first new row in
silver/scored: p50 {recovery["p50"]:.1f} s, p95 {recovery["p95"]:.1f} s, over
{len(seconds)} restarts.
"""


if __name__ == "__main__":
    run(main)
