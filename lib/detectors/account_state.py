"""What the detectors remember of an account, and its layout as bytes.

One value per account in the state store: a header, then the account's events as rows
of fixed width, then the ids of the recent ones. An event takes 34 bytes, whatever the
length of its id: of ids only a 64-bit digest stays, except for the few events young
enough to be corrected, where the id itself breaks ties and names the row to correct.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, pairwise

import numpy as np

from lib.detectors.thresholds import Thresholds

NEVER = -(2**63)  # a time before all times, in µs

_VERSION = 2
_HEADER = struct.Struct("<BqqIIII")
_ROW = np.dtype(
    [
        ("ts", "<i8"),
        ("amount", "<i8"),
        ("identity", "<u8"),
        ("fingerprint", "<u8"),
        ("country", "<u2"),
    ]
)
_LATE = np.dtype([("since", "<i8"), ("unsure", "?")])


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
    """A accounts, N punctual events, R of them recent, L others that are remembered.

    Punctual events stand account by account, in the order (ts, event id). The last
    `recents[a]` of account a are recent: not yet lateness older than its newest. The
    others are late, or `unsure`: of an event older than the account's memory only the
    table can say whether it came before.
    """

    accounts: list[str]  # (A)
    newest: np.ndarray  # int64 (A), µs: the greatest ts of each account, or NEVER
    known_from: np.ndarray  # int64 (A), µs: an older history may have been evicted
    counts: np.ndarray  # int64 (A): punctual events of each
    recents: np.ndarray  # int64 (A): recent ones of each
    rows: Rows  # (N)
    recent_ids: list[str]  # (R)
    revisions: np.ndarray  # int64 (R)
    late: Rows  # (L)
    late_account: np.ndarray  # int64 (L), index into accounts
    late_since: np.ndarray  # int64 (L), µs: the account's clock when each came
    late_unsure: np.ndarray  # bool (L)


def encode(state: State) -> dict[str, bytes]:
    """The value of each account in the state."""
    order = np.argsort(state.late_account, kind="stable")
    late_counts = np.bincount(state.late_account, minlength=len(state.accounts))
    marks = np.zeros(len(order), _LATE)
    marks["since"], marks["unsure"] = state.late_since[order], state.late_unsure[order]
    rows = _Cutter(_to_bytes(state.rows), _ROW.itemsize)
    late = _Cutter(_to_bytes(state.late.take(order)), _ROW.itemsize)
    late_marks = _Cutter(marks.tobytes(), _LATE.itemsize)
    revisions = _Cutter(state.revisions.astype("<u4").tobytes(), 4)
    id_sizes = _Cutter(np.array([*map(len, state.recent_ids)], "<u2").tobytes(), 2)
    values, id_at = {}, 0
    for name, newest, known_from, n, r, others in zip(
        state.accounts,
        state.newest.tolist(),
        state.known_from.tolist(),
        state.counts.tolist(),
        state.recents.tolist(),
        late_counts.tolist(),
        strict=True,
    ):
        ids = "".join(state.recent_ids[id_at : id_at + r]).encode()
        id_at += r
        values[name] = b"".join(
            (
                _HEADER.pack(_VERSION, newest, known_from, n, r, others, len(ids)),
                rows.next(n),
                late.next(others),
                late_marks.next(others),
                revisions.next(r),
                id_sizes.next(r),
                ids,
            )
        )
    return values


def decode(values: Mapping[str, bytes]) -> State:
    """The state in the values of some accounts, as `encode` made them.

    Raises ValueError for bytes that this version did not write.
    """
    headers, parts = [], []
    for value in values.values():
        version, *header = _header(value)
        if version != _VERSION:
            raise ValueError(f"account state of version {version}, not {_VERSION}")
        _, _, n, r, late, id_bytes = header
        at, cut = _HEADER.size, []
        for size in (
            n * _ROW.itemsize,
            late * _ROW.itemsize,
            late * _LATE.itemsize,
            r * 4,
            r * 2,
            id_bytes,
        ):
            cut.append(value[at : at + size])
            at += size
        if at != len(value):
            raise ValueError("account state is cut short")
        headers.append(header)
        parts.append(cut)
    table = np.array(headers, np.int64).reshape(-1, 6)
    columns = zip(*parts, strict=True) if parts else [()] * 6
    rows, late, marks, revisions, id_sizes, ids = (b"".join(c) for c in columns)
    marked = np.frombuffer(marks, _LATE)
    return State(
        accounts=list(values),
        newest=table[:, 0].copy(),
        known_from=table[:, 1].copy(),
        counts=table[:, 2].copy(),
        recents=table[:, 3].copy(),
        rows=_from_bytes(rows),
        recent_ids=_split(ids, np.frombuffer(id_sizes, "<u2")),
        revisions=np.frombuffer(revisions, "<u4").astype(np.int64),
        late=_from_bytes(late),
        late_account=np.repeat(np.arange(len(table)), table[:, 4]),
        late_since=marked["since"].copy(),
        late_unsure=marked["unsure"].copy(),
    )


def newest_of(value: bytes) -> int:
    """µs: the account's newest punctual event, or NEVER."""
    _version, newest, *_rest = _header(value)
    return newest


def last_seen(value: bytes, rules: Thresholds) -> int:
    """µs: the account's newest punctual event; without one, the watermark at which it
    was met."""
    _version, newest, known_from, *_rest = _header(value)
    return max(newest, known_from + rules.retention_us)


def _header(value: bytes) -> tuple[int, ...]:
    if len(value) < _HEADER.size:
        raise ValueError("account state is cut short")
    return _HEADER.unpack_from(value)


class _Cutter:
    """Cuts bytes into runs of rows of one width."""

    def __init__(self, data: bytes, width: int) -> None:
        self._data, self._width, self._at = data, width, 0

    def next(self, rows: int) -> bytes:
        """The next `rows` rows."""
        first, self._at = self._at, self._at + rows * self._width
        return self._data[first : self._at]


def _to_bytes(rows: Rows) -> bytes:
    packed = np.empty(len(rows), _ROW)
    for field in fields(Rows):
        packed[field.name] = getattr(rows, field.name)
    return packed.tobytes()


def _from_bytes(data: bytes) -> Rows:
    packed = np.frombuffer(data, _ROW)
    return Rows(*(np.ascontiguousarray(packed[f.name]) for f in fields(Rows)))


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


def _split(joined: bytes, sizes: np.ndarray) -> list[str]:
    text = joined.decode()
    stops = accumulate(sizes.tolist(), initial=0)
    return [text[start:stop] for start, stop in pairwise(stops)]
