"""The scenario `market`: what it says happened is looked for in the events again."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from itertools import pairwise
from statistics import mean, stdev

import pytest

from lib.datagen import generator, market
from lib.datagen.catalog import COUNTRIES, PRICES
from lib.datagen.generator import END, Generated, Label
from lib.events.card_event import Event, parse
from tests.unit.reference import order, reference_scores

EVENTS, ACCOUNTS, DAYS, SEED = 30_000, 600, 40, 11
FRAUD = 0.04
DISORDER = {
    "duplicates": 0.03,
    "out_of_order": 0.06,
    "late": 0.02,
    "malformed": 0.02,
    "conflicts": 0.01,
}
SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
END_US = int(END.timestamp()) * SECOND


def make(**changes) -> Generated:
    small = {"events": 2_000, "accounts": 40, "days": 20, "seed": SEED}
    return market.generate(**small | changes)


@pytest.fixture(scope="module")
def told() -> generator.Story:
    return market.story(EVENTS, ACCOUNTS, DAYS, SEED, fraud=FRAUD)


@pytest.fixture(scope="module")
def lives(told: generator.Story) -> dict[str, list[Event]]:
    """Each account's events in order."""
    found = defaultdict(list)
    for event in sorted(told.events, key=order):
        found[event.account_id].append(event)
    return found


@pytest.fixture(scope="module")
def cases(told: generator.Story) -> dict[str, dict[str, list[Event]]]:
    """Pattern → case → its events in order."""
    events = {(event.account_id, event.event_id): event for event in told.events}
    found: dict = defaultdict(lambda: defaultdict(list))
    for label in told.labels:
        event = events[label.account_id, label.event_id]
        found[label.pattern][label.anomaly_id].append(event)
    return found


def homes(lives: dict[str, list[Event]]) -> dict[str, str]:
    """Where each account pays most."""
    return {
        account: Counter(event.country for event in own).most_common(1)[0][0]
        for account, own in lives.items()
    }


def before(lives: dict[str, list[Event]], event: Event) -> Event:
    own = lives[event.account_id]
    return own[own.index(event) - 1]


def seconds_between(own: list[Event]) -> list[float]:
    return [(later.ts_us - one.ts_us) / SECOND for one, later in pairwise(own)]


def is_near(one: str, other: str) -> bool:
    return other in market.NEIGHBOURS.get(one, ())


# -- the two label sets ---------------------------------------------------------


def test_same_arguments_same_lines_and_labels():
    first, again, other = make(**DISORDER), make(**DISORDER), make(seed=SEED + 1)

    assert first == again
    assert other.lines != first.lines
    assert other.fraud != first.fraud
    assert other.labels != first.labels


@pytest.mark.parametrize("disorder", [{}, DISORDER], ids=["tidy", "disorder"])
def test_alert_labels_are_what_the_rules_say(disorder):
    """... by the loops of the reference, which share no code with
    `lib.detectors.rules`."""
    made = make(fraud=0.1, **disorder)
    records = defaultdict(list)
    for line in made.lines:
        event = parse(line.encode("utf-8", "surrogateescape"), END_US)
        if isinstance(event, Event):
            records[event.account_id].append(event)
    fired = {
        (account, score["event_id"], rule)
        for account, own in records.items()
        for score in reference_scores(own)
        for rule in ("velocity", "geo", "amount")
        if score[f"is_{rule}"]
    }

    assert {lab.role for lab in made.labels} == {"alert"}
    said = [(lab.account_id, lab.event_id, lab.pattern) for lab in made.labels]
    assert sorted(said) == sorted(fired)
    assert {rule for *_, rule in fired} == {"velocity", "geo", "amount"}
    assert made.labelled == len({named[:2] for named in fired})


def test_alerts_are_numbered_by_time_within_a_rule():
    made = make()
    for rule in ("velocity", "geo", "amount"):
        names = [lab.anomaly_id for lab in made.labels if lab.pattern == rule]
        assert names == [f"{rule}-{n:04d}" for n in range(1, len(names) + 1)]


