"""The figures of docs/scaling.md are those of its record."""

from __future__ import annotations

import json
import math

import pytest

from lib.settings import ROOT

PAGE = (ROOT / "docs" / "scaling.md").read_text()
RECORD = json.loads((ROOT / "bench" / "results" / "scaling.json").read_text())
SLOPES = RECORD["slopes"]


def test_the_table_is_the_record():
    shown = [
        f"| {run['events']:,} | {run['accounts']:,} "
        f"| {run['produce_seconds']:.1f} | {run['drain_seconds']:.1f} "
        f"| {run['bronze_bytes'] / 1e6:.1f} | {run['silver_bytes'] / 1e6:.1f} "
        f"| {run['checkpoint_bytes'] / 1e6:.1f} | {run['driver_mb']:,} |"
        for run in RECORD["runs"]
    ]
    assert len(shown) == 9
    begin = PAGE.index(shown[0])
    assert PAGE[begin:].startswith("\n".join(shown))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (
            "{:.1f} s a start, then {:.1f} µs an event",
            [
                SLOPES["drain_seconds"]["fixed"],
                1e6 * SLOPES["drain_seconds"]["per_event"],
            ],
        ),
        ("{:,.0f} events/s", [round(1 / SLOPES["drain_seconds"]["per_event"], -2)]),
        ("{:,.0f} a core", [round(0.5 / SLOPES["drain_seconds"]["per_event"], -2)]),
        ("{:.1f} µs for each", [1e6 * SLOPES["drain_seconds"]["per_account"]]),
        ("{:.0f} bytes an event (uncomp", [SLOPES["kafka_bytes"]["per_event"]]),
        ("{:.0f} bytes an event in bronze", [SLOPES["all_bytes"]["per_event"]]),
        (
            "{:.0f} bytes an event and {:.0f} an account",
            [SLOPES["checkpoint_bytes"][x] for x in ("per_event", "per_account")],
        ),
    ],
)
def test_the_slopes_are_the_records(words: str, values: list[float]):
    assert words.format(*values) in PAGE


@pytest.mark.parametrize("rate", [1_000, 100_000, 1_000_000])
def test_the_sizes_follow_from_the_slopes(rate: int):
    """Half of a core is left free; twice as many partitions as cores, four at least."""
    a_core = 0.5 / SLOPES["drain_seconds"]["per_event"]
    cores = math.ceil(2 * rate / a_core)

    assert f"\n| {rate:,} | {cores} | {max(4, 2 * cores)} |" in PAGE
