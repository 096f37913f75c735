"""Find expired accounts in the state by week, without a scan of all of them.

An account is entered under the week of its last event, again whenever that week
changes. When the watermark is a whole retention past the end of a week, those entered
there are looked at, a few per micro-batch, and whoever has had no event since goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from zlib import crc32

from pyspark.sql.streaming.stateful_processor import MapState

from lib.detectors.account_state import last_seen
from lib.detectors.thresholds import DAY, THRESHOLDS

WEEK = 7 * DAY
SHARDS = 64
"""Parts of a week's entries, so that to enter an account rewrites a few of them."""

VISITS = 8
"""Parts that are looked at per micro-batch when weeks are due."""


def week_of(moment_us: int) -> int:
    """The number of the week, from 1970 on."""
    return moment_us // WEEK


def enter(weeks: MapState, seen: Iterable[tuple[str, int]], not_before: int) -> None:
    """Enter accounts under the weeks in which they were last seen (µs).

    `weeks` is a map (week, shard) → account ids, one a line. A week before `not_before`
    has been looked at already: the account is entered there.
    """
    added: dict[tuple[int, int], list[str]] = defaultdict(list)
    for account, last_us in seen:
        shard = crc32(account.encode()) % SHARDS
        added[max(week_of(last_us), not_before), shard].append(account)
    for key, accounts in added.items():
        before = weeks.getValue(key)
        lines = [before[0]] if before else []
        weeks.updateValue(key, ("\n".join([*lines, *accounts]),))


def sweep(
    weeks: MapState,
    values_of: Callable[[Iterable[str]], Mapping[str, bytes]],
    forget: Callable[[Iterable[str]], None],
    begin: tuple[int, int],
    watermark_us: int,
) -> tuple[int, int]:
    """Look at the next parts that are due, and forget who was not seen since.

    Args:
        weeks: see `enter`.
        values_of: what is remembered of some accounts.
        forget: forgets accounts.
        begin: week and shard where the last call ended.
        watermark_us: the event-time watermark.

    Returns:
        week and shard where the next call begins.
    """
    horizon = watermark_us - THRESHOLDS.retention_us
    week, shard = begin
    for _ in range(VISITS):
        if (week + 1) * WEEK > horizon:
            break
        entered = weeks.getValue((week, shard))
        if entered is not None:
            values = values_of(sorted(set(entered[0].split("\n"))))
            forget([a for a, v in values.items() if last_seen(v, THRESHOLDS) < horizon])
            weeks.removeKey((week, shard))
        shard += 1
        if shard == SHARDS:
            week, shard = week + 1, 0
    return week, shard
