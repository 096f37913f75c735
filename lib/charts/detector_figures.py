"""Plotly figures of the detectors: pure functions from a data frame to a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lib.charts.figures import COLOURS, SYMBOLS, figure, stacked

Z_SHOWN = 12.0
"""Greater values of |z| share the last bar."""

_Z_STEP = 0.25
_SCORES = (("amount", "circle"), ("throughput", "diamond"), ("velocity", "x"))
_LIMIT_MARGIN = 125
"""Pixels: room for the name of a limit."""


def limit(made: go.Figure, value: float, text: str) -> go.Figure:
    """The figure with a dashed line across it at a rule's limit, named in the margin:
    within the plot the text would lie on bars or lines."""
    made.add_hline(y=value, line_dash="dash", line_color="#444444")
    made.add_annotation(
        text=text, x=1, xref="paper", xanchor="left", y=value, showarrow=False
    )
    return made.update_layout(margin_r=_LIMIT_MARGIN)


FEW = 6
"""Groups of bars, at most, that have room for numbers."""


def counts_side_by_side(
    counts: pd.DataFrame, x: str, colours: dict[str, str], title: str, units: str
) -> go.Figure:
    """Bars side by side, one group per row; few groups have their numbers above.

    Args:
        counts: column ``x`` and one column of heights per key of ``colours``.
        x: the column that names the groups; it is the x axis' title, too.
        colours: column → a key of COLOURS, in the order of the bars.
        units: the y axis' title.
    """
    made = figure(title, x, units)
    for column, colour in colours.items():
        made.add_bar(
            x=counts[x].astype(str),
            y=counts[column],
            name=column,
            marker_color=COLOURS[colour],
            # A bar of height 0 is not to be seen; beside many bars no number has room.
            text=counts[column] if len(counts) <= FEW else None,
            textposition="outside",
            cliponaxis=False,
        )
    return made.update_layout(barmode="group").update_xaxes(type="category")


def steps(frame: pd.DataFrame, x: str, colours: dict[str, str], title: str, y: str):
    """Counts that jump, against ``x``: one step line per key of ``colours``.

    Args:
        frame: column ``x`` and the columns of counts, in the order of ``x``.
        x: the x column; it is the axis' title, with its unit.
        colours: column → a key of COLOURS.
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
    """Histogram of |z|, ordinary amounts against injected outliers.

    Args:
        rows: columns ``z`` (null: no answer) and ``planted`` (bool).
        threshold: |z| above which the rule fires.
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
    """Precision and recall against the threshold, one line per score.

    Args:
        rows: of ``lib.verify.evaluation.sweep``.
        threshold: the threshold in use, drawn as a line.
    """
    panels = []
    for measure, text in (
        ("precision", "Precision: the share of flags that a thief made"),
        ("recall", "Recall: the share of the thieves' outliers that are flagged"),
    ):
        panel = figure(text, "fires when |score| is greater than", measure)
        panels.append(_by_score(panel, rows, "threshold", measure))
    panels[1].update_layout(showlegend=False)
    made = stacked(panels, title)
    return made.add_vline(x=threshold, line_dash="dash", line_color="#444444")


def budget(rows: pd.DataFrame, title: str) -> go.Figure:
    """What a score finds for the alerts that it costs, one line per score.

    Args:
        rows: of ``lib.verify.evaluation.sweep``, with ``alerts`` (a day per 1,000
            accounts).
    """
    costs = "alerts a day per 1,000 accounts"
    made = figure(title, costs, "recall: share of outliers")
    return _by_score(made, rows, "alerts", "recall")


def _by_score(made: go.Figure, rows: pd.DataFrame, x: str, y: str) -> go.Figure:
    """Add one line per score."""
    styles = zip(_SCORES, rows.groupby("score", sort=False), strict=False)
    for (colour, shape), (name, own) in styles:
        made.add_scatter(
            x=own[x],
            y=own[y],
            mode="lines+markers",
            name=name,
            legendgroup=name,
            marker={"symbol": shape, "size": 9},
            line={"color": COLOURS[colour], "width": 3},
        )
    return made


def intervals(
    measured: pd.DataFrame, colours: dict[str, str], title: str, x: str, y: str
) -> go.Figure:
    """A median with its interval for each row, one colour per measure.

    Args:
        measured: of ``lib.verify.evaluation.over_seeds``; the index names the rows.
        colours: column → a key of COLOURS, in the order of the legend.
        x: the x axis' title.
        y: the y axis' title with its unit.
    """
    made = figure(title, x, y)
    for shape, (column, colour) in zip(SYMBOLS.values(), colours.items(), strict=False):
        own = measured[column]
        made.add_scatter(
            x=own.index,
            y=own["median"],
            error_y={
                "array": own["high"] - own["median"],
                "arrayminus": own["median"] - own["low"],
                "thickness": 2,
            },
            mode="markers",
            name=column,
            offsetgroup=column,
            marker={"color": COLOURS[colour], "symbol": shape, "size": 11},
        )
    return made.update_layout(scattermode="group").update_xaxes(type="category")
