"""What dbt says, for people: results as a frame, an error as a line, the lineage."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lib.errors import FraudError

_BUILT = ("model", "snapshot")
_TESTED = ("test", "unit_test")
_MARKUP = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Marts:
    """What one run of dbt did.

    Attributes:
        nodes: one row a node in the order of their ends: ``name``, ``kind``,
            ``status``, ``started``, ``seconds``, ``failures`` (rows that a test
            found), ``message``.
        freshness: source → ``pass`` or ``warn``.
        seconds: from the call to the end.
    """

    nodes: pd.DataFrame
    freshness: dict[str, str]
    seconds: float

    @property
    def failed(self) -> pd.DataFrame:
        """The tests that found something."""
        return self.nodes[self.nodes["status"] == "fail"]

    @property
    def failures(self) -> list[str]:
        """One sentence a failed test."""
        return [f"test {row.name}: {row.message}" for row in _records(self.failed)]

    def as_dict(self) -> dict[str, object]:
        """The JSON that ``python -m lib marts`` prints."""
        kinds, status = self.nodes["kind"], self.nodes["status"]
        return {
            "models": int(kinds.isin(_BUILT).sum()),
            "tests": int(kinds.isin(_TESTED).sum()),
            "failures": len(self.failed),
            "failed": self.failed["name"].tolist(),
            "warnings": int((status == "warn").sum()),
            "skipped": int((status == "skipped").sum()),
            "freshness": self.freshness,
            "seconds": round(self.seconds, 3),
        }


def freshness_of(results) -> dict[str, str]:
    """Source → ``pass`` or ``warn``."""
    return {
        f"{result.node.source_name}/{result.node.name}": str(result.status)
        for result in results
    }


def nodes_of(results) -> pd.DataFrame:
    """dbt's results as the frame that ``Marts`` describes."""
    rows = []
    for result in results:
        timing = {step.name: step for step in result.timing}
        rows.append(
            {
                "name": result.node.name,
                "kind": str(result.node.resource_type),
                "status": str(result.status),
                "started": getattr(timing.get("compile"), "started_at", None),
                "seconds": result.execution_time,
                "failures": result.failures,
                "message": one_line(result.message or ""),
            }
        )
    columns = ["name", "kind", "status", "started", "seconds", "failures", "message"]
    return pd.DataFrame(rows, columns=columns)


def raise_error(nodes: pd.DataFrame) -> None:
    """Raise FraudError with the first model in error and its cause."""
    errors = list(_records(nodes[nodes["status"] == "error"]))
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise FraudError(
            f"{first.kind.replace('_', ' ')} {first.name}: {first.message}{more}; "
            "the marts are as they were"
        )


def _records(frame: pd.DataFrame) -> Iterator:
    return frame.itertuples(index=False)


def one_line(text: str) -> str:
    """What a person needs of one of dbt's errors, which are paragraphs."""
    lines = [line.strip() for line in _MARKUP.sub("", text).splitlines()]
    if broken := _broken_contract(lines):
        return broken
    lines = [line for line in lines if line and not line.startswith("compiled code")]
    # "Runtime Error in model m (path)" says less than the line behind it.
    while len(lines) > 1 and re.match(r"^\w+ Error( in |$)", lines[0]):
        lines = lines[1:]
    return " ".join(lines)[:400]


def _broken_contract(lines: Sequence[str]) -> str:
    """dbt's table of what differs from the contract as a sentence; or nothing."""
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    if len(table) < 3 or table[0][-1] != "mismatch_reason":
        return ""
    said = []
    for column, found, wanted, reason in table[2:]:
        types = f" ({found or 'none'}, contract {wanted or 'none'})"
        said.append(f"column {column} {reason}{types}")
    return "the contract is broken: " + "; ".join(said)


def lineage(described: Mapping[str, object]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The graph of sources, models, snapshots and exposures in a manifest.

    Returns:
        nodes (``id``, ``name``, ``kind``, ``level``: length of the longest way from
        a source) and edges (``parent``, ``child``).
    """
    kinds = ("source", "model", "snapshot", "exposure")
    parents = {
        node: [p for p in above if p.split(".")[0] in kinds]
        for node, above in described["parent_map"].items()
        if node.split(".")[0] in kinds
    }
    levels: dict[str, int] = {}

    def level(node: str) -> int:
        if node not in levels:
            levels[node] = 1 + max(map(level, parents[node]), default=-1)
        return levels[node]

    nodes = [
        {
            "id": node,
            "name": ".".join(node.split(".")[2:]),
            "kind": node.split(".")[0],
            "level": level(node),
        }
        for node in sorted(parents)
    ]
    edges = [(parent, node) for node in parents for parent in parents[node]]
    return pd.DataFrame(nodes), pd.DataFrame(edges, columns=["parent", "child"])
