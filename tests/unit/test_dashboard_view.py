"""What the page says of a lake, a stream and an account; and that it names nobody."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from streamlit.testing.v1 import AppTest

from lib.cli.demo import feed_line
from lib.dashboard import app, health, markup, view
from lib.dashboard.accounts import at_risk, history
from lib.dashboard.health import Health, TopicEnds, committed_offsets, look
from lib.dashboard.masking import Tokens, reason
from lib.dashboard.model import Row, ScoredModel
from lib.dashboard.reader import Reader
from lib.dashboard.row_counts import Bronze, Counted, RowCounts, Verdict
from lib.dashboard.view import Filters
from lib.detectors.geo import duration
from lib.detectors.rules import DETECTORS
from lib.settings import Settings
from lib.streaming.heartbeat import RUNNING, Heartbeat
from tests.unit.scored_lake import append, event, merge, settings_of, write

APP = Path(app.__file__)
FULL_ID = re.compile(r"ACCT_\d")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(b"key")


def row(**changes: object) -> Row:
    return Row(**event(1, **changes))


def fill(settings: Settings) -> None:
    """Three accounts, one alert of each kind, a late and a corrected event."""
    rows = [
        event(1, account=7, is_velocity=True, velocity_count=11),
        event(2, account=84, is_geo=True, prev_country="US", country="VN"),
        event(3, account=84, is_amount=True, z=9.3, baseline_n=41),
        event(4, account=84, late=True, velocity_count=None),
        event(5, account=91, merchant="<b>Ed's</b> ACCT_0000123"),
    ]
    rows[1] |= {"gap_seconds": 840.0, "merchant": "Crypto Exchange Wire"}
    rows[2] |= {"baseline_mean": 10.0, "baseline_stddev": 2.0}
    append(settings, rows, 0)
    merge(settings, [event(5, account=91, revision=1)], 1)
    position = {"topic": settings.topic, "partition": 0, "value": b""}
    write(settings, "bronze/tx_events", [position | {"offset": i} for i in range(7)])
    placed = [
        {"event_id": r["event_id"], "account_id": r["account_id"], "partition": 0}
        for r in rows
    ]
    placed = [place | {"offset": at} for at, place in enumerate(placed)]
    write(settings, "silver/transactions", placed)
    write(settings, "silver/quarantine", [{"reason": "bad_amount"}])


def beat(settings: Settings, state: str = "running", detail: str | None = None) -> None:
    Heartbeat(settings, []).beat(state, detail)


class Reporting:
    """A query of this name that has these reports to tell."""

    def __init__(self, name: str, *reports: dict) -> None:
        self.name = name
        self._reports = reports

    def new_reports(self) -> list[str]:
        return [json.dumps(report) for report in self._reports]

    def failure(self) -> None:
        return None


def report(batch: int, rows: int, end: dict, latest: dict | None = None) -> dict:
    """One of Spark's progress reports, as far as the page reads it."""
    source = {"endOffset": end, "latestOffset": latest}
    at = "2026-07-01T12:00:00.000Z"
    told = {"batchId": batch, "timestamp": at, "numInputRows": rows}
    return told | {"sources": [source]}


BRONZE_OFFSET = {
    "sourceVersion": 1,
    "reservoirId": "8ba3c1f0-7a0e-4d0f-9f4e-2b1f5d1c2a3b",
    "reservoirVersion": 5,
    "index": -1,
    "isStartingVersion": False,
}
"""What Spark reports of a query that reads a Delta table."""


# -- masking and words ------------------------------------------------------------


def test_tokens_say_nothing_and_lead_back_only_here(tokens: Tokens):
    token = tokens.account("ACCT_0000084")

    assert tokens.account_of(token) == "ACCT_0000084"
    assert tokens.account("ACCT_0000084") == token
    assert tokens.account("ACCT_0000085") != token
    assert "84" not in token or len(token) == 16
    assert Tokens().account("ACCT_0000084") != token  # another process, another key
    assert Tokens().account_of(token) is None


