"""One Kafka properties file for two clients: Spark's (Java) and kafka-python."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    TopicAlreadyExistsError,
)

from lib.errors import FraudError
from lib.events.log_masking import MaskingFormatter
from lib.kafka import java_properties
from lib.settings import Settings

TOPIC_PARTITIONS = 4
"""Partitions of a topic that we create: two a core on a small machine, so that a
group of consumers has room to grow without moving an account to another one."""

MAX_RECORD_BYTES = 32 * 1024 * 1024
"""Largest record the embedded broker takes; a reader's odd file must not stop it."""

REACH_SECONDS = 15
READ_SECONDS = 60

AHEAD_MS = 300_000
"""How far ahead of the broker's clock a sender may stamp a record in a topic that we
create: the five minutes that an event may be ahead of its record."""

MOST_AHEAD_MS = 3_600_000
"""... and in any topic that the stream reads: what an untouched topic of Kafka 4 has.
An account's events are late for as long as one stamp was ahead, so an hour harms one
sender's account for an hour. Without a bound (Kafka 3) one record of the year 2099
would do so for good, and nothing in the record tells it from an honest one."""

_READ_COMMITTED = "read_committed"
_STAMP_TYPE = "message.timestamp.type"
_STAMP_BOUNDS = (
    "message.timestamp.after.max.ms",
    "message.timestamp.difference.max.ms",  # before Kafka 3.6: both ways
)

_PYTHON_NAMES = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "ssl.endpoint.identification.algorithm": "ssl_check_hostname",
    "ssl.truststore.location": "ssl_cafile",
    "ssl.keystore.location": "ssl_certfile",
    "ssl.key.password": "ssl_password",
}


def read_properties(path: Path | None) -> dict[str, str]:
    """A Java properties file as a dict, see `lib.kafka.java_properties`.

    Raises:
        FraudError: the file can't be read.
    """
    if path is None:
        return {}
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FraudError(
            f"can't read FRAUD_KAFKA_PROPERTIES {path}: {error.strerror}"
        ) from error
    try:
        return java_properties.parse(content.decode())
    except UnicodeDecodeError:
        return java_properties.parse(content.decode("iso-8859-1"))


def spark_options(settings: Settings, bootstrap: str) -> dict[str, str]:
    """Options of Spark's Kafka source: every property behind ``kafka.``.

    What an aborted transaction has sent is never read, whatever the file says.
    """
    properties = read_properties(settings.kafka_properties)
    return {
        **{f"kafka.{key}": value for key, value in properties.items()},
        "kafka.isolation.level": _READ_COMMITTED,
        "kafka.bootstrap.servers": bootstrap,
        "subscribe": settings.topic,
    }


def python_options(settings: Settings, bootstrap: str) -> dict[str, object]:
    """The same properties as arguments of a kafka-python client.

    Raises:
        FraudError: a security property has no counterpart in kafka-python.
    """
    options: dict[str, object] = {"bootstrap_servers": bootstrap.split(",")}
    properties = read_properties(settings.kafka_properties)
    for key, value in properties.items():
        if key == "sasl.jaas.config":
            for ours, theirs in (("username", "username"), ("password", "password")):
                found = re.search(rf'{theirs}\s*=\s*"?([^"\s;]+)', value)
                options[f"sasl_plain_{ours}"] = found.group(1) if found else None
        elif key == "ssl.endpoint.identification.algorithm":
            options["ssl_check_hostname"] = bool(value)
        elif key in _PYTHON_NAMES:
            options[_PYTHON_NAMES[key]] = value
        elif key in ("ssl.truststore.type", "ssl.keystore.type"):
            if value.upper() != "PEM":
                raise FraudError(
                    f"{key}={value} in {settings.kafka_properties}: the producer "
                    "reads PEM only; convert the store and set the type to PEM"
                )
        elif key.startswith(("ssl.", "sasl.")):
            raise FraudError(
                f"{key} in {settings.kafka_properties} has no counterpart in the "
                "producer's client: remove it"
            )
    return options


def admin(settings: Settings, bootstrap: str) -> KafkaAdminClient:
    """An admin client of a broker that answers.

    Raises:
        FraudError: no broker answers within REACH_SECONDS, or it refuses the client.
    """
    quiet_client_log(settings)
    with _last_trouble() as trouble:
        try:
            return KafkaAdminClient(
                **python_options(settings, bootstrap),
                bootstrap_timeout_ms=REACH_SECONDS * 1000,
            )
        except (KafkaError, ValueError, OSError) as error:
            reason = trouble.error or error
            if _is_distrust(reason):
                raise FraudError(
                    f"the Kafka broker at {bootstrap} and this client do not trust "
                    f"each other ({reason}): correct FRAUD_KAFKA_PROPERTIES"
                ) from error
            also = " and FRAUD_KAFKA_PROPERTIES" if settings.kafka_properties else ""
            raise FraudError(
                f"no Kafka broker answers at {bootstrap} ({reason}): check "
                f"FRAUD_KAFKA{also}, or unset it to use the embedded broker"
            ) from error


