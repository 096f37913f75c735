"""The marts: the dbt project in ``dbt/``, run in this process on its Spark session."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pyspark.sql import SparkSession

from lib.config import ROOT, Settings
from lib.errors import FraudError
from lib.registry import register, restore, table_bytes

PROJECT = ROOT / "dbt"

_MANY_ROWS = {"spark.sql.adaptive.enabled": "true"}
_FEW_ROWS = {
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
    # To compile a plan takes longer than to interpret it.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
_FEW_BYTES = 8_000_000
"""Up to this size of silver/transactions a run's cost is that of its plans."""
_STAGED = "gold.stg_scores"
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


def build(
    spark: SparkSession,
    settings: Settings,
    *,
    select: Sequence[str] = (),
    full_refresh: bool = False,
    command: str = "build",
    variables: Mapping[str, object] | None = None,
    project: Path = PROJECT,
) -> Marts:
    """Bring the marts up to the lake's present state, and test them.

    Args:
        spark: the session.
        settings: where the lake lies.
        select: dbt's node selection; empty for everything.
        full_refresh: build every mart anew.
        command: ``build``, ``run`` or ``test``.
        variables: further dbt variables.
        project: the dbt project.

    Raises:
        FraudError: a source is missing or lacks a column, or a model is in error;
            the marts are then as they were.
    """
    begun = time.monotonic()
    marts = mart_names(project)
    before = register(spark, settings, marts)
    chosen = ["--select", *select] if select else []
    options = [*chosen, *(["--full-refresh"] if full_refresh else [])]
    with _session(spark, settings):
        freshness = _freshness(settings, project, variables) if not select else {}
        if select and not spark.catalog.tableExists(_STAGED):
            _dbt(["run", "--select", "path:models/staging"], settings, project, None)
        try:
            results = _dbt([command, *options], settings, project, variables)
            nodes = _nodes(results)
            _raise_error(nodes)
        except FraudError:
            restore(spark, settings, marts, before)
            raise
    return Marts(nodes, freshness, time.monotonic() - begun)


def docs(spark: SparkSession, settings: Settings, project: Path = PROJECT) -> Path:
    """Write the project's documentation as one page that needs no server.

    Returns:
        the page, below FRAUD_HOME.
    """
    register(spark, settings, mart_names(project))
    with _session(spark, settings):
        _dbt(["docs", "generate", "--static"], settings, project, None)
    return target_folder(settings) / "static_index.html"


def manifest(settings: Settings, project: Path = PROJECT) -> dict[str, object]:
    """dbt's description of the project: every node and what it depends on."""
    _dbt(["parse"], settings, project, None)
    return json.loads((target_folder(settings) / "manifest.json").read_text())


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


def target_folder(settings: Settings) -> Path:
    """Where dbt leaves what it compiled and found."""
    return settings.home / "dbt" / "target"


def mart_names(project: Path = PROJECT) -> list[str]:
    """Names of the project's tables: its marts and snapshots, staging being views."""
    marts = [path.stem for path in (project / "models" / "marts").glob("*.sql")]
    return sorted(marts + [p.stem for p in (project / "snapshots").glob("*.yml")])


# -- dbt ----------------------------------------------------------------------------


def _dbt(
    command: Sequence[str],
    settings: Settings,
    project: Path,
    variables: Mapping[str, object] | None,
):
    """Run one dbt command in this process; its result object.

    Raises:
        FraudError: dbt could not run; a node in error is in the result instead.
    """
    from dbt.cli.main import dbtRunner

    paths = {
        "--project-dir": project,
        "--profiles-dir": project,
        "--target-path": target_folder(settings),
        "--log-path": settings.log_dir / "dbt",
        "--vars": json.dumps({"lake": settings.lake, **(variables or {})}),
        "--log-level": "none",
        "--log-level-file": "info",
    }
    arguments = [*command, "--no-use-colors", "--quiet", "--no-version-check"]
    for option, value in paths.items():
        arguments += [option, str(value)]
    outcome = dbtRunner().invoke(arguments)
    if outcome.exception is not None:
        raise FraudError(f"dbt: {_one_line(str(outcome.exception))}")
    return outcome.result


def _freshness(
    settings: Settings, project: Path, variables: Mapping[str, object] | None
) -> dict[str, str]:
    results = _dbt(["source", "freshness"], settings, project, variables)
    return {
        f"{result.node.source_name}/{result.node.name}": str(result.status)
        for result in results
    }


def _nodes(results) -> pd.DataFrame:
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
                "message": _one_line(result.message or ""),
            }
        )
    columns = ["name", "kind", "status", "started", "seconds", "failures", "message"]
    return pd.DataFrame(rows, columns=columns)


def _raise_error(nodes: pd.DataFrame) -> None:
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


def _one_line(text: str) -> str:
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


@contextmanager
def _session(spark: SparkSession, settings: Settings) -> Iterator[None]:
    """The session as dbt needs it; running streams have settings of their own."""
    few = table_bytes(spark, settings, "silver/transactions") <= _FEW_BYTES
    conf = _FEW_ROWS if few else _MANY_ROWS
    before = {key: spark.conf.get(key) for key in conf}
    # PySpark says on stderr, with the whole plan, what dbt reports as a line.
    logger = logging.getLogger("SQLQueryContextLogger")
    logger.disabled = True
    for key, value in conf.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        logger.disabled = False
        for key, value in before.items():
            spark.conf.set(key, value)
