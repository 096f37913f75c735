"""The engine: equal to the readable rules, however its input is cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, groupby
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.detectors.account_state import fingerprints, identities
from lib.detectors.deduplication import DUPLICATE_CODE, NEW_CODE
from lib.detectors.engine import Bucket, Scored
from lib.detectors.ragged_arrays import first_at_least, overtaken, ranges
from lib.detectors.rules import Answer, score_history
from lib.detectors.thresholds import DAY, MINUTE, SECOND, THRESHOLDS
from lib.events.card_event import Event
from tests.unit.histories import START, STATUS, answer_at, arrivals, event, records
from tests.unit.reference import reference_scores
from tests.unit.test_rules import compare

Key = tuple[str, str]
cuts = st.lists(st.sampled_from([1, 2, 3, 7, 20, 100]), min_size=1, max_size=4)


class Table:
    """`silver/scored` as a sink keeps it, and the bucket's state between batches."""

    def __init__(self) -> None:
        self.rows: dict[Key, Answer] = {}
        self.statuses: list[str] = []
        self.values: dict[str, bytes] = {}
        self.watermark_us: int | None = None

    def feed(self, events: list[Event], watermark_us: int | None = None) -> Scored:
        if watermark_us is not None:
            self.watermark_us = max(self.watermark_us or watermark_us, watermark_us)
        bucket = Bucket.of(self.values)
        scored = bucket.score(arrivals(events), self.watermark_us)
        self.values = bucket.values()
        self.statuses += [
            "unsure" if check else STATUS[status]
            for status, check in zip(scored.status, scored.check_table, strict=True)
        ]
        for row, e in enumerate(events):
            key = (e.account_id, e.event_id)
            if scored.status[row] != NEW_CODE:
                continue
            if key in self.rows:
                # the bucket must know it, unless it says that it cannot
                assert scored.check_table[row] or scored.answers.late[row]
                continue
            self.rows[key] = answer_at(scored.answers, row)
        for row, key in enumerate(zip(scored.account_id, scored.event_id, strict=True)):
            self.rows[key] = answer_at(scored.corrections, row)
        return scored

    def feed_cut(self, events: list[Event], sizes: list[int]) -> Table:
        rest, size = events, cycle(sizes)
        while rest:
            take = next(size)
            self.feed(rest[:take])
            rest = rest[take:]
        return self


def by_account(events: list[Event]) -> list[list[Event]]:
    ordered = sorted(events, key=lambda e: e.account_id)  # stable: Kafka order stays
    return [list(group) for _, group in groupby(ordered, key=lambda e: e.account_id)]


def at_rest(events: list[Event]) -> dict[Key, Answer]:
    """The readable rules with a memory that never forgets."""
    table = {}
    for account in by_account(events):
        for e, answer in zip(account, score_history(account), strict=True):
            if answer.status == "new":
                table[e.account_id, e.event_id] = answer
    return table


# --- the same answers ---------------------------------------------------------------


@given(records(), cuts)
@settings(deadline=None, max_examples=200)
def test_engine_equals_the_readable_rules_in_any_batches(
    events: list[Event], sizes: list[int]
) -> None:
    assert Table().feed_cut(events, sizes).rows == at_rest(events)


@given(records(), cuts)
@settings(deadline=None, max_examples=60)
def test_engine_equals_the_reference(events: list[Event], sizes: list[int]) -> None:
    rows = Table().feed_cut(events, sizes).rows
    expected = [
        (account[0].account_id, row)
        for account in by_account(events)
        for row in reference_scores(account)
    ]
    assert len(rows) == len(expected)
    for account_id, row in expected:
        compare(rows[account_id, row["event_id"]]._asdict(), row)


@given(records(), cuts)
@settings(deadline=None, max_examples=60)
def test_statuses_do_not_depend_on_the_batches(
    events: list[Event], sizes: list[int]
) -> None:
    one_by_one = Table().feed_cut(events, [1]).statuses
    for cut in (sizes, [len(events) or 1]):
        statuses = Table().feed_cut(events, cut).statuses
        assert statuses == one_by_one


@given(records(accounts=1), cuts)
@settings(deadline=None, max_examples=60)
def test_statuses_equal_the_readable_rules(
    events: list[Event], sizes: list[int]
) -> None:
    # within a month nothing is forgotten
    month = [e for e in events if START - DAY <= e.ts_us < START + 30 * DAY]
    expected = [answer.status for answer in score_history(month)]
    assert Table().feed_cut(month, sizes).statuses == expected


