"""The figures of the failure laboratory: pure functions from a frame to a figure."""

from __future__ import annotations

from itertools import cycle

import pandas as pd
import plotly.graph_objects as go

from lib.charts.detector_figures import counts_side_by_side
from lib.charts.figures import figure


def damage(counts: pd.DataFrame, title: str) -> go.Figure:
    """Lost and doubled rows by sink, side by side.

    Args:
        counts: indexed by sink, with columns ``lost`` and ``doubled``, in rows.
    """
    colours = {"lost": "bad", "doubled": "velocity"}
    rows = counts.rename_axis("sink").reset_index()
    return counts_side_by_side(rows, "sink", colours, title, "rows")


def commits(timeline: pd.DataFrame, title: str) -> go.Figure:
    """Batch numbers over time, a colour and a shape for each life of the checkpoint.

    Args:
        timeline: one row per commit: ``second``, ``version`` (the batch's number) and
            ``life``.
    """
    made = figure(title, "seconds since the first commit", "batch number")
    shapes = cycle(("circle", "diamond", "x", "star"))
    for shape, (life, rows) in zip(shapes, timeline.groupby("life"), strict=False):
        made.add_scatter(
            name=f"checkpoint {life}",
            x=rows["second"],
            y=rows["version"],
            mode="lines+markers",
            marker={"symbol": shape, "size": 10},
        )
    # The first batch is number 0: on the axis half of its mark would be cut off.
    return made.update_yaxes(rangemode="normal", dtick=1, zeroline=False)


def lines(
    rows: pd.DataFrame, x: str, y: str, colour: str, title: str, units: str
) -> go.Figure:
    """One line for each value of the column ``colour``.

    Args:
        rows: one row per point.
        x: the column along the x axis.
        y: the column along the y axis.
        colour: the column that parts the lines.
        units: the y axis' title.
    """
    made = figure(title, x, units)
    for name, part in rows.groupby(colour, sort=False):
        made.add_scatter(name=str(name), x=part[x], y=part[y], mode="lines+markers")
    return made
