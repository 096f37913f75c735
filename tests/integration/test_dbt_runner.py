"""The marts on a lake whose right answers are known, in quiet times and in trouble."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from delta import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from lib.errors import FraudError
from lib.kafka.clients import ensure_topic
from lib.marts import dbt_runner
from lib.marts.dbt_report import Marts
from lib.marts.spark_catalog import SOURCES
from lib.settings import ROOT, Settings
from lib.streaming.runner import drain
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import (
    ODD_NAME,
    another_installation,
    environment,
    eventually,
    run,
    send,
)
from tests.integration.marts_lake import FIRST, SCORED, Payment, Writer
from tests.integration.records import ARRIVED_MS, line
from tests.integration.thrift_server import thrift_server

KEY = ("account_id", "event_id")
BATCH_SECONDS = 6.0


@pytest.fixture(scope="module")
def settings(base_settings: Settings, tmp_path_factory) -> Settings:
    home = tmp_path_factory.mktemp("marts-home")
    return replace(base_settings, home=home, lake=str(home / "lake"))


@pytest.fixture(scope="module")
def writer(spark: SparkSession, settings: Settings) -> Writer:
    made = Writer(spark, settings)
    made.send(FIRST)
    made.refuse(b"no JSON")
    made.repeat(FIRST[0])
    return made


@pytest.fixture(scope="module")
def first(spark: SparkSession, settings: Settings, writer: Writer) -> Marts:
    """The whole project built on the first events."""
    return dbt_runner.build(spark, settings)


@pytest.fixture
def copy(first, settings: Settings, tmp_path: Path) -> Settings:
    """A copy of the lake with its marts, free to be harmed; in an odd folder."""
    lake = tmp_path / ODD_NAME / "lake"
    shutil.copytree(settings.lake, lake)
    return replace(settings, lake=str(lake))


def gold(spark: SparkSession, settings: Settings, mart: str) -> DataFrame:
    return spark.read.format("delta").load(settings.table(f"gold/{mart}"))


def by_key(frame: DataFrame) -> dict[tuple, dict]:
    return {(row.account_id, row.event_id): row.asDict() for row in frame.collect()}


def versions(spark: SparkSession, settings: Settings) -> dict[str, int]:
    found = {}
    for name in dbt_runner.mart_names():
        table = DeltaTable.forPath(spark, settings.table(f"gold/{name}"))
        found[name] = table.history(1).first().version
    return found


def kept_in_memory(spark: SparkSession) -> list[str]:
    names = [table.replace("/", ".") for table in SOURCES]
    names += [f"gold.{mart}" for mart in dbt_runner.mart_names()]
    return [
        name
        for name in names
        if spark.catalog.tableExists(name) and spark.catalog.isCached(name)
    ]


# -- what is in the marts -----------------------------------------------------------


def test_every_model_and_every_test(spark: SparkSession, first: Marts):
    assert first.failures == []
    assert kept_in_memory(spark) == []
    said = first.as_dict()
    assert said["models"] == len(dbt_runner.mart_names()) + 4  # and staging
    assert said["tests"] > 30
    assert (said["failures"], said["skipped"], said["warnings"]) == (0, 0, 0)
    kinds = set(first.nodes["kind"])
    assert {"model", "test", "unit_test", "snapshot"} <= kinds
    assert set(first.freshness) == {"silver/transactions", "silver/scored"}


@pytest.mark.usefixtures("first")
def test_the_accounts(spark: SparkSession, settings: Settings):
    rows = {r.account_id: r for r in gold(spark, settings, "dim_account").collect()}

    assert {a: r.risk_band for a, r in rows.items()} == {
        "ACCT_1": "high",  # two detectors
        "ACCT_2": "medium",
        "ACCT_3": "low",
    }
    one = rows["ACCT_1"]
    assert (one.transactions, one.amount_total) == (3, Decimal("30.37"))
    assert (one.velocity_alerts, one.geo_alerts, one.amount_alerts) == (1, 1, 0)
    assert (one.home_country, one.countries) == ("US", 2)
    assert one.last_seen - one.first_seen == timedelta(minutes=2)
    three = rows["ACCT_3"]
    assert (three.home_country, three.late_transactions) == ("ES", 1)


@pytest.mark.usefixtures("first")
def test_the_alerts_and_the_books(spark: SparkSession, settings: Settings):
    alerts = gold(spark, settings, "fct_alerts").select(*KEY, "detector").collect()
    books = gold(spark, settings, "mart_reconciliation").first()

    expected = {(p.account_id, p.event_id, d) for p in FIRST for d in p.fired}
    assert sorted(map(tuple, alerts)) == sorted(expected)
    assert books.sent == len(FIRST) + 2
    assert (books.transactions, books.quarantined) == (len(FIRST), 1)
    assert (books.duplicates, books.in_flight, books.late) == (1, 0, 1)


@pytest.mark.usefixtures("first")
def test_nothing_is_written_but_under_the_home(settings: Settings):
    for name in ("target", "logs", "dbt_packages", "metastore_db", "spark-warehouse"):
        assert not (ROOT / name).exists()
        assert not (ROOT / "dbt" / name).exists()
    assert (dbt_runner.target_folder(settings) / "manifest.json").exists()
    assert (settings.log_dir / "dbt" / "dbt.log").exists()


# -- what a second run does ---------------------------------------------------------


def test_only_late_and_revised_rows_change(spark: SparkSession, copy: Settings):
    before = by_key(gold(spark, copy, "fct_transactions"))
    accounts = gold(spark, copy, "dim_account").collect()
    writer = Writer(spark, copy, first=100)
    late = Payment("ACCT_1", "e0", -9000, "1.00", late=True)
    writer.send([late], scored_at=SCORED + timedelta(minutes=1))
    unscored = Payment("ACCT_4", "e1", 0, "1.00")
    writer.send([unscored], scored_at=SCORED - timedelta(days=9))
    writer.revise(
        replace(FIRST[1], fired=("geo",)), scored_at=SCORED + timedelta(minutes=1)
    )

    marts = ["fct_transactions", "fct_alerts", "dim_account"]
    built = dbt_runner.build(spark, copy, select=marts, command="run")

    assert built.failures == []
    after = by_key(gold(spark, copy, "fct_transactions"))
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {("ACCT_1", "e0"), ("ACCT_1", "e2"), ("ACCT_4", "e1")}
    assert set(before) <= set(after)
    assert after["ACCT_1", "e2"]["is_velocity"] is False
    # The alert that the correction took back is gone.
    alerts = gold(spark, copy, "fct_alerts").where("account_id = 'ACCT_1'").collect()
    assert [(a.event_id, a.detector) for a in alerts] == [("e2", "geo")]
    # And the accounts that had no news were left alone.
    idle = [row for row in accounts if row.account_id in ("ACCT_2", "ACCT_3")]
    now = {row.account_id: row for row in gold(spark, copy, "dim_account").collect()}
    assert [now[row.account_id] for row in idle] == idle
    assert now["ACCT_1"].transactions == 4


@pytest.fixture
def traffic(spark: SparkSession, copy: Settings) -> Iterator[list[int]]:
    """Somebody who writes into the copy batch after batch, until the test is over."""
    writer, over, sent = Writer(spark, copy, first=100), threading.Event(), [0]
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while not over.wait(BATCH_SECONDS):
                name = f"live-{sent[0]}"
                payment = Payment("ACCT_1", name, sent[0], "1.00", fired=("geo",))
                writer.send([payment], scored_at=SCORED + timedelta(seconds=sent[0]))
                sent[0] += 1
        except BaseException as error:  # shown below
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    yield sent
    over.set()
    thread.join()
    assert failures == []


def test_a_new_process_goes_on_while_the_stream_writes(
    spark: SparkSession, copy: Settings, traffic: list[int], tmp_path: Path
):
    others = another_installation(tmp_path)
    env = environment(tmp_path / ODD_NAME, FRAUD_LAKE=copy.lake, **others)
    eventually(lambda: traffic[0] > 0, "something new", lambda: traffic)

    ran = run("marts", env=env)

    assert ran.code == 0, ran.err
    assert ran.result["failures"] == 0
    assert ran.result["models"] > 0
    assert traffic[0] > 3, "nothing was written meanwhile"
    table = DeltaTable.forPath(spark, copy.table("gold/fct_transactions"))
    last = table.history(1).first()
    assert last.operation == "MERGE"  # and not built anew
    assert int(last.operationMetrics["numTargetRowsUpdated"]) == 0
    books = gold(spark, copy, "mart_reconciliation").first()
    assert books.transactions > len(FIRST)
    assert books.sent == (
        books.transactions + books.quarantined + books.duplicates + books.in_flight
    )


@pytest.mark.slow
def test_the_same_project_on_a_thrift_server(spark: SparkSession, copy: Settings):
    before = {name: content(spark, copy, name) for name in dbt_runner.mart_names()}
    shutil.rmtree(Path(copy.lake) / "gold")

    with thrift_server(spark, copy) as port:
        built = dbt_runner.build(
            spark,
            copy,
            kinds=["model", "snapshot"],
            target="thrift",
            variables={"thrift_port": port},
        )

    assert built.failures == []
    assert {name: content(spark, copy, name) for name in before} == before


def content(spark: SparkSession, settings: Settings, mart: str) -> list[tuple]:
    """A mart's rows, without what names the run that made them."""
    frame = gold(spark, settings, mart)
    theirs = re.compile("dbt_|loaded_at|checked_at")
    ours = [c for c in frame.columns if not theirs.match(c)]
    return sorted(map(tuple, frame.select(*ours).collect()), key=repr)


