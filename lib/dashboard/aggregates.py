"""Incremental sums over scored rows (add and subtract), and streaming percentiles.

A corrected row reaches the table as a file removed and a file added. Sums follow that
exactly: add what the added files hold, subtract what the removed ones held.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.detectors.rules import NAMES

SUMMED_COLUMNS = (
    "account_id",
    "country",
    "late",
    *(f"is_{name}" for name in NAMES),
    "revision",
    "kafka_timestamp",
)
SLOT_SECONDS = 10
SLOTS = 6 * 360
"""Alerts over time: slots of 10 s, for the newest 6 hours."""


@dataclass
class Sums:
    """Counts over the rows of silver/scored.

    Attributes:
        rows: all rows.
        late: rows marked late.
        revised: rows that were corrected at least once.
        alerts: detector → rows on which it fires.
        flagged: rows on which at least one fires.
        countries: country → rows.
        flagged_countries: country → rows on which at least one detector fires.
        accounts: account → alerts in the order of NAMES, for accounts that have
            one; a list, because a million rows can flag tens of thousands of them.
        slots: (slot, detector) → alerts; a slot is Kafka time // SLOT_SECONDS.
    """

    rows: int = 0
    late: int = 0
    revised: int = 0
    flagged: int = 0
    alerts: Counter = field(default_factory=Counter)
    countries: Counter = field(default_factory=Counter)
    flagged_countries: Counter = field(default_factory=Counter)
    accounts: dict[str, list[int]] = field(default_factory=dict)
    slots: Counter = field(default_factory=Counter)

    def add(self, rows: pa.Table, sign: int = 1) -> None:
        """Count rows with SUMMED_COLUMNS; ``sign`` −1 takes them back."""
        self.rows += sign * rows.num_rows
        self.late += sign * _true(rows["late"])
        self.revised += sign * _true(pc.greater(rows["revision"], 0))
        _count(self.countries, rows["country"], sign)
        hit = reduce(pc.or_, (rows[f"is_{name}"] for name in NAMES))
        flagged = rows.filter(hit)
        self.flagged += sign * flagged.num_rows
        if not flagged.num_rows:
            return
        _count(self.flagged_countries, flagged["country"], sign)
        micros = flagged["kafka_timestamp"].cast(pa.int64())
        slots = micros.to_numpy() // (SLOT_SECONDS * 1_000_000)
        ids = flagged["account_id"].to_pylist()
        for number, detector in enumerate(NAMES):
            fires = flagged[f"is_{detector}"].to_numpy().nonzero()[0]
            self.alerts[detector] += sign * len(fires)
            for at in fires.tolist():
                self.slots[int(slots[at]), detector] += sign
                self.accounts.setdefault(ids[at], [0] * len(NAMES))[number] += sign
        self._trim()

    def _trim(self) -> None:
        if len(self.slots) <= 2 * SLOTS * len(NAMES):
            return
        oldest = max(slot for slot, _ in self.slots) - SLOTS
        self.slots = Counter({k: n for k, n in self.slots.items() if k[0] > oldest})


def _true(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0


def _count(into: Counter, values: pa.ChunkedArray, sign: int) -> None:
    for pair in pc.value_counts(values).to_pylist():
        into[pair["values"]] += sign * pair["counts"]
        if not into[pair["values"]]:
            del into[pair["values"]]


class Histogram:
    """Counts of values > 0 in bins that are 1 % wide: percentiles within 1 %."""

    WIDTH = 1.01
    LOWEST, HIGHEST = 1.0, 1e8  # milliseconds: up to a day and more

    def __init__(self) -> None:
        bins = int(np.log(self.HIGHEST / self.LOWEST) / np.log(self.WIDTH)) + 2
        self._counts = np.zeros(bins, dtype=np.int64)
        self.total = 0
        self.largest = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count the values; what is outside the range counts at its end."""
        if not len(values):
            return
        inside = np.clip(values, self.LOWEST, self.HIGHEST)
        bins = np.floor(np.log(inside / self.LOWEST) / np.log(self.WIDTH))
        self._counts += np.bincount(bins.astype(int), minlength=len(self._counts))
        self.total += len(values)
        self.largest = max(self.largest, float(values.max()))

    def percentile(self, q: float) -> float | None:
        """The value below which ``q`` percent lie; None without values."""
        if not self.total:
            return None
        rank = np.searchsorted(np.cumsum(self._counts), self.total * q / 100)
        middle = self.LOWEST * self.WIDTH ** (float(rank) + 0.5)
        return min(middle, self.largest)


class LastMinute:
    """What became visible in the last 60 s: how much, and how late."""

    SECONDS = 60
    HISTORY = 2 * SECONDS
    MOST = 200_000
    """Latencies kept of one commit at most; of more, every n-th."""

    def __init__(self) -> None:
        self._commits: deque[tuple[float, int, np.ndarray]] = deque()
        self._first: float | None = None

    def add(self, at: float, rows: int, latencies_ms: np.ndarray) -> None:
        """One commit: its time in seconds, its new rows and their latencies."""
        if self._first is None:  # its oldest record: then the traffic had begun
            self._first = at - max(0.0, float(latencies_ms.max(initial=0))) / 1000
        step = len(latencies_ms) // self.MOST + 1
        self._commits.append((at, rows, latencies_ms[::step].astype(np.float32)))
        while self._commits[0][0] < self._commits[-1][0] - self.HISTORY:
            self._commits.popleft()

    def rates(self, now: float) -> list[tuple[int, float]]:
        """(second, events per second): the rolling 60 s at each of the last 60 s.

        While less than 60 s have passed since the first record, that is the divisor.
        """
        if self._first is None:
            return []
        times = np.array([at for at, _, _ in self._commits])
        counts = np.array([rows for _, rows, _ in self._commits])
        found = []
        for second in range(-self.SECONDS + 1, 1):
            moment = now + second
            inside = (times > moment - self.SECONDS) & (times <= moment)
            since = min(self.SECONDS, max(1.0, moment - self._first))
            found.append((second, float(counts[inside].sum()) / since))
        return found

    def percentiles(self, now: float, wanted: tuple[float, ...]) -> list[float | None]:
        """Percentiles of the last 60 s in milliseconds; None without events."""
        recent = [
            ms for at, _, ms in self._commits if at > now - self.SECONDS and len(ms)
        ]
        if not recent:
            return [None] * len(wanted)
        return np.percentile(np.concatenate(recent), wanted).tolist()
