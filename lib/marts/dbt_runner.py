"""The marts: the dbt project in ``dbt/``, run in this process on its Spark session."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.lake.tables import TRANSACTIONS
from lib.marts.dbt_report import Marts, freshness_of, nodes_of, one_line, raise_error
from lib.marts.spark_catalog import in_memory, quotable, register, restore, table_bytes
from lib.settings import ROOT, Settings
from lib.streaming.session import FEW_ROWS, properties

PROJECT = ROOT / "dbt"

_MANY_ROWS = {"spark.sql.adaptive.enabled": "true"}
_FEW_BYTES = 8_000_000
"""Up to this size of silver/transactions a run's cost is that of its plans."""
_FILES, _FILE_BYTES = 4, 4_000_000
"""Files of the fact at least, and bytes of silver/transactions to each: a merge writes
whole files anew."""
_STAGED = "gold.stg_scores"


def build(
    spark: SparkSession,
    settings: Settings,
    *,
    select: Sequence[str] = (),
    kinds: Sequence[str] = (),
    full_refresh: bool = False,
    command: str = "build",
    target: str = "session",
    variables: Mapping[str, object] | None = None,
    project: Path = PROJECT,
) -> Marts:
    """Bring the marts up to the lake's present state, and test them.

    Args:
        spark: the session.
        settings: where the lake lies.
        select: dbt's node selection; empty for everything.
        kinds: kinds of nodes, e.g. ``model`` and ``snapshot`` for all but the tests;
            empty for all. For ``build`` only.
        full_refresh: build every mart anew.
        command: ``build``, ``run`` or ``test``.
        target: ``session``, or ``thrift`` for a Thrift server that shares the
            session's catalog; its address in the variables.
        variables: further dbt variables, e.g. ``thrift_host`` and ``thrift_port``.
        project: the dbt project.

    Raises:
        FraudError: a source is missing or lacks a column, a model is in error, or
            another run is at work; the marts are then as they were.
    """
    begun = time.monotonic()
    marts = mart_names(project)
    options = ["--select", *select] if select else []
    options += [word for kind in kinds for word in ("--resource-type", kind)]
    options += ["--full-refresh"] if full_refresh else []

    with _alone(settings):
        before = register(spark, settings, marts)
        size = table_bytes(spark, settings, TRANSACTIONS)
        files = max(_FILES, size // _FILE_BYTES)
        few = size <= _FEW_BYTES
        kept = in_memory(spark, marts) if few else nullcontext(lambda: None)
        given = {
            "fact_files": files,
            "in_memory": few,
            "session_conf": _conf(size),
            **(variables or {}),
        }

        def dbt(*arguments: str):
            words = [*arguments, "--target", target]
            return _dbt(words, settings, project, given)

        with _session(spark, size), kept as ready:
            partial = bool(select or kinds)
            freshness = {} if partial else freshness_of(dbt("source", "freshness"))
            ready()
            if select and not spark.catalog.tableExists(_STAGED):
                dbt("run", "--select", "path:models/staging")
            try:
                nodes = nodes_of(dbt(command, *options))
                raise_error(nodes)
            except FraudError:
                restore(spark, settings, marts, before)
                raise
    return Marts(nodes, freshness, time.monotonic() - begun)


def docs(spark: SparkSession, settings: Settings) -> Path:
    """Write the project's documentation as one page that needs no server.

    Returns:
        the page, below FRAUD_HOME.
    """
    with _alone(settings):
        register(spark, settings, mart_names())
        with _session(spark, table_bytes(spark, settings, TRANSACTIONS)):
            _dbt(["docs", "generate", "--static"], settings, PROJECT, None)
    return target_folder(settings) / "static_index.html"


def manifest(settings: Settings) -> dict[str, object]:
    """dbt's description of the project: every node and what it depends on."""
    _dbt(["parse"], settings, PROJECT, None)
    return json.loads((target_folder(settings) / "manifest.json").read_text())


def target_folder(settings: Settings) -> Path:
    """Where dbt leaves what it compiled and found."""
    return settings.own_dir / "dbt" / "target"


def mart_names(project: Path = PROJECT) -> list[str]:
    """Names of the project's tables: its marts and snapshots, staging being views."""
    marts = [path.stem for path in (project / "models" / "marts").glob("*.sql")]
    return sorted(marts + [p.stem for p in (project / "snapshots").glob("*.yml")])


def preload() -> None:
    """Begin to import dbt, which takes seconds, while the caller waits for a JVM."""

    def begin() -> None:
        # What fails here fails again where dbt is needed. And if no JVM starts, this
        # one fails because the program ends: Python takes no more exit handlers then.
        with suppress(Exception):
            _runner()

    threading.Thread(target=begin, name="import dbt").start()


# -- dbt ----------------------------------------------------------------------------


def _runner():
    """dbt's entry point.

    jsonschema, which dbt uses, looks for a checker of IRIs (RFC 3987) that compiles a
    grammar while it is imported: two seconds, for a format that no schema here has.
    """
    hidden = "rfc3987_syntax" not in sys.modules
    if hidden:
        sys.modules["rfc3987_syntax"] = None  # which is how an import is refused
    try:
        from dbt.cli.main import dbtRunner
    finally:
        if hidden:
            sys.modules.pop("rfc3987_syntax", None)
    return dbtRunner()


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
    paths = {
        "--project-dir": project,
        "--profiles-dir": project,
        "--target-path": target_folder(settings),
        "--log-path": settings.log_dir / "dbt",
        "--vars": json.dumps({"lake": quotable(settings.lake), **(variables or {})}),
        "--log-level": "none",
        "--log-level-file": "info",
    }
    arguments = [*command, "--no-use-colors", "--quiet", "--no-version-check"]
    for option, value in paths.items():
        arguments += [option, str(value)]
    outcome = _runner().invoke(arguments)
    if outcome.exception is not None:
        raise FraudError(f"dbt: {one_line(str(outcome.exception))}")
    return outcome.result


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One run at a time on a lake: they would write the same tables."""
    folder = settings.home / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lake = hashlib.sha256(settings.lake.encode(errors="surrogateescape")).hexdigest()
    with (folder / f"marts-{lake[:16]}").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FraudError(
                f"another `marts` is at work on {settings.lake}: wait until it is done"
            ) from None
        yield


def _conf(size: int) -> dict[str, str]:
    return FEW_ROWS if size <= _FEW_BYTES else _MANY_ROWS


@contextmanager
def _session(spark: SparkSession, size: int) -> Iterator[None]:
    """The session as dbt needs it for so many bytes of silver/transactions."""
    # PySpark says on stderr, with the whole plan, what dbt reports as a line.
    logger = logging.getLogger("SQLQueryContextLogger")
    logger.disabled = True
    try:
        with properties(spark, _conf(size)):
            yield
    finally:
        logger.disabled = False
