"""Generated files: what is claimed about them is counted again from their bytes."""

from collections import Counter, defaultdict
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lib.datagen.delivery_faults import MALFORMED, Shares, arrival_times
from lib.datagen.generator import END, Generated, generate, labels_csv, story, write
from lib.datagen.purchases import ROW
from lib.events.card_event import REASONS, Event, Rejection, parse, to_json
from tests.unit.reference import order, reference_scores

END_US = int(END.timestamp()) * 1_000_000
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
EVENTS, ACCOUNTS, DAYS, SEED = 3_000, 60, 40, 11
SHARES = {
    "duplicates": 0.03,
    "out_of_order": 0.06,
    "late": 0.02,
    "malformed": 0.02,
    "conflicts": 0.01,
}
PATTERNS = ("velocity", "geo", "amount")
NOT_IN_A_LINE = {"bad_key", "conflicting_event_id"}  # need the key, or other lines
IN_A_LINE = [reason for reason in REASONS if reason not in NOT_IN_A_LINE]


def make(**changes) -> Generated:
    arguments = {"events": EVENTS, "accounts": ACCOUNTS, "days": DAYS, "seed": SEED}
    return generate(**arguments | changes)


def read(generated: Generated) -> list[Event | Rejection]:
    lines = (line.encode("utf-8", "surrogateescape") for line in generated.lines)
    return [parse(line, END_US) for line in lines]


def identity(event: Event) -> tuple[str, str]:
    return event.account_id, event.event_id


def by_account(records: list[Event | Rejection]) -> dict[str, list[Event]]:
    """Valid records of each account, as they arrive."""
    found = defaultdict(list)
    for record in records:
        if isinstance(record, Event):
            found[record.account_id].append(record)
    return found


def score(records: list[Event | Rejection]) -> dict[tuple[str, str], dict]:
    return {
        (account_id, scored["event_id"]): scored
        for account_id, own in by_account(records).items()
        for scored in reference_scores(own)
    }


def alerts(generated: Generated) -> set[tuple[str, str, str]]:
    return {
        (label.account_id, label.event_id, label.pattern)
        for label in generated.labels
        if label.role == "alert"
    }


def fired(scores: dict) -> set[tuple[str, str, str]]:
    return {
        (*key, pattern)
        for key, scored in scores.items()
        for pattern in PATTERNS
        if scored[f"is_{pattern}"]
    }


@pytest.fixture(scope="module")
def tidy() -> Generated:
    return make()


@pytest.fixture(scope="module")
def messy() -> Generated:
    return make(**SHARES)


@pytest.fixture(scope="module")
def messy_records(messy) -> list[Event | Rejection]:
    return read(messy)


@pytest.fixture(scope="module")
def messy_scores(messy_records) -> dict[tuple[str, str], dict]:
    return score(messy_records)


def files(generated: Generated, folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in write(generated, folder)]


@pytest.mark.parametrize("shares", [{}, SHARES])
def test_same_arguments_same_bytes(shares, tmp_path):
    again = [files(make(**shares), tmp_path / name) for name in "ab"]
    assert again[0] == again[1]


@pytest.mark.parametrize(
    "change",
    [{"seed": SEED + 1}, {"events": EVENTS + 1}, {"accounts": 61}, {"days": 39}],
)
def test_other_arguments_other_bytes(tidy, change):
    other = make(**change)
    assert other.lines != tidy.lines
    assert other.labels != tidy.labels


def test_tidy_lines_are_events_by_event_time(tidy):
    events = read(tidy)
    assert len(events) == len({identity(event) for event in events}) == EVENTS
    assert tidy.events == EVENTS
    times = [event.ts_us for event in events]
    assert times == sorted(times)
    assert END_US - DAYS * DAY_US <= times[0] < END_US - (DAYS - 1) * DAY_US
    assert END_US - DAY_US < times[-1] < END_US
    assert tidy.lines == [to_json(event) for event in events]
    assert (tidy.late, tidy.out_of_order) == ((), ())


def test_every_account_has_a_life_in_one_currency(tidy):
    accounts = by_account(read(tidy))
    assert len(accounts) == ACCOUNTS
    for own in accounts.values():
        assert len({event.currency for event in own}) == 1
    assert len({own[0].currency for own in accounts.values()}) > 4