@given(st.integers(0, 2**32), cuts)
@settings(deadline=None, max_examples=25)
def test_a_hot_account_shuffled_within_four_minutes(
    seed: int, sizes: list[int]
) -> None:
    random = Random(seed)
    in_order = [
        event(
            random.randrange(10**6) * 1000 + i,
            START + random.randrange(600) * SECOND,
            amount_cents=random.randrange(1, 10 ** random.randrange(1, 12)),
            country=random.choice(["FR", "GB"]),
        )
        for i in range(300)
    ]
    in_order.sort(key=lambda e: (e.ts_us, e.event_id))
    shuffled = sorted(in_order, key=lambda e: e.ts_us + random.randrange(4 * MINUTE))
    rows = Table().feed_cut(shuffled, [size * 10 for size in sizes]).rows
    assert rows == at_rest(shuffled)
    without_revision = {k: a._replace(revision=0) for k, a in rows.items()}
    assert without_revision == at_rest(in_order)
    assert sum(a.revision for a in rows.values()) > 0


def test_corrections_are_the_earlier_events_that_changed() -> None:
    table = Table()
    table.feed([event(1, START), event(2, START + 9), event(3, START + MINUTE)])
    scored = table.feed([event(4, START + 5), event(5, START + 2 * MINUTE)])
    assert scored.account_id == ["ACCT_1"] * 2
    assert scored.event_id == ["e0002", "e0003"]
    assert scored.ts_us.tolist() == [START + 9, START + MINUTE]
    assert scored.corrections.revision.tolist() == [1, 1]
    assert scored.corrections.baseline_n.tolist() == [2, 3]
    assert scored.answers.revision.tolist() == [0, 0]


def test_an_event_at_the_edge_of_lateness_can_still_be_corrected() -> None:
    table = Table()
    table.feed([event(2, START), event(3, START + 5 * MINUTE)])
    scored = table.feed([event(1, START)])  # the same instant, but a smaller id
    assert scored.event_id == ["e0002", "e0003"]
    assert scored.corrections.velocity_count.tolist() == [2, 1]
    assert scored.corrections.baseline_n.tolist() == [0, 2]


def test_an_event_overtaken_in_its_own_batch_shows_its_last_answer_only() -> None:
    scored = Table().feed([event(1, START + 9), event(2, START)])
    assert scored.answers.revision.tolist() == [1, 0]
    assert scored.answers.baseline_n.tolist() == [1, 0]
    assert scored.event_id == []


def test_twenty_thousand_events_of_one_instant_in_reverse() -> None:
    events = [event(i, event_id=f"{i:05d}") for i in reversed(range(20_000))]
    table = Table()
    first = table.feed(events[:10_000])
    second = table.feed(events[10_000:])
    assert first.answers.velocity_count.tolist() == list(range(10_000, 0, -1))
    assert second.answers.revision.tolist() == list(range(9_999, -1, -1))
    assert second.corrections.velocity_count.tolist() == list(range(10_001, 20_001))
    assert second.corrections.revision.tolist() == list(range(10_000, 20_000))


def test_other_thresholds() -> None:
    rules = replace(THRESHOLDS, velocity_count=1, amount_min_n=2, amount_z=0.5)
    events = [event(i, START + i, amount_cents=100 + i * i) for i in range(6)]
    scored = Bucket.of({}, rules).score(arrivals(events))
    found = [answer_at(scored.answers, row) for row in range(6)]
    assert found == score_history(events, rules)
    assert sum(a.is_amount for a in found) == 4


# --- forgetting ---------------------------------------------------------------------

KEPT = THRESHOLDS.retention_us


@st.composite
def months(draw: st.DrawFn) -> list[tuple[Event, int]]:
    """Events of three accounts over months with silences, and a watermark for each.

    What is more than 40 days behind the watermark was sent before.
    """
    now, sent, watermark, result = START, [], START - DAY, []
    pace = st.sampled_from([0, SECOND, MINUTE, DAY, 6 * DAY, 44 * DAY, KEPT + 6 * DAY])
    delay = st.sampled_from([0, 0, 0, 0, 4 * MINUTE, 6 * MINUTE, DAY, 40 * DAY])
    for number in range(draw(st.integers(0, 60))):
        now += draw(pace)
        again = sent and draw(st.integers(0, 5)) == 0
        record = (
            sent[draw(st.integers(0, len(sent) - 1))]
            if again
            else event(
                number,
                max(now - draw(delay), watermark - 40 * DAY),
                account_id=f"ACCT_{draw(st.integers(0, 2))}",
                country=draw(st.sampled_from(["FR", "GB"])),
                amount_cents=draw(st.sampled_from([100, 200, 10**11])),
            )
        )
        sent.append(record)
        result.append((record, watermark))
        if draw(st.booleans()):
            watermark = max(watermark, now - 5 * MINUTE)
    return result


