"""How much a drain takes at once, for how long, and what it says when Spark is gone."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from kafka import TopicPartition
from pyspark.sql import SparkSession

from lib.errors import FraudError
from lib.kafka.clients import admin, end_offsets, ensure_topic
from lib.lake.maintenance import Maintenance
from lib.settings import Settings
from lib.streaming.checkpoint import exclusive
from lib.streaming.rebuild import rebuild
from lib.streaming.runner import drain, pipeline
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import (
    assert_trouble,
    environment,
    eventually,
    finished,
    launch,
    nothing_left_of,
    processes_of,
    run,
    send,
)
from tests.integration.records import ARRIVED_MS, line

MANY, FEW = 400, 3


def payments(first: int, count: int) -> list[tuple[bytes, bytes]]:
    """Valid events of some accounts, each another one."""
    return [
        (f"ACCT_{n % 7}".encode(), line(account_id=f"ACCT_{n % 7}", event_id=f"e-{n}"))
        for n in range(first, first + count)
    ]


def stored(spark: SparkSession, settings: Settings) -> int:
    uri = settings.table("bronze/tx_events")
    return spark.read.format("delta").load(uri).count()


def forget_the_beginning(settings: Settings, bootstrap: str) -> None:
    """Kafka no longer holds what the topic holds now."""
    ends = end_offsets(settings, bootstrap)
    client = admin(settings, bootstrap)
    client.delete_records(
        {TopicPartition(settings.topic, part): end for part, end in ends.items()}
    )
    client.close()


def lose(spark, settings: Settings, bootstrap: str, what: str) -> None:
    """Bring the lake to where a stream must go by bronze."""
    if what == "rebuilt":
        rebuild(spark, settings)
    if what == "lost checkpoint":
        shutil.rmtree(settings.checkpoints)
    if what == "lost topic":
        shutil.rmtree(settings.checkpoints)
        forget_the_beginning(settings, bootstrap)


WAYS = [
    "new",
    "lost checkpoint",
    pytest.param("rebuilt", marks=pytest.mark.slow),
    pytest.param("lost topic", marks=pytest.mark.slow),
]


@pytest.fixture
def begun(spark, settings: Settings, bootstrap: str) -> Settings:
    """A lake that was drained in small batches, so that bronze has many small files."""
    ensure_topic(settings, bootstrap)
    send(settings, bootstrap, payments(0, 12), ARRIVED_MS)
    drain(spark, settings, bootstrap, max_offsets=FEW)
    return settings


def test_nobody_works_on_the_tables_when_a_drain_has_ended(
    spark, settings: Settings, bootstrap: str, monkeypatch: pytest.MonkeyPatch
):
    """What was begun beside its batches has ended: a rebuild, or another stream, that
    comes next would meet it in tables that are not those any more."""
    begun, may_end, done = threading.Event(), threading.Event(), []

    def slow(_self: Maintenance, _compact: bool) -> None:
        begun.set()
        may_end.wait(30)
        done.append(True)

    monkeypatch.setattr(Maintenance, "_look_after", slow)
    ensure_topic(settings, bootstrap)
    send(settings, bootstrap, payments(0, FEW), ARRIVED_MS)
    with pipeline(spark, settings, bootstrap, drain=True) as running:
        running.query.awaitTermination()
        assert begun.wait(30)
        threading.Timer(1, may_end.set).start()

    assert done
    with exclusive(settings):
        pass


@pytest.mark.parametrize("way", WAYS)
def test_a_drain_ends_when_its_time_is_over(
    spark, begun: Settings, bootstrap: str, way: str
):
    """... also where it has to catch up with bronze first; and what it began is done
    by the next one."""
    lose(spark, begun, bootstrap, way)
    send(begun, bootstrap, payments(12, MANY), ARRIVED_MS)

    with pytest.raises(FraudError, match=r"longer than 0\.1 s"):
        drain(spark, begun, bootstrap, max_offsets=1, timeout=0.1)

    assert stored(spark, begun) < 12 + MANY
    drain(spark, begun, bootstrap)
    assert stored(spark, begun) == 12 + MANY
    assert reconcile(spark, begun, bootstrap).differences == []


@pytest.mark.parametrize("way", WAYS)
def test_no_batch_is_larger_than_it_may_be(
    spark, begun: Settings, bootstrap: str, way: str
):
    lose(spark, begun, bootstrap, way)
    send(begun, bootstrap, payments(12, 9), ARRIVED_MS)

    with pipeline(spark, begun, bootstrap, drain=True, max_offsets=FEW) as running:
        running.wait(threading.Event())
        queries = getattr(running, "queries", None) or [running.query]
        reads = [[r.numInputRows for r in query.recentProgress] for query in queries]

    assert [sum(of_one) >= 9 for of_one in reads] == [True] * len(queries)
    assert max(max(of_one) for of_one in reads) <= FEW
    assert reconcile(spark, begun, bootstrap).differences == []


# -- Spark's memory -----------------------------------------------------------------

HEAP = "512m"  # the least that Spark takes
LARGE, MEGABYTE = 350, 1_000_000


def beside(settings: Settings, bootstrap: str, home: Path, **more: str) -> dict:
    """The environment of a command that works on the test's topic and lake."""
    return environment(
        home,
        FRAUD_KAFKA=bootstrap,
        FRAUD_TOPIC=settings.topic,
        FRAUD_LAKE=settings.lake,
        FRAUD_CHECKPOINTS=settings.checkpoints,
        **more,
    )


