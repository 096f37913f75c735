"""The fixture is what its README says, and the rules agree with every label."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from fixtures.make import fixture
from lib.datagen.fixture import APART, FOLDER, stolen_card
from lib.datagen.generator import END, story, write
from lib.events.card_event import Event, mask_account, parse
from tests.unit.reference import order, reference_scores

END_US = int(END.timestamp()) * 1_000_000
DAY_US = 86_400_000_000
PATTERNS = ("velocity", "geo", "amount")
CAST = [
    ("ACCT_••84", "Whole Foods Market", "US", 4218, None),
    ("ACCT_••84", "Starbucks", "US", 1250, None),
    ("ACCT_••70", "Spotify", "US", 999, None),
    ("ACCT_••70", "Best Buy", "US", 11945, None),
    ("ACCT_••44", "Target", "US", 1875, None),
    ("ACCT_••91", "Gulf Gas Station", "US", 6720, None),
    ("ACCT_••55", "LuxeWatches Online", "RU", 428000, "amount"),
    ("ACCT_••82", "Crypto Exchange Wire", "VN", 189900, "geo"),
]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    lines = (FOLDER / "tx_events.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    return [parse(line, END_US) for line in lines]


@pytest.fixture(scope="module")
def labels() -> list[dict[str, str]]:
    with (FOLDER / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scores(events: list[Event]) -> dict[tuple[str, str], dict]:
    found = {}
    for account_id in {event.account_id for event in events}:
        own = [event for event in events if event.account_id == account_id]
        for score in reference_scores(own):
            found[account_id, score["event_id"]] = score
    return found


def identity(event: Event) -> tuple[str, str]:
    return event.account_id, event.event_id


def fired(scores: dict) -> set[tuple[str, str, str]]:
    return {
        (*key, pattern)
        for key, score in scores.items()
        for pattern in PATTERNS
        if score[f"is_{pattern}"]
    }


def test_it_is_made_again_byte_for_byte(tmp_path: Path):
    for path in write(fixture(), tmp_path):
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()


def test_another_seed_is_another_fixture():
    assert fixture(seed=3).lines != fixture().lines


def test_1000_valid_events_none_twice_none_late(events, scores):
    assert all(isinstance(event, Event) for event in events)
    assert len(events) == len({identity(event) for event in events}) == 1_000
    assert len(scores) == 1_000
    assert not any(score["late"] for score in scores.values())


def test_they_come_by_event_time_over_40_days(events):
    times = [event.ts_us for event in events]
    assert times == sorted(times)
    assert END_US - 40 * DAY_US <= times[0] <= END_US - 39 * DAY_US
    assert END_US - DAY_US <= times[-1] < END_US


def test_40_accounts_can_be_told_apart_by_their_ending(events):
    accounts = {event.account_id for event in events}
    assert len(accounts) == len({mask_account(account) for account in accounts}) == 40
    for account_id in accounts:
        paid_in = {e.currency for e in events if e.account_id == account_id}
        assert len(paid_in) == 1


def test_exactly_the_labelled_events_fire_and_one_rule_each(labels, scores):
    alerts = [
        (row["account_id"], row["event_id"], row["pattern"])
        for row in labels
        if row["role"] == "alert"
    ]
    assert Counter(pattern for *_, pattern in alerts) == {
        "velocity": 17,
        "geo": 17,
        "amount": 16,
    }
    assert len({alert[:2] for alert in alerts}) == 50
    assert fired(scores) == set(alerts)


def test_no_amount_is_near_the_threshold(scores):
    distances = [abs(score["z"]) for score in scores.values() if score["z"] is not None]
    assert len(distances) > 500
    assert not [z for z in distances if 3.2 < z < 4.2]


def test_parts_are_what_made_the_rule_fire(events, labels):
    event_of = {identity(event): event for event in events}
    for anomaly in {row["anomaly_id"] for row in labels}:
        rows = [row for row in labels if row["anomaly_id"] == anomaly]
        assert len({(row["pattern"], row["account_id"]) for row in rows}) == 1
        members = [event_of[row["account_id"], row["event_id"]] for row in rows]
        roles = [row["role"] for row in sorted_like(rows, members)]
        parts = {"velocity": 8, "geo": 1, "amount": 0}[rows[0]["pattern"]]
        assert roles == ["part"] * parts + ["alert"] * (len(rows) - parts)
        assert len(rows) > parts


def sorted_like(rows: list[dict], members: list[Event]) -> list[dict]:
    """The rows in the order of their events within the account."""
    pairs = sorted(zip(members, rows, strict=True), key=lambda pair: order(pair[0]))
    return [row for _, row in pairs]


def test_equal_times_are_there_and_once_against_the_order_of_ids(events, scores):
    times = Counter((event.account_id, event.ts_us) for event in events)
    assert max(times.values()) > 1
    assert sum(score["revision"] for score in scores.values()) == 1


def test_accounts_share_event_ids(events):
    assert len({event.event_id for event in events}) < len(events)


@pytest.mark.parametrize(("account", "merchant", "country", "cents", "pattern"), CAST)
def test_the_cast(events, scores, account, merchant, country, cents, pattern):
    looks = (account, merchant, country, cents, "USD")
    (event,) = [
        e
        for e in events
        if (mask_account(e.account_id), *e[3:]) == looks  # merchant to currency
    ]
    flags = [p for p in PATTERNS if scores[identity(event)][f"is_{p}"]]
    assert flags == ([pattern] if pattern else [])


def test_the_readme_names_the_cast():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for account, merchant, country, cents, _ in CAST:
        mask, units = account.removeprefix("ACCT_"), f"{cents / 100:.2f}"
        assert f"| {mask} | {merchant} | {country} | {units} USD |" in readme


# The reference judges the fixture and the detectors; hand-counted cases judge it.


def pay(second: float, event_id: str = "", cents: int = 100, country: str = "US"):
    ts_us = round(second * 1_000_000)
    name = event_id or f"e{ts_us:015d}"
    return Event(name, "ACCT_1", ts_us, "Shop", country, cents, "USD")


def test_reference_lateness_and_revision():
    records = [pay(1000, "a"), pay(700, "b"), pay(699.999999, "c"), pay(1000, "A")]
    scores = reference_scores(records)
    assert [score["late"] for score in scores] == [False, False, True, False]
    assert [score["revision"] for score in scores] == [2, 0, 0, 0]
    assert scores[2]["velocity_count"] is None
    assert scores[0]["prev_country"] == "US"
    assert scores[0]["gap_seconds"] == 0.0
    assert scores[1]["prev_country"] is None


def test_reference_keeps_the_first_of_an_id():
    records = [pay(0, "a"), pay(0, "a"), pay(9_000, "a", cents=5), pay(1, "b")]
    scores = reference_scores(records)
    assert [(score["event_id"], score["late"]) for score in scores] == [
        ("a", False),
        ("b", False),
    ]


def test_reference_velocity_excludes_exactly_60_seconds():
    counts = [
        score["velocity_count"]
        for score in reference_scores([pay(0), pay(0.000001), pay(60), pay(60, "z")])
    ]
    assert counts == [1, 2, 2, 3]
    burst = reference_scores([pay(second) for second in range(9)])
    assert [score["is_velocity"] for score in burst] == [False] * 8 + [True]


@pytest.mark.parametrize(("gap", "fires"), [(3599.999999, True), (3600, False)])
def test_reference_geo_needs_less_than_an_hour(gap, fires):
    scores = reference_scores([pay(0), pay(gap, country="VN"), pay(gap + 1, "zz")])
    assert scores[1]["is_geo"] is fires
    assert scores[1]["gap_seconds"] == gap
    assert scores[2]["is_geo"] is True
    assert scores[2]["prev_country"] == "VN"


def test_reference_amount_window_and_numbers():
    month = 30 * 86_400
    records = [pay(0, cents=100), pay(1, cents=300), pay(month), pay(month + 1)]
    records.append(pay(month + 1, "z"))  # equal times are no past of each other
    baselines = [score["baseline_n"] for score in reference_scores(records)]
    assert baselines == [0, 1, 2, 2, 2]
    third = reference_scores(records)[2]
    assert third["baseline_mean"] == 2.0
    assert third["baseline_stddev"] == pytest.approx(2**0.5)
    assert third["z"] is None


@pytest.mark.parametrize(
    ("cents", "fires"), [(13_500, False), (13_501, True), (6_500, False), (6_499, True)]
)
def test_reference_amount_fires_beyond_three_and_a_half(cents, fires):
    # Mean 100.00 and, with n - 1 = 10, a sample stddev of exactly 10.00.
    past = [10_000, *[11_000] * 5, *[9_000] * 5]
    records = [pay(second, cents=amount) for second, amount in enumerate(past)]
    last = reference_scores([*records, pay(100, cents=cents)])[-1]
    assert (last["baseline_n"], last["baseline_stddev"]) == (11, 10.0)
    assert last["z"] == (cents - 10_000) / 1_000
    assert last["is_amount"] is fires


def test_reference_amount_needs_ten_that_differ():
    nine = [pay(second, cents=100 + second) for second in range(9)]
    assert reference_scores([*nine, pay(9, cents=10**6)])[-1]["z"] is None
    same = [pay(second, cents=100) for second in range(20)]
    last = reference_scores([*same, pay(30, cents=10**6)])[-1]
    assert (last["z"], last["is_amount"], last["baseline_n"]) == (None, False, 20)


def test_the_stolen_card_is_nine_payments_and_the_ninth_alone_fires(scores):
    card = [parse(line.encode(), END_US) for line in stolen_card()]
    minutes = Counter(event.ts_us // 60_000_000 for event in card)

    assert [scores[identity(event)]["is_velocity"] for event in card] == (
        [False] * 8 + [True]
    )
    assert {mask_account(event.account_id) for event in card} == {"ACCT_••97"}
    assert {event.country for event in card} == {"BR"}
    assert max(minutes.values()) <= 8  # so the clock's minutes miss it


def test_the_stolen_card_joins_a_story_under_an_account_of_its_own():
    own, apart = (list(map(json.loads, stolen_card(apart=a))) for a in (False, True))

    assert {event["account_id"] for event in apart} == {APART}
    assert [event | {"account_id": APART} for event in own] == apart
    assert mask_account(APART) == mask_account(own[0]["account_id"])
    told = story(2_000, 1_000, 40, seed=1)
    assert APART not in {event.account_id for event in told.events}
