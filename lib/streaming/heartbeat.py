"""What the running queries say about themselves, in files, for processes without a JVM.

In a folder of the pipeline's own (``status_dir``): ``heartbeat.json``, rewritten every
second, and ``<query>.jsonl``, one of Spark's StreamingQueryProgress reports a line.
Which queries there are, the heartbeat says.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lib.events.card_event import mask_accounts
from lib.settings import Settings
from lib.system.files import write_whole

BEAT_SECONDS = 1.0
STALE_SECONDS = 5.0
"""A heartbeat older than this belongs to a process that was killed or hangs."""

MAX_BYTES = 4 * 1024 * 1024
"""Of one query's reports, about 2,000 of them; then the file becomes ``.1``."""

RUNNING, STOPPED, FAILED = "running", "stopped", "failed"
_FILE = "heartbeat.json"
_log = logging.getLogger(__name__)


def status_dir(settings: Settings) -> Path:
    """Where the queries of these settings say how they are."""
    return settings.own_dir / "status"


class QueryReports:
    """What a running Spark query tells of itself.

    ``query.recentProgress`` would convert thousands of reports at every beat; the
    Java array behind it is read from its end, up to the last one seen.
    """

    def __init__(self, query) -> None:
        self.name: str = query.name
        self._query = query
        self._last: str | None = None

    def new_reports(self) -> list[str]:
        """The progress reports since the last call, oldest first, as JSON."""
        recent = self._query._jsq.recentProgress()
        fresh = []
        for index in range(len(recent) - 1, -1, -1):
            report = recent[index].json()
            if report == self._last:
                break
            fresh.append(report)
        if fresh:
            self._last = fresh[0]
        return fresh[::-1]

    def failure(self) -> str | None:
        """Why it has stopped by itself; None while it has not failed."""
        from lib.streaming.session import cause_of

        error = self._query.exception()
        return f"query {self.name!r} stopped: {cause_of(error)}" if error else None


class Heartbeat:
    """Writes the files from a thread of its own; that it can't write stops nobody."""

    def __init__(self, settings: Settings, sources: Sequence[QueryReports]) -> None:
        self._folder = status_dir(settings)
        self._sources = list(sources)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._complained = False

    def start(self) -> Heartbeat:
        """Write the first beat, then one every BEAT_SECONDS."""
        self.beat(RUNNING)
        self._thread.start()
        return self

    def stop(self, error: str | None = None) -> None:
        """Write the last reports, and how it ended."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        self.beat(FAILED if error else STOPPED, error)

    def beat(self, state: str, detail: str | None = None) -> None:
        """One beat: the new reports, then the heartbeat itself.

        A query that has failed makes the state ``failed``, whatever ``state`` says.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for source in self._sources:
                _append(self._folder / f"{source.name}.jsonl", source.new_reports())
            failures = [f for s in self._sources if (f := s.failure())]
            beat = {
                "pid": os.getpid(),
                "at": time.time(),
                "state": FAILED if failures else state,
                "queries": [source.name for source in self._sources],
                # It may quote a record, and is read by people.
                "detail": mask_accounts(failures[0] if failures else (detail or "")),
            }
            write_whole(self._folder / _FILE, json.dumps(beat))
        except Exception as error:
            # A full disk or a JVM on its way out: the pipeline itself reports both.
            if not self._complained:
                _log.warning("no heartbeat in %s: %s", self._folder, error)
            self._complained = True

    def _run(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            self.beat(RUNNING)


@contextmanager
def publishing(settings: Settings, queries: Iterable) -> Iterator[None]:
    """A heartbeat of these Spark queries for as long as the block runs."""
    beating = Heartbeat(settings, [QueryReports(q) for q in queries]).start()
    try:
        yield
    except Exception as error:
        beating.stop(str(error) or repr(error))
        raise
    except BaseException:  # Ctrl-C is a way to stop it, no failure
        beating.stop()
        raise
    else:
        beating.stop()


@dataclass(frozen=True)
class Beat:
    """The newest heartbeat of a pipeline.

    Attributes:
        at: when it was written, seconds since the epoch.
        state: ``running``, ``stopped`` or ``failed``, as the process said.
        queries: the names of its queries.
        detail: why it failed, or empty.
    """

    at: float
    state: str
    queries: tuple[str, ...]
    detail: str

    def down_since(self, now: float) -> float | None:
        """When the stream was last known to run; None if it runs."""
        alive = self.state == RUNNING and now - self.at <= STALE_SECONDS
        return None if alive else self.at


def read_beat(settings: Settings) -> Beat | None:
    """The newest heartbeat; None if no stream has ever run with these settings."""
    try:
        beat = json.loads((status_dir(settings) / _FILE).read_text())
        return Beat(
            at=float(beat["at"]),
            state=str(beat["state"]),
            queries=tuple(map(str, beat["queries"])),
            detail=str(beat["detail"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_reports(settings: Settings, query: str, newest: int = 200) -> list[dict]:
    """A query's newest progress reports, oldest first; empty if it has none."""
    path = status_dir(settings) / f"{query}.jsonl"
    lines: list[bytes] = []
    for file in (path, path.with_suffix(".jsonl.1")):
        if len(lines) < newest:
            lines = _last_lines(file, newest - len(lines)) + lines
    reports = []
    for line in lines:
        try:
            report = json.loads(line)
        except ValueError:
            continue  # cut by a crash, or being written
        if isinstance(report, dict):  # and not a number that was cut off
            reports.append(report)
    return reports


def _last_lines(file: Path, count: int) -> list[bytes]:
    """The last lines of a file, without reading much more than them."""
    report_bytes = 4096
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            start = max(0, size - count * report_bytes)
            opened.seek(start)
            lines = opened.read().splitlines()
    except OSError:
        return []
    return lines[1 if start else 0 :][-count:]


def _append(path: Path, reports: list[str]) -> None:
    if not reports:
        return
    if path.exists() and path.stat().st_size > MAX_BYTES:
        path.replace(path.with_suffix(".jsonl.1"))
    # One line a report, whatever white space its JSON has.
    lines = [json.dumps(json.loads(r), separators=(",", ":")) for r in reports]
    with path.open("a") as file:
        file.write("\n".join(lines) + "\n")
