"""The model that follows commits says at every moment what the whole table says."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from deltalake import DeltaTable

from lib.dashboard import model
from lib.dashboard.accounts import history
from lib.dashboard.aggregates import Histogram, LastMinute
from lib.dashboard.model import TEXT_LENGTH, ScoredModel
from lib.lake import follower as follow
from lib.lake.follower import Commit, NoTable, Snapshot
from tests.unit.scored_lake import NOON, append, event, merge, settings_of


def stored(settings) -> list[dict]:
    table = DeltaTable(settings.table("silver/scored"))
    return table.to_pyarrow_table().to_pylist()


def commit_ms(settings) -> int:
    return DeltaTable(settings.table("silver/scored")).history(1)[0]["timestamp"]


def recounted(rows: list[dict]) -> dict[str, object]:
    """The sums by hand, over all rows at once."""
    alerts, accounts, slots = Counter(), {}, Counter()
    for row in rows:
        for place, name in enumerate(("velocity", "geo", "amount")):
            if row[f"is_{name}"]:
                alerts[name] += 1
                accounts.setdefault(row["account_id"], [0, 0, 0])[place] += 1
                slots[int(row["kafka_timestamp"].timestamp() // 10), name] += 1
    hit = [r for r in rows if r["is_velocity"] or r["is_geo"] or r["is_amount"]]
    return {
        "rows": len(rows),
        "late": sum(row["late"] for row in rows),
        "revised": sum(row["revision"] > 0 for row in rows),
        "flagged": len(hit),
        "alerts": +alerts,
        "countries": Counter(row["country"] for row in rows),
        "flagged_countries": Counter(row["country"] for row in hit),
        "accounts": accounts,
        "slots": +slots,
    }


def told(seen: ScoredModel) -> dict[str, object]:
    sums = seen.sums
    return {
        **{name: getattr(sums, name) for name in ("rows", "late", "revised")},
        "flagged": sums.flagged,
        "alerts": +sums.alerts,
        "countries": sums.countries,
        "flagged_countries": sums.flagged_countries,
        "accounts": {name: n for name, n in sums.accounts.items() if any(n)},
        "slots": +sums.slots,
    }


@pytest.fixture
def settings(tmp_path: Path):
    return settings_of(tmp_path)


@pytest.fixture
def seen(settings) -> ScoredModel:
    return ScoredModel(settings.table("silver/scored"))


def random_event(dice: random.Random, number: int, **changes) -> dict:
    return event(
        number,
        account=dice.randrange(9),
        country=dice.choice(["US", "VN", "RU"]),
        late=dice.random() < 0.2,
        is_velocity=dice.random() < 0.3,
        is_geo=dice.random() < 0.3,
        is_amount=dice.random() < 0.3,
        **changes,
    )


@pytest.mark.parametrize("seed", range(3))
def test_following_equals_counting_anew(settings, seen: ScoredModel, seed: int):
    dice = random.Random(seed)
    written: list[dict] = []
    for batch in range(12):
        fresh = [random_event(dice, 100 * batch + i) for i in range(dice.randrange(9))]
        again = dice.sample(written, min(len(written), dice.randrange(4)))
        again = [
            random_event(dice, int(row["event_id"][2:]))
            | {"account_id": row["account_id"], "revision": row["revision"] + 1}
            for row in again
        ]
        if batch and (again or dice.random() < 0.3):
            merge(settings, fresh + again, batch)
        else:
            append(settings, fresh, batch)
        if batch == 7:
            DeltaTable(settings.table("silver/scored")).optimize.compact()
        written = stored(settings)
        seen.refresh()

        assert told(seen) == recounted(written)
        newest = {(r.account_id, r.event_id): r.revision for r in seen.newest()}
        assert newest == {
            (r["account_id"], r["event_id"]): r["revision"] for r in written
        }
    late_comer = ScoredModel(settings.table("silver/scored"))
    late_comer.refresh()
    assert told(late_comer) == told(seen)


def test_only_what_is_new_is_read(settings, seen: ScoredModel, monkeypatch):
    append(settings, [event(i) for i in range(5)], 0)
    seen.refresh()
    append(settings, [event(9)], 1)
    read = []
    whole = follow.Follower.read

    def watched(self, file, columns):
        for rows in whole(self, file, columns):
            read.append(rows.num_rows)
            yield rows

    monkeypatch.setattr(follow.Follower, "read", watched)
    assert seen.refresh() == 1
    assert read == [1]
    assert seen.refresh() == 0
    assert read == [1]


def test_latency_is_that_of_first_answers_only(settings, seen: ScoredModel):
    rows = [event(i) for i in range(4)]
    append(settings, rows, 0)
    appended = commit_ms(settings)
    # One correction, and one that was corrected before anybody saw it.
    merge(settings, [event(1, revision=1), event(9, revision=1)], 1)
    merged = commit_ms(settings)
    seen.refresh()

    kafka = NOON.timestamp() * 1000
    expected = [appended - kafka - i * 1000 for i in range(4)]
    expected.append(merged - kafka - 9_000)
    latency = seen.latency(merged / 1000)
    assert latency.measured == len(expected)
    assert latency.last_minute == pytest.approx(np.percentile(expected, [50, 95, 99]))


def test_a_correction_stays_in_its_place_and_keeps_its_time(settings, seen):
    append(settings, [event(1), event(2), event(3)], 0)
    appended = commit_ms(settings)
    merge(settings, [event(2, revision=1, is_geo=True)], 1)
    seen.refresh()

    assert [row.event_id for row in seen.newest()] == ["e-3", "e-2", "e-1"]
    corrected = seen.newest()[1]
    assert (corrected.revision, corrected.visible_ms) == (1, appended)
    assert [row.event_id for row in seen.newest_alerts()] == ["e-2"]

    merge(settings, [event(2, revision=2)], 2)
    seen.refresh()
    assert seen.newest_alerts() == []


def test_memory_is_bounded(settings, seen: ScoredModel, monkeypatch):
    monkeypatch.setattr(model, "NEWEST", 10)
    monkeypatch.setattr(model, "ALERTS", 5)
    for batch in range(6):
        rows = [event(10 * batch + i, is_geo=True) for i in range(8)]
        append(settings, rows, batch)
        seen.refresh()

    assert [row.event_id for row in seen.newest()][:3] == ["e-57", "e-56", "e-55"]
    assert (len(seen.newest()), len(seen.newest_alerts())) == (10, 5)
    assert seen.sums.alerts["geo"] == 48


def test_the_beginning_comes_as_a_snapshot(settings, monkeypatch):
    for batch in range(6):
        append(settings, [event(batch, is_geo=batch == 0)], batch)
    monkeypatch.setattr(follow, "TAIL", 2)
    follower = follow.Follower(settings.table("silver/scored"))
    changes = list(follower.poll())

    assert [type(change) for change in changes] == [Snapshot, Commit, Commit]
    seen = ScoredModel(settings.table("silver/scored"))
    seen.refresh()
    assert told(seen) == recounted(stored(settings))
    assert [row.event_id for row in seen.newest()] == [
        f"e-{i}" for i in range(5, -1, -1)
    ]


def test_a_lake_made_anew_is_read_anew(settings, seen: ScoredModel):
    append(settings, [event(i) for i in range(5)], 0)
    append(settings, [event(7)], 1)
    seen.refresh()
    shutil.rmtree(settings.lake)
    with pytest.raises(NoTable):
        seen.refresh()
    append(settings, [event(1)], 0)
    append(settings, [event(2)], 1)
    seen.refresh()

    assert seen.sums.rows == 2
    assert len(seen.newest()) == 2


def test_vacuumed_files_lead_to_the_snapshot(settings, seen: ScoredModel):
    append(settings, [event(i) for i in range(5)], 0)
    seen.refresh()
    merge(settings, [event(2, revision=1)], 1)
    table = DeltaTable(settings.table("silver/scored"))
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)

    with pytest.raises(NoTable):
        seen.refresh()
    seen.refresh()
    assert told(seen) == recounted(stored(settings))


@pytest.mark.parametrize("found", ["nothing", "empty folder", "no log", "torn"])
def test_no_table_yet(settings, seen: ScoredModel, found: str):
    folder = Path(settings.table("silver/scored"))
    if found != "nothing":
        (folder / ("" if found == "empty folder" else "_delta_log")).mkdir(parents=True)
    if found == "torn":
        (folder / "_delta_log" / f"{0:020d}.json").write_text('{"commitInfo":{"ti')

    with pytest.raises(NoTable):
        seen.refresh()
    assert seen.sums.rows == 0


def test_a_torn_commit_is_waited_for(settings, seen: ScoredModel):
    append(settings, [event(1)], 0)
    seen.refresh()
    append(settings, [event(2)], 1)
    log = Path(settings.table("silver/scored")) / "_delta_log" / f"{1:020d}.json"
    whole = log.read_bytes()
    log.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NoTable, match="damaged"):
        seen.refresh()
    assert seen.sums.rows == 1

    log.write_bytes(whole)
    seen.refresh()
    assert seen.sums.rows == 2


# -- percentiles and rates --------------------------------------------------------


def test_histogram_percentiles_are_within_one_percent():
    values = np.random.default_rng(7).lognormal(6, 1, 20_000)
    histogram = Histogram()
    for part in np.array_split(values, 7):
        histogram.add(part)

    for q in (50, 95, 99):
        expected = np.percentile(values, q)
        assert histogram.percentile(q) == pytest.approx(expected, rel=0.011)
    assert histogram.total == 20_000


def test_histogram_of_nothing_and_of_extremes():
    histogram = Histogram()
    assert histogram.percentile(50) is None
    histogram.add(np.array([-5.0, 0.0, 1e12]))
    assert histogram.percentile(99) <= 1e12
    assert histogram.total == 3


def test_rolling_rate_divides_by_the_time_there_was():
    minute = LastMinute()
    assert minute.rates(0) == []
    start = 1_000_000.0
    for second in range(100):
        minute.add(start + second, 20, np.zeros(20))

    rates = dict(minute.rates(start + 99))
    assert rates[0] == pytest.approx(20)
    assert rates[-59] == pytest.approx(20, rel=0.03)  # 41 commits in 40 s
    young = LastMinute()
    for second in range(5):
        young.add(start + second, 20, np.full(20, 1000.0))
    assert young.rates(start + 4)[-1][1] == pytest.approx(20)
    # When nothing comes any more, the rate goes down to nothing.
    assert minute.rates(start + 99 + 30)[-1][1] == pytest.approx(10)
    assert minute.rates(start + 200)[-1][1] == 0
    assert minute.percentiles(start + 200, (50.0,)) == [None]


def test_slots_are_bounded(settings, seen: ScoredModel, monkeypatch):
    monkeypatch.setattr("lib.dashboard.aggregates.SLOTS", 4)
    for batch in range(20):
        at = NOON + timedelta(minutes=batch)
        append(settings, [event(batch, is_geo=True, kafka_timestamp=at)], batch)
    seen.refresh()

    assert len(seen.sums.slots) <= 2 * 4 * 3
    newest = int((NOON + timedelta(minutes=19)).timestamp() // 10)
    assert seen.sums.slots[newest, "geo"] == 1


def test_a_name_as_long_as_a_record_is_not_kept_whole(tmp_path: Path):
    settings, name = settings_of(tmp_path), "é" * 100_000
    seen = ScoredModel(settings.table("silver/scored"))
    for number in range(2):  # the first as it is found, the second as it is followed
        append(settings, [event(number, merchant=name)], number)
        seen.refresh()
    merge(settings, [event(0, merchant=name, revision=1)], 2)
    seen.refresh()

    kept = [*seen.newest(), *history(settings, "ACCT_00000084").rows]
    assert len(kept) == 4
    assert {len(row.merchant) for row in kept} == {TEXT_LENGTH}
