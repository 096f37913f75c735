"""Which events silver/transactions holds, and so what each new record is.

The first record of an identity stands. To ask the table about every record would read
it whole for each batch; so a digest of each identity is kept in memory, 16 bytes an
event, and the table is asked only where a digest is met again: for rows at known
offsets, which the files' statistics find.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.lake import Lake

TABLE = "silver/transactions"
IDENTITY = ("account_id", "event_id")
CONTENT = ("ts", "merchant", "country", "amount", "currency")
POSITION = ("topic", "partition", "offset")
NEW, DUPLICATE, CONFLICT, REJECTED = "new", "duplicate", "conflict", "rejected"

_RECENT = 65_536
"""Digests that are kept apart until they are worth sorting into the others."""


class Known:
    """The events of silver/transactions, as they are when it is made and with those
    that are added."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        parts = [
            (_digests(_names(part)), part["offset"].to_numpy())
            for part in lake.scan(TABLE, [*IDENTITY, "offset"])
            if len(part)
        ]
        self._sorted = _Sorted(parts)
        self._recent: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def classify(self, records: pa.Table) -> pa.Table:
        """Add ``status``: ``new``, ``duplicate``, ``conflict`` or ``rejected``.

        A record that finds *itself* in the table (same topic, partition and offset)
        is ``new`` again, so that a replayed batch decides as it did the first time.

        Args:
            records: output of ``lib.ingest.parse_records``.

        Returns:
            the same rows, those of one partition in Kafka order.
        """
        order = [(column, "ascending") for column in POSITION]
        records = records.sort_by(order).combine_chunks()
        valid = np.flatnonzero(pc.is_null(records["reason"]).to_numpy())
        status = np.full(len(records), REJECTED, dtype=object)
        if len(valid):
            status[valid] = self._judge(records.take(valid))
        return records.append_column("status", pa.array(status, pa.string()))

    def add(self, classified: pa.Table) -> None:
        """Remember the new events of a batch that is in the table."""
        rows = classified.filter(pc.equal(classified["status"], NEW))
        if len(rows):
            self._recent.append((_digests(_names(rows)), rows["offset"].to_numpy()))
            self._waiting += len(rows)
        if self._waiting > _RECENT:
            self._sorted = _Sorted([self._sorted.pairs, *self._recent])
            self._recent, self._waiting = [], 0

    def _judge(self, valid: pa.Table) -> np.ndarray:
        """Status of each valid record, in Kafka order."""
        # Arrow's dictionary, because pandas' factorize ends a string at a NUL.
        encoded = pc.dictionary_encode(_names(valid))
        codes, unique = encoded.indices.to_numpy(), encoded.dictionary
        # The first of each identity in the batch stands, unless the table has one.
        standing = np.full(len(unique), len(valid))
        np.minimum.at(standing, codes, np.arange(len(valid)))
        columns = [*CONTENT, *POSITION]
        candidates = valid.select(columns)
        stored = self._stored(unique)
        if len(stored):
            found = pc.index_in(_names(stored), value_set=unique).fill_null(-1)
            found = found.to_numpy()
            known = np.flatnonzero(found >= 0)
            standing[found[known]] = len(valid) + known
            candidates = pa.concat_tables(
                [candidates, stored.select(columns).cast(candidates.schema)]
            )
        theirs = candidates.take(standing[codes])
        itself, same = _equal(valid, theirs, POSITION), _equal(valid, theirs, CONTENT)
        return np.where(itself, NEW, np.where(same, DUPLICATE, CONFLICT))

    def _stored(self, names: pa.Array) -> pa.Table:
        """The table's rows among which those of these identities are."""
        digests = _digests(names)
        recent = _Sorted(self._recent)
        offsets = np.concatenate([self._sorted.find(digests), recent.find(digests)])
        columns = [*IDENTITY, *CONTENT, *POSITION]
        if not len(offsets):
            return pa.table({})
        return self._lake.at(TABLE, np.unique(offsets).tolist(), columns)


class _Sorted:
    """Digests in order, each with an offset; a digest may occur more than once."""

    def __init__(self, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        empty = (np.zeros(0, np.uint64), np.zeros(0, np.int64))
        digests, offsets = (
            np.concatenate(column) for column in zip(empty, *parts, strict=True)
        )
        order = np.argsort(digests, kind="stable")
        self.pairs = digests[order], offsets[order]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """The offsets of all that have one of these digests."""
        held, offsets = self.pairs
        first = np.searchsorted(held, digests, side="left")
        last = np.searchsorted(held, digests, side="right")
        hits = np.flatnonzero(last > first)
        found = [offsets[first[hit] : last[hit]] for hit in hits.tolist()]
        return np.concatenate(found) if found else np.zeros(0, np.int64)


def _names(rows: pa.Table | pa.RecordBatch) -> pa.Array:
    """One string per identity (n); an account_id has no NUL in it."""
    account, event = (rows[column].cast(pa.string()) for column in IDENTITY)
    names = pc.binary_join_element_wise(account, event, "\0")
    return names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names


def _digests(names: pa.Array) -> np.ndarray:
    """uint64 (n), the same in every process."""
    strings = names.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(strings, categorize=False)


def _equal(ours: pa.Table, theirs: pa.Table, columns: tuple[str, ...]) -> np.ndarray:
    equal = np.ones(len(ours), bool)
    for column in columns:
        equal &= pc.equal(ours[column], theirs[column]).to_numpy()
    return equal
