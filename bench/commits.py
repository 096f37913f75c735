"""What one commit of a small append costs: by delta-rs and by `lib.lake.append_log`.

    python -m bench.commits [--behind 0 400 20000] [--out FILE]

For each number of commits that the table's log has already, the median of COUNT more.
Behind 20,000 lie as many entries in the log's folder, and a checkpoint; all but the
last FILES_LEFT of the files that they added are removed again, as compaction does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from bench.machine import machine
from lib.lake.tables import QUARANTINE
from lib.lake.writer import Batch, DataFile, LocalLake
from tests.unit.small_table import row

COUNT = 60
FILES_LEFT = 400
"""Files that compaction has not merged yet, at most."""


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="one commit, by the log's length")
    parser.add_argument("--behind", type=int, nargs="+", default=[0, 400, 20_000])
    parser.add_argument("--out", type=Path, default=Path("bench/results/commits.json"))
    arguments = parser.parse_args()
    runs = []
    for behind in arguments.behind:
        run: dict[str, float] = {"commits_before": behind}
        for name, how in (("delta_rs_ms", by_library), ("ours_ms", by_entry)):
            with tempfile.TemporaryDirectory() as folder:
                run[name] = measured(LocalLake(Path(folder)), behind, how)
        runs.append(run)
    text = json.dumps({"machine": machine(), "runs": runs}, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def by_entry(lake: LocalLake, rows: pa.Table, batch: Batch) -> None:
    """As the stream does."""
    lake.append(QUARANTINE, rows, batch)


def by_library(lake: LocalLake, rows: pa.Table, batch: Batch) -> None:
    """As the stream does with a table that has features of its own."""
    file = DataFile.write(lake.root / QUARANTINE, rows)
    lake._append_by_library(QUARANTINE, [file], batch)


def measured(
    lake: LocalLake, behind: int, commit: Callable[[LocalLake, pa.Table, Batch], None]
) -> float:
    """The median of COUNT commits to a table with that many before, in ms."""
    lake.create(QUARANTINE)
    age(lake, behind)
    taken = []
    for number in range(COUNT):
        begun = time.perf_counter()
        commit(lake, row(number), Batch("app", number))
        taken.append(time.perf_counter() - begun)
    return round(statistics.median(taken) * 1000, 1)


def age(lake: LocalLake, commits: int) -> None:
    """Give the table so many commits, most of whose files are gone again."""
    folder = lake.root / QUARANTINE
    added: list[str] = []
    for version in range(1, commits + 1):
        file = DataFile.write(folder, row(version))
        added.append(file.path)
        add = {
            "path": file.path,
            "partitionValues": {},
            "size": file.size,
            "modificationTime": 0,
            "dataChange": True,
            "stats": file.stats,
        }
        now = int(time.time() * 1000)
        actions: list[dict] = [{"commitInfo": {"timestamp": now}}, {"add": add}]
        if len(added) > FILES_LEFT:
            gone = {"path": added.pop(0), "deletionTimestamp": now, "dataChange": True}
            actions.append({"remove": gone})
        entry = "\n".join(map(json.dumps, actions))
        (folder / "_delta_log" / f"{version:020d}.json").write_text(entry)
    if commits:
        DeltaTable(str(folder)).create_checkpoint()


if __name__ == "__main__":
    main()
