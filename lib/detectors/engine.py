"""The rules of `lib.detectors.rules` for a bucket of accounts, batch by batch.

A `Bucket` remembers what the rules can still need of its accounts, takes their next
records in Kafka order, and gives each one's answer and the new answers of earlier
events that a straggler changed. However the records are cut into batches, the last
answer and revision of every event are the same, to the last bit.

Nothing here knows of Spark, Kafka or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from lib.detectors import account_state as codec
from lib.detectors.account_state import NEVER, Rows, State
from lib.detectors.deduplication import (
    CONFLICT_CODE,
    DUPLICATE_CODE,
    LATE_CODE,
    NEW_CODE,
    NOBODY,
    UNSURE_CODE,
    admit,
)
from lib.detectors.ragged_arrays import first_at_least, overtaken, ranges
from lib.detectors.thresholds import THRESHOLDS, Thresholds
from lib.detectors.vectorised_rules import Answers, answer_places

_STATUS = np.array(
    [NEW_CODE, DUPLICATE_CODE, CONFLICT_CODE, NEW_CODE, NEW_CODE], np.int8
)


@dataclass(frozen=True)
class Arrivals:
    """Valid records as columns (n each), in Kafka order within each account.

    `ts_us` int64 µs UTC, `amount_cents` int64, `fingerprint` uint64 from
    `lib.detectors.account_state.fingerprints(merchants, currencies)`.
    """

    event_id: Sequence[str]
    account_id: Sequence[str]
    ts_us: np.ndarray
    amount_cents: np.ndarray
    country: Sequence[str]
    fingerprint: np.ndarray


@dataclass(frozen=True)
class Scored:
    """What one batch says, as columns.

    Per arrival (n): `status` int8 (new, duplicate, conflict), `check_table` bool and
    `answers`. With `check_table` the bucket cannot know whether it met the identity
    before: the table says what the record is, and if it is new, then it is late.

    Per earlier event whose answer changed (m): `account_id`, `event_id`, `ts_us` to
    find it by, and `corrections`. No event is in both parts.
    """

    status: np.ndarray
    check_table: np.ndarray
    answers: Answers
    account_id: list[str]
    event_id: list[str]
    ts_us: np.ndarray
    corrections: Answers


class Bucket:
    """Some accounts: `of` their values, `score` once or more, then `values` again."""

    def __init__(self, state: State, rules: Thresholds = THRESHOLDS) -> None:
        """A bucket with this state, which it will change."""
        self._state = state
        self._rules = rules
        self._watermark = NEVER

    @classmethod
    def of(cls, values: Mapping[str, bytes], rules: Thresholds = THRESHOLDS) -> Bucket:
        """The accounts as they were at `values`; {} is a bucket that knows none.

        Raises ValueError for bytes that are no account's.
        """
        return cls(codec.decode(values), rules)

    def values(self) -> dict[str, bytes]:
        """Each account's value: 34 bytes per event and about 50 per account."""
        return codec.encode(self._state)

    @property
    def accounts(self) -> int:
        """How many accounts it remembers."""
        return len(self._state.accounts)

    @property
    def events(self) -> int:
        """How many events it remembers, the late ones included."""
        return len(self._state.rows) + len(self._state.late)

    def score(self, batch: Arrivals, watermark_us: int | None = None) -> Scored:
        """Take the next records, answer them, and forget what is too old.

        `watermark_us` is the event-time watermark of the stream (None: unknown,
        nothing is evicted); it never falls. An empty batch only evicts. Raises
        ValueError if columns differ in length or a country is not two letters.
        """
        columns = _columns(batch)
        state = self._state
        if watermark_us is not None:
            self._watermark = max(self._watermark, watermark_us)
        verdict, account, since = admit(
            state, self._rules, self._watermark, batch.account_id, columns
        )
        punctual = np.flatnonzero(verdict == NEW_CODE)
        # an id's slot: first the recent events of the state, then the arrivals
        known = len(state.recent_ids)
        ids = state.recent_ids + [batch.event_id[i] for i in punctual.tolist()]
        owner, slot, ts, found = self._insert(
            columns.take(punctual), account[punctual], ids
        )
        arrived, earlier = np.flatnonzero(slot >= known), np.flatnonzero(slot < known)
        answers = Answers.unscored((verdict == LATE_CODE) | (verdict == UNSURE_CODE))
        answers.put(punctual[slot[arrived] - known], found.take(arrived))
        scored = Scored(
            status=_STATUS[verdict],
            check_table=verdict == UNSURE_CODE,
            answers=answers,
            account_id=[state.accounts[i] for i in owner[earlier].tolist()],
            event_id=[ids[i] for i in slot[earlier].tolist()],
            ts_us=ts[earlier],
            corrections=found.take(earlier),
        )
        late = np.flatnonzero((verdict >= LATE_CODE) & (account != NOBODY))
        state.late = state.late.extend(columns.take(late))
        state.late_account = np.concatenate([state.late_account, account[late]])
        state.late_since = np.concatenate([state.late_since, since[late]])
        state.late_unsure = np.concatenate(
            [state.late_unsure, verdict[late] == UNSURE_CODE]
        )
        self._forget()
        return scored

    def _insert(
        self, new: Rows, owner: np.ndarray, ids: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Answers]:
        """Put the punctual arrivals in their places and answer what they concern.

        That is themselves and all that now stands behind one of them: each of these
        has one event more in its baseline or its minute. `new` and `owner`, the
        account index, in Kafka order (k); `ids` by slot. Returns the account index,
        slot, ts and answer of each event concerned, in order.

        Example: an account has events of minutes 10, 20 and 23, of which the last two
        are recent; 21 and 27 arrive.

            rows before   10  20  23            slots  -1  0  1  (10: no id is kept)
            arrivals      21  27                slots   2  3
            target         2   3  (their places among the rows before)
            rows after    10  20  21  23  27    slots  -1  0  2  1  3

        Concerned are 21, 23 and 27, slots 2, 1 and 3. One that arrived later (2) now
        stands before slot 1: the answer to 23 is a correction, its revision is 1.
        """
        state, rules = self._state, self._rules
        stops = np.cumsum(state.counts)
        old, known = len(state.rows), len(state.recent_ids)
        slot = np.full(old + len(new), -1)
        slot[ranges(stops - state.recents, stops)] = np.arange(known)
        slot[old:] = np.arange(known, len(ids))

        by_time = np.lexsort((new.ts, owner))
        owner = owner[by_time]
        target = first_at_least(  # behind those of the same instant
            state.rows.ts,
            (stops - state.counts)[owner],
            stops[owner],
            new.ts[by_time] + 1,
        )
        order = np.insert(np.arange(old), target, old + by_time)
        state.counts = state.counts + np.bincount(owner, minlength=len(stops))
        stops = np.cumsum(state.counts)
        starts = stops - state.counts
        rows = state.rows.extend(new)
        _break_ties(
            order,
            rows.ts[order],
            target + np.arange(len(new)),
            starts[owner],
            stops[owner],
            lambda row: ids[slot[row]],
        )
        state.rows, slot = rows.take(order), slot[order]

        touched, first = np.unique(owner, return_index=True)
        behind = np.flatnonzero(slot >= known)[first]
        places = ranges(behind, stops[touched])
        owner = np.repeat(touched, stops[touched] - behind)
        revisions = np.concatenate([state.revisions, np.zeros(len(new), np.int64)])
        revisions[slot[places]] += overtaken(owner, slot[places])
        found = answer_places(
            state.rows,
            starts[owner],
            stops[owner],
            places,
            revisions[slot[places]],
            rules,
        )

        young = first_at_least(
            state.rows.ts, starts, stops, state.newest - rules.lateness_us
        )
        recent = slot[ranges(young, stops)]
        state.recents = stops - young
        state.recent_ids = [ids[index] for index in recent.tolist()]
        state.revisions = revisions[recent]
        return owner, slot[places], state.rows.ts[places], found

    def _forget(self) -> None:
        """Drop what no answer needs: old events, and accounts behind the watermark."""
        state, retention = self._state, self._rules.retention_us
        horizon = np.maximum(state.newest, NEVER + retention) - retention
        stops = np.cumsum(state.counts)
        starts = stops - state.counts
        kept = first_at_least(state.rows.ts, starts, stops, horizon)
        gone = behind(state.newest, state.known_from, self._watermark, self._rules)
        kept[gone] = stops[gone]
        if (kept > starts).any():
            state.rows = state.rows.take(ranges(kept, stops))
            state.counts = stops - kept
        owner = state.late_account
        stays = np.flatnonzero((state.late_since >= horizon[owner]) & ~gone[owner])
        if len(stays) < len(owner):
            state.late, state.late_account = state.late.take(stays), owner[stays]
            state.late_since = state.late_since[stays]
            state.late_unsure = state.late_unsure[stays]
        if gone.any():
            _drop_accounts(state, gone)


