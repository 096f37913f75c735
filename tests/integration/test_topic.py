"""The topic must be the one that the lake was made of, read committed only, and its
senders must not choose the time."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from lib.errors import FraudError
from lib.kafka.clients import (
    AHEAD_MS,
    MOST_AHEAD_MS,
    admin,
    demand_bounded_timestamps,
    end_offsets,
    ensure_topic,
    topic_identity,
)
from lib.settings import Settings
from lib.streaming.query import QUERY
from lib.streaming.runner import drain
from lib.verify.expected_lake import topic_records
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import copied, eventually, lake, send
from tests.integration.records import ARRIVED_MS, line

HOUR_MS = 3_600_000


@contextmanager
def client(settings: Settings, bootstrap: str) -> Iterator:
    opened = admin(settings, bootstrap)
    try:
        yield opened
    finally:
        opened.close()


def sent(settings: Settings, bootstrap: str, *names: str) -> None:
    ensure_topic(settings, bootstrap)
    pairs = [(b"ACCT_1", line(event_id=name)) for name in names]
    send(settings, bootstrap, pairs, ARRIVED_MS)


def made_again(settings: Settings, bootstrap: str) -> None:
    """Delete the topic, and make one of the same name."""
    before = topic_identity(settings, bootstrap)
    with client(settings, bootstrap) as admin:
        admin.delete_topics([settings.topic])
        eventually(
            lambda: settings.topic not in admin.list_topics(), "the topic is gone"
        )
    ensure_topic(settings, bootstrap)
    assert topic_identity(settings, bootstrap).topic_id != before.topic_id


def refused(spark, settings: Settings, bootstrap: str) -> str:
    """What a start says that must say one line, and write nothing."""

    def files() -> list[str]:
        return sorted(str(path) for path in Path(settings.lake).rglob("*"))

    before = files()
    with pytest.raises(FraudError) as caught:
        drain(spark, settings, bootstrap)
    assert "\n" not in str(caught.value)
    assert files() == before
    return str(caught.value)


# -- the same log -----------------------------------------------------------------


@pytest.fixture(scope="module")
def three(spark, base_settings: Settings, bootstrap: str, tmp_path_factory) -> Settings:
    """Three events, drained. To be looked at; harm a copy of it."""
    folder = tmp_path_factory.mktemp("three")
    settings = replace(
        base_settings,
        topic="tx-three",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    sent(settings, bootstrap, "e-1", "e-2", "e-3")
    assert drain(spark, settings, bootstrap)["records"] == 3
    return settings


def forget_the_topic(settings: Settings) -> None:
    """Make the checkpoints what they were before they noted their topic."""
    for query in (QUERY,):
        (Path(settings.checkpoint(query)) / "topic").unlink()


@pytest.mark.parametrize("state", ["noted", "not noted", "lost checkpoints"])
def test_a_topic_made_again_is_refused(
    spark, settings: Settings, bootstrap: str, state: str
):
    """... although it holds more than the old one did: the stream would skip some."""
    sent(settings, bootstrap, "e-1", "e-2")
    drain(spark, settings, bootstrap)
    made_again(settings, bootstrap)
    sent(settings, bootstrap, "f-1", "f-2", "f-3", "f-4")
    if state == "not noted":
        forget_the_topic(settings)
    if state == "lost checkpoints":
        shutil.rmtree(settings.checkpoints)

    said = refused(spark, settings, bootstrap)

    assert settings.topic in said
    if state == "noted":
        assert "deleted and made again" in said
    books = reconcile(spark, settings, bootstrap)
    assert books.counts["different_in_kafka"] == 2
    assert books.counts["not_in_bronze"] == 2
    assert "2 bronze rows hold other bytes than their Kafka record" in books.differences


def test_an_emptied_topic_is_refused(spark, three, bootstrap: str, tmp_path: Path):
    settings = replace(copied(three, tmp_path), topic="tx-four")
    for query in (QUERY,):  # as if the lake had been made of this one
        for file in (Path(settings.checkpoint(query)) / "offsets").iterdir():
            if file.name.isdigit():
                file.write_text(file.read_text().replace("tx-three", "tx-four"))
                file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
    forget_the_topic(settings)
    ensure_topic(settings, bootstrap)

    assert "ends at offset 0" in refused(spark, settings, bootstrap)


def test_another_cluster_is_refused(spark, three, bootstrap: str, tmp_path: Path):
    settings = copied(three, tmp_path)
    note = Path(settings.checkpoint(QUERY)) / "topic"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"cluster": "other"}))
    note.with_name(".topic.crc").unlink(missing_ok=True)

    assert "is in another cluster" in refused(spark, settings, bootstrap)


def test_another_topic_on_the_same_lake(spark, three, bootstrap: str, tmp_path: Path):
    """... has nothing to do with retention."""
    other = replace(copied(three, tmp_path), topic="tx-five")
    sent(other, bootstrap, "e-1", "e-2", "e-3", "e-4")

    for known in (True, False):
        if not known:
            forget_the_topic(other)
        said = refused(spark, other, bootstrap)
        assert "belongs to the topic tx-three, and FRAUD_TOPIC is tx-five" in said
        assert "retention" not in said


def test_a_checkpoint_of_earlier_days_goes_on(
    spark, three, bootstrap: str, tmp_path: Path
):
    settings = copied(three, tmp_path)
    forget_the_topic(settings)

    assert drain(spark, settings, bootstrap)["records"] == 0

    assert lake(spark, settings) == lake(spark, three)
    for query in (QUERY,):
        note = json.loads((Path(settings.checkpoint(query)) / "topic").read_text())
        assert note["name"] == settings.topic


def test_the_same_offsets_and_a_null_that_moved(
    spark, settings: Settings, bootstrap: str
):
    """A digest must tell a null from no bytes, and a key from a value."""
    pairs = [(None, b"a"), (b"a", None), (b"", b"b"), (b"c", b"")]
    ensure_topic(settings, bootstrap)
    positions = send(settings, bootstrap, pairs, ARRIVED_MS)
    drain(spark, settings, bootstrap)
    assert reconcile(spark, settings, bootstrap).differences == []
    made_again(settings, bootstrap)
    with client(settings, bootstrap) as opened:
        assert opened.list_topics()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    moved = [(b"a", None), (None, b"a"), (None, b"b"), (b"c", None)]
    for (partition, offset), (key, value) in sorted(
        zip(positions, moved, strict=True), key=lambda pair: pair[0]
    ):
        stored = producer.send(settings.topic, value, key, partition=partition)
        assert stored.get(60).offset == offset
    producer.close()

    books = reconcile(spark, settings, bootstrap)

    assert books.counts["different_in_kafka"] == len(pairs)


# -- committed records ------------------------------------------------------------


@contextmanager
def transaction(settings: Settings, bootstrap: str, *names: str) -> Iterator:
    """An open transaction with these events of one account."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=f"{settings.topic}-{names[0]}"
    )
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for name in names:
            value = line(event_id=name)
            producer.send(
                settings.topic, value, b"ACCT_1", timestamp_ms=ARRIVED_MS, partition=0
            )
        producer.flush(60)
        yield producer
    finally:
        producer.close(timeout=5)


