"""What the operator's page costs: memory, time a look takes, and how soon a row shows.

    python -m bench.dashboard [--rows N] [--hours H] [--only PART …] [--out FILE]

The lake is written commit by commit without a stream, so what is measured is the page's
process and nothing else. Three runs: a lake of N rows; H hours
of 20 events per second, replayed as fast as it goes, with the page's memory after
each; and 60 s of 20 events per second in real time before a headless browser.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from bench.machine import machine
from lib.dashboard.browser import Browser
from lib.dashboard.reader import Reader
from lib.dashboard.serve import Dashboard
from lib.dashboard.view import Filters
from lib.settings import Settings

RATE = 20
COMMIT_ROWS = 40
"""Of the replayed hours: the events of two seconds in one commit."""

PARTS = ("large_lake", "replayed_hours", "commit_to_page")

LOOKS = 50
FOLLOW_SECONDS = 120
WATCH = """(() => {
  const rows = () => [...document.querySelectorAll('tr[data-event]')];
  window.lags = [];
  const seen = new Set(rows().map(row => row.dataset.event));
  setInterval(() => {
    for (const row of rows()) {
      if (seen.has(row.dataset.event)) continue;
      seen.add(row.dataset.event);
      window.lags.push(Date.now() - Number(row.dataset.visible));
    }
  }, 10);
})()"""


def main() -> None:
    """Run all three and write their figures as JSON."""
    parser = argparse.ArgumentParser(description="cost of the operator's page")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--hours", type=float, default=8)
    parser.add_argument(
        "--out", type=Path, default=Path("bench/results/dashboard.json")
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    out = arguments.out
    figures = json.loads(out.read_text()) if out.exists() else {}
    figures["machine"] = machine()
    for part in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings.from_env({"FRAUD_HOME": folder})
            if part == "large_lake":
                figures[part] = _cost(settings, arguments.rows)
            elif part == "replayed_hours":
                figures[part] = _hours(settings, arguments.hours)
            else:
                figures[part] = _commit_to_page(settings)
        print(json.dumps({part: figures[part]}, indent=1), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")


def _cost(settings: Settings, rows: int) -> dict[str, object]:
    """Memory of the page's process with an open page, and the time a look takes while
    commits come in."""
    for part in range(20):
        _append(settings, rows // 20, seed=part)
    with Dashboard(settings, 0) as dashboard, Browser() as browser:
        browser.open(dashboard.url)
        browser.until("document.querySelectorAll('tr[data-event]').length", 60)
        process = psutil.Process(dashboard.pid)
        peak = 0
        for number in range(20):
            _append(settings, RATE // 2, seed=1_000 + number)
            time.sleep(0.5)
            peak = max(peak, process.memory_info().rss)
    reader = Reader(settings)
    begun = time.perf_counter()
    reader.refresh()
    first = time.perf_counter() - begun
    looks, answers = [], []
    for number in range(LOOKS):
        _append(settings, RATE // 2, seed=2_000 + number)
        looks.append(_milliseconds(reader.refresh))
        answers.append(_milliseconds(lambda: reader.live(Filters())))
    return {
        "rows": rows,
        "resident_mb": round(peak / 2**20),
        "first_look_s": round(first, 2),
        "refresh_ms": _spread(looks),
        "answer_ms": _spread(answers),
    }


def _hours(settings: Settings, hours: float) -> dict[str, object]:
    """The page's memory after each hour's worth of events."""
    commits = int(hours * 3600 * RATE / COMMIT_ROWS)
    a_sample = max(1, int(3600 * RATE / COMMIT_ROWS / 4))
    _append(settings, COMMIT_ROWS, seed=0)
    folder = Path(settings.table("silver/scored"))
    begun = time.time() - hours * 3600  # the clock of the simulated hours
    samples = []
    with Dashboard(settings, 0) as dashboard, Browser() as browser:
        browser.open(dashboard.url)
        browser.until("document.querySelectorAll('tr[data-event]').length", 60)
        process = psutil.Process(dashboard.pid)
        for number in range(1, commits + 1):
            at = begun + number * COMMIT_ROWS / RATE
            _commit(folder, number, _rows(COMMIT_ROWS, number, at), at)
            if number % a_sample == 0:
                _until_shown(browser, (number + 1) * COMMIT_ROWS)
                rss = process.memory_info().rss
                hour = round(number * COMMIT_ROWS / RATE / 3600, 2)
                samples.append({"hour": hour, "mb": round(rss / 2**20, 1)})
    return {"events": (commits + 1) * COMMIT_ROWS, "commits": commits, "mb": samples}


def _commit_to_page(settings: Settings, seconds: int = 60) -> dict[str, object]:
    """From a commit's own timestamp to the row in a browser's document."""
    table = _append(settings, RATE // 2, seed=0)
    end = threading.Event()

    def write() -> None:
        for number in range(1, 2 * seconds):
            if end.wait(0.5):
                return
            write_deltalake(table, _rows(RATE // 2, number), mode="append")

    with Dashboard(settings, 0) as dashboard, Browser() as browser:
        browser.open(dashboard.url)
        browser.until("document.querySelectorAll('tr[data-event]').length", 60)
        browser.ask(WATCH)
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        time.sleep(3)
        lags = browser.ask("window.lags")
    return {"rows": len(lags), "milliseconds": _spread(lags)}


def _commit(folder: Path, version: int, rows: pa.Table, at: float) -> None:
    """A commit by hand: a writer would read the whole log again for each."""
    name = f"part-{version}.parquet"
    pq.write_table(rows, folder / name)
    size = (folder / name).stat().st_size
    now = int(at * 1000)
    add = {"path": name, "partitionValues": {}, "size": size, "dataChange": True}
    add |= {"modificationTime": now, "stats": json.dumps({"numRecords": len(rows)})}
    actions = [{"commitInfo": {"timestamp": now}}, {"add": add}]
    draft = folder / "_delta_log" / "draft"
    draft.write_text("\n".join(map(json.dumps, actions)))
    draft.rename(draft.with_name(f"{version:020d}.json"))


def _until_shown(browser: Browser, rows: int) -> None:
    shown = f"document.body.innerText.includes('Newest of {rows:,} transactions')"
    browser.until(shown, FOLLOW_SECONDS)


def _spread(values: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(values, [50, 95])
    return {"p50": round(p50, 1), "p95": round(p95, 1), "max": round(max(values), 1)}


def _milliseconds(call) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def _append(settings: Settings, rows: int, seed: int) -> DeltaTable:
    uri = settings.table("silver/scored")
    write_deltalake(uri, _rows(rows, seed), mode="append")
    return DeltaTable(uri)


def _rows(count: int, seed: int, at: float | None = None) -> pa.Table:
    """Scored events of 40,000 accounts, an alert on every twentieth; of now, or of
    the moment ``at`` (seconds since the epoch)."""
    dice = np.random.default_rng(seed)
    us = int((at or time.time()) * 1_000_000)
    now = np.full(count, us, dtype="int64") - np.arange(count)
    times = pa.array(now, pa.timestamp("us", "UTC"))
    fires = dice.random((3, count)) < 0.05 / 3
    cents = pa.array(dice.integers(100, 99_999, count)).cast(pa.decimal128(19, 0))
    ids = dice.integers(0, 40_000, count)
    return pa.table(
        {
            "event_id": [f"e-{seed}-{i}" for i in range(count)],
            "account_id": [f"ACCT_{number:08d}" for number in ids],
            "ts": times,
            "merchant": dice.choice(["Starbucks", "Target", "Fnac"], count).tolist(),
            "country": dice.choice(["US", "GB", "FR", "VN"], count).tolist(),
            "amount": cents.cast(pa.decimal128(21, 2)).cast(pa.decimal128(12, 2)),
            "currency": ["USD"] * count,
            "late": [False] * count,
            "is_velocity": fires[0],
            "velocity_count": dice.integers(1, 12, count),
            "is_geo": fires[1],
            "prev_country": ["US"] * count,
            "gap_seconds": dice.random(count) * 4_000,
            "is_amount": fires[2],
            "z": dice.normal(size=count),
            "baseline_n": dice.integers(10, 40, count),
            "baseline_mean": dice.random(count) * 50,
            "baseline_stddev": dice.random(count) * 5,
            "revision": np.zeros(count, dtype="int64"),
            "kafka_timestamp": times,
            "scored_at": times,
        }
    )


if __name__ == "__main__":
    main()