def test_ids_are_unique_within_an_account_only_and_out_of_step(tidy):
    events = read(tidy)
    assert max(len(event.event_id) for event in events) <= 16
    assert len({event.event_id for event in events}) < EVENTS / 2
    rising = [
        earlier.event_id < later.event_id
        for own in by_account(events).values()
        for earlier, later in pairwise(own)
    ]
    assert 0.2 < sum(rising) / len(rising) < 0.8


def test_equal_times_arrive_in_either_order(tidy):
    ties = [
        earlier.event_id < later.event_id
        for own in by_account(read(tidy)).values()
        for earlier, later in pairwise(own)
        if earlier.ts_us == later.ts_us
    ]
    assert {True, False} == set(ties)


def test_nobody_travels_faster_than_six_hours():
    calm = make(events=20_000, anomaly_share=0)
    assert calm.labels == []
    moves = [
        later.ts_us - earlier.ts_us
        for own in by_account(read(calm)).values()
        for earlier, later in pairwise(own)
        if earlier.country != later.country
    ]
    assert len(moves) > 10
    assert min(moves) >= 6 * HOUR_US


def test_alerts_are_labelled_in_even_shares(tidy):
    assert tidy.labelled == len(alerts(tidy)) == 150
    assert Counter(pattern for *_, pattern in alerts(tidy)) == dict.fromkeys(
        PATTERNS, 50
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_the_rules_fire_where_labels_say_and_rarely_elsewhere(seed):
    generated = make(seed=seed)
    found = fired(score(read(generated)))
    assert len(alerts(generated) - found) <= 1
    natural = found - alerts(generated)
    assert {pattern for *_, pattern in natural} <= {"amount"}
    assert len(natural) <= EVENTS * 0.004


def test_disorder_leaves_events_and_labels_alone(tidy, messy, messy_records):
    first = {}
    for record in messy_records:
        if isinstance(record, Event):
            first.setdefault(identity(record), record)
    assert set(first.values()) == set(read(tidy))
    assert messy.labels == tidy.labels
    assert len(alerts(messy) - fired(score(messy_records))) <= 1


def test_extra_lines_come_on_top(messy, messy_records):
    counts = (messy.duplicates, messy.conflicts, messy.malformed.total())
    assert counts == (90, 30, 60)
    assert len(messy.lines) == EVENTS + sum(counts)
    seen: dict[tuple[str, str], Event] = {}
    again = Counter()
    for record in messy_records:
        if isinstance(record, Event):
            if identity(record) in seen:
                again["same" if seen[identity(record)] == record else "other"] += 1
            seen.setdefault(identity(record), record)
    assert again == {"same": 90, "other": 30}
    rejected = [r.reason for r in messy_records if isinstance(r, Rejection)]
    assert Counter(rejected) == messy.malformed
    assert set(rejected) == set(IN_A_LINE)


def test_duplicates_are_not_only_verbatim(messy):
    verbatim = len(messy.lines) - len(set(messy.lines))
    assert 20 < verbatim < 45


def test_late_is_late_by_the_rule(messy, messy_scores):
    late = {key for key, scored in messy_scores.items() if scored["late"]}
    assert late == set(messy.late)
    assert len(late) == 60
    assert not late & {(label.account_id, label.event_id) for label in messy.labels}


def test_five_minutes_behind_are_not_late_yet():
    rows = np.zeros(3, ROW)
    rows["ts_ms"] = 0, 300_000, 300_001
    times = arrival_times(np.random.default_rng(0), rows, Shares(late=1.0))
    assert times.late.tolist() == [0]
    assert times.at_ms.tolist() == [300_001, 300_000, 300_001]
    assert times.turn.tolist() == [1, 0, 0]


def test_out_of_order_is_behind_by_less_than_four_minutes(messy, messy_records):
    behind = set()
    for own in by_account(messy_records).values():
        shown, seen = 0, set()
        for event in own:
            if event.event_id not in seen and 0 < shown - event.ts_us < 4 * MINUTE_US:
                behind.add(identity(event))
            if event.event_id not in seen:
                shown = max(shown, event.ts_us)
            seen.add(event.event_id)
    assert behind == set(messy.out_of_order)
    assert len(behind) == 180


def test_out_of_order_corrects_scores(messy_scores):
    assert sum(scored["revision"] for scored in messy_scores.values()) >= 180


@pytest.mark.parametrize(
    ("place", "reason"), list(enumerate(reason for reason, _ in MALFORMED))
)
def test_every_malformed_line_deserves_its_reason(place, reason):
    event = story(1, 1).events[0]
    line = MALFORMED[place][1](event)
    assert "\n" not in line
    parsed = parse(line.encode("utf-8", "surrogateescape"), END_US)
    assert isinstance(parsed, Rejection)
    assert parsed.reason == reason


def test_nine_malformed_lines_show_every_reason():
    generated = make(malformed=9 / EVENTS)
    assert generated.malformed == Counter(IN_A_LINE)


@pytest.mark.parametrize(
    ("events", "accounts", "days"),
    [
        (1, 1, 40),
        (1, 1_000, 1),
        (30, 1, 1),
        (100, 1_000, 1),
        (500, 2, 1),
        (50, 50, 3),
    ],
)
def test_odd_sizes_work(events, accounts, days):
    disorder = dict.fromkeys(SHARES, 0.2)
    generated = generate(events, accounts, days, seed=3, **disorder)
    records = read(generated)
    valid = [record for record in records if isinstance(record, Event)]
    assert len({identity(event) for event in valid}) == events
    assert len({event.account_id for event in valid}) <= min(events, accounts)
    scores = score(records)
    late = {key for key, scored in scores.items() if scored["late"]}
    assert late == set(generated.late)
    start = END - timedelta(days=days)
    first = min(event.ts_us for event in valid)
    assert first >= start.timestamp() * 1_000_000


def test_all_shares_may_be_one():
    generated = generate(
        300, 10, 10, 5, anomaly_share=1.0, **dict.fromkeys(SHARES, 1.0)
    )
    assert generated.labelled > 50
    assert len(generated.lines) == 4 * 300


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"events": 0}, "events"),
        ({"events": -5}, "events"),
        ({"events": 1.5}, "events"),
        ({"events": True}, "events"),
        ({"events": "10"}, "events"),
        ({"accounts": 0}, "accounts"),
        ({"accounts": 10**8 + 1}, "accounts"),
        ({"days": 0}, "days"),
        ({"days": 10_000}, "days"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"anomaly_share": 1.1}, "anomaly_share"),
        ({"anomaly_share": float("nan")}, "anomaly_share"),
        ({"duplicates": -0.1}, "duplicates"),
        ({"late": float("inf")}, "late"),
        ({"out_of_order": "a lot"}, "out_of_order"),
        ({"malformed": True}, "malformed"),
        ({"conflicts": 2}, "conflicts"),
    ],
)
def test_bad_arguments_are_named_in_one_line(change, name):
    with pytest.raises(ValueError, match=f"^{name} must be") as raised:
        make(**change)
    assert "\n" not in str(raised.value)


def test_write_makes_folders_and_leaves_only_the_two_files(tidy, tmp_path):
    folder = tmp_path / "not" / "yet"
    events, labels = write(tidy, folder)
    assert sorted(folder.iterdir()) == [labels, events]
    assert events.read_text(encoding="utf-8").split("\n") == [*tidy.lines, ""]
    assert labels.read_text(encoding="utf-8") == labels_csv(tidy.labels)
    header = labels_csv(tidy.labels).split("\n", 1)[0]
    assert header == "anomaly_id,pattern,role,account_id,event_id"


def test_a_write_that_fails_leaves_what_was_there(tidy, tmp_path):
    (path, _) = write(tidy, tmp_path)
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write(Generated(["\ud800"], [], events=1), tmp_path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_no_draft(tidy, tmp_path, monkeypatch):
    def fail(_self: Path, _target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write(tidy, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_story_tells_the_same_events(tidy):
    told = story(EVENTS, ACCOUNTS, DAYS, SEED)
    assert sorted(told.events, key=order_all) == sorted(read(tidy), key=order_all)
    assert told.labels == tidy.labels


def order_all(event: Event) -> tuple:
    return event.account_id, *order(event)
