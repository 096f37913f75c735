"""The marts' figures: what is drawn is what is in the frame."""

from __future__ import annotations

import pandas as pd

from lib.charts import mart_figures

NODES = pd.DataFrame(
    [
        ("s", "silver.scored", "source", 0),
        ("a", "stg_a", "model", 1),
        ("b", "stg_b", "model", 1),
        ("f", "fct", "model", 2),
        ("h", "history", "snapshot", 3),
        ("e", "page", "exposure", 3),
    ],
    columns=["id", "name", "kind", "level"],
)
EDGES = pd.DataFrame(
    [("s", "a"), ("s", "b"), ("a", "f"), ("b", "f"), ("f", "h"), ("f", "e")],
    columns=["parent", "child"],
)


def test_lineage_draws_every_node_once_and_every_edge():
    figure = mart_figures.lineage(NODES, EDGES, "title")
    lines, *kinds = figure.data
    assert len(lines.x) == 3 * len(EDGES)
    drawn = {
        name: x for trace in kinds for name, x in zip(trace.text, trace.x, strict=True)
    }
    assert drawn == dict(zip(NODES["name"], NODES["level"], strict=True))
    places = [place for trace in kinds for place in zip(trace.x, trace.y, strict=True)]
    assert len(set(places)) == len(NODES)
    assert {trace.name for trace in kinds} == set(NODES["kind"])


def test_lineage_joins_the_places_of_the_nodes():
    figure = mart_figures.lineage(NODES, EDGES, "title")
    lines, *kinds = figure.data
    places = {xy for trace in kinds for xy in zip(trace.x, trace.y, strict=True)}
    ends = {xy for xy in zip(lines.x, lines.y, strict=True) if xy[0] is not None}
    assert ends == places


def test_node_times_shows_tables_alone_and_tests_together():
    nodes = pd.DataFrame(
        [
            ("m", "model", 2.0),
            ("h", "snapshot", 1.0),
            ("t1", "test", 0.25),
            ("t2", "test", 0.5),
            ("u", "unit_test", 3.0),
            ("e", "exposure", 0.0),
        ],
        columns=["name", "kind", "seconds"],
    )
    figure = mart_figures.node_times(nodes, "title")
    bars = {y: x for bar in figure.data for y, x in zip(bar.y, bar.x, strict=True)}
    assert bars == {"m": 2.0, "h": 1.0, "all 2 tests": 0.75, "all 1 unit tests": 3.0}
    assert list(figure.layout.yaxis.categoryarray)[-1] == "all 1 unit tests"


def test_standing_shows_when_each_version_was_valid_and_which_is_now():
    first, second, until = pd.to_datetime(["2026-01-01", "2026-01-03", "2026-01-04"])
    history = pd.DataFrame(
        {
            "risk_band": ["low", "high"],
            "alerts": [0, 4],
            "dbt_valid_from": [first, second],
            "dbt_valid_to": [second, pd.NaT],
        }
    )
    blocks = mart_figures.standing(history, until, "title").data
    assert [list(block.base) for block in blocks] == [[first], [second]]
    days = [block.x[0] / 86_400_000 for block in blocks]
    assert days == [2, 1]
    assert [block.text for block in blocks] == [
        "risk low, alerts: 0",
        "risk high, alerts: 4, now",
    ]