def test_an_aborted_transaction_is_no_record(
    spark, settings: Settings, bootstrap: str, tmp_path: Path
):
    """... whatever the client's file says; and one that is open is not waited for."""
    file = tmp_path / "client.properties"
    file.write_text("isolation.level=read_uncommitted\n")
    settings = replace(settings, kafka_properties=file)
    ensure_topic(settings, bootstrap)
    with transaction(settings, bootstrap, "aborted-1", "aborted-2") as producer:
        producer.abort_transaction()
    with transaction(settings, bootstrap, "e-1", "e-2") as producer:
        producer.commit_transaction()
    # Two markers, the last one at the end.
    eventually(
        lambda: end_offsets(settings, bootstrap)[0] == 6, "the markers are written"
    )

    assert drain(spark, settings, bootstrap)["records"] == 2
    books = reconcile(spark, settings, bootstrap)
    assert books.differences == []
    assert books.counts["kafka"] == books.counts["bronze"] == 2
    assert [record.offset for record in topic_records(settings, bootstrap)] == [3, 4]
    assert drain(spark, settings, bootstrap)["records"] == 0

    with transaction(settings, bootstrap, "e-3") as producer:
        sent(settings, bootstrap, "e-4")  # on another partition, or behind it
        waiting = end_offsets(settings, bootstrap)[0]
        assert waiting == 6
        drain(spark, settings, bootstrap)
        assert reconcile(spark, settings, bootstrap).differences == []
        producer.commit_transaction()
    eventually(lambda: end_offsets(settings, bootstrap)[0] > 6, "it is committed")

    drain(spark, settings, bootstrap)
    books = reconcile(spark, settings, bootstrap)
    assert books.differences == []
    assert books.counts["transactions"] == 4


# -- timestamps -------------------------------------------------------------------


def configure(settings: Settings, bootstrap: str, **values: str) -> None:
    named = {key.replace("_", "."): value for key, value in values.items()}
    with client(settings, bootstrap) as opened:
        opened.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, settings.topic, named)]
        )


def test_nobody_stamps_our_topics_far_ahead(settings: Settings, bootstrap: str):
    ensure_topic(settings, bootstrap)
    ahead = int(time.time() * 1000) + 2 * AHEAD_MS

    with pytest.raises(KafkaError, match=r"[Tt]imestamp"):
        send(settings, bootstrap, [(b"ACCT_1", line())], ahead)

    demand_bounded_timestamps(settings, bootstrap)
    assert sum(end_offsets(settings, bootstrap).values()) == 0


def test_a_topic_whose_senders_choose_the_time_is_refused(
    spark, settings: Settings, bootstrap: str
):
    sent(settings, bootstrap, "e-1")
    configure(settings, bootstrap, message_timestamp_after_max_ms=str(2**63 - 1))

    said = refused(spark, settings, bootstrap)

    command = "--add-config message.timestamp.after.max.ms=300000"
    assert f"kafka-configs.sh --bootstrap-server {bootstrap} --alter" in said
    assert f"--topic {settings.topic} {command}" in said

    configure(settings, bootstrap, message_timestamp_after_max_ms=str(HOUR_MS))
    assert MOST_AHEAD_MS == HOUR_MS  # what an untouched topic of Kafka 4 has
    demand_bounded_timestamps(settings, bootstrap)
    configure(
        settings,
        bootstrap,
        message_timestamp_after_max_ms=str(2**63 - 1),
        message_timestamp_type="LogAppendTime",
    )
    assert drain(spark, settings, bootstrap)["records"] == 1
