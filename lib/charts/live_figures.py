"""Figures of the operator's page; on it Streamlit's theme sets the background."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from lib.charts.figures import COLOURS, SYMBOLS, figure
from lib.detectors.rules import DETECTORS, NAMES


def rolling_throughput(rates: pd.DataFrame, title: str) -> go.Figure:
    """Events per second of the last minute.

    Args:
        rates: columns ``second`` (−59 … 0), ``rate`` (rolling 60 s).
        title: what is to be seen.
    """
    made = figure(title, "seconds from now", "events per second")
    made.add_scatter(
        x=rates["second"],
        y=rates["rate"],
        mode="lines",
        fill="tozeroy",
        line={"color": COLOURS["throughput"], "width": 3},
        hovertemplate="%{y:.1f} events/s<extra></extra>",
    )
    return made.update_layout(showlegend=False).update_xaxes(range=[-59, 0])


def alerts_over_time(alerts: pd.DataFrame, title: str) -> go.Figure:
    """Alerts per detector over time, stacked.

    Args:
        alerts: columns ``at``, ``detector``, ``alerts``, ``seconds``
            (``lib.dashboard.view.alerts_over_time``).
        title: what is to be seen.
    """
    width = int(alerts["seconds"].iloc[0]) if len(alerts) else 10
    per = f"{width} s" if width < 60 else f"{width // 60} min"
    made = figure(title, "arrival in Kafka (UTC)", f"alerts per {per}")
    for detector in DETECTORS:
        rows = alerts[alerts["detector"] == detector.name]
        made.add_bar(
            x=rows["at"],
            y=rows["alerts"],
            width=width * 1000 * 0.9,
            offset=0,
            name=detector.name,
            marker={
                "color": detector.colour,
                "pattern": {"shape": detector.hatch, "fillmode": "overlay"},
            },
        )
    made.update_layout(barmode="stack")
    # Without a bar Plotly would show the year 2000.
    return made.update_xaxes(type="date", showticklabels=bool(len(alerts)))


def countries(counts: pd.DataFrame, title: str) -> go.Figure:
    """Alerts by country, with the share of its transactions on each bar.

    Args:
        counts: columns ``country``, ``transactions``, ``alerts``.
        title: what is to be seen.
    """
    made = figure(title, "country", "alerts")
    share = 100 * counts["alerts"] / counts["transactions"].clip(lower=1)
    made.add_bar(
        x=counts["country"],
        y=counts["alerts"],
        text=[f"{value:.1f} %" for value in share],
        textposition="outside",
        cliponaxis=False,
        marker_color=COLOURS["bad"],
        customdata=counts["transactions"],
        hovertemplate="%{y} alerts in %{customdata:,} transactions<extra>%{x}</extra>",
    )
    return made.update_layout(showlegend=False).update_xaxes(type="category")


def account_history(points: pd.DataFrame, title: str) -> go.Figure:
    """An account's amounts with its baseline band, flags by colour and shape.

    Args:
        points: columns ``ts``, ``amount``, ``currency``, ``mean``, ``low``, ``high``,
            ``pattern`` (``lib.dashboard.view.AccountPage``), oldest first.
        title: what is to be seen.
    """
    currency = points["currency"].iloc[-1] if len(points) else ""
    made = figure(title, "event time (UTC)", f"amount in {currency}")
    band = points.dropna(subset=["low", "high"])
    edge = {"color": COLOURS["latency"], "width": 1}
    made.add_scatter(
        x=band["ts"], y=band["low"], mode="lines", line=edge, showlegend=False
    )
    made.add_scatter(
        x=band["ts"],
        y=band["high"],
        mode="lines",
        line=edge,
        fill="tonexty",
        fillcolor="rgba(86,180,233,0.25)",
        name="no outlier in here",
    )
    made.add_scatter(
        x=band["ts"],
        y=band["mean"],
        mode="lines",
        line={"color": COLOURS["latency"], "dash": "dot"},
        name="mean of 30 days before",
    )
    for pattern in ("normal", *NAMES):
        rows = points[points["pattern"] == pattern]
        made.add_scatter(
            x=rows["ts"],
            y=rows["amount"],
            mode="markers",
            name=pattern,
            marker={
                "color": COLOURS[pattern],
                "symbol": SYMBOLS[pattern],
                "size": 7 if pattern == "normal" else 13,
            },
        )
    return made


def waterfall(stages: pd.DataFrame, title: str) -> go.Figure:
    """What each stage adds to the latency, and the whole.

    Args:
        stages: columns ``stage``, ``ms``, in the order in which they happen.
        title: what is to be seen.
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
        title: what is to be seen.
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
        title: what is to be seen.
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
        title: what is to be seen.
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
