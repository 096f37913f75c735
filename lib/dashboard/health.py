"""How the stream is: from its own reports, its checkpoints and the broker's answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from lib.errors import FraudError
from lib.settings import Settings, local_path
from lib.streaming.heartbeat import Beat, read_beat, read_reports
from lib.streaming.progress import progress_frame

ASK_SECONDS = 5.0
"""How often the broker is asked where its topic ends."""

NOT_ASKED = "not asked yet"
_REPORTS = 20


@dataclass(frozen=True)
class Query:
    """One query's newest report.

    Attributes:
        name: as the heartbeat has it.
        batch_id: its last batch.
        batch_ms: what that batch took, milliseconds.
        watermark_delay_s: newest event time of that batch less the watermark; None
            if it has no watermark yet.
        state_rows: rows in its state.
        state_bytes: memory of its state.
        committed: partition → next offset of the topic that it will read; None if it
            reads something else, as a query that is told history again from bronze.
        busy: whether it took records at its last look.
    """

    name: str
    batch_id: int
    batch_ms: int
    watermark_delay_s: float | None
    state_rows: int
    state_bytes: int
    committed: Mapping[int, int] | None
    busy: bool


@dataclass(frozen=True)
class Health:
    """The stream at one moment.

    Attributes:
        beat: its heartbeat; None if it never ran here.
        down_since: when it was last known to run, seconds since the epoch; None if it
            runs or never ran.
        queries: name → its newest report; what has not reported yet is missing.
        ends: partition → next offset of the topic.
        broker_trouble: why the broker does not tell; empty if it does.
    """

    beat: Beat | None
    down_since: float | None
    queries: Mapping[str, Query]
    ends: Mapping[int, int]
    broker_trouble: str

    def lag(self, query: str) -> dict[int, int] | None:
        """Partition → records in the topic that the query has not committed; None if
        it does not read the topic."""
        known = self.queries.get(query)
        committed = known.committed if known else {}
        if committed is None:
            return None
        return {
            part: max(0, end - committed.get(part, 0))
            for part, end in sorted(self.ends.items())
        }

    @property
    def behind(self) -> int | None:
        """Records that some query has not committed yet; None if unknown."""
        lags = [lag for name in self.queries if (lag := self.lag(name)) is not None]
        if not self.ends or not lags:
            return None
        return max(sum(lag.values()) for lag in lags)

    @property
    def committed(self) -> dict[int, int]:
        """Partition → next offset of the query that is furthest; empty if unknown."""
        found: dict[int, int] = {}
        for query in self.queries.values():
            found = _later(found, query.committed or {})
        return found

    @property
    def catching_up(self) -> bool:
        """Whether a query whose lag nobody knows still finds something to do."""
        return any(q.committed is None and q.busy for q in self.queries.values())


def look(settings: Settings, topic_ends: TopicEnds, now: float) -> Health:
    """The stream's health at ``now``, seconds since the epoch."""
    beat = read_beat(settings)
    queries, spark_ends = {}, {}
    for name in beat.queries if beat else ():
        reports = read_reports(settings, name, _REPORTS)
        if reports:
            queries[name] = _query(settings, name, reports)
            latest = _offsets(reports[-1], "latestOffset", settings.topic)
            spark_ends = _later(spark_ends, latest or {})
    asked, trouble = topic_ends.newest()
    return Health(
        beat=beat,
        down_since=beat.down_since(now) if beat else None,
        queries=queries,
        ends=_later(asked, spark_ends),
        broker_trouble=trouble,
    )


def committed_offsets(settings: Settings, query: str) -> dict[int, int]:
    """Partition → next offset, from the query's checkpoint: of its last batch that
    is marked as committed. Empty if there is none, or it isn't a local folder."""
    folder = local_path(settings.checkpoint(query))
    if folder is None:
        return {}
    try:
        done = [int(p.name) for p in (folder / "commits").iterdir() if p.name.isdigit()]
        return _read_offsets(folder / "offsets" / str(max(done)), settings.topic)
    except (OSError, ValueError, IndexError):
        return {}


def _read_offsets(file: Path, topic: str) -> dict[int, int]:
    # Spark's offset log: a version, the batch's metadata, then a line a source.
    lines = file.read_text().splitlines()
    return {int(p): n for p, n in json.loads(lines[2]).get(topic, {}).items()}


def _query(settings: Settings, name: str, reports: list[dict]) -> Query:
    worked = [r for r in reports if r.get("numInputRows")] or reports
    newest = worked[-1]
    times = newest.get("eventTime") or {}
    row = progress_frame([newest]).iloc[0]
    known = row["watermark"] is not None and row["watermark"] == row["watermark"]
    delay = None
    if known and times.get("max"):
        delay = _seconds(times["max"]) - row["watermark"].timestamp()
    committed = _offsets(reports[-1], "endOffset", settings.topic)
    if committed is not None:
        committed = committed_offsets(settings, name) or committed
    return Query(
        name=name,
        batch_id=int(row["batch_id"]),
        batch_ms=int(row["batch_ms"]),
        watermark_delay_s=delay,
        state_rows=int(row["state_rows"]),
        state_bytes=int(row["state_bytes"]),
        committed=committed,
        busy=bool(reports[-1].get("numInputRows")),
    )


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _offsets(report: dict, which: str, topic: str) -> dict[int, int] | None:
    """Partition → offset of the topic in a report; empty if it tells none, None if
    its source is something else, as a Delta table."""
    found: dict[int, int] = {}
    for source in report.get("sources") or []:
        offsets = source.get(which)
        if isinstance(offsets, str):
            offsets = json.loads(offsets)
        if not offsets:
            continue
        if not isinstance(offsets, dict) or topic not in offsets:
            return None
        found |= {int(part): end for part, end in offsets[topic].items()}
    return found


def _later(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {p: max(one.get(p, 0), other.get(p, 0)) for p in {*one, *other}}


class TopicEnds:
    """Asks the broker where the topic ends, in a thread: it may take its time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._answer: tuple[dict[int, int], str] = ({}, NOT_ASKED)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ends", daemon=True)

    def start(self) -> TopicEnds:
        """Ask now and then from now on."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ask no more."""
        self._end.set()

    def newest(self) -> tuple[dict[int, int], str]:
        """Partition → next offset, and why there is no answer (empty if there is)."""
        return self._answer

    def _run(self) -> None:
        while not self._end.is_set():
            self._answer = self._ask()
            self._end.wait(ASK_SECONDS)

    def _ask(self) -> tuple[dict[int, int], str]:
        from lib.kafka.broker import running_bootstrap
        from lib.kafka.clients import end_offsets

        bootstrap = self._settings.kafka or running_bootstrap(self._settings)
        if not bootstrap:
            return {}, "no broker runs for this home"
        try:
            return end_offsets(self._settings, bootstrap), ""
        except FraudError as error:
            return {}, str(error)
        except Exception as error:  # whatever it is, the thread goes on asking
            return {}, f"{error!r:.200}"


def age_text(seconds: float) -> str:
    """A duration in words, e.g. ``3 min``."""
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def clock_text(at: float) -> str:
    """A moment as local clock time, with the date if it is not today's."""
    moment, today = time.localtime(at), time.localtime()
    same = (moment.tm_year, moment.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M:%S" if same else "%Y-%m-%d %H:%M:%S", moment)
