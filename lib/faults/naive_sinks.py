"""The sinks that people write first, and those that hold, all killed by one SIGKILL.

    python -m lib.faults.naive_sinks

Each is a foreachBatch function on the same topic, with a checkpoint of its own. Each
calls ``place.point()`` where a crash hurts it most. ``arm`` on stdin lets every sink
run into its point, and the last one to arrive kills the process group; ``catch-up``
and ``stop`` are as in `lib.faults.pipeline_process`.

A reader's own sink joins them by `add`, before the process starts.
"""

from __future__ import annotations

import json
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from delta import DeltaTable
from pyspark import cloudpickle
from pyspark.sql import DataFrame
from pyspark.sql.streaming import StreamingQuery

from lib.faults.pipeline_process import blow, say
from lib.kafka.broker import bootstrap_servers
from lib.kafka.clients import end_offsets, spark_options
from lib.settings import Settings
from lib.streaming.query import read_topic
from lib.streaming.runner import committed
from lib.streaming.session import FEW_ROWS, spark_session, table_exists

CATCH_UP_SECONDS = 120


@dataclass
class Place:
    """Where a sink writes, and its point.

    Attributes:
        folder: the sink's own folder.
        table: its Delta table.
        topic: for Kafka: the topic that it writes to, and its options.
        point: to be called where a crash hurts.
    """

    folder: Path
    table: str
    topic: dict[str, str] = field(default_factory=dict)
    point: Callable[[], None] = lambda: None


def offset_first(batch: DataFrame, batch_id: int, place: Place) -> None:
    """Notes the batch as done, then writes it: at most once."""
    note = place.folder / f"done-{batch_id}"
    if note.exists():
        return
    note.touch()
    place.point()
    batch.write.format("delta").mode("append").save(place.table)


def plain_append(batch: DataFrame, batch_id: int, place: Place) -> None:
    """Writes, and lets the checkpoint note it afterwards: at least once."""
    batch.write.format("delta").mode("append").save(place.table)
    place.point()


def kafka_to_kafka(batch: DataFrame, batch_id: int, place: Place) -> None:
    """Spark's Kafka sink has no transaction: at least once, by design."""
    batch.select("key", "value").write.format("kafka").options(**place.topic).save()
    place.point()


def append_with_batch_id(batch: DataFrame, batch_id: int, place: Place) -> None:
    """The batch's number goes into the same Delta commit as its rows."""
    (
        batch.write.format("delta")
        .mode("append")
        .option("txnAppId", "append_with_batch_id")
        .option("txnVersion", batch_id)
        .save(place.table)
    )
    place.point()


def merge_on_key(batch: DataFrame, batch_id: int, place: Place) -> None:
    """A row that is there already is not inserted again."""
    table = DeltaTable.forPath(batch.sparkSession, place.table)
    same = "old.partition = new.partition AND old.offset = new.offset"
    (
        table.alias("old")
        .merge(batch.alias("new"), same)
        .whenNotMatchedInsertAll()
        .execute()
    )
    place.point()


SINKS = {
    f.__name__: f
    for f in (
        offset_first,
        plain_append,
        kafka_to_kafka,
        append_with_batch_id,
        merge_on_key,
    )
}


Sink = Callable[[DataFrame, int, Place], None]


def add(settings: Settings, sink: Sink) -> None:
    """Let the next process run this function as well, beside SINKS.

    It goes there as Spark sends functions to its workers: pickled with all that it
    uses of its notebook.
    """
    file = _own_sink(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cloudpickle.dumps(sink))


def failure(settings: Settings, sink: Sink) -> str:
    """The traceback of the error with which an added sink has failed, if it has."""
    file = _failure(place_of(settings, sink.__name__))
    return file.read_text() if file.exists() else ""


def _own_sink(settings: Settings) -> Path:
    return Path(settings.lake).parent / "sinks" / "own.pickle"


def _failure(place: Place) -> Path:
    return place.folder / "failure.txt"


def _sinks(settings: Settings) -> dict[str, Sink]:
    """SINKS, and the one that was added."""
    file = _own_sink(settings)
    if not file.exists():
        return SINKS
    own = pickle.loads(file.read_bytes())
    return SINKS | {own.__name__: _harmless(own)}


