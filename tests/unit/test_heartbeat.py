"""The heartbeat's files, written and read; Spark's side is in the integration tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lib.settings import Settings
from lib.streaming import heartbeat
from lib.streaming.heartbeat import Heartbeat, read_beat, read_reports, status_dir


class Fake:
    """A query that reports what it is given."""

    def __init__(self, name: str = "score") -> None:
        self.name = name
        self.waiting: list[str] = []
        self.error: str | None = None

    def new_reports(self) -> list[str]:
        given, self.waiting = self.waiting, []
        return given

    def failure(self) -> str | None:
        return self.error


def report(batch: int, padding: int = 0) -> str:
    return json.dumps({"batchId": batch, "x": "y" * padding}, indent=1)


@pytest.fixture
def query() -> Fake:
    return Fake()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_env({"FRAUD_HOME": str(tmp_path)})


@pytest.fixture
def beating(settings: Settings, query: Fake) -> Heartbeat:
    return Heartbeat(settings, [query])


def test_a_home_without_a_stream_has_no_beat(settings: Settings):
    assert read_beat(settings) is None
    assert read_reports(settings, "score") == []


@pytest.mark.parametrize("changed", ["topic", "lake", "checkpoints"])
def test_two_pipelines_of_one_home_do_not_meet(settings: Settings, changed: str):
    other = replace(settings, **{changed: f"{getattr(settings, changed)}-2"})
    one, two = Fake(), Fake()
    one.waiting, two.waiting = [report(7)], [report(0), report(1)]
    Heartbeat(settings, [one]).beat("running")
    Heartbeat(other, [two]).beat("failed", "no space left")

    assert read_beat(settings).state == "running"
    assert read_beat(other).state == "failed"
    assert [r["batchId"] for r in read_reports(settings, "score")] == [7]
    assert [r["batchId"] for r in read_reports(other, "score")] == [0, 1]


def test_why_it_failed_names_no_account(settings: Settings):
    Heartbeat(settings, []).beat("failed", "no place for ACCT_0000084 and ACCT_70")

    assert read_beat(settings).detail == "no place for ACCT_••84 and ACCT_••"


def test_running_then_stopped(settings: Settings, beating: Heartbeat, query: Fake):
    beating.start()
    beat = read_beat(settings)
    assert (beat.state, beat.queries, beat.detail) == ("running", ("score",), "")
    assert beat.down_since(beat.at + 1) is None
    query.waiting = [report(0), report(1)]

    beating.stop()

    beat = read_beat(settings)
    assert beat.state == "stopped"
    assert beat.down_since(beat.at) == beat.at
    assert [r["batchId"] for r in read_reports(settings, "score")] == [0, 1]


def test_a_beat_that_is_not_renewed_means_down(settings: Settings, beating: Heartbeat):
    beating.beat("running")
    beat = read_beat(settings)

    assert beat.down_since(beat.at + heartbeat.STALE_SECONDS) is None
    assert beat.down_since(beat.at + heartbeat.STALE_SECONDS + 0.1) == beat.at


def test_a_failed_query_shows_and_says_why(settings: Settings, beating, query: Fake):
    query.error = "no space left"

    beating.beat("running")

    beat = read_beat(settings)
    assert (beat.state, beat.detail) == ("failed", "no space left")


def test_publishing_tells_failure_from_ctrl_c(settings: Settings):
    with pytest.raises(ValueError, match="boom"), heartbeat.publishing(settings, []):
        raise ValueError("boom")
    assert (read_beat(settings).state, read_beat(settings).detail) == ("failed", "boom")

    with pytest.raises(KeyboardInterrupt), heartbeat.publishing(settings, []):
        raise KeyboardInterrupt
    assert read_beat(settings).state == "stopped"


def test_reports_are_bounded_and_the_newest_stay(
    settings: Settings, beating, query: Fake, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(heartbeat, "MAX_BYTES", 5_000)
    for batch in range(100):
        query.waiting = [report(batch, padding=200)]
        beating.beat("running")

    size = sum(p.stat().st_size for p in status_dir(settings).glob("*.jsonl*"))
    assert size < 2 * (5_000 + 300)
    batches = [r["batchId"] for r in read_reports(settings, "score", newest=30)]
    assert batches == list(range(70, 100))


def test_a_line_cut_by_a_crash_is_skipped(settings: Settings, beating, query: Fake):
    query.waiting = [report(0)]
    beating.beat("running")
    with (status_dir(settings) / "score.jsonl").open("a") as file:
        file.write('12\n{"batchId": 1, "x"')

    assert [r["batchId"] for r in read_reports(settings, "score")] == [0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": 1}', '{"at": "x"}'])
def test_a_damaged_beat_is_no_beat(settings: Settings, text: str):
    folder = status_dir(settings)
    folder.mkdir(parents=True)
    (folder / "heartbeat.json").write_text(text)

    assert read_beat(settings) is None


def test_a_folder_that_cannot_be_written_stops_nobody(settings: Settings):
    status_dir(settings).parent.mkdir(parents=True)
    status_dir(settings).write_text("in the way")

    with heartbeat.publishing(settings, []):
        pass

    assert read_beat(settings) is None