# -- trouble ------------------------------------------------------------------------


def test_no_lake_yet(spark: SparkSession, settings: Settings, tmp_path: Path):
    nowhere = replace(settings, lake=str(tmp_path / "nowhere"))

    with pytest.raises(FraudError, match=r"stg_\w+: there is no table .* stream"):
        dbt_runner.build(spark, nowhere)

    assert not (tmp_path / "nowhere").exists()


def test_a_source_that_lost_a_column(spark: SparkSession, copy: Settings):
    before = versions(spark, copy)
    uri = copy.table("silver/scored")
    frame = spark.read.format("delta").load(uri).drop("revision").localCheckpoint()
    frame.write.format("delta").mode("overwrite").option(
        "overwriteSchema", "true"
    ).save(uri)

    with pytest.raises(
        FraudError, match=r"stg_scores: silver/scored has no .*revision"
    ):
        dbt_runner.build(spark, copy)

    assert versions(spark, copy) == before


def test_a_model_in_error_leaves_the_marts_as_they_were(
    spark: SparkSession, copy: Settings, tmp_path: Path
):
    project = tmp_path / "project"
    shutil.copytree(dbt_runner.PROJECT, project)
    model = project / "models" / "marts" / "fct_alerts.sql"
    model.write_text(model.read_text().replace("        revision,\n", ""))
    Writer(spark, copy).score([], scored_at=SCORED)
    writer = Writer(spark, copy, first=100)
    writer.send([Payment("ACCT_9", "e1", 0, "1.00")])
    before = by_key(gold(spark, copy, "fct_transactions"))
    (Path(copy.table("gold/fct_alerts"))).rename(tmp_path / "away")

    with pytest.raises(FraudError, match=r"^model fct_alerts: .*revision") as raised:
        dbt_runner.build(
            spark,
            copy,
            select=["fct_transactions", "fct_alerts"],
            command="run",
            project=project,
        )

    assert "\n" not in str(raised.value)
    assert kept_in_memory(spark) == []
    # The fact had its new row already, and was set back; the alerts never were.
    assert by_key(gold(spark, copy, "fct_transactions")) == before
    assert not Path(copy.table("gold/fct_alerts")).exists()


