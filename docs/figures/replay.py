"""A recorded run of the fixture as one page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lib.dashboard.masking import Tokens
from lib.dashboard.model import ROW_COLUMNS, Row
from lib.dashboard.view import entry
from lib.lake.follower import Follower, NoTable, Snapshot
from lib.settings import Settings
from lib.streaming.progress import percentiles

TEMPLATE = Path(__file__).with_name("replay.html")

WHOLE_LOG = 10**6
"""Commits: more than a recorded run has."""


def recorded(settings: Settings) -> list[dict[str, object]]:
    """Every event of the lake as the operator saw it first, in the order in which
    they became visible.

    Returns:
        ``at`` (ms after the first record reached Kafka), ``latency`` (ms until its
        commit), and what the feed shows: account (masked), merchant, country,
        amount, badges with their reasons, late.

    Raises:
        NoTable: there is no scored table.
    """
    tokens = Tokens()
    seen: dict[tuple[str, str], dict[str, object]] = {}
    begun = None
    for row in _first_answers(settings):
        shown = entry(row, tokens)
        at = row.visible_ms - shown.latency_ms
        begun = at if begun is None else min(begun, at)
        seen[row.account_id, row.event_id] = {
            "at": at,
            "latency": round(shown.latency_ms),
            "account": shown.account,
            "merchant": shown.merchant,
            "country": shown.country,
            "amount": shown.amount,
            "badges": [[b.detector, b.label, b.why] for b in shown.badges],
            "late": shown.late,
        }
    return [told | {"at": round(told["at"] - begun)} for told in seen.values()]


def _first_answers(settings: Settings) -> Iterator[Row]:
    follower = Follower(settings.table("silver/scored"), tail=WHOLE_LOG)
    met: set[tuple[str, str]] = set()
    for change in follower.poll(WHOLE_LOG):
        if isinstance(change, Snapshot):
            if change.files:
                raise NoTable("the run is longer than its log: record a shorter one")
            continue
        for file in change.added:
            for rows in follower.read(file, ROW_COLUMNS):
                for values in rows.to_pylist():
                    row = Row(**values, visible_ms=change.at_ms)
                    if (row.account_id, row.event_id) not in met:
                        met.add((row.account_id, row.event_id))
                        yield row


def page(events: list[dict[str, object]], rate: float, machine: dict) -> str:
    """The page.

    Args:
        events: see ``recorded``.
        rate: events per second of the recorded run.
        machine: what it ran on (``bench.machine``).
    """
    latencies = percentiles(pd.Series([event["latency"] for event in events]))
    told = {
        "rate": rate,
        "machine": f"{machine['cores']} cores of {machine['cpu']}",
        "run": {name: round(value) for name, value in latencies.items()},
        "events": events,
    }
    # "</" would end the script that holds the data.
    data = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    return TEMPLATE.read_text().replace("/*DATA*/", data.replace("</", "<\\/"))
