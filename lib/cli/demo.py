"""The whole pipeline in one command: broker, stream, dashboard, live traffic."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lib.charts import figures
from lib.cli.traffic import Plan, Traffic
from lib.dashboard.escaping import for_label, for_terminal
from lib.dashboard.masking import Tokens
from lib.dashboard.model import Row, ScoredModel
from lib.dashboard.view import entry
from lib.errors import FraudError
from lib.kafka.clients import end_offsets, ensure_topic
from lib.lake.follower import NoTable
from lib.lake.tables import SCORED, TRANSACTIONS
from lib.settings import Settings
from lib.streaming.progress import rolling_rate
from lib.streaming.runner import pipeline
from lib.system.signals import Stop
from lib.verify.reconciliation import Reconciliation, reconcile

FEED_SECONDS = 1.5
FEED_ROWS = 8
ARRIVE_SECONDS = 120


def demo(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    stop: Stop,
    *,
    plan: Plan,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Run the stream under live traffic and show the transactions as they reach
    Delta, until the traffic ends or ``stop`` is set; then close the books.

    Args:
        spark: the session.
        settings: where everything lies.
        bootstrap: bootstrap servers.
        stop: set it to end early; the books are closed all the same.
        plan: what to send.
        say: takes each line for the reader.

    Returns:
        the summary: sent, seconds, page, and every count of the books.
    """
    begun = time.monotonic()
    feed = _Feed(settings)
    ensure_topic(settings, bootstrap)
    # Before the stream: a query's first batch is its slowest, and must not be empty.
    traffic = Traffic(settings, bootstrap, plan).start()
    try:
        with pipeline(spark, settings, bootstrap) as running:
            with stop.watched():
                say("cards are on their way; Ctrl-C ends it")
                while not stop.wait(FEED_SECONDS):
                    running.raise_failure()
                    feed.show(say)
                    if traffic.done() and plan.ends:
                        break
                sent = traffic.stop()
                ends = end_offsets(settings, bootstrap)
                if not running.wait_until(ends, ARRIVE_SECONDS):
                    raise FraudError(
                        f"the stream has not caught up within {ARRIVE_SECONDS} s: see "
                        f"{settings.log_dir / 'spark.log'}"
                    )
            feed.show(say)
    finally:
        traffic.end()
    page = _write_page(spark, settings)
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


def books_table(books: Reconciliation) -> list[str]:
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

    def __init__(self, settings: Settings) -> None:
        self._scored = ScoredModel(settings.table(SCORED))
        self._tokens = Tokens()
        self._shown: set[tuple[str, str]] = set()
        self.show(lambda _line: None)  # what an earlier run left here is no news

    def show(self, say: Callable[[str], None]) -> None:
        """Say the newest rows; with many, the last FEED_ROWS of them."""
        try:
            self._scored.refresh()
        except NoTable:
            return
        rows = {(row.account_id, row.event_id): row for row in self._scored.newest()}
        new = [rows[key] for key in reversed(rows) if key not in self._shown]
        self._shown = set(rows)
        if len(new) > FEED_ROWS:
            say(f"  … {len(new) - FEED_ROWS} more")
        for row in new[-FEED_ROWS:]:
            say(feed_line(row, self._tokens))


def feed_line(row: Row, tokens: Tokens) -> str:
    """One scored transaction as a line of the terminal, masked and harmless."""
    shown = entry(row, tokens)
    signals = "  ".join(f"{b.label} ({b.why})" for b in shown.badges)
    return (
        f"  {shown.account:<9}  {for_label(shown.merchant, 28):<28}  "
        f"{for_label(shown.country, 12)}  {for_label(shown.amount, 24):>16}  "
        f"{for_terminal(signals)}"
    ).rstrip()


def _write_page(spark: SparkSession, settings: Settings) -> Path:
    """A self-contained page with the throughput of everything in the lake's last
    replay."""
    silver = spark.read.format("delta").load(settings.table(TRANSACTIONS))
    micros = silver.select(F.unix_micros("kafka_timestamp")).toArrow().column(0)
    # In microseconds: the nanoseconds of pandas end in 2262.
    times = pd.Series(np.sort(micros.to_numpy()).astype("datetime64[us]"))
    # A pause of a minute parts this replay from an earlier one.
    replay_number = (times.diff().dt.total_seconds() > 60).cumsum()
    newest = times[replay_number == replay_number.max()]
    figure = figures.throughput(
        rolling_rate(newest),
        f"{len(newest):,} transactions reached Delta at the rate they were sent",
    )
    page = settings.own_dir / "demo" / "throughput.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(page, include_plotlyjs=True)
    return page