def test_tokens_are_bounded(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lib.dashboard.masking.REMEMBERED", 3)
    made = [tokens.account(f"ACCT_{i}") for i in range(5)]

    assert [tokens.account_of(t) for t in made[:2]] == [None, None]
    assert tokens.account_of(made[-1]) == "ACCT_4"


@pytest.mark.parametrize(
    ("changes", "detector", "words"),
    [
        ({"velocity_count": 11}, "velocity", "11 transactions in 60 s"),
        (
            {"prev_country": "US", "country": "VN", "gap_seconds": 840.0},
            "geo",
            "US → VN in 14 min",
        ),
        ({"z": 9.31, "baseline_n": 41}, "amount", "z = 9.3 over 41 purchases"),
        ({"z": -4.0, "baseline_n": 10}, "amount", "z = -4.0 over 10 purchases"),
        ({"z": 1e300, "baseline_n": 10}, "amount", "z = 1e+300 over 10 purchases"),
    ],
)
def test_reasons_in_words(changes: dict, detector: str, words: str):
    (fires,) = (each for each in DETECTORS if each.name == detector)

    assert reason(row(**changes), fires) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (45, "45 s"), (840, "14 min"), (7200, "2.0 h")]
)
def test_durations_in_words(seconds: float, words: str):
    assert duration(seconds) == words


def test_ids_in_texts_are_masked_and_texts_are_no_html(tokens: Tokens):
    hostile = row(merchant="<script>x</script>ACCT_00123", country="<i>")
    table = markup.feed([view.entry(hostile, tokens)], "feed")

    assert "<script>" not in table
    assert "<i>" not in table
    assert not FULL_ID.search(table)


def test_texts_of_any_length_and_kind_stay_in_their_cells(tokens: Tokens):
    names = {"merchant": "M" * 300, "country": "C" * 300, "currency": "\u202e" * 300}
    why = {"is_geo": True, "prev_country": "P" * 300, "gap_seconds": 1.0}
    odd = view.entry(row(**names, **why), tokens)
    lines = [("R" * 300, 1)]
    for table in (
        markup.feed([odd], "feed"),
        markup.history([odd], ["partition 0, offset 1"], "history"),
        markup.plain("K" * 3000, ("H" * 300, "records"), lines),
        markup.status("bad", "W" * 3000),
    ):
        text = re.sub("<[^>]*>", "\n", table)
        longest = max(map(len, text.splitlines()))
        assert longest <= 401, longest
        assert not re.search("[MCPRH\u202e]{41}", text)


def test_what_plotly_takes_for_html_is_none(settings: Settings, tokens: Tokens):
    link = '<a href="x">'
    append(settings, [event(1, country=link, currency=link, is_geo=True)], 0)
    seen = ScoredModel(settings.table("silver/scored"))
    seen.refresh()
    countries = view.by_country(seen.sums.countries, seen.sums.flagged_countries)
    page = view.account_page(history(settings, "ACCT_00000084"), tokens, 3.5)

    for shown_there in (countries["country"].iloc[0], page.points["currency"].iloc[0]):
        assert shown_there.startswith("&lt;a")
        assert "<" not in shown_there


def test_the_download_is_masked_and_runs_nothing(tokens: Tokens):
    name = '=HYPERLINK("http://x","ACCT_00123")\n,1'
    hostile = view.entry(row(merchant=name, country="@A"), tokens)
    head, cells = csv.reader(io.StringIO(view.feed_csv([hostile]), newline=""))
    told = dict(zip(head, cells, strict=True))

    assert tuple(head) == view.CSV_COLUMNS
    assert told["merchant"] == f"'{hostile.merchant}"
    assert told["country"] == "'@A"
    assert (told["account"], told["amount"]) == (hostile.account, hostile.amount)
    assert not FULL_ID.search(" ".join(cells))


def test_a_merchants_name_moves_no_cursor_of_a_terminal(tokens: Tokens):
    hostile = row(merchant="Caf\x1b[2J\x1b]0;x\x07ACCT_00123", country="\x1b[")
    told = feed_line(hostile, tokens)

    assert told.isprintable()
    assert not FULL_ID.search(told)


# -- feed and filters -------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "events"),
    [
        (Filters(), ["e-5", "e-4", "e-3", "e-2", "e-1"]),
        (Filters(detectors=("geo",)), ["e-2"]),
        (Filters(detectors=("geo", "velocity")), ["e-2", "e-1"]),
        (Filters(countries=("VN",)), ["e-2"]),
        (Filters(ending="84"), ["e-4", "e-3", "e-2"]),
        (Filters(ending="84", detectors=("amount",)), ["e-3"]),
        (Filters(ending="00"), []),
    ],
)
def test_filters(settings: Settings, tokens: Tokens, filters, events):
    fill(settings)
    seen = ScoredModel(settings.table("silver/scored"))
    seen.refresh()
    shown = view.feed(seen.newest(), seen.newest_alerts(), filters, tokens)

    by_token = {
        tokens.event(r.account_id, r.event_id): r.event_id for r in seen.newest()
    }
    assert [by_token[entry.event] for entry in shown] == events