def behind(
    newest: np.ndarray, known_from: np.ndarray, watermark_us: int, rules: Thresholds
) -> np.ndarray:
    """bool (A): the watermark is a whole retention past the account's last event."""
    # As `lib.detectors.account_state.last_seen`.
    last = np.maximum(newest, known_from + rules.retention_us)
    return last < max(NEVER, watermark_us - rules.retention_us)


def _columns(batch: Arrivals) -> Rows:
    """The arrivals as rows; ValueError as `Bucket.score` says."""
    count = len(batch.event_id)
    if any(len(getattr(batch, field.name)) != count for field in fields(batch)):
        raise ValueError("the columns of a batch must be equally long")
    return Rows(
        ts=np.asarray(batch.ts_us, np.int64),
        amount=np.asarray(batch.amount_cents, np.int64),
        identity=codec.identities(batch.event_id),
        fingerprint=np.asarray(batch.fingerprint, np.uint64),
        country=codec.country_codes(batch.country),
    )


def _break_ties(
    order: np.ndarray,
    ts: np.ndarray,
    places: np.ndarray,
    starts: np.ndarray,
    stops: np.ndarray,
    id_of: Callable[[int], str],
) -> None:
    """Sort `order` in place by event id where an arrival shares its instant.

    `ts` is in that order; the arrivals (k) stand at `places` in `starts:stops`, behind
    all others of their instant. Of those the state has the ids: they are recent.

    Example: b and d are there at one instant, and a and c arrive at it. They stand as
    b d a c, and become a b c d.
    """
    ties = np.flatnonzero((places > starts) & (ts[places - 1] == ts[places]))
    if not len(ties):
        return
    starts, stops, instant = starts[ties], stops[ties], ts[places[ties]]
    firsts = np.unique(first_at_least(ts, starts, stops, instant)).tolist()
    lasts = np.unique(first_at_least(ts, starts, stops, instant + 1)).tolist()
    for first, last in zip(firsts, lasts, strict=True):
        order[first:last] = sorted(order[first:last].tolist(), key=id_of)


def _drop_accounts(state: State, gone: np.ndarray) -> None:
    """Take the accounts marked in `gone` (A) out of a state; their events are out."""
    stays = ~gone
    recent = np.flatnonzero(np.repeat(stays, state.recents))
    state.recent_ids = [state.recent_ids[index] for index in recent.tolist()]
    state.revisions = state.revisions[recent]
    state.accounts = [
        name for name, stay in zip(state.accounts, stays, strict=True) if stay
    ]
    state.late_account = (np.cumsum(stays) - 1)[state.late_account]
    state.newest, state.known_from = state.newest[stays], state.known_from[stays]
    state.counts, state.recents = state.counts[stays], state.recents[stays]