@given(months(), st.booleans())
@settings(deadline=None, max_examples=120)
def test_forgetting_changes_no_answer(
    stream: list[tuple[Event, int]], evict: bool
) -> None:
    table = Table()
    for watermark, group in groupby(stream, key=lambda pair: pair[1]):
        batch = [record for record, _ in group]
        scored = table.feed(batch, watermark if evict else None)
        for row in np.flatnonzero(scored.check_table).tolist():
            assert scored.answers.late[row]
    assert table.rows == at_rest([record for record, _ in stream])


def test_events_go_when_they_are_far_behind_their_account() -> None:
    table = Table()
    table.feed([event(1), event(2, START + 1), event(3, START + DAY)])
    table.feed([event(4, START + KEPT + 1)])
    assert Bucket.of(table.values).events == 3
    scored = table.feed([event(2, START + 1), event(1), event(1), event(9, START)])
    assert scored.status.tolist() == [DUPLICATE_CODE, NEW_CODE, NEW_CODE, NEW_CODE]
    assert scored.check_table.tolist() == [False, True, True, True]
    assert scored.answers.late.tolist() == [False, True, True, True]
    # two of which only the table can say what stands are remembered, too
    assert Bucket.of(table.values).events == 5


def test_late_events_are_forgotten_too() -> None:
    table = Table()
    table.feed([event(1), event(2, START - DAY), event(3, START - 2 * DAY)])
    assert Bucket.of(table.values).events == 3
    table.feed([event(4, START + KEPT)])
    assert Bucket.of(table.values).events == 4  # by when they came, not by their ts
    table.feed([event(5, START + KEPT + 1)])
    assert Bucket.of(table.values).events == 2


@pytest.mark.parametrize("cuts", [[3], [1], [1, 2], [2, 1]])
@pytest.mark.parametrize("ancient", [START - KEPT - DAY, START - 20 * KEPT])
def test_an_ancient_event_is_remembered_by_when_it_came(
    ancient: int, cuts: list[int]
) -> None:
    # of an account that may have been evicted only the table can say what it held
    first = event(1, ancient, account_id="ACCT_9")
    recent = event(1, START, account_id="ACCT_9")
    other = event(2, START, account_id="ACCT_9")
    table = Table()
    table.watermark_us = START
    table.feed_cut([first, recent, other], cuts)
    assert table.statuses == ["unsure", "unsure", "new"]
    assert not table.rows["ACCT_9", "e0002"].late


def test_what_is_known_does_not_depend_on_when_it_is_pruned() -> None:
    # an id used again after KEPT is a new event: this memory does not go back so far
    after = START + KEPT + DAY
    events = [event(1), event(2, after), event(1, after)]
    for cut in (0, 1, 2):
        bucket = Bucket.of({})
        parts = [bucket.score(arrivals(part)) for part in (events[:cut], events[cut:])]
        assert np.concatenate([p.status for p in parts]).tolist() == [NEW_CODE] * 3
        assert not any(p.check_table.any() for p in parts)


def test_an_account_goes_far_behind_the_watermark() -> None:
    table = Table()
    other = event(7, START + DAY, account_id="ACCT_2", event_id="東京")
    late = event(8, START, account_id="ACCT_2")
    table.feed([event(1), event(2, START - DAY), other, late])
    table.feed([], START + KEPT)
    assert Bucket.of(table.values).accounts == 2
    table.feed([], START + KEPT + 1)
    assert Bucket.of(table.values).accounts == 1
    assert Bucket.of(table.values).events == 2
    straggler = other._replace(event_id="x", ts_us=other.ts_us - 1)
    scored = table.feed([other, late, straggler])
    assert scored.status.tolist() == [DUPLICATE_CODE, DUPLICATE_CODE, NEW_CODE]
    assert (scored.account_id, scored.event_id) == (["ACCT_2"], ["東京"])


def test_an_evicted_account_cannot_be_scored_twice() -> None:
    table = Table()
    first = event(1)
    table.feed([first])
    watermark = START + KEPT + 5 * DAY
    table.feed([], watermark)
    assert Bucket.of(table.values).accounts == 0
    scored = table.feed([first, first], watermark)
    assert scored.check_table.tolist() == [True, True]
    assert Bucket.of(table.values).accounts == 1
    # back with younger events, it still can't know what it forgot
    back = event(2, watermark - 4 * DAY)
    scored = table.feed([back, event(3, START + DAY, country="US"), first], watermark)
    assert scored.answers.late.tolist() == [False, True, True]
    assert scored.check_table.tolist() == [False, True, True]
    scored = table.feed([first, event(4, watermark - KEPT)])
    assert scored.check_table.tolist() == [True, False]
    assert scored.answers.late.tolist() == [True, True]