def test_an_accounts_page(settings: Settings, tokens: Tokens):
    fill(settings)
    page = view.account_page(history(settings, "ACCT_00000084"), tokens, 3.5)

    assert (page.account, page.total) == ("ACCT_••84", 3)
    assert [entry.late for entry in page.entries] == [True, False, False]
    assert page.places == [f"partition 0, offset {i}" for i in (3, 2, 1)]
    assert list(page.points["pattern"]) == ["geo", "amount", "normal"]
    band = page.points.iloc[1]
    assert (band["low"], band["mean"], band["high"]) == (3.0, 10.0, 17.0)
    assert view.account_page(history(settings, "ACCT_1"), tokens, 3.5) is None


def test_accounts_at_risk_come_from_the_marts(settings: Settings, tokens: Tokens):
    assert at_risk(settings) is None
    columns = {
        "account_id": ["ACCT_0001", "ACCT_0002", "ACCT_0003"],
        "transactions": [9] * 3,
    }
    alerts = {"velocity_alerts": [1, 0, 0], "geo_alerts": [1, 5, 0]}
    rest = {"amount_alerts": [0, 0, 0], "risk_band": ["medium", "high", "none"]}
    table = pa.table(columns | alerts | rest)
    write_deltalake(settings.table("gold/dim_account"), table)

    found = at_risk(settings)
    assert abs(found.built_ms / 1000 - time.time()) < 60
    rows = view.gold_accounts(found.accounts, tokens)
    assert [(r["account"], r["alerts"]) for r in rows] == [
        ("ACCT_••02", 5),
        ("ACCT_••01", 2),
    ]
    table = markup.accounts(rows, "at risk")
    assert "high" in table
    assert not FULL_ID.search(table)


# -- stream, lag and books --------------------------------------------------------


def test_how_the_stream_is(settings: Settings):
    def status(later: float = 0) -> tuple[str, str]:
        now = time.time() + later
        return app.stream_status(look(settings, TopicEnds(settings), now), now)

    assert status() == ("idle", "no stream has run here yet: make demo starts one")
    beat(settings)
    assert status() == ("ok", "stream is running")
    kind, text = status(later=6)
    assert kind == "bad"
    assert re.fullmatch(r"stream is down since \d\d:\d\d:\d\d \(6 s\)", text)
    beat(settings, "failed", "no space left")
    kind, text = status()
    assert (kind, text.endswith(": no space left")) == ("bad", True)
    beat(settings, "stopped")
    assert status()[0] == "bad"


def test_a_broker_that_is_gone(settings: Settings):
    beat(settings)
    now = time.time()
    gone = Health(look(settings, TopicEnds(settings), now).beat, None, {}, {}, "no")

    kind, text = app.stream_status(gone, now)
    assert (kind, "broker" in text) == ("bad", True)


