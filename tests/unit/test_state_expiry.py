"""Accounts go when the watermark is a retention past their last event, not before."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from lib.detectors.account_state import last_seen
from lib.detectors.engine import Bucket
from lib.detectors.thresholds import DAY, THRESHOLDS
from lib.streaming import state_expiry
from tests.unit.histories import START, arrivals, event


class Map:
    """A state map in memory."""

    def __init__(self) -> None:
        self.held: dict[tuple, tuple] = {}

    def getValue(self, key: tuple) -> tuple | None:
        return self.held.get(key)

    def updateValue(self, key: tuple, value: tuple) -> None:
        self.held[key] = value

    def removeKey(self, key: tuple) -> None:
        self.held.pop(key, None)


def value(last_us: int) -> bytes:
    bucket = Bucket.of({})
    bucket.score(arrivals([event(1, last_us)]))
    return bucket.values()["ACCT_1"]


days = st.integers(0, 400)


@given(st.lists(st.tuples(st.integers(0, 20), days), min_size=1, max_size=60))
def test_who_is_behind_goes_and_no_one_else(visits: list[tuple[int, int]]) -> None:
    weeks, accounts = Map(), {}

    def values_of(names: Iterable[str]) -> dict[str, bytes]:
        return {name: accounts[name] for name in names if name in accounts}

    def forget(names: Iterable[str]) -> None:
        for name in names:
            del accounts[name]

    begin = (state_expiry.week_of(START), 0)
    for number, day in sorted(visits, key=lambda visit: visit[1]):
        name, now = f"ACCT_{number}", START + day * DAY
        accounts[name] = value(now)
        state_expiry.enter(weeks, [(name, now)], begin[0] + bool(begin[1]))
        begin = state_expiry.sweep(weeks, values_of, forget, begin, now)
        behind = now - THRESHOLDS.retention_us
        # At most a week and the parts not yet looked at late, never too early.
        assert name in accounts
    for _ in range(state_expiry.SHARDS * 70 // state_expiry.VISITS):
        begin = state_expiry.sweep(weeks, values_of, forget, begin, now)

    last = {f"ACCT_{n}": START + d * DAY for n, d in sorted(visits, key=lambda v: v[1])}
    for name, seen in last.items():
        if seen >= behind:
            assert last_seen(accounts[name], THRESHOLDS) == seen
        elif seen < behind - state_expiry.WEEK:
            assert name not in accounts
    listed = {n for (names,) in weeks.held.values() for n in names.split("\n")}
    assert accounts.keys() <= listed  # whoever stays will be looked at


def test_an_account_first_seen_in_a_week_that_is_done_is_looked_at_later() -> None:
    weeks, done = Map(), state_expiry.week_of(START) + 3
    state_expiry.enter(weeks, [("ACCT_1", START)], not_before=done)
    assert {week for week, _part in weeks.held} == {done}
