"""Row counts of bronze, transactions and quarantine, and whether the books balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lib.lake.follower import File, Follower, NoTable, Snapshot


class Counted:
    """A table's rows, and how many there are of each value of some columns.

    Attributes:
        rows: number of rows.
        values: (value, …) → rows; empty if no column was asked for.
    """

    def __init__(self, uri: str, columns: tuple[str, ...] = ()) -> None:
        self._follower = Follower(uri)
        self._columns = columns
        self._clear()

    def refresh(self) -> None:
        """Take in what is new.

        Raises:
            NoTable: there is none (yet).
        """
        try:
            for change in self._follower.poll():
                if isinstance(change, Snapshot):
                    self._clear()
                    self._count(change.files, 1)
                else:
                    self._count(change.added, 1)
                    self._count(change.removed, -1)
        except FileNotFoundError as error:
            self._follower.restart()
            raise NoTable("the table is being cleaned up; reading it anew") from error
        except NoTable:
            self._clear()
            self._follower.restart()
            raise

    def _clear(self) -> None:
        self.rows = 0
        self.values: Counter[tuple] = Counter()

    def _count(self, files: tuple[File, ...], sign: int) -> None:
        for file in files:
            if not self._columns and file.rows is not None:
                self.rows += sign * file.rows
                continue
            for rows in self._follower.read(file, self._columns):
                self.rows += sign * rows.num_rows
                self._take(rows, sign)

    def _take(self, rows: pa.Table, sign: int) -> None:
        if self._columns:
            counts = rows.group_by(list(self._columns)).aggregate([([], "count_all")])
            for *value, count in zip(*counts.to_pydict().values(), strict=True):
                self.values[tuple(value)] += sign * count


class Bronze(Counted):
    """bronze/tx_events: its rows, and the first offset of each partition in it."""

    def __init__(self, uri: str, topic: str) -> None:
        self._topic = topic
        super().__init__(uri, ("topic", "partition", "offset"))

    def committed(self, ends: Mapping[int, int]) -> int | None:
        """Records before these next offsets, from the first that bronze has.

        Args:
            ends: partition → next offset; None comes back if it is empty.
        """
        if not ends:
            return None
        return sum(end - self._first.get(part, 0) for part, end in ends.items())

    def _clear(self) -> None:
        super()._clear()
        self._first: dict[int, int] = {}

    def _take(self, rows: pa.Table, sign: int) -> None:
        own = rows.filter(pc.equal(rows["topic"], self._topic))
        firsts = own.group_by("partition").aggregate([("offset", "min")])
        for part, first in zip(
            *_columns(firsts, "partition", "offset_min"), strict=True
        ):
            self._first[part] = min(first, self._first.get(part, first))


def _columns(table: pa.Table, *names: str) -> list[list]:
    return [table[name].to_pylist() for name in names]


@dataclass(frozen=True)
class RowCounts:
    """The lake's counts at one moment, read table by table while the stream writes.

    Attributes:
        committed: offsets that the stream has committed; None if its progress is
            unknown.
        bronze: rows of bronze/tx_events.
        transactions: rows of silver/transactions.
        quarantine: rows of silver/quarantine.
        scored: rows of silver/scored.
        behind: records in Kafka that a query has not committed yet; None if unknown.
        catching_up: whether a query whose lag is unknown is still at work.
    """

    committed: int | None
    bronze: int
    transactions: int
    quarantine: int
    scored: int
    behind: int | None
    catching_up: bool = False

    @property
    def under_way(self) -> bool:
        """Whether a query has something to do yet."""
        return bool(self.behind) or self.catching_up

    @property
    def duplicates(self) -> int:
        """Bronze rows that are neither transaction nor quarantined."""
        return self.bronze - self.transactions - self.quarantine

    @property
    def empty_offsets(self) -> int:
        """Committed offsets without a row in bronze.

        The end of each transaction takes an offset, and so do the records of an
        aborted one. Whether such an offset holds a record only Kafka knows.
        """
        return max(0, (self.committed or 0) - self.bronze)

    @property
    def differences(self) -> list[str]:
        """What does not fit; while records are under way some of it may be in time."""
        found = []
        if self.committed is not None and self.bronze > self.committed:
            found.append(
                f"{self.committed:,} offsets committed, {self.bronze:,} rows in bronze"
            )
        if self.duplicates < 0:
            found.append(f"silver has {-self.duplicates:,} rows more than bronze")
        if self.scored != self.transactions:
            found.append(f"{self.transactions:,} transactions, {self.scored:,} scored")
        return found


class Verdict:
    """What the counts say: a difference counts once it stays.

    A batch reaches four tables in four commits, and a look between two of them finds
    a difference that is none.
    """

    PATIENCE_SECONDS = 10.0

    def __init__(self) -> None:
        self._last: RowCounts | None = None
        self._since = 0.0

    def judge(self, books: RowCounts, now: float) -> str:
        """Whether the books balance, in a word or three.

        ``balanced``, ``under way``, ``not balanced``; ``to be reconciled``: of some
        offsets only Kafka knows whether a record is missing; ``not known yet``: the
        stream has not said how far it is, so nothing vouches for bronze.

        Args:
            books: the counts now.
            now: any clock in seconds that only goes forward.
        """
        if books != self._last:
            self._last, self._since = books, now
        if books.under_way:
            return "under way"
        if not books.differences and not books.empty_offsets:
            return "not known yet" if books.committed is None else "balanced"
        if now - self._since < self.PATIENCE_SECONDS:
            return "under way"
        return "not balanced" if books.differences else "to be reconciled"
