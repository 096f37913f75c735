"""Figures of latency: its percentiles, its stages, and the price of a trigger."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from lib.charts.figures import COLOURS, figure


def waterfall(stages: pd.DataFrame, title: str) -> go.Figure:
    """What each stage adds to the latency, and the whole.

    Args:
        stages: columns ``stage``, ``ms``, in the order in which they happen.
    """
    made = figure(title, "stage", "milliseconds")
    names = [*stages["stage"], "in all"]
    values = [*stages["ms"], stages["ms"].sum()]
    made.add_waterfall(
        x=names,
        y=values,
        measure=["relative"] * len(stages) + ["total"],
        text=[f"{value:,.0f}" for value in values],
        textposition="outside",
        cliponaxis=False,
        connector={"line": {"color": "#666666", "dash": "dot"}},
        increasing={"marker": {"color": COLOURS["latency"]}},
        totals={"marker": {"color": COLOURS["throughput"]}},
    )
    return made.update_layout(showlegend=False)


def latency_percentiles(latencies: dict[str, dict[str, float]], title: str):
    """p50, p95 and p99 side by side.

    Args:
        latencies: name → (``p50``, ``p95``, ``p99`` → milliseconds); a name with the
            word ``placeholder`` in it is drawn grey and hatched.
    """
    made = figure(title, "percentile", "milliseconds")
    colours = iter(("throughput", "latency", "good", "velocity"))
    for name, values in latencies.items():
        placeholder = "placeholder" in name
        made.add_bar(
            x=list(values),
            y=list(values.values()),
            name=name,
            text=[f"{value:,.0f}" for value in values.values()],
            textposition="outside",
            cliponaxis=False,
            marker={
                "color": COLOURS["normal" if placeholder else next(colours)],
                "pattern": {"shape": "/" if placeholder else ""},
            },
        )
    return made.update_layout(barmode="group")


def latency_ranges(latencies: dict[str, dict[str, float]], title: str):
    """p50, p95 and p99 of each name as one line, on a logarithmic axis.

    Args:
        latencies: name → (``p50``, ``p95``, ``p99`` → milliseconds), top to bottom.
    """
    made = figure(title, "milliseconds (logarithmic)", "")
    for quantile, symbol, colour, place in (
        ("p50", "circle", "throughput", "middle left"),
        ("p95", "diamond", "latency", "bottom center"),
        ("p99", "x", "bad", "middle right"),
    ):
        values = [each[quantile] for each in latencies.values()]
        made.add_scatter(
            x=values,
            y=list(latencies),
            name=quantile,
            mode="markers+text",
            text=[f"{value:,.0f}" for value in values],
            textposition=place,
            cliponaxis=False,
            marker={"size": 11, "symbol": symbol, "color": COLOURS[colour]},
        )
    for name, each in latencies.items():
        made.add_shape(
            type="line",
            x0=each["p50"],
            x1=each["p99"],
            y0=name,
            y1=name,
            line={"color": COLOURS["normal"], "width": 2},
            layer="below",
        )
    made.update_xaxes(type="log", rangemode="normal", dtick=1)
    made.update_yaxes(autorange="reversed")
    return made.update_layout(height=120 + 60 * len(latencies))


def trigger_sweep(runs: pd.DataFrame, title: str) -> go.Figure:
    """What a longer trigger interval costs and buys, the intervals to scale.

    Args:
        runs: columns ``trigger_ms``, ``p50``, ``p95`` (milliseconds) and
            ``batch_ms`` (mean duration of a micro-batch), one row a run.
    """
    made = figure(title, "trigger interval, milliseconds", "milliseconds")
    for column, name, colour, shape in (
        ("p95", "p95 latency", "latency", "diamond"),
        ("p50", "p50 latency", "throughput", "circle"),
        ("batch_ms", "mean duration of a micro-batch", "normal", "x"),
    ):
        made.add_scatter(
            x=runs["trigger_ms"],
            y=runs[column],
            mode="lines+markers",
            name=name,
            line={"color": COLOURS[colour], "width": 3},
            marker={"symbol": shape, "size": 10},
        )
    return made.update_xaxes(tickvals=list(runs["trigger_ms"]))