def test_what_happened_does_not_depend_on_how_it_arrives():
    tidy, messy = make(), make(**DISORDER | {"late": 0.3})

    assert messy.fraud == tidy.fraud
    assert (
        messy.labels != tidy.labels
    )  # what the rules say does: they score no late one
    of_cases = {(lab.account_id, lab.event_id) for lab in messy.fraud}
    assert messy.late
    assert not of_cases & set(messy.late)


@pytest.mark.parametrize("share", [0, 0.001, 0.02, 0.2])
def test_the_base_rate_is_exact(share: float):
    told = market.story(3_000, 60, seed=3, fraud=share)

    stolen = [lab for lab in told.labels if lab.role == "fraud"]
    assert len(stolen) == round(3_000 * share)
    assert len(told.events) == len(set(told.events)) == 3_000
    assert {lab.role for lab in told.labels} <= {"fraud", "honest"}


def test_the_base_rate_leaves_the_look_alikes():
    shares = {}
    for share in (0.001, 0.02):
        labels = market.story(EVENTS, ACCOUNTS, DAYS, SEED, fraud=share).labels
        shares[share] = Counter(lab.pattern for lab in labels if lab.role == "honest")

    assert set(shares[0.001]) == set(shares[0.02]) == set(market.LOOK_ALIKES)
    for name in ("fair", "online_abroad", "first_fridge"):
        assert shares[0.001][name] == pytest.approx(shares[0.02][name], abs=4)


def test_each_theft_has_a_third(told: generator.Story):
    payments = Counter(lab.pattern for lab in told.labels if lab.role == "fraud")

    assert set(payments) == set(market.THEFTS)
    for number in payments.values():
        assert number == pytest.approx(EVENTS * FRAUD / 3, abs=4)


def test_an_event_is_in_one_case(told: generator.Story):
    named = [(lab.account_id, lab.event_id) for lab in told.labels]
    assert len(named) == len(set(named))
    for lab in told.labels:
        assert lab.role == ("fraud" if lab.pattern in market.THEFTS else "honest")
        assert lab.anomaly_id.startswith(f"{lab.pattern}-")


def test_no_merchant_gives_a_thief_away(told: generator.Story):
    stolen = {
        (lab.account_id, lab.event_id) for lab in told.labels if lab.role == "fraud"
    }
    by_thieves, by_others = set(), set()
    for event in told.events:
        place = event.country, event.merchant
        mine = (event.account_id, event.event_id) in stolen
        (by_thieves if mine else by_others).add(place)

    assert len(by_thieves & by_others) > len(by_thieves) * 0.8
    catalog = {(c.code, merchant) for c in COUNTRIES for merchant in c.merchants}
    assert by_thieves | by_others <= catalog


# -- thefts ---------------------------------------------------------------------


def test_card_testing(cases):
    """4 to 15 small payments, some within a minute and some over many."""
    bursts = list(cases["card_testing"].values())
    sizes = [len(own) for own in bursts]
    paces = [mean(seconds_between(own)) for own in bursts]

    assert (min(sizes), max(sizes)) == (4, 15)
    assert min(paces) < 5
    assert max(paces) > 60
    assert min(paces) > 0.5
    assert max(paces) < 180
    assert all(len({event.country for event in own}) == 1 for own in bursts)
    dollars = [
        e.amount_cents / 100 for own in bursts for e in own if e.currency == "USD"
    ]
    assert max(dollars) <= 5


def test_some_card_testing_stays_below_the_rule_and_some_does_not(cases):
    fastest = [
        max(
            sum(0 <= event.ts_us - other.ts_us < MINUTE for other in own)
            for event in own
        )
        for own in cases["card_testing"].values()
    ]
    assert min(fastest) <= 8 < max(fastest)