def large(first: int, count: int) -> list[tuple[bytes, bytes]]:
    """Payments of a megabyte each."""
    note = "x" * MEGABYTE
    return [
        (b"ACCT_1", line(account_id="ACCT_1", event_id=f"e-{n}", note=note))
        for n in range(first, first + count)
    ]


@pytest.mark.slow
def test_records_of_a_megabyte_in_a_small_heap(
    spark, settings: Settings, bootstrap: str, tmp_path: Path
):
    """More of them than the JVM has memory, with a limit of records and without."""
    home = tmp_path / "home"
    # The one variable that is stronger than what Spark tells its JVM.
    env = beside(settings, bootstrap, home, _JAVA_OPTIONS=f"-Xmx{HEAP}")
    ensure_topic(settings, bootstrap)
    send(settings, bootstrap, large(0, LARGE), ARRIVED_MS)
    whole = run("stream", "--drain", env=env)
    assert whole.code == 0, whole.err
    assert whole.result["records"] == LARGE

    send(settings, bootstrap, large(LARGE, LARGE), ARRIVED_MS)
    limited = run("stream", "--drain", "--max-offsets", 10 * LARGE, env=env)
    assert limited.code == 0, limited.err
    assert limited.result["records"] == LARGE

    books = reconcile(spark, settings, bootstrap)
    assert books.differences == []
    assert books.counts["transactions"] == 2 * LARGE


def test_a_jvm_that_died_is_named(settings: Settings, bootstrap: str, tmp_path: Path):
    home = tmp_path / "home"
    ensure_topic(settings, bootstrap)
    send(settings, bootstrap, payments(0, 5), ARRIVED_MS)
    stream = launch("stream", env=beside(settings, bootstrap, home))
    bronze = Path(settings.table("bronze/tx_events"))
    eventually(
        lambda: list(bronze.glob("*.parquet")) or stream.poll() is not None,
        "the stream takes the records",
        lambda: sorted(map(str, home.rglob("*.log"))),
    )
    assert stream.poll() is None, stream.communicate()
    main = "org.apache.spark.deploy.SparkSubmit"
    (jvm,) = [p for p in processes_of(home) if main in p.cmdline()]
    jvm.kill()

    assert_trouble(finished(stream), "JVM", "died", str(home))
    nothing_left_of(home)
