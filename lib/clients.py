"""One Kafka properties file for two clients: Spark's (Java) and kafka-python."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    TopicAlreadyExistsError,
)

from lib.config import Settings
from lib.errors import FraudError
from lib.logs import MaskingFormatter

TOPIC_PARTITIONS = 4
"""Partitions of a topic that we create: two a core on a small machine, so that a
group of consumers has room to grow without moving an account to another one."""

MAX_RECORD_BYTES = 32 * 1024 * 1024
"""Largest record the embedded broker takes; a reader's odd file shall not stop it."""

REACH_SECONDS = 15

_PYTHON_NAMES = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "ssl.endpoint.identification.algorithm": "ssl_check_hostname",
    "ssl.truststore.location": "ssl_cafile",
    "ssl.keystore.location": "ssl_certfile",
    "ssl.key.password": "ssl_password",
}


def read_properties(path: Path | None) -> dict[str, str]:
    """A Java properties file as a dict (``key=value``, ``#`` comments, ``\\`` joins).

    Raises:
        FraudError: the file can't be read.
    """
    if path is None:
        return {}
    try:
        text = path.read_text()
    except OSError as error:
        raise FraudError(
            f"can't read FRAUD_KAFKA_PROPERTIES {path}: {error.strerror}"
        ) from error
    joined = re.sub(r"\\\r?\n\s*", "", text)
    pairs = {}
    for line in map(str.strip, joined.splitlines()):
        if line and line[0] not in "#!":
            key, _, value = line.partition("=")
            pairs[key.strip()] = value.strip()
    return pairs


def spark_options(settings: Settings, bootstrap: str) -> dict[str, str]:
    """Options of Spark's Kafka source: every property behind ``kafka.``."""
    properties = read_properties(settings.kafka_properties)
    return {
        **{f"kafka.{key}": value for key, value in properties.items()},
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
            new = {settings.topic: {"num_partitions": TOPIC_PARTITIONS}}
            client.create_topics(new, wait_for_metadata=True)
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


def end_offsets(settings: Settings, bootstrap: str) -> dict[int, int]:
    """The next offset of every partition of the topic; empty if there is no topic."""
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
        found = client.list_partition_offsets(asked)
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
