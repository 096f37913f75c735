"""The operator's view of silver/scored: kept up to date by commits, bounded, no UI."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable
from dataclasses import dataclass, make_dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.dashboard.aggregates import (
    SUMMED_COLUMNS,
    Histogram,
    LastMinute,
    Sums,
)
from lib.detectors.detector import Detector
from lib.detectors.rules import DETECTORS
from lib.lake.follower import Commit, File, Follower, NoTable, Snapshot, concat
from lib.lake.tables import SCHEMAS, SCORED

NEWEST = 2_000
ALERTS = 1_000
"""Rows kept for the feed: the newest of all, and the newest with an alert."""

TEXT_LENGTH = 1_000
"""Characters of a merchant's name that are kept: a name may be as long as a record."""

ROW_COLUMNS = tuple(SCHEMAS[SCORED].names)
_ID, _TIME = pa.string(), pa.timestamp("us")
_EMPTY = pa.table(
    {
        name: pa.array([], _ID if name.endswith("_id") else _TIME)
        for name in ROW_COLUMNS
        if name in ("event_id", "account_id", "kafka_timestamp", "scored_at")
    }
)
PERCENTILES = (50.0, 95.0, 99.0)


class _Fired:
    """What `Row` says beyond its columns."""

    __slots__ = ()

    @property
    def fired(self) -> tuple[Detector, ...]:
        """The detectors that fire on it."""
        return tuple(d for d in DETECTORS if getattr(self, f"is_{d.name}"))

    @property
    def detectors(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(detector.name for detector in self.fired)


Row = make_dataclass(
    "Row",
    [*ROW_COLUMNS, ("visible_ms", "int | None", None)],
    bases=(_Fired,),
    frozen=True,
    slots=True,
)
Row.__doc__ = """One scored event, as the table has it, and when it became visible.

Attributes:
    visible_ms: timestamp of the commit that made it visible, milliseconds since the
        epoch; None if that is not known any more.
"""


@dataclass(frozen=True)
class Latency:
    """From Kafka CreateTime to the Delta commit, milliseconds.

    Attributes:
        last_minute: p50, p95, p99 of what became visible in the last 60 s.
        whole_run: the same of all events measured.
        measured: how many those are.
    """

    last_minute: list[float | None]
    whole_run: list[float | None]
    measured: int


class ScoredModel:
    """silver/scored in bounded memory.

    Attributes:
        sums: sums over all rows.
        follower: the table's follower.
    """

    def __init__(self, uri: str) -> None:
        self.follower = Follower(uri)
        self._clear()

    def refresh(self) -> int:
        """Take in what is new; returns the number of changes.

        Raises:
            NoTable: there is none (yet).
        """
        changes = 0
        try:
            for change in self.follower.poll():
                changes += 1
                if isinstance(change, Snapshot):
                    self._load(change)
                else:
                    self._apply(change)
        except FileNotFoundError as error:
            # A file that a commit names has been vacuumed: the snapshot has the rest.
            self.follower.restart()
            raise NoTable("the table is being cleaned up; reading it anew") from error
        except NoTable:
            if not self.follower.version >= 0:
                self._clear()
            raise
        return changes

    def newest(self) -> list[Row]:
        """The newest rows, newest first."""
        return list(reversed(self._newest.values()))

    def newest_alerts(self) -> list[Row]:
        """The newest rows with an alert, newest first."""
        return list(reversed(self._alerts.values()))

    def rates(self, now: float) -> list[tuple[int, float]]:
        """See LastMinute.rates."""
        return self._minute.rates(now)

    def latency(self, now: float) -> Latency:
        """Latency percentiles at ``now`` (seconds since the epoch)."""
        return Latency(
            self._minute.percentiles(now, PERCENTILES),
            [self._latencies.percentile(q) for q in PERCENTILES],
            self._latencies.total,
        )

    # -- taking in --------------------------------------------------------------

    def _clear(self) -> None:
        self.sums = Sums()
        self._latencies = Histogram()
        self._minute = LastMinute()
        self._newest: OrderedDict[tuple[str, str], Row] = OrderedDict()
        self._alerts: OrderedDict[tuple[str, str], Row] = OrderedDict()

    def _load(self, snapshot: Snapshot) -> None:
        self._clear()
        for file in snapshot.files:
            for rows in self.follower.read(file, SUMMED_COLUMNS):
                self.sums.add(rows)
        self._show(_newest_rows(self.follower, snapshot.files), None)

    def _apply(self, commit: Commit) -> None:
        if not commit.removed:
            self._append(commit)
            return
        latest = _last_written(self.follower, commit.added)
        pieces = [self._written(file, latest) for file in commit.added]
        written = fresh = concat(pieces, _EMPTY)
        known = self._take_back(commit, fresh)
        if known:
            ids = zip(
                fresh["account_id"].to_pylist(),
                fresh["event_id"].to_pylist(),
                strict=True,
            )
            fresh = fresh.filter(pa.array([key not in known for key in ids]))
        self._measure(commit, [fresh["kafka_timestamp"]])
        self._show(written, commit.at_ms, known)

    def _append(self, commit: Commit) -> None:
        """A commit that only adds: every row is new, and few need to be kept."""
        times, shown = [], _EMPTY
        for file in commit.added:
            for rows in map(shortened, self.follower.read(file, ROW_COLUMNS)):
                self.sums.add(rows)
                times.append(rows["kafka_timestamp"])
                shown = concat([shown, _largest(rows, NEWEST)], _EMPTY)
            shown = _largest(shown, NEWEST) if shown.num_rows > NEWEST else shown
        self._measure(commit, times)
        self._show(shown, commit.at_ms)

    def _measure(self, commit: Commit, times: list[pa.ChunkedArray]) -> None:
        """Count first answers with the Kafka times of their records."""
        latencies = [commit.at_ms - _millis(part) for part in times if len(part)]
        if latencies:
            measured = np.concatenate(latencies)
            self._latencies.add(measured)
            self._minute.add(commit.at_ms / 1000, len(measured), measured)

    def _written(self, file: File, latest: datetime | None) -> pa.Table:
        """Of a merge's file the rows of its own batch; all of them are tallied.

        A merge copies the rows that share a file with a corrected one; those carry
        the ``scored_at`` of an earlier batch.
        """
        pieces = []
        for rows in map(shortened, self.follower.read(file, ROW_COLUMNS)):
            self.sums.add(rows)
            pieces.append(rows.filter(pc.equal(rows["scored_at"], latest)))
        return concat(pieces, _EMPTY)

    def _take_back(self, commit: Commit, written: pa.Table) -> set[tuple[str, str]]:
        """Subtract the removed files; returns which written events stood in them."""
        known = set()
        for file in commit.removed:
            for rows in self.follower.read(file, ("event_id", *SUMMED_COLUMNS)):
                self.sums.add(rows, -1)
                same = pc.is_in(rows["event_id"], written["event_id"].combine_chunks())
                rows = rows.filter(same)
                ids = rows["account_id"].to_pylist(), rows["event_id"].to_pylist()
                known |= set(zip(*ids, strict=True))
        return known

    def _show(
        self,
        rows: pa.Table,
        visible_ms: int | None,
        corrected: Container[tuple[str, str]] = (),
    ) -> None:
        """Put rows into the feed; a corrected one stays where it was."""
        for values in _largest(rows, NEWEST).to_pylist():
            row = Row(**values, visible_ms=visible_ms)
            key = (row.account_id, row.event_id)
            _keep(self._newest, key, row, NEWEST, new=key not in corrected)
            if row.detectors:
                _keep(self._alerts, key, row, ALERTS, new=True)
            else:
                self._alerts.pop(key, None)


def shortened(rows: pa.Table) -> pa.Table:
    """The rows with TEXT_LENGTH characters of their merchants' names at most."""
    at = rows.column_names.index("merchant")
    names = pc.utf8_slice_codeunits(rows["merchant"], 0, TEXT_LENGTH)
    return rows.set_column(at, "merchant", names)


def _keep(
    kept: OrderedDict[tuple[str, str], Row],
    key: tuple[str, str],
    row: Row,
    most: int,
    *,
    new: bool,
) -> None:
    known = kept.get(key)
    if known is not None:
        kept[key] = replace(row, visible_ms=known.visible_ms)
    elif new:
        kept[key] = row
        if len(kept) > most:
            kept.popitem(last=False)


def _newest_rows(follower: Follower, files: Iterable[File]) -> pa.Table:
    """The NEWEST rows by Kafka time, holding two pieces in memory at most."""
    newest = _EMPTY
    for file in files:
        for rows in map(shortened, follower.read(file, ROW_COLUMNS)):
            both = concat([newest, _largest(rows, NEWEST)], _EMPTY)
            newest = _largest(both, NEWEST)
    return newest


def _largest(rows: pa.Table, most: int) -> pa.Table:
    """At most so many rows, those with the largest Kafka time, in its order."""
    keys = [("kafka_timestamp", "ascending"), ("event_id", "ascending")]
    order = pc.sort_indices(rows, keys)
    return rows.take(order[max(0, len(order) - most) :])


def _last_written(follower: Follower, files: Iterable[File]):
    """The largest ``scored_at`` in the files: all that one batch wrote carries it."""
    found = [
        pc.max(rows["scored_at"]).as_py()
        for file in files
        for rows in follower.read(file, ("scored_at",))
    ]
    return max((at for at in found if at is not None), default=None)


def _millis(times: pa.ChunkedArray) -> np.ndarray:
    return times.cast(pa.int64()).to_numpy() / 1000
