"""What a bucket of accounts remembers, and its layout as bytes.

One blob per bucket: a header, then each column whole. Reading it copies nothing but
the strings, since a numeric column is a view of the blob. An event takes 34 bytes,
whatever the length of its id: of ids only a 64-bit digest stays, except for the few
events young enough to be corrected, where the id itself breaks ties and names the
row to correct.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, pairwise

import numpy as np

NEVER = -(2**63)  # a time before all times, in µs

_VERSION = 1
_HEADER = struct.Struct("<8q")


@dataclass
class Rows:
    """Events as columns of equal length."""

    ts: np.ndarray  # int64, µs UTC
    amount: np.ndarray  # int64, cents
    identity: np.ndarray  # uint64, digest of the event id
    fingerprint: np.ndarray  # uint64, digest of merchant and currency
    country: np.ndarray  # uint16, see `country_codes`

    def __len__(self) -> int:
        """How many events."""
        return len(self.ts)

    def take(self, index: np.ndarray) -> Rows:
        """The rows at `index`, in that order."""
        return Rows(*(getattr(self, f.name)[index] for f in fields(self)))

    def extend(self, other: Rows) -> Rows:
        """These rows, then the other ones."""
        return Rows(
            *(
                np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in fields(self)
            )
        )


@dataclass
class State:
    """A accounts, N punctual events, R of them recent, L late events.

    Punctual events stand account by account, in the order (ts, event id). The last
    `recents[a]` of account a are recent: not yet lateness older than its newest.
    """

    watermark: int  # the greatest ever shown, µs, or NEVER
    accounts: list[str]  # (A)
    newest: np.ndarray  # int64 (A), µs: the greatest ts of each account
    known_from: np.ndarray  # int64 (A), µs: an older history may have been evicted
    counts: np.ndarray  # int64 (A): punctual events of each
    recents: np.ndarray  # int64 (A): recent ones of each
    rows: Rows  # (N)
    recent_ids: list[str]  # (R)
    revisions: np.ndarray  # int64 (R)
    late: Rows  # (L)
    late_account: np.ndarray  # int64 (L), index into accounts


_ROW_TYPES = ("<i8", "<i8", "<u8", "<u8", "<u2")


def encode(state: State) -> bytes:
    """The state as one blob."""
    names, name_sizes = _join(state.accounts)
    ids, id_sizes = _join(state.recent_ids)
    sizes = (len(state.accounts), len(state.rows), len(state.recent_ids))
    header = (_VERSION, *sizes, len(state.late), len(names), len(ids), state.watermark)
    columns = [
        (state.newest, "<i8"),
        (state.known_from, "<i8"),
        *_columns(state.rows),
        *_columns(state.late),
        (state.late_account, "<u4"),
        (state.counts, "<u4"),
        (state.recents, "<u4"),
        (name_sizes, "<u4"),
        (id_sizes, "<u4"),
        (state.revisions, "<u4"),
    ]
    arrays = (np.ascontiguousarray(column, dtype) for column, dtype in columns)
    return b"".join([_HEADER.pack(*header), *arrays, names, ids])


def decode(blob: bytes | None) -> State:
    """The state in a blob from `encode`; None or b"" is that of an empty bucket.

    Raises ValueError for bytes that this version did not write.
    """
    if not blob:
        blob = _HEADER.pack(_VERSION, 0, 0, 0, 0, 0, 0, NEVER)
    offset = _HEADER.size
    if len(blob) < offset:
        raise ValueError("bucket state is cut short")
    version, a, n, r, late, name_bytes, id_bytes, watermark = _HEADER.unpack_from(blob)
    if version != _VERSION:
        raise ValueError(f"bucket state of version {version}, not {_VERSION}")

    def column(dtype: str, length: int) -> np.ndarray:
        nonlocal offset
        array = np.frombuffer(blob, dtype, length, offset)
        offset += array.nbytes
        return array

    newest, known_from = column("<i8", a), column("<i8", a)
    rows = Rows(*(column(dtype, n) for dtype in _ROW_TYPES))
    late_rows = Rows(*(column(dtype, late) for dtype in _ROW_TYPES))
    late_account = column("<u4", late).astype(np.int64)
    counts, recents, name_sizes = (column("<u4", a).astype(np.int64) for _ in range(3))
    id_sizes, revisions = column("<u4", r), column("<u4", r).astype(np.int64)
    names, ids = blob[offset : offset + name_bytes], blob[offset + name_bytes :]
    if len(ids) != id_bytes:
        raise ValueError("bucket state is cut short")
    return State(
        watermark=watermark,
        accounts=_split(names, name_sizes),
        newest=newest,
        known_from=known_from,
        counts=counts,
        recents=recents,
        rows=rows,
        recent_ids=_split(ids, id_sizes),
        revisions=revisions,
        late=late_rows,
        late_account=late_account,
    )


def identities(event_ids: Sequence[str]) -> np.ndarray:
    """uint64 (n): a digest of each event id, the same in every process.

    It is compared within an account only: among 100,000 events of one account, two
    ids share a digest with probability 3e-10.
    """
    digests = [blake2b(text.encode(), digest_size=8).digest() for text in event_ids]
    return np.frombuffer(b"".join(digests), "<u8")


def fingerprints(merchants: Sequence[str], currencies: Sequence[str]) -> np.ndarray:
    """uint64 (n): a digest of the fields that no rule reads.

    With ts, amount and country it tells a duplicate from a conflict.
    """
    pairs = zip(merchants, currencies, strict=True)
    return np.array([_fingerprint(*pair) for pair in pairs], np.uint64)


def country_codes(countries: Sequence[str]) -> np.ndarray:
    """uint16 (n): the two letters of each country as one number.

    Raises ValueError for a country that is not two letters of ASCII.
    """
    letters = np.array(countries, np.str_)
    if not len(letters):
        return np.zeros(0, np.uint16)
    points = letters.view(np.uint32).reshape(len(letters), -1)
    if points.shape[1] != 2 or points.min() < 1 or points.max() > 127:
        raise ValueError("a country is two letters of ASCII (ISO 3166-1 alpha-2)")
    return (points[:, 0] << 8 | points[:, 1]).astype(np.uint16)


def country_names(codes: np.ndarray) -> np.ndarray:
    """object (n): the strings behind `country_codes`."""
    points = np.stack([codes >> 8, codes & 0xFF], axis=1).astype(np.uint32)
    return points.view("U2").reshape(len(codes)).astype(object)


@lru_cache(maxsize=65_536)
def _fingerprint(merchant: str, currency: str) -> int:
    text = f"{len(merchant)} {merchant}{currency}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _columns(rows: Rows) -> list[tuple[np.ndarray, str]]:
    return [
        (getattr(rows, field.name), dtype)
        for field, dtype in zip(fields(Rows), _ROW_TYPES, strict=True)
    ]


def _join(strings: list[str]) -> tuple[bytes, list[int]]:
    """UTF-8 of all the strings on end, and the length of each in code points."""
    joined = "".join(strings).encode()
    return joined, [len(string) for string in strings]


def _split(joined: bytes, sizes: np.ndarray) -> list[str]:
    text = joined.decode()
    stops = accumulate(sizes.tolist(), initial=0)
    return [text[start:stop] for start, stop in pairwise(stops)]
