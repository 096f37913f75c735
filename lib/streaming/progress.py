"""A streaming query's own progress reports as data frames."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pandas as pd

STAGES = (
    "latestOffset",
    "getBatch",
    "queryPlanning",
    "walCommit",
    "addBatch",
    "commitOffsets",
)
"""The parts of a micro-batch that Spark times, in the order in which they happen."""


def progress_frame(reports: Iterable) -> pd.DataFrame:
    """``query.recentProgress`` as one row per micro-batch that did something.

    Returns:
        columns ``batch_id``, ``started`` (UTC), ``input_rows``, ``input_rate`` and
        ``processed_rate`` (rows/s), ``batch_ms``, one ``<stage>_ms`` per STAGES,
        ``watermark`` (UTC or NaT), ``state_rows``, ``state_bytes``.
    """
    rows = [_row(json.loads(r.json) if hasattr(r, "json") else r) for r in reports]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    for column in ("started", "watermark"):
        frame[column] = pd.to_datetime(frame[column], utc=True, format="ISO8601")
    return frame


_COLUMNS = [
    "batch_id",
    "started",
    "input_rows",
    "input_rate",
    "processed_rate",
    "batch_ms",
    *(f"{stage}_ms" for stage in STAGES),
    "watermark",
    "state_rows",
    "state_bytes",
]


def _row(report: dict) -> dict[str, object]:
    spent = report.get("durationMs") or {}
    state = report.get("stateOperators") or []
    watermark = (report.get("eventTime") or {}).get("watermark")
    if watermark and watermark.startswith("1970-01-01"):
        watermark = None  # Spark's way to say that there is none yet
    return {
        "batch_id": report["batchId"],
        "started": report["timestamp"],
        "input_rows": report.get("numInputRows", 0),
        "input_rate": report.get("inputRowsPerSecond"),
        "processed_rate": report.get("processedRowsPerSecond"),
        "batch_ms": spent.get("triggerExecution", 0),
        **{f"{stage}_ms": spent.get(stage, 0) for stage in STAGES},
        "watermark": watermark,
        "state_rows": sum(s["numRowsTotal"] for s in state),
        "state_bytes": sum(s["memoryUsedBytes"] for s in state),
    }


def rolling_rate(times: pd.Series, window: float = 60.0) -> pd.DataFrame:
    """Events per second over the last ``window`` seconds, once a second.

    In the first ``window`` seconds the divisor is the time since the first event, so
    that the curve does not creep up from zero.

    Args:
        times: timestamps, any order, shape (n,).
        window: seconds.

    Returns:
        columns ``second`` (seconds since the first event), ``rate`` (events/s).
    """
    if len(times) == 0:
        return pd.DataFrame({"second": [], "rate": []})
    at = np.sort(pd.to_datetime(times, utc=True).astype("int64").to_numpy()) / _unit(
        times
    )
    at = at - at[0]
    seconds = np.arange(1, np.floor(at[-1]) + 2)
    upto = np.searchsorted(at, seconds, side="right")
    before = np.searchsorted(at, seconds - window, side="right")
    before[seconds <= window] = 0
    rate = (upto - before) / np.minimum(seconds, window)
    return pd.DataFrame({"second": seconds, "rate": rate})


def _unit(times: pd.Series) -> float:
    """Ticks per second of the series' timestamps (pandas 2 knows four units)."""
    unit = pd.to_datetime(times, utc=True).dt.unit
    return {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]


def percentiles(values: pd.Series, wanted: Iterable[float] = (50, 95, 99)) -> dict:
    """``{"p50": …, "p95": …, "p99": …, "max": …}`` of the values."""
    numbers = np.asarray(values, dtype=float)
    named = {f"p{q:g}": float(np.percentile(numbers, q)) for q in wanted}
    return {**named, "max": float(numbers.max())}
