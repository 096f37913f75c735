"""The repo's Plotly theme and colours, and the figures that fit many tables.

Each figure is a pure function from a data frame to a figure.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from lib.detectors.rules import DETECTORS
from lib.streaming.progress import STAGES

# Okabe and Ito's palette, which the colour-blind can tell apart
# (https://jfly.uni-koeln.de/color/). One meaning, one colour, everywhere.
COLOURS = {
    "normal": "#999999",
    **{detector.name: detector.colour for detector in DETECTORS},
    "good": "#009E73",
    "bad": "#D55E00",
    "throughput": "#0072B2",
    "latency": "#56B4E9",
    "accent": "#F0E442",
}
SYMBOLS = {"normal": "circle"} | {each.name: each.symbol for each in DETECTORS}
"""Colour is never the only sign of a pattern."""

_STAGE_COLOURS = ("#56B4E9", "#0072B2", "#F0E442", "#E69F00", "#009E73", "#CC79A7")
_LINE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

pio.templates["fraud"] = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 15},
        "colorway": _LINE_COLOURS,
        # Measured from the top edge in pixels, so that it stays above the legend on
        # a figure of any height.
        "title": {
            "x": 0.01,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "pad": {"t": 16},
            "font": {"size": 18},
        },
        "margin": {"l": 70, "r": 30, "t": 80, "b": 60},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "height": 380,
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {
            "gridcolor": "#E5E5E5",
            "linecolor": "#666666",
            "ticks": "outside",
            "automargin": True,
            "zeroline": False,
        },
        "yaxis": {
            "automargin": True,
            "gridcolor": "#E5E5E5",
            "linecolor": "#666666",
            "rangemode": "tozero",
        },
    }
)


def figure(title: str, x: str, y: str) -> go.Figure:
    """An empty figure in the repo's theme; the title says what is to be seen, the
    axis titles carry their units."""
    made = go.Figure(layout={"template": "fraud", "title": {"text": title}})
    made.update_layout(xaxis_title=x, yaxis_title=y)
    return made


def throughput(rates: pd.DataFrame, title: str, target: float | None = None):
    """Events per second over time.

    Args:
        rates: columns ``second``, ``rate`` (see
            ``lib.streaming.progress.rolling_rate``).
        target: the rate asked for, drawn as a line, or None.
    """
    made = figure(title, "seconds since the first event", "events per second")
    made.add_scatter(
        x=rates["second"],
        y=rates["rate"],
        mode="lines",
        name="rolling 60 s",
        line={"color": COLOURS["throughput"], "width": 3},
    )
    if target is not None:
        made.add_hline(
            y=target, line_dash="dash", annotation_text=f"asked for: {target:g}/s"
        )
    return made


def account_timeline(events: pd.DataFrame, title: str) -> go.Figure:
    """One row per account, one mark per event, anomalies by colour and shape.

    Args:
        events: columns ``ts``, ``account`` (masked), ``amount``, ``merchant``,
            ``country``, ``pattern`` (``normal`` or a detector's name).
    """
    made = figure(title, "event time", "account")
    for pattern in SYMBOLS:
        rows = events[events["pattern"] == pattern]
        made.add_scatter(
            x=rows["ts"],
            y=rows["account"],
            mode="markers",
            name=pattern,
            marker={
                "color": COLOURS[pattern],
                "symbol": SYMBOLS[pattern],
                "size": 6 if pattern == "normal" else 12,
                "opacity": 0.5 if pattern == "normal" else 1,
            },
            customdata=rows[["merchant", "country", "amount"]],
            hovertemplate="%{customdata[0]}, %{customdata[1]}, %{customdata[2]:.2f}"
            "<extra>%{y}</extra>",
        )
    made.update_layout(height=max(320, 22 * events["account"].nunique() + 160))
    made.update_yaxes(type="category")
    return made


def bars(
    counts: pd.DataFrame, x: str, y: str, title: str, units: str, colour: str = "good"
) -> go.Figure:
    """Counts as bars with their numbers on them.

    Args:
        counts: one row per bar.
        x: the column of the bars' names.
        y: the column of their heights.
        units: the y axis' title.
        colour: a key of COLOURS, or the name of a column that holds such keys.
    """
    keys = counts[colour] if colour in counts else [colour] * len(counts)
    made = figure(title, x, units)
    made.add_bar(
        x=counts[x].astype(str),
        y=counts[y],
        text=counts[y],
        textposition="outside",
        cliponaxis=False,
        marker_color=[COLOURS[key] for key in keys],
    )
    return made.update_layout(showlegend=False)


def batch_durations(progress: pd.DataFrame, title: str) -> go.Figure:
    """What each micro-batch spent its time on, stacked (``lib.streaming.progress``'
    frame)."""
    made = figure(title, "micro-batch", "milliseconds")
    for stage, colour in zip(STAGES, _STAGE_COLOURS, strict=True):
        made.add_bar(
            x=progress["batch_id"],
            y=progress[f"{stage}_ms"],
            name=stage,
            marker_color=colour,
        )
    return made.update_layout(barmode="stack")


def input_rates(progress: pd.DataFrame, title: str) -> go.Figure:
    """Rows per second that arrived and that were processed, per micro-batch."""
    made = figure(title, "micro-batch", "rows per second")
    for column, name, colour in (
        ("input_rate", "arrived", "normal"),
        ("processed_rate", "processed", "throughput"),
    ):
        made.add_scatter(
            x=progress["batch_id"],
            y=progress[column],
            mode="lines+markers",
            name=name,
            line={"color": COLOURS[colour], "width": 3},
        )
    return made


def watermark(progress: pd.DataFrame, title: str) -> go.Figure:
    """The watermark after each micro-batch, in event time."""
    made = figure(title, "micro-batch", "event time")
    made.add_scatter(
        x=progress["batch_id"],
        y=progress["watermark"],
        mode="lines+markers",
        name="watermark",
        line={"color": COLOURS["latency"], "width": 3, "shape": "hv"},
    )
    return made.update_layout(showlegend=False).update_yaxes(rangemode="normal")


def state_size(progress: pd.DataFrame, title: str) -> go.Figure:
    """Rows that the query keeps in its state after each micro-batch."""
    made = figure(title, "micro-batch", "rows in the state")
    made.add_scatter(
        x=progress["batch_id"],
        y=progress["state_rows"],
        mode="lines+markers",
        name="state",
        fill="tozeroy",
        line={"color": COLOURS["good"], "width": 3},
    )
    return made.update_layout(showlegend=False)


def cumulative(frames: dict[str, pd.DataFrame], title: str, x: str, y: str):
    """Several running counts against time.

    Args:
        frames: name → columns ``x``, ``y``; a name that is a key of COLOURS gets
            that colour.
        x: the x axis' title with its unit.
        y: the y axis' title with its unit.
    """
    made = figure(title, x, y)
    spare = iter(_STAGE_COLOURS)
    for name, frame in frames.items():
        colour = COLOURS.get(name) or next(spare)
        line = {"color": colour, "width": 3}
        made.add_scatter(x=frame["x"], y=frame["y"], mode="lines", name=name, line=line)
    return made


def marks(
    rows: pd.DataFrame,
    columns: tuple[str, str, str],
    title: str,
    axes: tuple[str, str],
    colours: dict[str, str],
    mode: str = "markers",
) -> go.Figure:
    """One mark per row, in a colour and a shape of its group.

    Args:
        rows: one row per mark, drawn in their order.
        columns: the columns of x, of y and of the group's name.
        axes: the titles of the x and the y axis with their units.
        colours: group → a key of COLOURS, in the order of the legend.
        mode: Plotly's ``markers`` or ``lines+markers``.
    """
    x, y, group = columns
    made = figure(title, *axes)
    shapes = ("circle", "diamond", "x", "star")
    for shape, (name, colour) in zip(shapes, colours.items(), strict=False):
        own = rows[rows[group] == name]
        made.add_scatter(
            x=own[x],
            y=own[y],
            mode=mode,
            name=name,
            marker={"color": COLOURS[colour], "symbol": shape, "size": 7},
            line={"width": 1.5},
        )
    return made


def batch_sizes(rows_of: dict[str, pd.Series], title: str) -> go.Figure:
    """How queries cut the same records: one line a query, one block a batch.

    Args:
        rows_of: query → rows of each of its batches, in order.
    """
    made = figure(title, "records, in order", "")
    for name, rows in rows_of.items():
        filled = rows[rows > 0]
        label = f"{name}<br>{len(rows)} batch{'es' if len(rows) != 1 else ''}"
        if len(filled) < len(rows):
            label += f", {len(rows) - len(filled)} empty"
        shades = [COLOURS[("throughput", "latency")[i % 2]] for i in range(len(filled))]
        made.add_bar(
            y=[label] * len(filled),
            x=filled,
            orientation="h",
            text=filled,
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            marker={"color": shades, "line": {"color": "white", "width": 2}},
            hovertemplate="%{x} rows<extra></extra>",
        )
    made.update_layout(barmode="stack", showlegend=False)
    return made.update_yaxes(autorange="reversed", rangemode="normal", ticks="")


def stacked(figures: list[go.Figure], title: str) -> go.Figure:
    """Figures over one common x axis; each one's own title stands above its panel.

    Args:
        figures: figures of this module with the same x axis, top to bottom.
        title: what is to be seen in all of them together.
    """
    heads = [part.layout.title.text for part in figures]
    made = make_subplots(
        rows=len(figures),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.14,
        subplot_titles=heads,
    )
    for row, part in enumerate(figures, start=1):
        for trace in part.data:
            named = trace.update(showlegend=part.layout.showlegend is not False)
            made.add_trace(named, row=row, col=1)
        made.update_yaxes(title_text=part.layout.yaxis.title.text, row=row, col=1)
        made.update_yaxes(rangemode=part.layout.yaxis.rangemode, row=row, col=1)
    made.update_annotations(x=0, xanchor="left", font_size=15)
    made.update_xaxes(title_text=figures[-1].layout.xaxis.title.text, row=len(figures))
    made.update_layout(
        template="fraud",
        title_text=title,
        barmode=figures[0].layout.barmode,
        height=240 * len(figures) + 120,
        legend={"y": -0.18, "yanchor": "top", "traceorder": "normal"},
    )
    return made
