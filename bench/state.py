"""What the accounts that are silent cost: the state with 10³, 10⁵ and 10⁶ of them.

    python -m bench.state [--accounts N …] [--seconds 60] [--drain 200000] [--out FILE]

Each size has a home of its own. One process fills it, with two events an account. A
second one, so that all sizes meet a JVM of the same age, starts the stream on it and
sends events of known accounts, drawn at random: 20 a second for a minute that does not
count and for `--seconds` that do, then `--drain` more as fast as they go. The books of
each are closed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd

from bench.drain import drained
from bench.latency import visible
from bench.machine import bytes_below, in_a_process, machine
from lib.datagen.generator import END, generate
from lib.events.card_event import parse, to_json
from lib.kafka.broker import Broker
from lib.kafka.clients import end_offsets
from lib.kafka.producer import replay
from lib.lake.tables import SCORED
from lib.settings import Settings
from lib.streaming.progress import percentiles
from lib.streaming.runner import Pipeline, pipeline
from lib.streaming.session import spark_session
from lib.verify.reconciliation import reconcile

EVENTS_PER_ACCOUNT = 2
RATE, WARM_UP_SECONDS = 20, 60
ARRIVE_SECONDS = 120
LATER = timedelta(days=41)
"""The generator's events are of 40 days: what is sent to a filled state comes after."""

_ARRIVED_US = 2**62
_END_US = int(END.timestamp() * 1e6)


def main() -> None:
    """Run all sizes and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description="what silent accounts cost")
    parser.add_argument(
        "--accounts", type=int, nargs="+", default=[10**3, 10**5, 10**6]
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--drain", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/state.json"))
    parser.add_argument("--phase", choices=["fill", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        phase = {"fill": fill, "measure": measure}[arguments.phase]
        print(json.dumps(phase(arguments)))
        return
    runs = []
    for accounts in arguments.accounts:
        with tempfile.TemporaryDirectory() as home:
            figures: dict[str, object] = {"accounts": accounts}
            figures |= filled(home, accounts)
            figures |= measured(home, arguments.seconds, arguments.drain)
            runs.append(figures)
            print(figures, file=sys.stderr, flush=True)
    asked = {"rate": RATE, "seconds": arguments.seconds, "drain": arguments.drain}
    text = json.dumps({"machine": machine(), "settings": asked, "runs": runs}, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def filled(home: str, accounts: int) -> dict[str, object]:
    """See `fill`, in a process of its own."""
    asked = ("--home", home, "--accounts", accounts)
    return in_a_process("bench.state", "--phase", "fill", *asked)


def measured(home: str, seconds: int, drain: int) -> dict[str, object]:
    """See `measure`, in a process of its own."""
    asked = ("--home", home, "--seconds", seconds, "--drain", drain)
    return in_a_process("bench.state", "--phase", "measure", *asked)


def fill(arguments: argparse.Namespace) -> dict[str, object]:
    """Bring that many accounts into the state: how fast, and what they take."""
    (accounts,), home = arguments.accounts, arguments.home
    settings = Settings.from_env({"FRAUD_HOME": str(home)})
    file = home / "events.jsonl"
    made = generate(EVENTS_PER_ACCOUNT * accounts, accounts, seed=1)
    file.write_text("\n".join(made.lines) + "\n")
    broker = Broker(settings).start()
    try:
        spark = spark_session(settings)
        sent = replay(settings, broker.bootstrap, file)
        seconds, reports = drained(spark, settings, broker.bootstrap)
        spark.stop()
    finally:
        broker.close()
    state = reports[-1]["stateOperators"][0]
    return {
        "events": sent.acked,
        "fill_events_per_second": round(sent.acked / seconds),
        "state_keys": state["numRowsTotal"],
        "checkpoint_bytes_per_account": round(
            bytes_below(Path(settings.checkpoints)) / accounts
        ),
    }


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """The stream on that state: its start, its batches at RATE, and a drain."""
    home = arguments.home
    settings = Settings.from_env({"FRAUD_HOME": str(home)})
    known = (home / "events.jsonl").read_text().splitlines()
    draw = random.Random(2)
    lines = [again(draw.choice(known), n) for n in range(arguments.drain + 10_000)]
    del known
    slow = RATE * (WARM_UP_SECONDS + arguments.seconds)
    first, then = home / "slow.jsonl", home / "fast.jsonl"
    first.write_text("\n".join(lines[:slow]) + "\n")
    then.write_text("\n".join(lines[slow : slow + arguments.drain]) + "\n")
    before = len(list((Path(settings.table(SCORED)) / "_delta_log").glob("*.json")))
    broker = Broker(settings).start()
    try:
        spark = spark_session(settings)
        begun = time.monotonic()
        with pipeline(spark, settings, broker.bootstrap) as running:
            one = home / "one.jsonl"
            one.write_text(again(lines[-1], len(lines)) + "\n")
            replay(settings, broker.bootstrap, one)
            _arrived(running, settings, broker.bootstrap)
            started = time.monotonic() - begun
            sent_ms = time.time() * 1000
            replay(settings, broker.bootstrap, first, rate=RATE)
            _arrived(running, settings, broker.bootstrap)
            reports = [json.loads(p.json) for p in running.query.recentProgress]
        replay(settings, broker.bootstrap, then)
        seconds, _ = drained(spark, settings, broker.bootstrap)
        books = reconcile(spark, settings, broker.bootstrap)
        spark.stop()
    finally:
        broker.close()
    if not books.balanced:
        raise SystemExit(f"error: {books.differences}")
    batches = pd.Series(
        [r["durationMs"]["triggerExecution"] for r in reports if r["numInputRows"]]
    )
    rows = pd.DataFrame(visible(Path(settings.table(SCORED)), before))
    since = rows["created_ms"] - sent_ms
    counted = since.between(WARM_UP_SECONDS * 1000, slow / RATE * 1000)
    warm = rows[counted]
    latency = percentiles(warm["visible_ms"] - warm["created_ms"])
    return {
        "start_seconds": round(started, 1),
        "batch_ms": round(batches.median()),
        "latency_ms": {k: round(v) for k, v in latency.items()},
        "drain_events_per_second": round(arguments.drain / seconds),
    }


def again(line: str, number: int) -> str:
    """Another event of that line's account, long after all that were generated."""
    event = parse(line.encode(), _ARRIVED_US, None)
    later = int(LATER.total_seconds() * 1e6) + number * 1000
    return to_json(event._replace(event_id=f"again-{number}", ts_us=_END_US + later))


def _arrived(running: Pipeline, settings: Settings, bootstrap: str) -> None:
    """Wait until all that was sent is in the lake."""
    if not running.wait_until(end_offsets(settings, bootstrap), ARRIVE_SECONDS):
        raise SystemExit(f"error: not all has arrived within {ARRIVE_SECONDS} s")


if __name__ == "__main__":
    main()
