"""Figures about the marts: their lineage, a run's times, an account's history."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from lib.charts.figures import COLOURS, figure

_KINDS = {
    "source": ("normal", "square"),
    "model": ("throughput", "circle"),
    "snapshot": ("velocity", "diamond"),
    "exposure": ("good", "star"),
    "test": ("latency", "circle"),
    "unit_test": ("amount", "circle"),
}
_BANDS = {"low": "good", "medium": "velocity", "high": "bad"}


def lineage(nodes: pd.DataFrame, edges: pd.DataFrame, title: str) -> go.Figure:
    """What is made of what, from the sources on the left to the dashboard.

    Args:
        nodes: columns ``id``, ``name``, ``kind``, ``level`` (``dbt_report.lineage``).
        edges: columns ``parent``, ``child``, of ids.
    """
    placed = _placed(nodes, edges).set_index("id")
    made = figure(title, "steps from the source", "")
    xs, ys = [], []
    for edge in edges.itertuples():
        ends = placed.loc[[edge.parent, edge.child]]
        xs += [*ends["level"], None]
        ys += [*ends["y"], None]
    line = {"color": "#BBBBBB", "width": 1.2}
    made.add_scatter(x=xs, y=ys, mode="lines", line=line, showlegend=False)
    for kind, (colour, symbol) in _KINDS.items():
        own = placed[placed["kind"] == kind]
        if own.empty:
            continue
        made.add_scatter(
            x=own["level"],
            y=own["y"],
            mode="markers+text",
            name=kind,
            text=own["name"],
            textposition="top center",
            marker={"color": COLOURS[colour], "symbol": symbol, "size": 14},
            textfont={"size": 12},
        )
    made.update_layout(height=520)
    made.update_xaxes(dtick=1, range=[-0.5, nodes["level"].max() + 0.5], zeroline=False)
    return made.update_yaxes(visible=False, range=[-0.15, 1.15])


def _placed(nodes: pd.DataFrame, edges: pd.DataFrame) -> pd.DataFrame:
    """Nodes with a height ``y`` in 0..1, each near the mean height of its parents."""
    heights: dict[str, float] = {}
    for _level, column in nodes.sort_values(["level", "name"]).groupby("level"):
        wish = {
            node: pd.Series(
                [heights[p] for p in edges.loc[edges["child"] == node, "parent"]],
                dtype=float,
            ).mean()
            for node in column["id"]
        }
        order = sorted(column["id"], key=lambda node: (wish[node], node))
        for place, node in enumerate(order):
            heights[node] = (place + 0.5) / len(order)
    return nodes.assign(y=nodes["id"].map(heights))


def node_times(nodes: pd.DataFrame, title: str) -> go.Figure:
    """Seconds of each table that a run built and of all tests by kind, longest first.

    Args:
        nodes: columns ``name``, ``kind``, ``seconds`` (``dbt_report.Marts``).
    """
    built = nodes[nodes["kind"].isin(("model", "snapshot"))]
    tested = nodes[nodes["kind"].isin(("test", "unit_test"))].groupby("kind")
    sums = tested["seconds"].agg(["sum", "size"]).reset_index()
    sums["name"] = [
        f"all {row.size} {row.kind.replace('_', ' ')}s"
        for row in sums.itertuples(False)
    ]
    sums = sums.rename(columns={"sum": "seconds"})
    rows = pd.concat([built, sums])[["name", "kind", "seconds"]]
    rows = rows.sort_values("seconds")
    made = figure(title, "seconds", "")
    for kind, (colour, _symbol) in _KINDS.items():
        own = rows[rows["kind"] == kind]
        if not own.empty:
            made.add_bar(
                x=own["seconds"],
                y=own["name"],
                orientation="h",
                name=kind.replace("_", " "),
                marker_color=COLOURS[colour],
            )
    made.update_layout(height=120 + 28 * len(rows), barmode="stack")
    return made.update_yaxes(
        categoryorder="array", categoryarray=list(rows["name"]), rangemode="normal"
    )


def standing(history: pd.DataFrame, until: pd.Timestamp, title: str) -> go.Figure:
    """When each version of an account's row was valid, in the risk band's colour.

    Args:
        history: columns ``risk_band``, ``alerts``, ``dbt_valid_from`` and
            ``dbt_valid_to`` (null for the version that is valid now), in order.
        until: where the one that is valid now ends in the figure.
    """
    made = figure(title, "time at which dbt looked (UTC)", "version")
    for number, row in enumerate(history.itertuples(), start=1):
        now = pd.isna(row.dbt_valid_to)
        end = until if now else row.dbt_valid_to
        made.add_bar(
            x=[(end - row.dbt_valid_from) / pd.Timedelta("1ms")],
            base=[row.dbt_valid_from],
            y=[str(number)],
            orientation="h",
            width=0.6,
            name=f"risk {row.risk_band}",
            marker_color=COLOURS[_BANDS[row.risk_band]],
            text=f"risk {row.risk_band}, alerts: {row.alerts}{', now' if now else ''}",
            textposition="auto",
            insidetextanchor="start",
        )
    made.update_layout(barmode="overlay", showlegend=False, height=260)
    return made.update_xaxes(type="date").update_yaxes(
        type="category", autorange="reversed", rangemode="normal"
    )