def _harmless(sink: Sink) -> Sink:
    """The sink, which can't keep the others from being killed: not by an error, which
    is noted, nor by calling no point."""

    def guarded(batch: DataFrame, batch_id: int, place: Place) -> None:
        try:
            sink(batch, batch_id, place)
        except Exception:
            _failure(place).write_text(traceback.format_exc())
        place.point()  # of a second call the first is the deadly one

    return guarded


class Meeting:
    """Where armed sinks wait for each other; the last to arrive kills them all."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties, action=blow)
        self._armed = threading.Event()

    def arm(self) -> None:
        """From now on a point is deadly."""
        self._armed.set()

    def point(self) -> None:
        """A sink is at its point."""
        if self._armed.is_set():
            self._barrier.wait()


def main() -> None:
    """Run every sink until told to stop, or until they are killed."""
    settings = Settings.from_env()
    sinks = _sinks(settings)
    meeting = Meeting(len(sinks))
    with bootstrap_servers(settings) as bootstrap:
        spark = spark_session(settings, FEW_ROWS, short_lived=True)
        queries = [
            _start(spark, settings, bootstrap, name, sink, meeting)
            for name, sink in sinks.items()
        ]
        say(ready=True)
        for line in sys.stdin:
            command = line.strip()
            if command == "stop":
                break
            if command == "arm":
                meeting.arm()
                say(armed=True)
            if command == "catch-up":
                _catch_up(queries, end_offsets(settings, bootstrap))
                say(caught_up=True)
        else:
            blow()  # the parent process has ended
        for query in queries:
            query.stop()
        spark.stop()


def place_of(settings: Settings, name: str, bootstrap: str = "") -> Place:
    """Where the sink of that name writes."""
    topic = spark_options(settings, bootstrap)
    del topic["subscribe"]
    return Place(
        folder=Path(settings.lake).parent / "sinks" / name,
        table=settings.table(f"sinks/{name}"),
        topic={**topic, "topic": f"{settings.topic}-copy"},
    )


def in_flight(settings: Settings, name: str) -> int:
    """Records of the batch that a killed sink had planned, and not noted as done.

    From its checkpoint: ``offsets/N`` says where batch N ends in each partition, and
    is there before the batch runs; ``commits/N`` is there after it.

    Raises:
        RuntimeError: no batch was in flight.
    """
    checkpoint = Path(settings.checkpoint(f"sinks-{name}"))
    planned, done = (
        max((int(f.name) for f in (checkpoint / kind).glob("[0-9]*")), default=-1)
        for kind in ("offsets", "commits")
    )
    if planned == done:
        raise RuntimeError(f"{name}: batch {done} was the last, and it was done")
    ends = [_planned_end(checkpoint / "offsets" / str(n)) for n in (done, planned)]
    return ends[1] - ends[0]


def _planned_end(file: Path) -> int:
    """Offsets of all partitions together; 0 before the first batch."""
    if not file.exists():
        return 0
    (partitions,) = json.loads(file.read_text().splitlines()[-1]).values()
    return sum(partitions.values())


def _start(
    spark,
    settings: Settings,
    bootstrap: str,
    name: str,
    sink: Sink,
    meeting: Meeting,
) -> StreamingQuery:
    place = place_of(settings, name, bootstrap)
    place.folder.mkdir(parents=True, exist_ok=True)
    place.point = meeting.point
    raw = read_topic(spark, settings, bootstrap)
    if not table_exists(spark, place.table):
        empty = spark.createDataFrame([], raw.schema).coalesce(1)
        empty.write.format("delta").mode("append").save(place.table)
    return (
        raw.writeStream.queryName(name)
        .foreachBatch(lambda batch, batch_id: sink(batch, batch_id, place))
        .option("checkpointLocation", settings.checkpoint(f"sinks-{name}"))
        .trigger(processingTime="200 milliseconds")
        .start()
    )


def _catch_up(queries: list[StreamingQuery], ends: dict[int, int]) -> None:
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while not all(committed(query, ends) for query in queries):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not caught up with {ends}")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
