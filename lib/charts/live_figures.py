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
