"""One call that opens a notebook's run: a broker, names of its own, a Spark session;
and what the notebook says to a reader's guess."""

from __future__ import annotations

import ast
import atexit
import importlib.metadata
import inspect
import json
import numbers
import os
import platform
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from IPython.display import Markdown
from pyspark.sql import SparkSession

from lib.kafka.broker import Broker
from lib.settings import ROOT, Settings
from lib.setup.java import find_java
from lib.streaming.session import INTERPRETED, spark_session
from lib.system.supervisor import die_with_parent

_SHOWN = ("pyspark", "delta-spark", "kafka-python", "pandas", "plotly")
STOP_SECONDS = 60
_MOST = 200  # characters of a guess that are shown


@dataclass
class Run:
    """A notebook's run: nothing it makes has a name that another run could have.

    Attributes:
        name: the notebook, e.g. ``01_produce``.
        settings: the reader's settings with topic, lake and checkpoints of this run.
        bootstrap: bootstrap servers of the broker in use.
        folder: the run's folder below FRAUD_HOME.
        results: named values that the notebook leaves behind.
    """

    name: str
    settings: Settings
    bootstrap: str
    folder: Path
    results: dict[str, object] = field(default_factory=dict)
    _broker: Broker | None = None
    _spark: SparkSession | None = None
    _started: list[subprocess.Popen] = field(default_factory=list)

    def spark(self, conf: Mapping[str, str] | None = None) -> SparkSession:
        """The run's Spark session, started at the first call, for few rows."""
        conf = INTERPRETED | dict(conf or {})
        self._spark = spark_session(self.settings, conf, short_lived=True)
        return self._spark

    def topic(self, suffix: str) -> Settings:
        """The settings with another topic, lake and checkpoints, for an experiment."""
        return _named(self.settings, f"{self.settings.topic}-{suffix}", self.folder)

    def versions(self) -> pd.DataFrame:
        """What this run runs on, one row a component."""
        java = find_java()
        rows = {
            "Python": platform.python_version(),
            "Java": f"{java.release} ({java.origin})",
            **{name: importlib.metadata.version(name) for name in _SHOWN},
            "Kafka": self.settings.kafka or "embedded broker",
            "machine": f"{platform.system()} {platform.machine()}",
        }
        return pd.DataFrame(rows.items(), columns=["component", "version"])

    def start(self, settings: Settings, *command: str) -> subprocess.Popen:
        """Start ``python -m lib COMMAND…`` in a process group of its own.

        Its output goes to ``command.log`` in the run's folder. It ends with the run at
        the latest; on Linux also with this process, however that ends.
        """
        with (self.folder / "command.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lib", *command],
                cwd=ROOT,
                env=os.environ | settings.as_env(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._started.append(process)
        return process

    @staticmethod
    def compare(guess: object, answer: object, within: float = 0) -> Markdown:
        """`compare`, below, as a notebook calls it."""
        return Markdown(compare(guess, answer, within))

    def record(self, **values: object) -> None:
        """Leave named results behind: in ``results.json`` of the run's folder."""
        self.results |= values
        text = json.dumps(self.results, indent=1, default=str)
        (self.folder / "results.json").write_text(text)

    def close(self) -> None:
        """Stop what it started: commands, queries, Spark, its use of the broker.

        Twice is fine.
        """
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        while self._started:
            self._started.pop().wait(STOP_SECONDS)
        if self._spark is not None:
            for query in self._spark.streams.active:
                query.stop()
            self._spark.stop()
            self._spark = None
        if self._broker is not None:
            self._broker.close()
            self._broker = None


def open_run(name: str) -> Run:
    """Open a run of the notebook ``name``; it is closed with the kernel at the latest.

    Raises:
        FraudError: no broker, no Java, no space.
    """
    settings = Settings.from_env()
    run_id = f"{name}-{time.strftime('%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = settings.home / "runs" / run_id
    folder.mkdir(parents=True)
    broker = None if settings.kafka else Broker(settings).start()
    run = Run(
        name=name,
        settings=_named(settings, f"{settings.topic}-{run_id}", folder),
        bootstrap=broker.bootstrap if broker else settings.kafka,
        folder=folder,
        _broker=broker,
    )
    atexit.register(run.close)
    return run


def source(function: Callable[..., object]) -> str:
    """A function's code without its docstring, which may tell what is to be guessed."""
    lines = inspect.getsource(function).splitlines()
    body = ast.parse(textwrap.dedent("\n".join(lines))).body[0].body
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        del lines[first.lineno - 1 : first.end_lineno]
    return "\n".join(lines)


def compare(guess: object, answer: object, within: float = 0) -> str:
    """One friendly line on a guess. It never fails, whatever the guess is.

    Args:
        guess: the reader's; ``...`` or None is none.
        answer: what the run has shown: a word, a number, a tuple or list, a set, or a
            dict, of which each entry counts by itself.
        within: a number that is at most so far off is close enough.
    """
    if guess is None or guess is ...:
        return f"You made no guess. It is **{_shown(answer)}**."
    try:
        right, close = _same(guess, answer), _close(guess, answer, within)
    except Exception:  # a guess can be anything, also what can't be compared
        right = close = False
    if right:
        return f"Your guess holds: **{_shown(answer)}**."
    both = f"you said **{_shown(guess)}**, and it is **{_shown(answer)}**"
    if close:
        return f"Close: {both}."
    if isinstance(guess, dict) and isinstance(answer, dict):
        hits = sum(_same(guess.get(key), value) for key, value in answer.items())
        both += f" ({hits} of {len(answer)} right)"
    return f"Not so: {both}. What makes the difference?"


def _same(guess: object, answer: object) -> bool:
    if isinstance(answer, str):
        return isinstance(guess, str) and guess.strip().lower() == answer.lower()
    if isinstance(answer, set | frozenset):
        if not isinstance(guess, str):
            return set(guess) == answer
        return {guess} == answer or (not answer and guess.strip().lower() == "none")
    if isinstance(answer, list | tuple):
        return list(guess) == list(answer)
    return bool(guess == answer)


def _close(guess: object, answer: object, within: float) -> bool:
    if not isinstance(answer, str | set | frozenset | list | tuple | dict):
        return abs(guess - answer) <= within
    return False


def _shown(value: object) -> str:
    """A guess or an answer as text of bounded length."""
    if isinstance(value, dict):
        value = [f"{key}: {_shown(one)}" for key, one in value.items()]
    if isinstance(value, set | frozenset):
        value = sorted(map(_shown, value)) or ["none"]
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))[:_MOST]
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        text = f"{value:,.2f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)[:_MOST]


def _named(settings: Settings, topic: str, folder: Path) -> Settings:
    return replace(
        settings,
        topic=topic,
        lake=str(folder / topic / "lake"),
        checkpoints=str(folder / topic / "checkpoints"),
    )
