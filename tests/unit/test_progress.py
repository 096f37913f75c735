"""Progress reports as data frames, and the two figures made of time stamps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.streaming.progress import STAGES, percentiles, progress_frame, rolling_rate

REPORT = {
    "batchId": 3,
    "timestamp": "2025-01-15T12:00:00.000Z",
    "numInputRows": 10,
    "inputRowsPerSecond": 5.0,
    "processedRowsPerSecond": 20.0,
    "durationMs": {"triggerExecution": 500, "addBatch": 400},
    "eventTime": {"watermark": "2025-01-15T11:50:00.000Z"},
    "stateOperators": [
        {"numRowsTotal": 4, "memoryUsedBytes": 100},
        {"numRowsTotal": 1, "memoryUsedBytes": 50},
    ],
}


def at(*seconds: float) -> pd.Series:
    start = pd.Timestamp("2025-01-15T12:00:00Z")
    return pd.Series([start + pd.Timedelta(seconds=s) for s in seconds])


def rates(times: pd.Series, window: float) -> dict[float, float]:
    frame = rolling_rate(times, window)
    return dict(zip(frame["second"], frame["rate"], strict=True))


def test_a_constant_rate_is_level_from_the_start():
    # 2 events/s for 10 s, each in the middle of its half second.
    frame = rolling_rate(at(*(i / 2 + 0.25 for i in range(20))), window=4)

    # Counted from the first event, so the last second has one event less.
    assert list(frame["second"]) == list(range(1, 11))
    assert list(frame["rate"][:3]) == [3.0, 2.5, pytest.approx(7 / 3)]
    assert list(frame["rate"][3:-1]) == pytest.approx([9 / 4, *[2.0] * 5])


def test_the_window_forgets():
    burst = at(0, 0.5, 0.9, 10)

    assert rates(burst, window=2) == {
        1: 3.0,
        2: 1.5,
        **dict.fromkeys(range(3, 10), 0.0),
        10: 0.5,
        11: 0.5,
    }


def test_order_and_unit_of_the_times_do_not_matter():
    expected = rates(at(0, 1.5, 2, 7), window=3)

    assert rates(at(7, 0, 2, 1.5), window=3) == expected
    for unit in ("ms", "us", "ns"):
        assert rates(at(0, 1.5, 2, 7).dt.as_unit(unit), window=3) == expected
    assert rates(at(0, 1.5, 2, 7).dt.tz_localize(None), window=3) == expected


def test_times_that_nanoseconds_do_not_reach():
    later = at(0, 1.5, 2, 7).dt.tz_localize(None).dt.as_unit("us")
    later += np.timedelta64(365_000, "D")  # some thousand years

    assert rates(later, window=3) == rates(at(0, 1.5, 2, 7), window=3)


def test_one_event_and_none():
    assert rates(at(5), window=60) == {1: 1.0}
    assert len(rolling_rate(at())) == 0


def test_percentiles():
    values = pd.Series(range(101))

    assert percentiles(values) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert percentiles(values, [99.9]) == {"p99.9": pytest.approx(99.9), "max": 100}


def test_a_report_is_a_row():
    (row,) = progress_frame([REPORT]).to_dict("records")

    assert row["batch_id"] == 3
    assert row["started"] == pd.Timestamp("2025-01-15T12:00:00Z")
    assert (row["input_rows"], row["input_rate"], row["processed_rate"]) == (10, 5, 20)
    assert (row["batch_ms"], row["addBatch_ms"], row["walCommit_ms"]) == (500, 400, 0)
    assert row["watermark"] == pd.Timestamp("2025-01-15T11:50:00Z")
    assert (row["state_rows"], row["state_bytes"]) == (5, 150)


def test_a_report_of_a_query_without_state_or_watermark():
    bare = {"batchId": 0, "timestamp": "2025-01-15T12:00:00Z", "durationMs": {}}
    unset = {**REPORT, "eventTime": {"watermark": "1970-01-01T00:00:00.000Z"}}

    frame = progress_frame([bare, unset])

    assert frame["watermark"].isna().all()
    assert list(frame["state_rows"]) == [0, 5]
    assert list(frame["batch_ms"]) == [0, 500]


def test_sparks_own_objects_are_taken_too():
    report = SimpleNamespace(json='{"batchId": 7, "timestamp": "2025-01-15T12:00:00Z"}')

    assert list(progress_frame([report])["batch_id"]) == [7]


def test_no_reports_are_a_frame_with_all_columns():
    frame = progress_frame([])

    assert len(frame) == 0
    assert {f"{stage}_ms" for stage in STAGES} < set(frame.columns)
