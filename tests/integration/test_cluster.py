"""The same commands on three brokers and two Spark workers, one of each killed."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from pyspark.sql import SparkSession

from lib.cli.cluster import BROKERS, WORKERS, Cluster
from lib.datagen.generator import generate, write
from lib.errors import FraudError
from lib.kafka import clients
from lib.kafka.producer import replay
from lib.settings import Settings
from lib.streaming.query import QUERY
from lib.streaming.runner import drain
from tests.integration.helpers import (
    ODD_NAME,
    delta_commits,
    environment,
    eventually,
    finished,
    launch,
    nothing_left_of,
)

pytestmark = pytest.mark.slow

EVENTS, PER_BATCH = 4_000, 2_500
TABLES = ("bronze/tx_events", "silver/transactions", "silver/quarantine")
TABLES = (*TABLES, "silver/scored")
OF_THE_RUN = ("batch", "ingested_at", "kafka_timestamp", "scored_at")
PLACE = ("partition", "offset")
"""Columns that say when and in how many steps a run came to its result, and where:
a record without a key goes to whichever partition its producer fills just then."""


@dataclass(frozen=True)
class Runs:
    """One file, taken by one process and by the cluster."""

    alone: Settings
    clustered: Settings
    sent: dict
    drained: dict
    listening: list[str]
    killed: set[str]
    failed: set[str]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster-events")
    made = generate(
        *(EVENTS, 60, 20, 9),
        duplicates=0.02,
        malformed=0.02,
        conflicts=0.01,
        out_of_order=0.02,
    )
    write(made, folder)
    return folder / "tx_events.jsonl"


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    file: Path,
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("alone")
    alone = replace(
        base_settings,
        topic="tx-alone",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    replay(alone, bootstrap, file)
    drain(spark, alone, bootstrap)

    home = tmp_path_factory.mktemp("cluster-home") / ODD_NAME
    env = environment(home, FRAUD_TOPIC="tx-alone")
    cluster = Cluster(Settings.from_env(env)).start()
    try:
        env |= cluster.environment
        settings = Settings.from_env(env)
        with pytest.raises(FraudError, match="a cluster already runs"):
            Cluster(settings).start()
        broker, sent = _produce_while_a_broker_dies(cluster, settings, file, env)
        listening = _listening(cluster)
        worker, drained = _drain_while_a_worker_dies(cluster, settings, env)
        yield Runs(
            alone,
            settings,
            sent,
            drained,
            listening,
            {broker, worker},
            set(cluster.failed()),
        )
    finally:
        cluster.stop()
    nothing_left_of(home)


def _listening(cluster: Cluster) -> list[str]:
    all_of_them = [*cluster.brokers, *cluster.workers]
    daemons = [psutil.Process(d.pid) for d in all_of_them if d.alive()]
    return [
        connection.laddr.ip
        for daemon in daemons
        for connection in daemon.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def _produce_while_a_broker_dies(cluster, settings: Settings, file: Path, env):
    """Kill the leader of a partition when part of the file is acknowledged."""
    process = launch("produce", file, "--rate", 2000, env=env)

    def acknowledged() -> int:
        return sum(clients.end_offsets(settings, cluster.bootstrap).values())

    eventually(lambda: acknowledged() > EVENTS // 10, "records", acknowledged)
    client = clients.admin(settings, cluster.bootstrap)
    (topic,) = client.describe_topics([settings.topic])
    client.close()
    assert {len(p["isr_nodes"]) for p in topic["partitions"]} == {BROKERS}
    victim = cluster.brokers[topic["partitions"][0]["leader_id"] - 1]
    victim.kill()
    assert process.poll() is None, "the producer had ended before the broker died"
    ran = finished(process)
    assert ran.code == 0, ran.err
    return victim.name, ran.result


def _drain_while_a_worker_dies(cluster, settings: Settings, env):
    """Kill a worker and its executor when a batch is planned and not committed."""
    process = launch("stream", "--drain", "--max-offsets", PER_BATCH, env=env)
    folder = Path(settings.checkpoint(QUERY))

    def batches(kind: str) -> int:
        return sum(path.name.isdigit() for path in (folder / kind).glob("*"))

    def in_the_middle() -> bool:
        return batches("offsets") > batches("commits") > 0 or process.poll() is not None

    eventually(in_the_middle, "a batch after the first", lambda: process.poll())
    cluster.workers[0].kill()
    assert process.poll() is None, process.communicate()
    ran = finished(process)
    assert ran.code == 0, ran.err
    return cluster.workers[0].name, ran.result


def content(spark: SparkSession, settings: Settings, table: str) -> list[tuple]:
    frame = (
        spark.read.format("delta").load(settings.table(table)).drop(*OF_THE_RUN, *PLACE)
    )
    return sorted(map(tuple, frame.collect()), key=repr)


def test_every_record_is_acknowledged_though_a_broker_died(runs: Runs, file: Path):
    lines = len(file.read_bytes().splitlines())
    assert (runs.sent["sent"], runs.sent["acked"]) == (lines, lines)


def test_one_broker_and_one_worker_died_and_the_rest_did_not(runs: Runs):
    assert len(runs.killed) == 2
    assert runs.failed == runs.killed


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_are_those_of_one_process(
    runs: Runs, spark: SparkSession, table: str
):
    alone, clustered = (
        content(spark, settings, table) for settings in (runs.alone, runs.clustered)
    )
    assert len(alone) == len(clustered) > 0
    assert alone == clustered


def test_each_acknowledged_record_is_there_once(runs: Runs, spark: SparkSession):
    bronze = spark.read.format("delta").load(runs.clustered.table("bronze/tx_events"))
    rows = bronze.select(*PLACE).collect()
    ends = clients.end_offsets(runs.clustered, runs.clustered.kafka)

    assert len(rows) == len(set(rows)) == runs.sent["acked"] == sum(ends.values())
    assert runs.drained["records"] == runs.sent["acked"]
    # It was several batches, or nothing would have been in its middle.
    assert len(delta_commits(runs.clustered, "bronze/tx_events")) > 2


def test_it_listens_on_loopback_only(runs: Runs):
    assert len(runs.listening) == 2 * (BROKERS - 1 + WORKERS)
    addresses = map(ipaddress.ip_address, runs.listening)
    mapped = [getattr(a, "ipv4_mapped", None) or a for a in addresses]
    assert [a for a in mapped if not a.is_loopback] == []
