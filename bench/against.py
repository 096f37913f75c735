"""An earlier revision and this one in turn: the same benchmark, machine and hour.

    python -m bench.against REVISION latency [--runs 2] [-- --rate 20 --seconds 90 …]
    python -m bench.against REVISION scaling [-- --events 1000000 --accounts 10000]

What is behind -- goes to the benchmark.

The revision is checked out into a folder of its own and runs with this environment's
packages. A machine's speed changes within the hour, so only the ratio of two runs that
follow each other says something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.machine import machine
from lib.settings import ROOT
from lib.setup.jars import JAR_DIR

FIGURES = {
    "latency": lambda found: found["latency_ms"],
    "scaling": lambda found: {
        f"{run['events']} events of {run['accounts']} accounts, drain seconds": run[
            "drain_seconds"
        ]
        for run in found["runs"]
    },
}


def main() -> None:
    """Run both in turn and write the record."""
    parser = argparse.ArgumentParser(description="an earlier revision beside this one")
    parser.add_argument("revision")
    parser.add_argument("benchmark", choices=FIGURES)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    # argparse takes what is behind -- for its own, or leaves it out, by the order.
    words, options = sys.argv[1:], []
    if "--" in words:
        at = words.index("--")
        words, options = words[:at], words[at + 1 :]
    arguments = parser.parse_args(words)
    revisions = {"old": arguments.revision, "new": "HEAD"}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in revisions}
    with checkout(arguments.revision) as earlier:
        folders = {"old": earlier, "new": ROOT}
        for _ in range(arguments.runs):
            for name, folder in folders.items():
                runs[name].append(run(folder, arguments.benchmark, options))
                print(name, runs[name][-1], flush=True)
    ratios = {
        figure: round(
            statistics.median(
                new[figure] / old[figure]
                for old, new in zip(runs["old"], runs["new"], strict=True)
            ),
            3,
        )
        for figure in runs["new"][0]
    }
    record = {
        "machine": machine(),
        "benchmark": [arguments.benchmark, *options],
        "revisions": {n: commit_of(revision) for n, revision in revisions.items()},
        "runs": runs,
        "new_over_old": ratios,
    }
    text = json.dumps(record, indent=1)
    place = ROOT / "bench" / "results" / f"against_{arguments.benchmark}.json"
    (arguments.out or place).write_text(text + "\n")
    print(text)


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The revision's files in a folder of their own, with this checkout's jars."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "earlier"
        git("worktree", "add", "--detach", str(folder), revision)
        try:
            (folder / JAR_DIR.name).symlink_to(JAR_DIR)
            yield folder
        finally:
            git("worktree", "remove", "--force", str(folder))


def run(folder: Path, benchmark: str, options: list[str]) -> dict[str, float]:
    """The figures of one run in that folder."""
    with tempfile.TemporaryDirectory() as out:
        file = Path(out) / "figures.json"
        subprocess.run(
            [sys.executable, "-m", f"bench.{benchmark}", *options, "--out", file],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return FIGURES[benchmark](json.loads(file.read_text()))


def commit_of(revision: str) -> str:
    """The revision's short hash."""
    return git("rev-parse", "--short", revision).strip()


def git(*words: str) -> str:
    """What git says."""
    return subprocess.run(
        ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    main()
