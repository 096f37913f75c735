"""Run the query until told to stop, or until the topic is drained."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import SparkSession
from pyspark.sql.streaming import StreamingQuery

from lib.errors import FraudError
from lib.kafka.clients import ensure_topic, record_bytes
from lib.settings import Settings
from lib.streaming import query
from lib.streaming.checkpoint import exclusive
from lib.streaming.heartbeat import publishing
from lib.streaming.session import cause_of

POLL_SECONDS = 0.2
ARRIVAL_POLL_SECONDS = 0.05
AT_ONCE = "0 seconds"
"""The default trigger: the next micro-batch begins as soon as there is data."""

BATCH_RECORDS = 500_000
"""Records per micro-batch at most, if nobody says otherwise: large enough that a
batch's fixed cost doesn't count, small enough for 2 GB of memory."""

BATCH_BYTES = 512 * 2**20
"""What a micro-batch may take of the broker's log, by the topic's average record."""


class Pipeline:
    """The running query of one lake.

    Attributes:
        query: the running ``StreamingQuery``.
        records: records that it has brought to the lake since the start.
    """

    def __init__(
        self,
        spark: SparkSession,
        settings: Settings,
        bootstrap: str,
        *,
        trigger: dict[str, object],
        at_end: ExitStack,
        max_offsets: int | None,
        on_records: Callable[[int], None] | None = None,
    ) -> None:
        self.records = 0
        self._on_records = on_records
        try:
            self.query = query.start(
                spark,
                settings,
                bootstrap,
                trigger=trigger,
                at_end=at_end,
                max_offsets=max_offsets,
                on_batch=self._count,
            )
        except (PySparkException, Py4JError, OSError, DeltaError) as error:
            raise FraudError(f"the stream does not start: {cause_of(error)}") from error

    def _count(self, _batch_id: int, records: int) -> None:
        self.records += records
        if self._on_records:
            self._on_records(self.records)

    def wait(self, stop: threading.Event) -> None:
        """Block until ``stop`` is set, or the query has ended or failed.

        Raises:
            FraudError: the query failed; the text is its cause.
        """
        while self.query.isActive:
            self.raise_failure()
            if stop.wait(POLL_SECONDS):
                return
        self.raise_failure()

    def reached(self, ends: dict[int, int]) -> bool:
        """Whether the query has committed all records before these offsets."""
        return committed(self.query, ends)

    def wait_until(self, ends: dict[int, int], seconds: float) -> bool:
        """Block until `reached`; False if that takes longer than so many seconds.

        Raises:
            FraudError: the query failed; the text is its cause.
        """
        deadline = time.monotonic() + seconds
        while not self.reached(ends):
            self.raise_failure()
            if time.monotonic() > deadline:
                return False
            time.sleep(ARRIVAL_POLL_SECONDS)
        return True

    def raise_failure(self) -> None:
        """Raise FraudError with the cause if the query has failed."""
        error: StreamingQueryException | None = self.query.exception()
        if error:
            raise FraudError(
                f"query {self.query.name!r} stopped: {cause_of(error)}"
            ) from error


@contextmanager
def _stopping(spark: SparkSession) -> Iterator[None]:
    """Stop the query that starts in the block when it ends, be it by an exception
    while it starts; what it had not committed is done again at the next start."""
    before = {each.runId for each in spark.streams.active}
    try:
        yield
    finally:
        for each in spark.streams.active:
            if each.name == query.QUERY and each.runId not in before:
                each.stop()


def committed(query: StreamingQuery, ends: dict[int, int]) -> bool:
    """Whether the query has committed all records before these offsets."""
    progress = query.lastProgress
    if progress is None:
        return False
    (source,) = progress["sources"]
    reached = source["endOffset"] or {}
    if isinstance(reached, str):
        reached = json.loads(reached)
    (offsets,) = reached.values() if reached else ({},)
    return all(offsets.get(str(part), 0) >= end for part, end in ends.items())


def batch_records(settings: Settings, bootstrap: str) -> int:
    """How many records a micro-batch may have, so that its payload is bounded, too."""
    size = record_bytes(settings, bootstrap)
    if size is None:
        return BATCH_RECORDS
    return max(1, min(BATCH_RECORDS, int(BATCH_BYTES / size)))


@contextmanager
def pipeline(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    drain: bool = False,
    trigger: str = AT_ONCE,
    max_offsets: int | None = None,
    on_records: Callable[[int], None] | None = None,
) -> Iterator[Pipeline]:
    """The query for as long as the block runs, alone on its checkpoint.

    Args:
        spark: the session.
        settings: topic, lake and checkpoints.
        bootstrap: bootstrap servers.
        drain: take what the topic holds now and end, instead of going on.
        trigger: the processing-time interval, unless draining.
        max_offsets: records per micro-batch at most; None for `batch_records`.
        on_records: called with the number of records so far after each batch.

    Raises:
        FraudError: another stream has this checkpoint, or the query can't start.
    """
    chosen = {"availableNow": True} if drain else {"processingTime": trigger}
    # In this order at the end: the query stops, who works beside it ends, and only then
    # another one may come.
    with exclusive(settings), ExitStack() as at_end, _stopping(spark):
        ensure_topic(settings, bootstrap)
        max_offsets = max_offsets or batch_records(settings, bootstrap)
        running = Pipeline(
            spark,
            settings,
            bootstrap,
            trigger=chosen,
            at_end=at_end,
            max_offsets=max_offsets,
            on_records=on_records,
        )
        with publishing(settings, [running.query]):
            yield running


def drain(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    max_offsets: int | None = None,
    timeout: float = 600,
) -> dict[str, float]:
    """Take what the topic holds now into the lake; returns when it is there.

    Returns:
        ``{"records": n, "seconds": s}``.

    Raises:
        FraudError: the query failed, or it took longer than ``timeout`` seconds.
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