def test_a_doubled_event_is_found(spark: SparkSession, copy: Settings):
    uri = copy.table("silver/transactions")
    twice = spark.read.format("delta").load(uri).where("account_id = 'ACCT_2'")
    twice.write.format("delta").mode("append").save(uri)

    test = "every_transaction_is_in_the_fact_once"
    tested = dbt_runner.build(spark, copy, select=[test], command="test")

    assert tested.failed["name"].tolist() == [test]
    assert "1 result" in tested.failures[0]
    assert tested.as_dict()["failures"] == 1


def test_a_row_that_silver_lost_is_found(spark: SparkSession, copy: Settings):
    """It is not under way: a later batch has come since."""
    table = DeltaTable.forPath(spark, copy.table("silver/transactions"))
    table.delete("account_id = 'ACCT_2'")

    tested = dbt_runner.build(spark, copy, select=["the_books_balance"], command="test")

    assert tested.failed["name"].tolist() == ["the_books_balance"]


# -- what the stream decided --------------------------------------------------------


def test_the_marts_read_no_payload(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path: Path
):
    """What the rules accept and Spark's own JSON reader refuses, each three times."""
    settings = replace(
        base_settings,
        home=tmp_path,
        topic="tx-odd-json",
        lake=str(tmp_path / "lake"),
        checkpoints=str(tmp_path / "checkpoints"),
    )
    ensure_topic(settings, bootstrap)
    extras = {
        "ACCT_1": b'"number": ' + b"9" * 1_200,
        "ACCT_2": b'"' + b"k" * 50_001 + b'": 1',
        "ACCT_3": b'"deep": ' + b"[" * 63 + b"]" * 63,
        "ACCT_4": b'"event_id": "other", "event_id": "e-1"',
    }
    odd = [
        (key, line(account_id=account)[:-1] + b", " + extra + b"}")
        for account, extra in extras.items()
        for key in (account.encode(), account.encode(), None)
    ]
    for records in (odd, [(b"ACCT_5", line(account_id="ACCT_5")), (None, b"{")]):
        send(settings, bootstrap, records, ARRIVED_MS)
        drain(spark, settings, bootstrap)

    ours = reconcile(spark, settings, bootstrap)
    mart, test = ["+mart_reconciliation"], ["the_books_balance"]
    built = dbt_runner.build(spark, settings, select=mart, command="run")
    tested = dbt_runner.build(spark, settings, select=test, command="test")

    assert ours.differences == []
    assert built.failures == []
    assert tested.as_dict()["tests"] == 1
    assert tested.failures == []
    books = gold(spark, settings, "mart_reconciliation").first()
    assert (books.sent, books.transactions, books.quarantined) == (14, 5, 1)
    assert (books.duplicates, books.in_flight) == (8, 0)
    assert books.duplicates == ours.counts["duplicates"]