def checkpoint(settings: Settings, query: str, offsets: dict, *, committed: bool):
    folder = Path(settings.checkpoint(query))
    for name in ("offsets", "commits"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    batch = len(list((folder / "offsets").iterdir()))
    text = f"v1\n{{}}\n{json.dumps({settings.topic: offsets})}"
    (folder / "offsets" / str(batch)).write_text(text)
    if committed:
        (folder / "commits" / str(batch)).write_text("v1\n{}")


def test_lag_is_what_spark_has_not_committed(settings: Settings, monkeypatch):
    checkpoint(settings, "any", {"0": 5, "1": 7}, committed=True)
    checkpoint(settings, "any", {"0": 9, "1": 9}, committed=False)
    assert committed_offsets(settings, "any") == {0: 5, 1: 7}
    latest = {settings.topic: {"0": 6, "1": 7}}
    Heartbeat(settings, [Reporting("any", report(3, 4, latest, latest))]).beat(RUNNING)
    ends = TopicEnds(settings)
    monkeypatch.setattr(ends, "newest", lambda: ({0: 8, 1: 9}, ""))

    found = look(settings, ends, time.time())
    assert found.lag("any") == {0: 3, 1: 2}
    assert (found.behind, found.committed) == (5, {0: 5, 1: 7})
    assert list(found.queries) == ["any"]  # what the heartbeat names, and no other
    assert found.queries["any"].batch_id == 3


def test_a_query_that_reads_bronze_has_no_lag_in_the_topic(settings: Settings):
    ends = {settings.topic: {"0": 6}}
    reading = Reporting("b", report(0, 9, BRONZE_OFFSET, BRONZE_OFFSET))
    following = Reporting("a", report(7, 2, ends, ends))
    Heartbeat(settings, [following, reading]).beat(RUNNING)

    found = look(settings, TopicEnds(settings), time.time())
    assert (found.lag("a"), found.lag("b")) == ({0: 0}, None)
    assert (found.behind, found.committed, found.catching_up) == (0, {0: 6}, True)
    Heartbeat(settings, [Reporting("b", report(0, 0, BRONZE_OFFSET))]).beat(RUNNING)
    alone = look(settings, TopicEnds(settings), time.time())
    assert (alone.behind, alone.committed, alone.catching_up) == (None, {}, False)


def test_a_report_that_cannot_be_read_is_no_reason_to_read_the_table_anew(
    settings: Settings,
):
    fill(settings)
    Heartbeat(settings, [Reporting("a", {"batchId": None})]).beat(RUNNING)
    reader = Reader(settings)
    followed = []
    reader._scored.follower.restart = lambda: followed.append("anew")
    reader.start()
    try:
        deadline = time.monotonic() + 60
        while not (reader.health_trouble and reader.live(Filters()).rows):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        reader.stop()
    assert followed == []
    assert reader.live(Filters()).rows == 5


def test_counts_follow_the_tables(settings: Settings):
    fill(settings)
    bronze = Bronze(settings.table("bronze/tx_events"), settings.topic)
    quarantine = Counted(settings.table("silver/quarantine"), ("reason",))
    for _ in range(2):
        bronze.refresh()
        quarantine.refresh()
    assert (bronze.rows, bronze.committed({0: 7}), bronze.committed({})) == (7, 7, None)
    assert dict(quarantine.values) == {("bad_amount",): 1}
    position = {"topic": settings.topic, "partition": 1, "value": b"", "offset": 40}
    write(settings, "bronze/tx_events", [position])
    write(settings, "silver/quarantine", [{"reason": "bad_amount"}])
    bronze.refresh()
    quarantine.refresh()

    # Partition 1 begins at 40: what Kafka dropped before was never ours.
    assert (bronze.rows, bronze.committed({0: 7, 1: 41})) == (8, 8)
    assert dict(quarantine.values) == {("bad_amount",): 2}


def test_the_verdict_waits_before_it_accuses():
    verdict = Verdict()
    fine = RowCounts(7, 7, 5, 1, 5, 0)
    assert fine.duplicates == 1
    assert verdict.judge(fine, 0) == "balanced"
    between = RowCounts(8, 8, 6, 1, 5, 0)
    assert between.differences == ["6 transactions, 5 scored"]
    assert verdict.judge(between, 1) == "under way"
    assert verdict.judge(between, 5) == "under way"
    assert verdict.judge(between, 11) == "not balanced"
    assert verdict.judge(RowCounts(8, 8, 6, 1, 5, 3), 12) == "under way"
    replaying = RowCounts(8, 8, 6, 1, 5, 0, catching_up=True)
    verdict.judge(replaying, 13)
    assert verdict.judge(replaying, 30) == "under way"
    assert RowCounts(7, 8, 6, 3, 6, 0).differences == [
        "7 offsets committed, 8 rows in bronze",
        "silver has 1 rows more than bronze",
    ]


def test_an_offset_need_not_hold_a_record():
    """Ends of transactions and aborted records take offsets, too."""
    verdict = Verdict()
    gaps = RowCounts(10, 7, 6, 1, 6, 0)
    assert (gaps.differences, gaps.empty_offsets) == ([], 3)
    assert verdict.judge(gaps, 0) == "under way"  # or a commit that is not seen yet
    assert verdict.judge(gaps, 11) == "to be reconciled"
    assert verdict.judge(RowCounts(10, 7, 6, 1, 5, 0), 12) == "under way"
    assert verdict.judge(RowCounts(10, 7, 6, 1, 5, 0), 23) == "not balanced"


def test_what_nobody_vouches_for_is_not_balanced():
    """The stream has not said how far it is: the first seconds, a lost folder."""
    assert Verdict().judge(RowCounts(None, 0, 0, 0, 0, None), 0) == "not known yet"
    assert Verdict().judge(RowCounts(None, 7, 5, 1, 5, None), 0) == "not known yet"
    assert Verdict().judge(RowCounts(0, 0, 0, 0, 0, 0), 0) == "balanced"
    verdict, wrong = Verdict(), RowCounts(None, 7, 5, 1, 4, None)
    verdict.judge(wrong, 0)
    assert verdict.judge(wrong, 11) == "not balanced"


# -- the page ---------------------------------------------------------------------


@pytest.fixture
def page(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Opens the page on these settings, with a reader that has looked once."""
    for name, value in settings.as_env().items():
        monkeypatch.setenv(name, value)
    readers = []

    def start(self: Reader) -> Reader:
        readers.append(self)
        self.refresh()
        self.look_after()
        return self

    monkeypatch.setattr(Reader, "start", start)

    def open_page(**query: str) -> AppTest:
        for reader in readers:
            reader.refresh()
            reader.look_after()
        tested = AppTest.from_file(str(APP), default_timeout=30)
        tested.query_params.update(query)
        return tested.run()

    open_page.readers = readers
    yield open_page
    app.shared_reader.clear()


def shown(tested: AppTest) -> str:
    assert not tested.exception
    blocks = [str(block.proto) for block in tested.get("html")]
    texts = [e.value for kind in (tested.info, tested.warning) for e in kind]
    return "\n".join([*blocks, *texts, *(t.value for t in tested.title)])


def test_an_empty_lake_says_so(page):
    text = shown(page())
    assert "no scored transactions" in text
    assert "no stream has run here yet" in text


def test_a_half_written_lake_says_so(page, settings: Settings):
    log = Path(settings.table("silver/scored")) / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020d}.json").write_text('{"commitInfo"')

    assert "no scored transactions" in shown(page())


def test_feed_badges_and_numbers(page, settings: Settings):
    fill(settings)
    beat(settings)
    tested = page()
    text = shown(tested)

    for words in ("FRAUD: VELOCITY", "FRAUD: GEO ANOMALY", "FRAUD: AMOUNT OUTLIER"):
        assert words in text
    for words in ("late, not scored", "revised", "stream is running"):
        assert words in text
    assert "placeholder" not in text  # measured figures only
    assert "Books: not known yet" in text  # no query has reported how far it is
    assert not FULL_ID.search(text)
    values = {metric.label: metric.value for metric in tested.metric}
    assert (values["Transactions"], values["With an alert"]) == ("5", "3")
    (download,) = tested.get("download_button")
    assert download.proto.label == "Download these rows"


def test_filters_and_pause_on_the_page(page, settings: Settings):
    fill(settings)
    tested = page()
    tested.multiselect(key="detectors").select("geo").run()
    text = shown(tested)
    assert "Crypto Exchange Wire" in text
    assert "FRAUD: VELOCITY" not in text
    tested.multiselect(key="detectors").unselect("geo").run()

    tested.toggle(key="paused").set_value(True).run()
    append(settings, [event(9, merchant="After the pause")], 2)
    page.readers[0].refresh()
    assert "After the pause" not in shown(tested.run())
    tested.toggle(key="paused").set_value(False).run()
    assert "After the pause" in shown(tested)


def test_the_page_of_an_account(page, settings: Settings):
    fill(settings)
    page()
    token = page.readers[0].tokens.account("ACCT_00000084")
    text = shown(page(account=token))

    assert "Account ACCT_••84" in text
    assert "partition 0, offset 3" in text
    assert not FULL_ID.search(text)
    assert "earlier run" in shown(page(account="0" * 16))


def test_a_table_that_vanishes_is_no_traceback(page, settings: Settings):
    fill(settings)
    page()
    token = page.readers[0].tokens.account("ACCT_00000084")
    Path(settings.lake).rename(settings.home / "gone")

    assert "read" in shown(page(account=token))
    assert shown(page())


def test_ages_and_clocks():
    assert [health.age_text(s) for s in (3, 75, 7200, 200_000)] == [
        "3 s",
        "1 min",
        "2 h",
        "2 d",
    ]
    assert re.fullmatch(r"\d\d:\d\d:\d\d", health.clock_text(time.time()))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d .*", health.clock_text(0))
