"""Replay a file into Kafka: idempotent, keyed, at a rate or as fast as it can."""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaProducer
from kafka.errors import KafkaConfigurationError, KafkaError, KafkaTimeoutError
from kafka.partitioner.default import DefaultPartitioner
from kafka.producer.future import FutureRecordMetadata

from lib.errors import FraudError
from lib.events.card_event import account_key
from lib.kafka.clients import (
    MAX_RECORD_BYTES,
    ensure_topic,
    python_options,
    quiet_client_log,
)
from lib.settings import Settings

IN_FLIGHT = 50_000
"""Records sent and not yet acknowledged at most: kafka-python itself would take the
whole file into memory."""

KEYS_REMEMBERED = 100_000
FLUSH_SECONDS = 120
STOP_SECONDS = 3
"""How long to wait for an acknowledgement, and how long once told to stop."""

POLL_SECONDS = 0.2
_FAST = {"linger_ms": 20, "batch_size": 256 * 1024}


class _Remembering(DefaultPartitioner):
    """Kafka's own choice of a partition by the key's hash, made once per key.

    In Python the hash is a tenth of a record's cost, and an account comes again.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes, int], int] = {}

    def partition(self, topic, key, serialized_key, value, serialized_value, cluster):
        asked = topic, serialized_key, len(cluster.partitions_for_topic(topic) or ())
        found = self._known.get(asked)
        if found is None:
            found = super().partition(
                topic, key, serialized_key, value, serialized_value, cluster
            )
            if serialized_key is not None and len(self._known) < KEYS_REMEMBERED:
                self._known[asked] = found
        return found


@dataclass(frozen=True)
class Sent:
    """What became of a replay.

    Attributes:
        sent: records handed to the client.
        acked: records that the broker has acknowledged (acks=all).
        seconds: from the first record to the last acknowledgement.
    """

    sent: int
    acked: int
    seconds: float


def make_producer(settings: Settings, bootstrap: str, **options) -> KafkaProducer:
    """A producer whose retries can't double or reorder a record.

    ``enable_idempotence`` numbers the batches, so the broker drops a batch that it
    has already; ``acks="all"`` waits for every in-sync replica.

    Raises:
        FraudError: no broker answers.
        KafkaConfigurationError: the options contradict each other.
    """
    quiet_client_log(settings)
    try:
        return KafkaProducer(
            **{
                **python_options(settings, bootstrap),
                "acks": "all",
                "enable_idempotence": True,
                "max_request_size": MAX_RECORD_BYTES,
                "reconnect_backoff_max_ms": 1000,
                **options,
            }
        )
    except KafkaConfigurationError:
        raise
    except (KafkaError, ValueError, OSError) as error:
        raise FraudError(
            f"no Kafka broker answers at {bootstrap} ({error}): check FRAUD_KAFKA"
        ) from error


def replay(
    settings: Settings,
    bootstrap: str,
    path: Path,
    *,
    rate: float | None = None,
    stop: threading.Event | None = None,
    on_acked: Callable[[int], None] = lambda _n: None,
) -> Sent:
    """Send each line of a file as one record, in file order per key.

    With a rate the loop is open: record *i* is due *i*/rate seconds after the start,
    whatever became of the others. A slow broker so shows up as latency, and not as
    a politely slower producer.

    Args:
        settings: topic and client properties.
        bootstrap: bootstrap servers.
        path: a file of lines; an empty line is an empty value.
        rate: records per second; None for as fast as it can.
        stop: set it to end early; what was sent is still flushed.
        on_acked: called now and then with the number of acknowledged records.

    Raises:
        FraudError: the file or the broker can't be used, or a record was refused.
    """
    stop = stop or threading.Event()
    with _opened(path) as file, _rare_collections():
        ensure_topic(settings, bootstrap)
        fast = {} if rate else {**_FAST, "partitioner": _Remembering()}
        producer = make_producer(settings, bootstrap, **fast)
        acks = _Acks(stop)
        # The client learns of the topic at the first send; before the clock starts,
        # or the first records would leave in a burst.
        producer.partitions_for(settings.topic)
        begun = time.monotonic()
        try:
            for index, line in enumerate(_lines(file, path)):
                if rate and stop.wait(
                    max(0.0, begun + index / rate - time.monotonic())
                ):
                    break
                if stop.is_set() or acks.error:
                    break
                _send(producer, settings.topic, line, acks)
                if index % 1000 == 0 or rate:
                    acks.wait_below(IN_FLIGHT)
                    on_acked(acks.acked)
        finally:
            # Also when a line is too long: those before it were handed over.
            acks.wait_below(0)
            _close(producer)
    on_acked(acks.acked)
    if acks.error and not stop.is_set():
        raise FraudError(
            f"{acks.sent - acks.acked} of {acks.sent} records were not "
            f"acknowledged ({acks.error}): see {settings.log_dir}/kafka-client.log"
        )
    return Sent(acks.sent, acks.acked, time.monotonic() - begun)


class _Acks:
    """Counts of one replay, and the records that are on their way, oldest first.

    The client's thread marks a record's future as done; a callback of each, with a
    lock to count under, would cost a twentieth of the rate.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.sent = 0
        self.acked = 0
        self._stop = stop
        self.error: BaseException | None = None
        self._on_their_way: deque[FutureRecordMetadata] = deque()

    def add(self, future: FutureRecordMetadata) -> None:
        """A record was handed to the client."""
        self.sent += 1
        self._on_their_way.append(future)

    def fail(self, error: BaseException) -> None:
        """Something went wrong; the first is what will be told."""
        self.error = self.error or error

    def wait_below(self, in_flight: int) -> None:
        """Count what is done; then wait until at most so many are on their way."""
        since = time.monotonic()
        while waiting := self._on_their_way:
            first = waiting[0]
            if not first.is_done:
                if len(waiting) <= in_flight:
                    return
                with suppress(KafkaError):  # told below
                    first.get(POLL_SECONDS)
            if not first.is_done:
                patience = STOP_SECONDS if self._stop.is_set() else FLUSH_SECONDS
                if time.monotonic() - since > patience:
                    self.fail(TimeoutError(f"no acknowledgement for {patience} s"))
                    return
                continue
            waiting.popleft()
            since = time.monotonic()
            if first.exception is None:
                self.acked += 1
            else:
                self.fail(first.exception)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Python's garbage collector comes by for every few hundred new objects, and the
    records on their way are a long walk that finds nothing: a sixth of the rate."""
    before = gc.get_threshold()
    gc.set_threshold(2 * IN_FLIGHT, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _send(producer: KafkaProducer, topic: str, line: bytes, acks: _Acks) -> None:
    try:
        acks.add(producer.send(topic, value=line, key=account_key(line)))
    except (KafkaError, AssertionError) as error:
        acks.fail(error)


def _close(producer: KafkaProducer) -> None:
    """Close the client, and give up what the broker has not acknowledged by now."""
    try:
        producer.close(timeout=0)
    except KafkaTimeoutError:
        # It has refused to close, and would again, aloud, when it is collected.
        producer._sender.force_close()
        producer._sender.join(STOP_SECONDS)
        with suppress(KafkaTimeoutError):
            producer.close(timeout=0)


def _opened(path: Path):
    try:
        return path.open("rb")
    except OSError as error:
        raise FraudError(
            f"can't read {path} ({error.strerror}): name a file of JSON lines, e.g. "
            "fixtures/tx_events.jsonl"
        ) from error


def _lines(file, path: Path) -> Iterator[bytes]:
    """The lines without their line feed, byte for byte."""
    number = 0
    largest = MAX_RECORD_BYTES - 4096  # room for the key and the protocol's header
    while line := file.readline(largest + 1):
        number += 1
        if len(line) > largest:
            raise FraudError(
                f"line {number} of {path} is longer than {largest} bytes, the largest "
                f"record: split it; the {number - 1} lines before it were sent"
            )
        yield line.removesuffix(b"\n")
