"""The one reader behind all open pages: follows the lake in a thread of its own."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from lib.dashboard.accounts import AtRisk, at_risk, history
from lib.dashboard.health import Health, TopicEnds, look
from lib.dashboard.masking import Tokens
from lib.dashboard.model import Latency, ScoredModel
from lib.dashboard.row_counts import Bronze, Counted, RowCounts, Verdict
from lib.dashboard.view import (
    AccountPage,
    Entry,
    Filters,
    account_page,
    alerts_over_time,
    by_country,
    feed,
    top_accounts,
)
from lib.detectors.thresholds import THRESHOLDS
from lib.lake.follower import NoTable, Unreadable
from lib.lake.tables import BRONZE, QUARANTINE, SCORED, TRANSACTIONS
from lib.settings import Settings

POLL_SECONDS = 0.25
HEALTH_SECONDS = 1.0
GOLD_SECONDS = 15.0
MANY_CHANGES = 10
"""Commits of one look, or a snapshot, that leave much memory behind."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Live:
    """What changes with every look.

    Attributes:
        entries: the feed, newest first.
        rates: (second, events per second) of the last 60 seconds.
        latency: see ``model.Latency``.
        rows: rows of silver/scored.
        flagged: those with an alert.
        trouble: why there is nothing to see; empty if there is.
    """

    entries: list[Entry]
    rates: list[tuple[int, float]]
    latency: Latency
    rows: int
    flagged: int
    trouble: str


@dataclass(frozen=True)
class Alerts:
    """Sums over all rows, see ``lib.dashboard.view`` for the frames.

    Attributes:
        totals: detector → alerts.
        over_time: frame of ``alerts_over_time``.
        countries: frame of ``by_country``.
        accounts: rows of ``top_accounts``.
    """

    totals: Counter[str]
    over_time: pd.DataFrame
    countries: pd.DataFrame
    accounts: list[dict]


class Reader:
    """Keeps a model of the lake and answers the pages from memory.

    Attributes:
        tokens: the tokens of this process.
        refresh_ms: what the last look at the lake took, milliseconds.
        health_trouble: why nobody can tell how the stream is; empty if one can.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tokens = Tokens()
        self.refresh_ms = 0.0
        self.health_trouble = ""
        self._scored = ScoredModel(settings.table(SCORED))
        self._bronze = Bronze(settings.table(BRONZE), settings.topic)
        self._transactions = Counted(settings.table(TRANSACTIONS))
        self._quarantine = Counted(settings.table(QUARANTINE), ("reason",))
        self._verdict = Verdict()
        self._ends = TopicEnds(settings)
        self._lock = threading.RLock()
        self._trouble = "reading the lake …"
        self._unread = ""  # why the counts of another table can't be trusted
        self._health: Health | None = None
        self._books: tuple[RowCounts, str] | None = None
        self._gold: AtRisk | None = None
        self._next_health = self._next_gold = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> Reader:
        """Follow the lake from now on."""
        # The system's allocator gives memory back that a large snapshot needed once.
        pa.set_memory_pool(pa.system_memory_pool())
        self._ends.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Follow it no more."""
        self._end.set()
        self._ends.stop()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> None:
        """One look at the scored table."""
        begun = time.perf_counter()
        with self._lock:
            try:
                if self._scored.refresh() > MANY_CHANGES:
                    _give_back()
                self._trouble = ""
            except NoTable as error:
                self._trouble = str(error)
        self.refresh_ms = (time.perf_counter() - begun) * 1000

    def look_after(self) -> None:
        """One look at stream and marts, if it is time for one."""
        now = time.monotonic()
        if now >= self._next_health:
            self._next_health = now + HEALTH_SECONDS
            self._look_at_stream()
        if now >= self._next_gold:
            self._next_gold = now + GOLD_SECONDS
            self._gold = at_risk(self.settings)

    # -- what the pages ask -----------------------------------------------------

    def live(self, filters: Filters) -> Live:
        """Feed, throughput and latency at this moment."""
        now = time.time()
        with self._lock:
            scored = self._scored
            return Live(
                entries=feed(
                    scored.newest(), scored.newest_alerts(), filters, self.tokens
                ),
                rates=scored.rates(now),
                latency=scored.latency(now),
                rows=scored.sums.rows,
                flagged=scored.sums.flagged,
                trouble=self._trouble or self._unread,
            )

    def alerts(self) -> Alerts:
        """Alerts over time, by country and by account."""
        with self._lock:
            sums = self._scored.sums
            return Alerts(
                totals=Counter(sums.alerts),
                over_time=alerts_over_time(sums.slots),
                countries=by_country(sums.countries, sums.flagged_countries),
                accounts=top_accounts(sums.accounts, self.tokens),
            )

    def health(self) -> Health | None:
        """The stream's health; None before the first look."""
        return self._health

    def books(self) -> tuple[RowCounts, str] | None:
        """The counts and the verdict; None before the first look."""
        return self._books

    def quarantine(self) -> dict[str, int]:
        """Reason → records."""
        reasons = self._quarantine.values.items()
        return {reason: n for (reason,), n in sorted(reasons) if n}

    def gold(self) -> AtRisk | None:
        """dbt's accounts at risk; None as long as there are none."""
        return self._gold

    def account(self, token: str) -> AccountPage | None:
        """The page of the account behind a token; None if the token leads nowhere.

        Raises:
            NoTable: the table can't be read.
        """
        account_id = self.tokens.account_of(token)
        if account_id is None:
            return None
        found = history(self.settings, account_id)
        return account_page(found, self.tokens, THRESHOLDS.amount_z)

    # -- the thread -------------------------------------------------------------

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self.refresh()
            except Exception as error:
                # A half-written lake can fail in ways nobody listed; the page says
                # so, and the next look may find it whole.
                _log.warning("can't read %s", self.settings.lake, exc_info=True)
                self._trouble = f"the lake can't be read just now ({error!r:.200})"
                self._scored.follower.restart()
            try:
                self.look_after()
            except Exception as error:
                # What is wrong there is no reason to read the scored table anew.
                if not self.health_trouble:
                    _log.warning("can't tell how the stream is", exc_info=True)
                self.health_trouble = f"{error!r:.200}"
            self._end.wait(POLL_SECONDS)

    def _look_at_stream(self) -> None:
        unread = ""
        for table in (self._bronze, self._transactions, self._quarantine):
            try:
                table.refresh()
            except Unreadable as error:
                unread = str(error)
            except NoTable:
                continue  # it counts as empty
        self._unread = unread
        health = look(self.settings, self._ends, time.time())
        books = RowCounts(
            committed=self._bronze.committed(health.committed),
            bronze=self._bronze.rows,
            transactions=self._transactions.rows,
            quarantine=self._quarantine.rows,
            scored=self._scored.sums.rows,
            behind=health.behind,
            catching_up=health.catching_up,
        )
        self.health_trouble = ""
        self._health = health
        self._books = books, self._verdict.judge(books, time.monotonic())


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps what a large read once needed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc only
        trim(0)
