"""The whole pipeline in one command: broker, stream, a live replay, and the books."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lib import charts
from lib.clients import end_offsets
from lib.config import ROOT, Settings
from lib.errors import FraudError
from lib.events import mask_account
from lib.generator import generate
from lib.producer import Sent, replay
from lib.progress import rolling_rate
from lib.reconcile import Books, reconcile
from lib.stream import Pipeline, pipeline

FIXTURE = ROOT / "fixtures" / "tx_events.jsonl"
FEED_SECONDS = 1.5
FEED_ROWS = 8
ARRIVE_SECONDS = 120
EVENTS_PER_ACCOUNT = 25


def demo(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    stop: threading.Event,
    *,
    rate: float,
    events: int | None,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Replay the fixture live and show the transactions as they reach Delta.

    A home that holds the fixture already gets newly generated cards instead: the
    fixture again would be nothing but duplicates.

    Args:
        spark: the session.
        settings: where everything lies.
        bootstrap: bootstrap servers.
        stop: set it to end early; the books are closed all the same.
        rate: events per second.
        events: how many events; None for as many as the fixture has.
        say: takes each line for the reader.

    Returns:
        the summary: sent, seconds, page, and every count of the books.
    """
    begun = time.monotonic()
    with pipeline(spark, settings, bootstrap) as running:
        file = _events_file(settings, bootstrap, events)
        feed = _Feed(spark, settings, end_offsets(settings, bootstrap))
        say(f"replaying {file.name} at {rate:g} events/s; Ctrl-C ends it")
        sent = _replay_while_showing(
            settings, bootstrap, file, rate, stop, running, feed, say
        )
        _wait_until_arrived(running, settings, bootstrap)
        feed.show(say)
    page = _write_page(spark, settings, rate)
    books = reconcile(spark, settings, bootstrap)
    for line in books_table(books):
        say(line)
    say(f"throughput: {page}")
    return {
        "sent": sent.sent,
        "acked": sent.acked,
        "seconds": round(time.monotonic() - begun, 3),
        "page": str(page),
        **books.as_dict(),
    }


def books_table(books: Books) -> list[str]:
    """The reconciliation as lines of a table."""
    n = books.counts
    rows = [
        ("Kafka records", n["kafka"]),
        ("bronze rows", n["bronze"]),
        ("  transactions", n["transactions"]),
        ("  quarantine", n["quarantine"]),
        ("  duplicates", n["duplicates"]),
        ("scored events", n["scored"]),
    ]
    lines = [f"{name:<16}{count:>10,}" for name, count in rows]
    verdict = "the books balance" if books.balanced else "THE BOOKS DO NOT BALANCE"
    return [*lines, verdict, *books.differences]


class _Feed:
    """Shows each transaction once, when it has become visible in Delta."""

    def __init__(
        self, spark: SparkSession, settings: Settings, ends: dict[int, int]
    ) -> None:
        self._spark, self._settings = spark, settings
        self._next = dict(ends)

    def show(self, say: Callable[[str], None]) -> None:
        """Say the newest rows; with many, the last FEED_ROWS of them."""
        silver = self._spark.read.format("delta").load(
            self._settings.table("silver/transactions")
        )
        unseen = F.lit(False)
        for partition, offset in self._next.items():
            unseen |= (F.col("partition") == partition) & (F.col("offset") >= offset)
        rows = silver.where(unseen).orderBy("kafka_timestamp", "offset").collect()
        for row in rows:
            self._next[row.partition] = max(self._next[row.partition], row.offset + 1)
        if len(rows) > FEED_ROWS:
            say(f"  … {len(rows) - FEED_ROWS} more")
        for row in rows[-FEED_ROWS:]:
            say(
                f"  {mask_account(row.account_id)}  {row.merchant:<28.28}  "
                f"{row.country}  {row.amount:>12,} {row.currency}"
            )


def _replay_while_showing(
    settings: Settings,
    bootstrap: str,
    file: Path,
    rate: float,
    stop: threading.Event,
    running: Pipeline,
    feed: _Feed,
    say: Callable[[str], None],
) -> Sent:
    """The producer works in a thread of its own, so that looking at the lake does
    not slow its open loop."""
    outcome: list[Sent | BaseException] = []

    def send() -> None:
        try:
            outcome.append(replay(settings, bootstrap, file, rate=rate, stop=stop))
        except BaseException as error:  # handed to the caller below
            outcome.append(error)

    thread = threading.Thread(target=send, name="replay")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(FEED_SECONDS)
            running.raise_failure()
            feed.show(say)
    finally:
        if thread.is_alive():
            stop.set()
            thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _wait_until_arrived(running: Pipeline, settings: Settings, bootstrap: str) -> None:
    ends = end_offsets(settings, bootstrap)
    deadline = time.monotonic() + ARRIVE_SECONDS
    while not running.reached(ends):
        running.raise_failure()
        if time.monotonic() > deadline:
            raise FraudError(
                f"the stream has not caught up within {ARRIVE_SECONDS} s: see "
                f"{settings.log_dir / 'spark.log'}"
            )
        time.sleep(0.1)


def _events_file(settings: Settings, bootstrap: str, events: int | None) -> Path:
    """The fixture (or its first ``events`` lines), and generated cards behind it."""
    fixture = FIXTURE.read_text().splitlines()
    held = sum(end_offsets(settings, bootstrap).values())
    wanted = events or len(fixture)
    lines = [] if held else fixture[:wanted]
    missing = wanted - len(lines)
    if missing:
        accounts = max(1, missing // EVENTS_PER_ACCOUNT)
        lines += generate(missing, accounts, seed=held + 1).lines
    folder = settings.home / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tx_events.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def _write_page(spark: SparkSession, settings: Settings, rate: float) -> Path:
    """A self-contained page with the throughput of everything in the lake's last
    replay."""
    silver = spark.read.format("delta").load(settings.table("silver/transactions"))
    times = silver.select("kafka_timestamp").toPandas()["kafka_timestamp"].sort_values()
    # A pause of a minute parts this replay from an earlier one.
    replay_number = (times.diff().dt.total_seconds() > 60).cumsum()
    newest = times[replay_number == replay_number.max()]
    figure = charts.throughput(
        rolling_rate(newest),
        f"{len(newest):,} transactions reached Delta at the rate they were sent",
        target=rate,
    )
    page = settings.home / "demo" / "throughput.html"
    figure.write_html(page, include_plotlyjs=True)
    return page