def test_an_account_first_seen_behind_the_watermark_is_scored() -> None:
    bound = THRESHOLDS.arrival_us
    for behind, late in ((DAY, False), (bound, False), (bound + 1, True)):
        scored = Table().feed([event(1)], START + behind)
        assert scored.answers.late.tolist() == [late]
        assert scored.check_table.tolist() == [late]


def test_the_watermark_is_remembered() -> None:
    table = Table()
    table.feed([], START + KEPT + 5 * DAY)
    assert table.feed([event(1)]).check_table.tolist() == [True]
    assert table.feed([event(1)], START).check_table.tolist() == [True]


# --- bytes --------------------------------------------------------------------------


def test_no_values_are_an_empty_bucket() -> None:
    bucket = Bucket.of(Bucket.of({}).values())
    scored = bucket.score(arrivals([]), 10**15)
    assert (bucket.accounts, bucket.events, len(scored.status)) == (0, 0, 0)


@given(records(), cuts)
@settings(deadline=None, max_examples=60)
def test_a_value_is_its_accounts_alone(events: list[Event], sizes: list[int]) -> None:
    together = Table().feed_cut(events, sizes).values
    for account in by_account(events):
        name = account[0].account_id
        assert Table().feed_cut(account, [len(account)]).values[name] == together[name]


def test_foreign_bytes_are_refused() -> None:
    bucket = Bucket.of({})
    bucket.score(arrivals([event(1), event(2)]))
    value = bucket.values()["ACCT_1"]
    for bad in (b"x", value[:-1], value[:50], value + b"x", b"\x07" + value[1:]):
        with pytest.raises(ValueError, match="state"):
            Bucket.of({"ACCT_1": bad})


def test_two_hundred_events_take_less_than_ten_kilobytes() -> None:
    random, bucket = Random(0), Bucket.of({})
    for _ in range(200):
        bucket.score(
            arrivals(
                [
                    event(
                        0,
                        START + random.randrange(30 * DAY),
                        event_id=f"{random.getrandbits(64):016x}",
                        account_id=f"ACCT_{account:07d}",
                        amount_cents=random.randrange(1, 10**11),
                    )
                    for account in range(20)
                ]
            )
        )
    size = sum(map(len, bucket.values().values()))
    assert bucket.events > 20 * 190
    assert size / bucket.accounts < 10_240
    assert size / bucket.events < 50


def test_digests_are_the_same_in_every_process() -> None:
    assert identities(["a", "東京"]).tolist() == [
        int.from_bytes(bytes.fromhex("40f89e395b66422f"), "little"),
        int.from_bytes(bytes.fromhex("ee1155cad1682bf0"), "little"),
    ]
    assert len(set(fingerprints(["ab", "a"], ["c", "bc"]).tolist())) == 2


def test_unusable_batches_are_refused() -> None:
    for country in ("F", "FRA", "É ", "東京", ""):
        with pytest.raises(ValueError, match="country"):
            Bucket.of({}).score(arrivals([event(1, country=country)]))
    uneven = replace(arrivals([event(1)]), event_id=["a", "b"])
    with pytest.raises(ValueError, match="equally long"):
        Bucket.of({}).score(uneven)


# --- segments -----------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=9), max_size=5), st.integers(-1, 11)
)
@settings(deadline=None)
def test_first_at_least(segments: list[list[int]], target: int) -> None:
    values = np.array([v for s in segments for v in sorted(s)], np.int64)
    stops = np.cumsum([len(s) for s in segments], dtype=np.int64)
    starts = stops - np.array([len(s) for s in segments], np.int64)
    found = first_at_least(values, starts, stops, np.full(len(segments), target))
    smaller = [sum(v < target for v in s) for s in segments]
    assert (found - starts).tolist() == smaller


@given(st.lists(st.integers(0, 3), max_size=40).map(sorted), st.randoms())
@settings(deadline=None)
def test_overtaken(groups: list[int], random: Random) -> None:
    arrival = list(range(len(groups)))
    random.shuffle(arrival)
    found = overtaken(np.array(groups, np.int64), np.array(arrival, np.int64))
    assert found.tolist() == [
        sum(groups[j] == groups[i] and arrival[j] > arrival[i] for j in range(i))
        for i in range(len(groups))
    ]


def test_ranges() -> None:
    assert ranges(np.array([2, 5, 9]), np.array([5, 5, 10])).tolist() == [2, 3, 4, 9]
    assert ranges(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []
