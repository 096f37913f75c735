"""A broker behind locked doors: who may do what, and what nobody may."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    KafkaError,
    TopicAuthorizationFailedError,
)
from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.kafka import clients, java_properties
from lib.kafka.broker import Broker
from lib.kafka.producer import make_producer, replay
from lib.kafka.security import PRODUCER, SPARK, BrokerKeys
from lib.settings import Settings
from lib.streaming.runner import drain
from lib.streaming.session import cause_of
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import ODD_NAME, processes_of
from tests.integration.records import line, written

MERCHANTS = (
    "<script>alert(1)</script>",
    '=HYPERLINK("http://evil.example","Starbucks")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "\x1b[2J\x07",
)
HOSTILE = {
    "a 10 MB event": (line(note="x" * 10_000_000), None),
    "10 MB of nothing": (b"x" * 10_000_000, "malformed_json"),
    "nested 10,000 deep": (
        line()[:-1] + b',"x":' + b'{"y":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
        "malformed_json",
    ),
    "1e308": (written("amount", "1e308"), "bad_amount"),
    "NUL bytes": (b"\x00" * 100, "malformed_json"),
}


@dataclass(frozen=True)
class Doors:
    """A secured broker; ``settings`` are those of somebody without any key."""

    settings: Settings
    broker: Broker

    def as_(self, principal: str) -> Settings:
        keys = self.broker.locks.client_file(principal)
        return replace(self.settings, kafka_properties=keys)

    @property
    def bootstrap(self) -> str:
        return self.broker.bootstrap


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Doors:
    home = tmp_path_factory.mktemp("secured-home") / ODD_NAME
    settings = Settings.from_env(
        {"FRAUD_HOME": str(home), "FRAUD_SPARK_MASTER": "local[2]"}
    )
    broker = Broker(settings, secured=True).start()
    yield Doors(settings, broker)
    broker.close()


@pytest.fixture(scope="module")
def lake(doors: Doors, spark: SparkSession, tmp_path_factory) -> Settings:
    """Hostile records sent by the producer, drained by Spark, each with its own key
    file; nothing else differs from a run on the open broker."""
    file = tmp_path_factory.mktemp("hostile") / "records"
    merchants = [
        line(event_id=f"m-{i}", merchant=name) for i, name in enumerate(MERCHANTS)
    ]
    values = [value for value, _ in HOSTILE.values()] + merchants
    file.write_bytes(b"\n".join(values) + b"\n")
    sent = replay(doors.as_(PRODUCER), doors.bootstrap, file)
    assert sent.acked == len(values)
    drain(spark, doors.as_(SPARK), doors.bootstrap)
    return doors.as_(SPARK)


def consume_one(settings: Settings, bootstrap: str):
    consumer = KafkaConsumer(
        **clients.python_options(settings, bootstrap),
        group_id=None,
        auto_offset_reset="earliest",
    )
    try:
        parts = clients.end_offsets(settings, bootstrap)
        consumer.assign([TopicPartition(settings.topic, p) for p in parts])
        return consumer.poll(timeout_ms=5000)
    finally:
        consumer.close()


def produce_one(settings: Settings, bootstrap: str, topic: str):
    producer = make_producer(settings, bootstrap)
    try:
        return producer.send(topic, key=b"k", value=b"v").get(timeout=20)
    finally:
        producer.close(timeout=0)


# -- who may what -----------------------------------------------------------------


@pytest.mark.usefixtures("lake")
def test_the_producer_writes_and_reads_nothing(doors: Doors):
    producer = doors.as_(PRODUCER)

    with pytest.raises(TopicAuthorizationFailedError, match="tx-events"):
        consume_one(producer, doors.bootstrap)
    with pytest.raises(
        FraudError, match=r"TopicAuthorizationFailed.*ask for the right"
    ):
        clients.ensure_topic(replace(producer, topic="other"), doors.bootstrap)


def test_spark_reads_and_writes_nothing(doors: Doors, lake: Settings):
    assert consume_one(lake, doors.bootstrap)
    # Its idempotent producer is refused before it has a record to send.
    with pytest.raises(KafkaError, match="AuthorizationFailedError"):
        produce_one(lake, doors.bootstrap, lake.topic)


def test_spark_with_the_producers_key_is_denied_by_name(
    doors: Doors, lake: Settings, spark: SparkSession, tmp_path: Path
):
    wrong = replace(
        doors.as_(PRODUCER),
        lake=str(tmp_path / "lake"),
        checkpoints=str(tmp_path / "checkpoints"),
    )

    with pytest.raises(FraudError, match=r"not authorized to read .* topic tx-"):
        drain(spark, wrong, doors.bootstrap)


def stranger(doors: Doors, folder: Path, old: str = "", new: str = "") -> Settings:
    """Somebody with Spark's key file, but for one thing; without ``old``: with none."""
    keys = doors.broker.locks.client_file(SPARK).read_text()
    assert old in keys
    file = folder / "stranger.properties"
    file.write_text(keys.replace(old, new) if old else "")
    return replace(doors.settings, kafka_properties=file)


