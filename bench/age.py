"""The same speed after a day: the stream on a lake of 20,000 commits, and on a new one.

    python -m bench.age [--commits 200 20000] [--seconds 60] [--out FILE]

Each lake is made beforehand, without Spark: EVENTS a commit are sent to Kafka, judged
by `lib.streaming.scoring` and committed by the stream's
`lib.streaming.query.local_writer`, with its compactions and checkpoints of the log,
batch after batch. All of it happens within an hour, so no entry of the log is old
enough to be deleted: a running stream has fewer. Then a new process starts the stream
there as after a lost checkpoint, which gives it all accounts as its state, and measures
as `bench.state` does: both at the same age of the JVM.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import pyarrow as pa

from bench.machine import in_a_process, machine
from bench.state import measured
from lib.datagen.generator import generate
from lib.kafka.broker import Broker
from lib.kafka.clients import committed_records, end_offsets
from lib.kafka.producer import replay
from lib.lake.tables import SCHEMAS
from lib.lake.writer import LocalLake
from lib.settings import Settings
from lib.streaming.processor import CORRECTIONS, ROWS, Target, to_ipc
from lib.streaming.query import local_writer
from lib.streaming.scoring import input_table, judge, parse
from tests.unit.operator_output import Output

EVENTS, EVENTS_PER_ACCOUNT = 50, 50


def main() -> None:
    """Make both lakes, measure, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="latency after so many commits")
    parser.add_argument("--commits", type=int, nargs="+", default=[200, 20_000])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--drain", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/age.json"))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        print(json.dumps(make(arguments.make, *arguments.commits)))
        return
    runs = []
    for commits in arguments.commits:
        with tempfile.TemporaryDirectory() as home:
            asked = ("--make", home, "--commits", commits)
            run = in_a_process("bench.age", *asked)
            run |= measured(home, arguments.seconds, arguments.drain)
            runs.append(run)
            print(run, file=sys.stderr, flush=True)
    figures = {"machine": machine(), "seconds": arguments.seconds, "runs": runs}
    text = json.dumps(figures, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def make(home: Path, commits: int) -> dict[str, object]:
    """A home whose lake has so many commits, EVENTS of Kafka's records in each."""
    settings = Settings.from_env({"FRAUD_HOME": str(home)})
    count = EVENTS * commits
    file = home / "events.jsonl"
    made = generate(count, count // EVENTS_PER_ACCOUNT, seed=1)
    file.write_text("\n".join(made.lines) + "\n")
    lake = LocalLake(Path(settings.lake))
    for name in SCHEMAS:
        lake.create(name)
    target = Target(settings.topic, 0, None)
    at_end = ExitStack()
    write = local_writer(lake, "made beforehand", target, lambda *_: None, at_end)
    values: dict[str, bytes] = {}
    broker = Broker(settings).start()
    try:
        replay(settings, broker.bootstrap, file)
        for number, records in enumerate(_batches(settings, broker.bootstrap)):
            parsed = parse(records)
            known = {a: values[a] for a in parsed.accounts if a in values}
            judged = judge(parsed, known, None)
            values |= judged.values
            packets = [(ROWS, to_ipc(judged.records))]
            if len(judged.corrections):
                packets.append((CORRECTIONS, to_ipc(judged.corrections)))
            write(Output(*packets), number)
    finally:
        broker.close()
        at_end.close()
    return {"commits": number + 1, "events": count, "accounts": len(values)}


def _batches(settings: Settings, bootstrap: str) -> Iterator[pa.Table]:
    """The topic's records, EVENTS at a time, schema INPUT."""
    ends = end_offsets(settings, bootstrap)
    spans = {partition: (0, end) for partition, end in ends.items()}
    records = iter(committed_records(settings, bootstrap, spans))
    while some := list(islice(records, EVENTS)):
        rows = (
            (r.key, r.value, r.partition, r.offset, r.timestamp * 1000) for r in some
        )
        yield input_table(zip(*rows, strict=True))


if __name__ == "__main__":
    main()
