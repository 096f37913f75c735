"""Run the pipeline's queries together, until told to stop or until drained."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import SparkSession
from pyspark.sql.streaming import StreamingQuery

from lib import ingest, score
from lib.checkpoint import exclusive
from lib.clients import ensure_topic
from lib.config import Settings
from lib.errors import FraudError
from lib.heartbeat import publishing
from lib.spark import cause_of

POLL_SECONDS = 0.2
STARTS = {ingest.QUERY: ingest.start, score.QUERY: score.start}
QUERIES = tuple(STARTS)
DRAIN_OFFSETS = 250_000
"""Records per micro-batch when draining: large enough that a batch's fixed cost
doesn't count, small enough for 2 GB of memory."""


class Pipeline:
    """The running queries of one lake.

    Attributes:
        queries: the running ``StreamingQuery`` objects, ingest first.
        records: records that one query has brought to the lake since the start: what
            ingest did, or else score.
    """

    def __init__(
        self,
        spark: SparkSession,
        settings: Settings,
        bootstrap: str,
        *,
        trigger: dict[str, object],
        max_offsets: int | None,
        names: Sequence[str] = QUERIES,
        on_records: Callable[[int], None] | None = None,
    ) -> None:
        self.records = 0
        self._on_records = on_records
        self.queries: list[StreamingQuery] = []
        try:
            for name in names:
                # Each query's jobs in a pool of its own: a long one of one query does
                # not hold up the other.
                spark.sparkContext.setLocalProperty("spark.scheduler.pool", name)
                if "availableNow" in trigger and self._waits_for_ingest(
                    spark, settings, name
                ):
                    self.queries[0].awaitTermination()
                    self.raise_failure()
                query = STARTS[name](
                    spark,
                    settings,
                    bootstrap,
                    trigger=trigger,
                    max_offsets=max_offsets,
                    on_batch=self._count if name == names[0] else _no_count,
                )
                self.queries.append(query)
        except (PySparkException, Py4JError, OSError, DeltaError) as error:
            raise FraudError(f"the stream does not start: {cause_of(error)}") from error
        finally:
            spark.sparkContext.setLocalProperty("spark.scheduler.pool", None)

    def _waits_for_ingest(self, spark, settings: Settings, name: str) -> bool:
        """Whether a drain must be over in bronze before it can be read from there."""
        return (
            name == score.QUERY
            and bool(self.queries)
            and score.reads_bronze(spark, settings)
        )

    def _count(self, _batch_id: int, counts: dict[object, int]) -> None:
        self.records += sum(counts.values())
        if self._on_records:
            self._on_records(self.records)

    def wait(self, stop: threading.Event) -> None:
        """Block until ``stop`` is set, every query has ended, or one has failed.

        Raises:
            FraudError: a query failed; the text is its cause.
        """
        while any(query.isActive for query in self.queries):
            self.raise_failure()
            if stop.wait(POLL_SECONDS):
                return
        self.raise_failure()

    def reached(self, ends: dict[int, int]) -> bool:
        """Whether every query has committed all records before these offsets.

        A query that reads bronze has when nothing is left for it there.
        """
        return all(committed(query, ends) for query in self.queries)

    def raise_failure(self) -> None:
        """Raise FraudError with the cause if a query has failed."""
        for query in self.queries:
            error: StreamingQueryException | None = query.exception()
            if error:
                raise FraudError(
                    f"query {query.name!r} stopped: {cause_of(error)}"
                ) from error


@contextmanager
def _stopping(spark: SparkSession) -> Iterator[None]:
    """Stop the queries that start in the block when it ends, be it by an exception
    while one of them starts; what they had not committed is done again at the next
    start."""
    before = {query.runId for query in spark.streams.active}
    try:
        yield
    finally:
        for query in spark.streams.active:
            if query.name in QUERIES and query.runId not in before:
                query.stop()


def _no_count(_batch_id: int, _counts: dict[object, int]) -> None:
    """The other queries take the same records again."""


def committed(query: StreamingQuery, ends: dict[int, int]) -> bool:
    """Whether the query has committed all records before these offsets."""
    progress = query.lastProgress
    if progress is None:
        return False
    (source,) = progress["sources"]
    reached = source["endOffset"] or {}
    if isinstance(reached, str):
        reached = json.loads(reached)
    if "reservoirVersion" in reached:  # Delta's, not Kafka's
        return not query.status["isDataAvailable"]
    (offsets,) = reached.values() if reached else ({},)
    return all(offsets.get(str(part), 0) >= end for part, end in ends.items())


@contextmanager
def pipeline(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    drain: bool = False,
    trigger: str = "500 milliseconds",
    max_offsets: int | None = None,
    names: Sequence[str] = QUERIES,
    on_records: Callable[[int], None] | None = None,
) -> Iterator[Pipeline]:
    """The queries for as long as the block runs, alone on their checkpoints.

    Args:
        spark: the session.
        settings: topic, lake and checkpoints.
        bootstrap: bootstrap servers.
        drain: take what the topic holds now and end, instead of going on.
        trigger: the processing-time interval, unless draining.
        max_offsets: records per micro-batch at most.
        names: which queries; each has a checkpoint of its own, so that either may
            run without the other.
        on_records: called with the number of records so far after each batch.

    Raises:
        FraudError: another stream has these checkpoints, or a query can't start.
    """
    chosen = {"availableNow": True} if drain else {"processingTime": trigger}
    if drain and max_offsets is None:
        max_offsets = DRAIN_OFFSETS
    with exclusive(settings), _stopping(spark):
        ensure_topic(settings, bootstrap)
        running = Pipeline(
            spark,
            settings,
            bootstrap,
            trigger=chosen,
            max_offsets=max_offsets,
            names=names,
            on_records=on_records,
        )
        with publishing(settings, running.queries):
            yield running


def drain(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    max_offsets: int | None = None,
    names: Sequence[str] = QUERIES,
    timeout: float = 600,
) -> dict[str, float]:
    """Take what the topic holds now into the lake; returns when it is there.

    Returns:
        ``{"records": n, "seconds": s}``.

    Raises:
        FraudError: a query failed, or it took longer than ``timeout`` seconds.
    """
    begun = time.monotonic()
    expired = threading.Event()
    timer = threading.Timer(timeout, expired.set)
    timer.start()
    try:
        with pipeline(
            spark,
            settings,
            bootstrap,
            drain=True,
            max_offsets=max_offsets,
            names=names,
        ) as running:
            running.wait(expired)
    finally:
        timer.cancel()
    if expired.is_set():
        raise FraudError(
            f"the drain took longer than {timeout:g} s ({running.records} records so "
            f"far): see {settings.log_dir / 'spark.log'}"
        )
    return {"records": running.records, "seconds": time.monotonic() - begun}