def written(path: Path) -> str:
    """The path as a properties file has it."""
    return java_properties.line("x", path).partition("=")[2].strip()


def test_nobody_else_gets_in(
    doors: Doors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(clients, "REACH_SECONDS", 2)
    others = BrokerKeys(tmp_path / "others")
    others.make()
    ours = doors.broker.locks.truststore
    for change, message in (
        ((), "no Kafka broker answers"),
        (('rd="', 'rd="not'), "check|correct"),
        (
            (written(ours), written(others.truststore)),
            "CERTIFICATE_VERIFY_FAILED.*correct",
        ),
    ):
        settings = stranger(doors, tmp_path, *change)
        with pytest.raises(FraudError, match=f"({message}).*FRAUD_KAFKA_PROPERTIES"):
            clients.ensure_topic(settings, doors.bootstrap)


@pytest.mark.parametrize(
    "change", [('rd="', 'rd="not'), ('name="spark"', 'name="nobody"')]
)
def test_a_wrong_password_or_name_is_told_by_java_in_these_words(
    doors: Doors, spark: SparkSession, tmp_path: Path, change: tuple[str, str]
):
    settings = stranger(doors, tmp_path, *change)
    options = clients.spark_options(settings, doors.bootstrap)

    with pytest.raises(Exception, match=r"Kafka") as caught:
        spark.read.format("kafka").options(**options).load().count()

    assert cause_of(caught.value).endswith(
        "SaslAuthenticationException: Authentication failed during authentication "
        "due to invalid credentials with SASL mechanism SCRAM-SHA-512"
    )


def test_the_controllers_port_wants_the_brokers_certificate(doors: Doors):
    ports = json.loads(
        (doors.settings.home / "broker-secured" / "ports.json").read_text()
    )
    context = ssl.create_default_context(cafile=doors.broker.locks.truststore)
    with (
        socket.create_connection(("127.0.0.1", ports[1]), timeout=20) as raw,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        _talk(context, raw)


def _talk(context: ssl.SSLContext, raw: socket.socket) -> None:
    """TLS 1.3 tells a client of its missing certificate at the first read only."""
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as client:
        client.sendall(b"\x00" * 8)
        if client.recv(1) == b"":
            raise ConnectionResetError


# -- what is left behind ------------------------------------------------------------


def test_it_listens_on_loopback_only(doors: Doors):
    listening = [
        ipaddress.ip_address(c.laddr.ip)
        for process in processes_of(doors.settings.home / "broker-secured")
        for c in process.net_connections(kind="inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening
    mapped = [getattr(a, "ipv4_mapped", None) or a for a in listening]
    assert [a for a in mapped if not a.is_loopback] == []


def test_spark_listens_on_loopback_only(lake: Settings):
    listening = [
        ipaddress.ip_address(c.laddr.ip)
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for c in process.net_connections(kind="inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening
    mapped = [getattr(a, "ipv4_mapped", None) or a for a in listening]
    assert [a for a in mapped if not a.is_loopback] == []


def test_keys_are_their_owners_alone(doors: Doors):
    folder = doors.settings.home / "broker-secured"
    assert folder.stat().st_mode & 0o077 == 0
    for path in doors.broker.locks.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_no_password_and_no_account_leaves_the_keys(doors: Doors, lake: Settings):
    passwords = json.loads((doors.broker.locks.folder / "passwords.json").read_text())
    places = [lake.log_dir, Path(lake.checkpoints), Path(lake.lake)]
    seen = 0
    for place in places:
        for path in filter(Path.is_file, place.rglob("*")):
            content, seen = path.read_bytes(), seen + 1
            for password in passwords.values():
                assert password.encode() not in content, path
            # The lake and the query's state hold the accounts: they are data.
            if place != places[2] and "state" not in path.parts:
                assert b"ACCT_1" not in content, path
    assert seen > 10
    commands = [" ".join(p.cmdline()) for p in processes_of(doors.settings.home)]
    assert commands
    for password in passwords.values():
        assert not [c for c in commands if password in c]


# -- hostile records ------------------------------------------------------------------


def test_hostile_records_are_stored_or_quarantined(
    doors: Doors, lake: Settings, spark: SparkSession
):
    quarantine = spark.read.format("delta").load(lake.table("silver/quarantine"))
    silver = spark.read.format("delta").load(lake.table("silver/transactions"))

    reasons = sorted(r.reason for r in quarantine.select("reason").collect())
    assert reasons == sorted(reason for _, reason in HOSTILE.values() if reason)
    merchants = {r.merchant for r in silver.select("merchant").collect()}
    assert merchants == {"Starbucks", *MERCHANTS}  # as they came, each letter
    books = reconcile(spark, lake, doors.bootstrap)
    assert books.balanced, books.differences
    assert books.counts["kafka"] == len(HOSTILE) + len(MERCHANTS)
