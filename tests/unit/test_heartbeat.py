"""The heartbeat's files, written and read; Spark's side is in the integration tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib import heartbeat
from lib.heartbeat import Heartbeat, read_beat, read_reports


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
def beating(tmp_path: Path, query: Fake) -> Heartbeat:
    return Heartbeat(tmp_path / "progress", [query])


def test_a_home_without_a_stream_has_no_beat(tmp_path: Path):
    assert read_beat(tmp_path) is None
    assert read_reports(tmp_path, "score") == []


def test_running_then_stopped(tmp_path: Path, beating: Heartbeat, query: Fake):
    beating.start()
    beat = read_beat(tmp_path)
    assert (beat.state, beat.queries, beat.detail) == ("running", ("score",), "")
    assert beat.down_since(beat.at + 1) is None
    query.waiting = [report(0), report(1)]

    beating.stop()

    beat = read_beat(tmp_path)
    assert beat.state == "stopped"
    assert beat.down_since(beat.at) == beat.at
    assert [r["batchId"] for r in read_reports(tmp_path, "score")] == [0, 1]


def test_a_beat_that_is_not_renewed_means_down(tmp_path: Path, beating: Heartbeat):
    beating.beat("running")
    beat = read_beat(tmp_path)

    assert beat.down_since(beat.at + heartbeat.STALE_SECONDS) is None
    assert beat.down_since(beat.at + heartbeat.STALE_SECONDS + 0.1) == beat.at


def test_a_failed_query_shows_and_says_why(tmp_path: Path, beating, query: Fake):
    query.error = "no space left"

    beating.beat("running")

    beat = read_beat(tmp_path)
    assert (beat.state, beat.detail) == ("failed", "no space left")


def test_publishing_tells_failure_from_ctrl_c(tmp_path: Path):
    with pytest.raises(ValueError, match="boom"), heartbeat.publishing(tmp_path, []):
        raise ValueError("boom")
    assert (read_beat(tmp_path).state, read_beat(tmp_path).detail) == ("failed", "boom")

    with pytest.raises(KeyboardInterrupt), heartbeat.publishing(tmp_path, []):
        raise KeyboardInterrupt
    assert read_beat(tmp_path).state == "stopped"


def test_reports_are_bounded_and_the_newest_stay(
    tmp_path: Path, beating, query: Fake, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(heartbeat, "MAX_BYTES", 5_000)
    for batch in range(100):
        query.waiting = [report(batch, padding=200)]
        beating.beat("running")

    size = sum(p.stat().st_size for p in (tmp_path / "progress").glob("*.jsonl*"))
    assert size < 2 * (5_000 + 300)
    batches = [r["batchId"] for r in read_reports(tmp_path, "score", newest=30)]
    assert batches == list(range(70, 100))


def test_a_line_cut_by_a_crash_is_skipped(tmp_path: Path, beating, query: Fake):
    query.waiting = [report(0)]
    beating.beat("running")
    with (tmp_path / "progress" / "score.jsonl").open("a") as file:
        file.write('{"batchId": 1, "x"')

    assert [r["batchId"] for r in read_reports(tmp_path, "score")] == [0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": 1}', '{"at": "x"}'])
def test_a_damaged_beat_is_no_beat(tmp_path: Path, text: str):
    folder = tmp_path / "progress"
    folder.mkdir()
    (folder / "heartbeat.json").write_text(text)

    assert read_beat(tmp_path) is None


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path):
    (tmp_path / "progress").write_text("in the way")

    with heartbeat.publishing(tmp_path, []):
        pass

    assert read_beat(tmp_path) is None
