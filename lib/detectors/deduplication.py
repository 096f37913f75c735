"""New, late, duplicate or conflict: what each record is, by its account's state.

An event's identity is (account_id, event_id). The state holds a digest of every id of
the last 91 days and of all that has to be equal in a duplicate, so no table is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lib.detectors.account_state import NEVER, Rows, State
from lib.detectors.thresholds import Thresholds

NEW_CODE, DUPLICATE_CODE, CONFLICT_CODE = 0, 1, 2
LATE_CODE, UNSURE_CODE = 3, 4
"""Verdicts on new events that are not scored. Unsure: the state does not go back so
far, only the table can say whether the event came before."""

NOBODY = -1
"""In place of an account: the state remembers the event already."""

_NOT_SEEN = (None, NEVER, False)


def admit(
    state: State,
    rules: Thresholds,
    watermark_us: int,
    names: Sequence[str],
    columns: Rows,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decide for each record: new, late, duplicate, conflict or unsure.

    One by one in Kafka order, as each verdict rests on those before it; that is
    what makes them independent of the batches. Registers new accounts and moves
    every account's newest ts.

    Returns:
        verdict, account index and account's clock (µs) of each record, n each.
    """
    account_of = {name: index for index, name in enumerate(state.accounts)}
    newest, known_from = state.newest.tolist(), state.known_from.tolist()
    # An account without history is a new one or was evicted, and what was evicted
    # is older than this.
    evicted_until = max(NEVER, watermark_us - rules.retention_us)
    unseen_us = rules.retention_us - rules.arrival_us
    seen = _recall(state, columns.identity)
    verdicts, accounts, clocks = [], [], []
    for name, identity, content in zip(
        names, columns.identity.tolist(), _contents(columns), strict=True
    ):
        ts = content[0]
        account = account_of.setdefault(name, len(newest))
        if account == len(newest):
            newest.append(NEVER)
            known_from.append(evicted_until)
        clock = newest[account]
        first, since, unsure = seen.get((account, identity), _NOT_SEEN)
        if first is not None and since < clock - rules.retention_us:
            first = None
        # Without a punctual event yet, only one is scored that could not have
        # seen what was evicted.
        blind = known_from[account] + (unseen_us if clock == NEVER else 0)
        if first is not None and not unsure:
            verdict = DUPLICATE_CODE if first == content else CONFLICT_CODE
        elif first is not None or ts < max(clock - rules.retention_us, blind):
            verdict = UNSURE_CODE
            clock = max(clock, known_from[account] + rules.retention_us)
        elif ts < clock - rules.lateness_us:
            verdict = LATE_CODE
        else:
            verdict, clock = NEW_CODE, max(clock, ts)
            newest[account] = clock
        if first is None:
            remembered = ts if verdict == NEW_CODE else clock
            seen[account, identity] = content, remembered, verdict == UNSURE_CODE
        elif verdict == UNSURE_CODE:
            account = NOBODY  # it is remembered already
        verdicts.append(verdict)
        accounts.append(account)
        clocks.append(clock)
    fresh = np.zeros(len(newest) - len(state.accounts), np.int64)
    state.accounts = list(account_of)
    state.newest = np.array(newest, np.int64)
    state.known_from = np.array(known_from, np.int64)
    state.counts = np.concatenate([state.counts, fresh])
    state.recents = np.concatenate([state.recents, fresh])
    return tuple(np.array(c, np.int64) for c in (verdicts, accounts, clocks))


def _contents(rows: Rows) -> Iterator[tuple[int, int, int, int]]:
    """What must be equal in a duplicate, the ts first."""
    columns = (rows.ts, rows.amount, rows.country, rows.fingerprint)
    return zip(*(column.tolist() for column in columns), strict=True)


def _recall(state: State, identities: np.ndarray) -> dict[tuple[int, int], tuple]:
    """What the state holds under these identities.

    (account, identity) → (content, the account's clock when it came, whether only the
    table can say what stands). Looks at the whole history, so with a sieve: the low 16
    bits of a digest decide for nearly all rows, at the price of one look-up each.
    """
    sieve = np.zeros(1 << 16, bool)
    sieve[identities & 0xFFFF] = True
    seen = {}
    owner = np.repeat(np.arange(len(state.accounts)), state.counts)
    punctual = np.zeros(len(owner), bool)
    for rows, accounts, since, unsure in (
        (state.rows, owner, state.rows.ts, punctual),
        (state.late, state.late_account, state.late_since, state.late_unsure),
    ):
        hits = np.flatnonzero(sieve[rows.identity & 0xFFFF])
        hits = hits[np.isin(rows.identity[hits], identities)]
        found = rows.take(hits)
        keys = zip(accounts[hits].tolist(), found.identity.tolist(), strict=True)
        remembered = zip(
            _contents(found), since[hits].tolist(), unsure[hits].tolist(), strict=True
        )
        for key, value in zip(keys, remembered, strict=True):
            # Of two under one identity the one that came last is remembered longer.
            if key not in seen or seen[key][1] <= value[1]:
                seen[key] = value
    return seen