def test_cloned_card(cases, lives):
    """1 to 4 payments in another country than the owner's last; half next door."""
    clones = list(cases["cloned_card"].values())
    assert {len(own) for own in clones} == {1, 2, 3, 4}
    assert all(len({event.country for event in own}) == 1 for own in clones)
    home = homes(lives)
    borders = [own[0] for own in clones if home[own[0].account_id] in market.NEIGHBOURS]
    near = [is_near(home[first.account_id], first.country) for first in borders]
    assert 0.3 < mean(near) < 0.8
    abroad = [own[0].country != home[own[0].account_id] for own in clones]
    assert mean(abroad) > 0.9  # the others: of travellers, at home


def test_a_clone_pays_minutes_or_hours_after_the_owner(cases, lives):
    waits = [
        own[0].ts_us - before(lives, own[0]).ts_us
        for own in cases["cloned_card"].values()
        if before(lives, own[0]).country != own[0].country
    ]
    assert min(waits) < 20 * MINUTE
    assert max(waits) > 3 * HOUR


def test_outliers_begin_at_two_sigma(told, cases, lives):
    """... of the logarithm of what the account spends otherwise."""
    planted = {(lab.account_id, lab.event_id) for lab in told.labels}
    sigmas = []
    for (event,) in cases["outlier"].values():
        ordinary = [
            math.log(other.amount_cents)
            for other in lives[event.account_id]
            if (other.account_id, other.event_id) not in planted
        ]
        if len(ordinary) >= 30:
            distance = math.log(event.amount_cents) - mean(ordinary)
            sigmas.append(distance / stdev(ordinary))
    assert len(sigmas) > 50
    # What the sample says of each account is within a few tenths of the truth.
    assert min(sigmas) > 1.4
    assert 2 < sorted(sigmas)[len(sigmas) // 4] < 2.8
    assert max(sigmas) > 4


def test_ordinary_amounts_are_skewed(told):
    planted = {(lab.account_id, lab.event_id) for lab in told.labels}
    dollars = [
        event.amount_cents / 100
        for event in told.events
        if event.currency == "USD" and (event.account_id, event.event_id) not in planted
    ]
    logs = [math.log(amount) for amount in dollars]
    assert mean(dollars) > 1.3 * sorted(dollars)[len(dollars) // 2]
    assert mean(logs) == pytest.approx(sorted(logs)[len(logs) // 2], abs=0.1)


# -- look-alikes ----------------------------------------------------------------


def test_a_family_at_a_fair_pays_as_fast_as_a_thief(cases):
    fairs = list(cases["fair"].values())
    sizes = [len(own) for own in fairs]
    assert min(sizes) >= 5
    assert max(sizes) <= 15
    assert max(sizes) > 8
    paces = [mean(seconds_between(own)) for own in fairs]
    assert min(paces) < 7.5 < max(paces)
    assert all(len({event.country for event in own}) == 1 for own in fairs)


def test_commuters_cross_a_border_on_workdays(cases):
    for own in cases["commute"].values():
        home, work = own[0], own[1]
        assert is_near(home.country, work.country)
        assert 15 * MINUTE <= work.ts_us - home.ts_us < 90 * MINUTE
        assert {event.country for event in own[1:]} == {work.country}
        country = next(c for c in COUNTRIES if c.code == home.country)
        local = home.ts_us / HOUR + country.utc_hours
        assert 7 <= local % 24 < 8.25
        assert int(local // 24) % 7 not in (2, 3)  # 1970-01-01 was a Thursday
    accounts = Counter(own[0].account_id for own in cases["commute"].values())
    assert max(accounts.values()) > 1


def test_online_purchases_come_from_another_country(cases, lives):
    bought = [event for (event,) in cases["online_abroad"].values()]
    last = [before(lives, event) for event in bought]
    waits = [event.ts_us - one.ts_us for event, one in zip(bought, last, strict=True)]
    abroad = [
        event.country != one.country for event, one in zip(bought, last, strict=True)
    ]

    assert min(waits) < 5 * MINUTE
    assert HOUR < max(waits) < 6 * HOUR
    assert mean(abroad) > 0.9  # the others: something else has come between


def test_holidays_are_abroad_and_dear_and_begin_at_home(told, cases, lives):
    home = homes(lives)
    planted = {(lab.account_id, lab.event_id) for lab in told.labels}
    departures, ratios = [], []
    for own in cases["holiday"].values():
        there = [event for event in own if event.country != home[event.account_id]]
        assert len({event.country for event in there}) <= 1
        if own[0].country == home[own[0].account_id] and there:
            departures.append(there[0].ts_us - own[0].ts_us)
        ordinary = [
            other.amount_cents
            for other in lives[own[0].account_id]
            if (other.account_id, other.event_id) not in planted
        ]
        if len(there) >= 5 and len(ordinary) >= 20:
            ratios.append(mean(e.amount_cents for e in there) / mean(ordinary))
    assert min(departures) < HOUR
    assert all(40 * MINUTE <= wait < 6 * HOUR for wait in departures)
    assert 1.3 < sorted(ratios)[len(ratios) // 2] < 3.5


def test_a_fridge_is_the_dearest_thing_for_long(told, cases, lives):
    planted = {(lab.account_id, lab.event_id) for lab in told.labels}
    ranks = []
    for (event,) in cases["first_fridge"].values():
        shop = next(c for c in COUNTRIES if c.code == event.country).merchants[-1]
        assert event.merchant == shop
        ordinary = [
            other.amount_cents
            for other in lives[event.account_id]
            if (other.account_id, other.event_id) not in planted
        ]
        ranks.append(mean(event.amount_cents > cents for cents in ordinary))
    assert len(PRICES) == 8
    assert min(ranks) > 0.9
    assert mean(ranks) > 0.98


# -- odds and ends --------------------------------------------------------------


def test_all_happens_within_the_days(told):
    times = [event.ts_us for event in told.events]
    assert times == sorted(times)
    assert min(times) >= END_US - DAYS * 24 * HOUR
    assert max(times) < END_US


@pytest.mark.parametrize(
    ("events", "accounts", "days", "fraud"),
    [(1_000, 1, 2, 0.2), (1_000, 5_000, 2, 0.0), (1_000, 1, 40, 0.001)],
)
def test_odd_sizes_work(events, accounts, days, fraud):
    told = market.story(events, accounts, days, seed=3, fraud=fraud)
    assert len({(e.account_id, e.event_id) for e in told.events}) == events
    assert max(event.ts_us for event in told.events) < END_US


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"events": 999}, "events"),
        ({"days": 1}, "days"),
        ({"fraud": 0.21}, "fraud"),
        ({"fraud": -0.1}, "fraud"),
        ({"fraud": math.nan}, "fraud"),
        ({"late": 2}, "late"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_named_in_one_line(change, name):
    with pytest.raises(ValueError, match=f"^{name} must be") as raised:
        make(**change)
    assert "\n" not in str(raised.value)


def test_fraud_is_written_beside_the_other_two_files(tmp_path):
    made = make()
    generator.write(made, tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "fraud.csv",
        "labels.csv",
        "tx_events.jsonl",
    ]
    header, *rows = (tmp_path / "fraud.csv").read_text().splitlines()
    assert header == ",".join(Label._fields)
    assert rows == [",".join(label) for label in made.fraud]


DIGESTS = [
    ((3_000, 60, 40, 11), {}, "5aed26dc9812fc84"),
    ((3_000, 60, 40, 11), DISORDER, "e929962b57a78274"),
    ((500, 2, 1, 3), dict.fromkeys(DISORDER, 0.2), "a3b571bfb24b4247"),
    ((20_000, 300, 90, 5), {"anomaly_share": 0.3, "late": 0.05}, "a48422df29e01da9"),
]


@pytest.mark.parametrize(("numbers", "options", "digest"), DIGESTS)
def test_without_a_scenario_the_bytes_are_what_they_were(numbers, options, digest):
    """... before there was one."""
    made = generator.generate(*numbers, **options)

    text = "\n".join(made.lines).encode("utf-8", "surrogateescape")
    text += b"\0" + generator.labels_csv(made.labels).encode()
    assert hashlib.sha256(text).hexdigest().startswith(digest)
    assert made.fraud is None
