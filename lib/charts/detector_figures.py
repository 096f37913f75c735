"""Plotly figures of the detectors: pure functions from a data frame to a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lib.charts.figures import COLOURS, figure, stacked

Z_SHOWN = 12.0
"""Greater values of |z| share the last bar."""

_Z_STEP = 0.25
_HISTORIES = ("latency", "throughput", "velocity", "amount", "good", "bad")


def limit(made: go.Figure, value: float, text: str) -> go.Figure:
    """The figure with a dashed line across it at a rule's limit."""
    return made.add_hline(
        y=value, line_dash="dash", line_color="#444444", annotation_text=text
    )


def counts_side_by_side(
    counts: pd.DataFrame, x: str, colours: dict[str, str], title: str, units: str
) -> go.Figure:
    """Bars side by side, one group per row.

    Args:
        counts: column ``x`` and one column of heights per key of ``colours``.
        x: the column that names the groups; it is the x axis' title, too.
        colours: column → a key of COLOURS, in the order of the bars.
        title: what is to be seen.
        units: the y axis' title.
    """
    made = figure(title, x, units)
    for column, colour in colours.items():
        made.add_bar(
            x=counts[x].astype(str),
            y=counts[column],
            name=column,
            marker_color=COLOURS[colour],
        )
    return made.update_layout(barmode="group").update_xaxes(type="category")


def steps(frame: pd.DataFrame, x: str, colours: dict[str, str], title: str, y: str):
    """Counts that jump, against ``x``: one step line per key of ``colours``.

    Args:
        frame: column ``x`` and the columns of counts, in the order of ``x``.
        x: the x column; it is the axis' title, with its unit.
        colours: column → a key of COLOURS.
        title: what is to be seen.
        y: the y axis' title.
    """
    made = figure(title, x, y)
    for column, colour in colours.items():
        made.add_scatter(
            x=frame[x],
            y=frame[column],
            name=column,
            mode="lines+markers",
            line={"color": COLOURS[colour], "width": 3, "shape": "hv"},
        )
    return made


def z_distribution(rows: pd.DataFrame, threshold: float, title: str) -> go.Figure:
    """How far amounts lie from their baseline, ordinary ones and planted ones.

    Args:
        rows: columns ``z`` (null: no answer) and ``planted`` (bool).
        threshold: |z| above which the rule fires.
        title: what is to be seen.
    """
    made = figure(title, f"|z|, those above {Z_SHOWN:g} in the last bar", "payments")
    edges = np.arange(0, Z_SHOWN + 2 * _Z_STEP, _Z_STEP)
    size = rows["z"].abs().clip(upper=Z_SHOWN)
    for name, colour, own in (
        ("ordinary", "normal", size[~rows["planted"]]),
        ("planted", "amount", size[rows["planted"]]),
    ):
        heights, _ = np.histogram(own.dropna(), edges)
        shown = heights > 0
        made.add_bar(
            x=(edges[:-1] + _Z_STEP / 2)[shown],
            y=heights[shown],
            width=_Z_STEP,
            name=name,
            marker_color=COLOURS[colour],
        )
    made.add_vline(
        x=threshold, line_dash="dash", annotation_text=f"fires above {threshold:g}"
    )
    return made.update_yaxes(type="log", rangemode="normal", dtick=1).update_layout(
        barmode="stack"
    )


def sweep(rows: pd.DataFrame, threshold: float, title: str) -> go.Figure:
    """Precision and recall against the threshold, one line per length of history.

    Args:
        rows: of ``lib.verify.evaluation.amount_sweep``.
        threshold: the threshold in use, drawn as a line.
        title: what is to be seen.
    """
    panels = []
    for measure, text in (
        ("precision", "Precision: the share of flags that are planted outliers"),
        ("recall", "Recall: the share of planted outliers that are flagged"),
    ):
        panel = figure(text, "fires when |z| is greater than", measure)
        for colour, (name, own) in zip(
            _HISTORIES, rows.groupby("history", sort=False), strict=False
        ):
            panel.add_scatter(
                x=own["threshold"],
                y=own[measure],
                mode="lines+markers",
                name=name,
                legendgroup=name,
                line={"color": COLOURS[colour], "width": 3},
            )
        panels.append(panel)
    panels[1].update_layout(showlegend=False)
    made = stacked(panels, title)
    return made.add_vline(x=threshold, line_dash="dash", line_color="#444444")