def ensure_topic(settings: Settings, bootstrap: str) -> int:
    """Create the topic if it is missing; returns its number of partitions.

    Raises:
        FraudError: the broker can't be reached or does not allow it.
    """
    client = admin(settings, bootstrap)
    try:
        if settings.topic not in client.list_topics():
            shape = {
                "num_partitions": TOPIC_PARTITIONS,
                "configs": {_STAMP_BOUNDS[0]: str(AHEAD_MS)},
            }
            client.create_topics({settings.topic: shape}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        pass  # another command of this home was a moment faster
    except KafkaError as error:
        raise FraudError(
            f"the topic {settings.topic} can't be created at {bootstrap} ({error}): "
            "create it or ask for the right to"
        ) from error
    finally:
        client.close()
    return len(end_offsets(settings, bootstrap))


@dataclass(frozen=True)
class TopicIdentity:
    """What makes a topic this one and no other: a name can be given again.

    Attributes:
        name: the topic's name.
        topic_id: the id that Kafka gave it; empty before Kafka 2.8.
        cluster: the cluster's id.
    """

    name: str
    topic_id: str
    cluster: str


def topic_identity(settings: Settings, bootstrap: str) -> TopicIdentity:
    """Which log ``FRAUD_TOPIC`` is now.

    Raises:
        FraudError: there is no such topic, or the broker does not answer.
    """
    client = admin(settings, bootstrap)
    try:
        cluster = client.describe_cluster()["cluster_id"]
        if settings.topic not in client.list_topics():
            raise FraudError(
                f"there is no topic {settings.topic} at {bootstrap}: correct "
                "FRAUD_TOPIC, or send something with `python -m lib produce`"
            )
        (topic,) = client.describe_topics([settings.topic])
    except KafkaError as error:
        raise FraudError(
            f"the broker at {bootstrap} does not say what the topic "
            f"{settings.topic} is ({error})"
        ) from error
    finally:
        client.close()
    return TopicIdentity(settings.topic, str(topic["topic_id"] or ""), str(cluster))


def demand_bounded_timestamps(settings: Settings, bootstrap: str) -> None:
    """Refuse a topic whose senders may stamp a record far ahead.

    An event is future if it is ahead of its record's timestamp; so that timestamp must
    be one that its sender can't choose freely. The time of day can't decide instead:
    a replay would decide otherwise.

    Raises:
        FraudError: they may, or this client may not know.
    """
    client = admin(settings, bootstrap)
    topic = settings.topic
    try:
        asked = ConfigResource(ConfigResourceType.TOPIC, topic)
        found = client.describe_configs([asked], config_filter="all")
    except KafkaError as error:
        raise FraudError(
            f"the broker at {bootstrap} does not tell the settings of {topic} ({error})"
        ) from error
    finally:
        client.close()
    values = {k: v["value"] for k, v in found.get("topic", {}).get(topic, {}).items()}
    if values.get(_STAMP_TYPE) == "LogAppendTime":
        return
    key = next((key for key in _STAMP_BOUNDS if key in values), None)
    if key is None:
        raise FraudError(
            f"this client is not authorized to read the settings of the topic {topic}, "
            "which say how far ahead a sender may stamp a record: name another one in "
            "FRAUD_KAFKA_PROPERTIES, or allow this one DESCRIBE_CONFIGS on the topic"
        )
    if int(values[key]) > MOST_AHEAD_MS:
        raise FraudError(
            f"senders may stamp a record of the topic {topic} years ahead ({key} is "
            f"{values[key]}), and one such record makes its account's later events "
            f"late: kafka-configs.sh --bootstrap-server {bootstrap} --alter --topic "
            f"{topic} --add-config {key}={AHEAD_MS}"
        )


def end_offsets(settings: Settings, bootstrap: str) -> dict[int, int]:
    """The offset behind the last committed record of every partition; empty if there
    is no topic.

    It is Kafka's last stable offset: what stands behind it belongs to a transaction
    that is still open, and nobody may read it yet.
    """
    return _offsets(settings, bootstrap, OffsetSpec.LATEST)


def begin_offsets(settings: Settings, bootstrap: str) -> dict[int, int]:
    """The first offset that every partition still holds."""
    return _offsets(settings, bootstrap, OffsetSpec.EARLIEST)


def _offsets(settings: Settings, bootstrap: str, spec: OffsetSpec) -> dict[int, int]:
    client = admin(settings, bootstrap)
    try:
        if settings.topic not in client.list_topics():
            return {}
        (topic,) = client.describe_topics([settings.topic])
        parts = sorted(p["partition_index"] for p in topic["partitions"])
        asked = {TopicPartition(settings.topic, part): spec for part in parts}
        found = client.list_partition_offsets(asked, isolation_level=_READ_COMMITTED)
        return {tp.partition: found[tp].offset for tp in asked}
    except KafkaError as error:
        raise FraudError(
            f"the broker at {bootstrap} does not tell the offsets of "
            f"{settings.topic} ({error})"
        ) from error
    finally:
        client.close()


def record_bytes(settings: Settings, bootstrap: str) -> float | None:
    """Bytes that a record of the topic takes in the broker's log, on average.

    None if the topic is empty or the broker does not tell.
    """
    begins, ends = (f(settings, bootstrap) for f in (begin_offsets, end_offsets))
    records = sum(ends.values()) - sum(begins.values())
    client = admin(settings, bootstrap)
    try:
        described = client.describe_log_dirs([settings.topic])
    except KafkaError:
        return None  # it takes a right that a reader of the topic need not have
    finally:
        client.close()
    sizes: dict[int, int] = {}  # the largest replica of each partition
    for folder in (each for broker in described for each in broker["log_dirs"]):
        for topic in folder["topics"]:
            for part in topic["partitions"]:
                number, size = part["partition_index"], part["partition_size"]
                sizes[number] = max(sizes.get(number, 0), size)
    return sum(sizes.values()) / records if records and sizes else None


def committed_records(
    settings: Settings,
    bootstrap: str,
    spans: Mapping[int, tuple[int, int]],
    **options: object,
) -> Iterator[ConsumerRecord]:
    """The topic's committed data records at these offsets, each partition's in order.

    Offsets without a record (those of transaction markers, of aborted transactions
    and of compaction) are passed over.

    Args:
        settings: topic and client properties.
        bootstrap: bootstrap servers.
        spans: partition → first offset and the offset behind the last; neither before
            ``begin_offsets`` nor behind ``end_offsets``.
        options: further ones of kafka-python's consumer.

    Raises:
        FraudError: a partition is silent for READ_SECONDS, or an offset is not there.
    """
    ends = {
        TopicPartition(settings.topic, part): end
        for part, (first, end) in spans.items()
        if first < end
    }
    if not ends:
        return
    usual = {
        "isolation_level": _READ_COMMITTED,
        "auto_offset_reset": "none",
        "enable_auto_commit": False,
        "group_id": None,
    }
    options = python_options(settings, bootstrap) | usual | options
    consumer = KafkaConsumer(**options)
    try:
        consumer.assign(list(ends))
        for part in ends:
            consumer.seek(part, spans[part.partition][0])
        silent_since = time.monotonic()
        while ends:
            for part, records in consumer.poll(timeout_ms=200).items():
                silent_since = time.monotonic()
                yield from (r for r in records if r.offset < ends.get(part, 0))
            # A position, and not a record: the last offset may be a marker's.
            for part in [p for p in ends if consumer.position(p) >= ends[p]]:
                del ends[part]
                consumer.pause(part)
                silent_since = time.monotonic()
            if time.monotonic() - silent_since > READ_SECONDS:
                parts = sorted(part.partition for part in ends)
                raise FraudError(f"partitions {parts} do not tell all they hold")
    except KafkaError as error:
        raise FraudError(
            f"the records of {settings.topic} can't be read at {bootstrap} ({error})"
        ) from error
    finally:
        consumer.close()


def quiet_client_log(settings: Settings) -> None:
    """Send kafka-python's log to a file: a client that waits for a broker warns at
    every try, and Python would print that to the terminal."""
    logger = logging.getLogger("kafka")
    if not any(isinstance(h, logging.FileHandler) for h in logger.handlers):
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(settings.log_dir / "kafka-client.log", delay=True)
        handler.setFormatter(MaskingFormatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


class _Trouble(logging.Handler):
    """Remembers the last exception that the client logged, and a refusal for good:
    the next try may end in a mere timeout."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args if isinstance(record.args, tuple) else ():
            idle = isinstance(argument, KafkaTimeoutError) or _is_distrust(self.error)
            if isinstance(argument, BaseException) and not idle:
                self.error = argument


def _is_distrust(error: BaseException | None) -> bool:
    """Whether one side refused the other's password or certificate."""
    refused = isinstance(error, SaslAuthenticationFailedError)
    return refused or "CERTIFICATE_VERIFY_FAILED" in str(error)


@contextmanager
def _last_trouble() -> Iterator[_Trouble]:
    """What kafka-python says about a broker that it can't use: its exception tells
    only that the time is up, its log tells why."""
    logger, trouble = logging.getLogger("kafka"), _Trouble(logging.WARNING)
    logger.addHandler(trouble)
    try:
        yield trouble
    finally:
        logger.removeHandler(trouble)
