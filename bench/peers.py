"""Latency beside what else people run, or write first: same events, same rules.

    python -m bench.peers [--rate 20] [--seconds 60] [--warm-up 60] [--quix PYTHON]
        [--flink PYTHON --flink-connector JAR] [--only NAME …] [--out FILE]

With --only the others keep the figures that the file has of them.
Each peer has a broker, a topic and a process of its own, one after the other, open
loop. An event is visible when a Delta commit shows its answer or, from Kafka to Kafka,
when a consumer that reads committed records has it. Answers are by the same rules
(`bench.plain_rules`), but where a name says that there are none. For Quix Streams see
`bench.drain`; PyFlink, too, has an environment of its own, and its connector a jar:

    python3 -m venv /tmp/flink && /tmp/flink/bin/pip install apache-flink==2.3.0
    # and from Maven Central: org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
from delta import DeltaTable
from kafka import KafkaConsumer
from kafka.consumer.fetcher import ConsumerRecord
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from bench.latency import visible
from bench.machine import machine
from bench.plain_rules import score
from lib.datagen.generator import generate
from lib.kafka.broker import Broker
from lib.kafka.clients import (
    TOPIC_PARTITIONS,
    committed_records,
    end_offsets,
    ensure_topic,
    spark_options,
)
from lib.kafka.producer import replay
from lib.lake.tables import SCORED
from lib.settings import ROOT, Settings
from lib.streaming.progress import percentiles
from lib.streaming.query import read_topic
from lib.streaming.runner import pipeline
from lib.streaming.session import spark_session

EVENTS_PER_ACCOUNT = 50
ARRIVE_SECONDS = 120
COMMIT_SECONDS = 0.05
ANSWERS = "account_id string, event_id string, kafka_timestamp timestamp, answer string"


class Kept:
    """An account's binary in memory, from Spark's state and back to it."""

    def __init__(self, value: bytes | None) -> None:
        self.value = value

    def get_bytes(self, _key: str) -> bytes | None:
        """What was stored, or None."""
        return self.value

    def set_bytes(self, _key: str, value: bytes) -> None:
        """Store it."""
        self.value = value


def answers(rows: pd.DataFrame, kept: Kept) -> pd.DataFrame:
    """The answers to some records of one account, in Kafka order, as ANSWERS."""
    made = []
    for row in rows.sort_values("offset").itertuples():
        ms = int(row.kafka_timestamp.timestamp() * 1000)
        for answer in score(bytes(row.value), bytes(row.key), ms, None, kept):
            account = bytes(row.key).decode()
            event = answer["event_id"]
            made.append((account, event, row.kafka_timestamp, json.dumps(answer)))
    return pd.DataFrame(
        made, columns=["account_id", "event_id", "kafka_timestamp", "answer"]
    )


# -- what people write first ---------------------------------------------------------


def per_account(raw: DataFrame, mode: str = "append") -> DataFrame:
    """Rules by applyInPandasWithState: Python is called once per account and batch."""

    def one(key: tuple, frames: Iterator[pd.DataFrame], state) -> Iterator:
        kept = Kept(bytes(state.get[0]) if state.exists else None)
        yield answers(pd.concat(list(frames)), kept)
        state.update((kept.value,))

    return raw.groupBy("key").applyInPandasWithState(
        one, ANSWERS, "kept binary", mode, "NoTimeout"
    )


def delta_sink(spark: SparkSession, settings: Settings, bootstrap: str):
    """Per-account pandas state, and Delta's own streaming sink."""
    return (
        per_account(read_topic(spark, settings, bootstrap))
        .writeStream.format("delta")
        .option("checkpointLocation", settings.checkpoints)
        .start(settings.table(SCORED))
    )


def without_rules(spark: SparkSession, settings: Settings, bootstrap: str):
    """Delta's own streaming sink of what was parsed; no rules, no state."""
    value = F.col("value").cast("string")
    return (
        read_topic(spark, settings, bootstrap)
        .select(
            F.col("key").cast("string").alias("account_id"),
            F.get_json_object(value, "$.event_id").alias("event_id"),
            "kafka_timestamp",
            value.alias("answer"),
        )
        .writeStream.format("delta")
        .option("checkpointLocation", settings.checkpoints)
        .start(settings.table(SCORED))
    )


def merge(spark: SparkSession, settings: Settings, bootstrap: str):
    """foreachBatch: the accounts' histories are read from a table, answers merged.

    Both tables are merged by key, so a batch that runs twice changes nothing.
    """
    histories, scored = settings.table("histories"), settings.table(SCORED)
    spark.createDataFrame([], "key binary, kept binary").write.format("delta").save(
        histories
    )
    spark.createDataFrame([], ANSWERS).write.format("delta").save(scored)

    def write(batch: DataFrame, _batch_id: int) -> None:
        def one(key: tuple, rows: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
            kept = Kept(bytes(known["kept"][0]) if len(known) else None)
            made = answers(rows, kept) if len(rows) else answers(rows.head(0), kept)
            return made.assign(key=key[0], kept=kept.value)

        keys = batch.select("key").distinct()
        before = spark.read.format("delta").load(histories).join(keys, "key")
        made = (
            batch.groupBy("key")
            .cogroup(before.groupBy("key"))
            .applyInPandas(one, f"{ANSWERS}, key binary, kept binary")
            .persist()
        )
        try:
            latest = made.dropDuplicates(["account_id", "event_id"])
            _upsert(spark, scored, latest.drop("key", "kept"), "account_id", "event_id")
            states = made.select("key", "kept").dropDuplicates(["key"])
            _upsert(spark, histories, states, "key")
        finally:
            made.unpersist()

    return (
        read_topic(spark, settings, bootstrap)
        .writeStream.foreachBatch(write)
        .option("checkpointLocation", settings.checkpoints)
        .start()
    )


def _upsert(spark: SparkSession, path: str, rows: DataFrame, *keys: str) -> None:
    same = " and ".join(f"old.{key} = new.{key}" for key in keys)
    (
        DeltaTable.forPath(spark, path)
        .alias("old")
        .merge(rows.alias("new"), same)
        .whenMatchedUpdateAll()
        .whenNotMatchedInsertAll()
        .execute()
    )


# -- Kafka to Kafka ------------------------------------------------------------------


class Reader:
    """Notes when a consumer of committed records first has each event's answer."""

    def __init__(self, settings: Settings, bootstrap: str) -> None:
        self.seen: dict[tuple[bytes, str], float] = {}  # by account and event id
        self._consumer = KafkaConsumer(
            settings.topic,
            bootstrap_servers=bootstrap,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=10,
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            for records in self._consumer.poll(timeout_ms=100).values():
                now = time.time() * 1000
                for record in records:
                    self.seen.setdefault(_identity(record), now)

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join()
        self._consumer.close()


def _identity(record: ConsumerRecord) -> tuple[bytes, str]:
    """An event's: ids are unique within an account only."""
    value = json.loads(record.value)
    return (record.key or value["account_id"].encode()), value["event_id"]


def real_time_mode(spark: SparkSession, settings: Settings, bootstrap: str):
    """Spark's Real-Time Mode, Kafka → Kafka; no rules, no state."""
    out = replace(settings, topic="tx-out")
    ensure_topic(out, bootstrap)
    return (
        read_topic(spark, settings, bootstrap)
        .select("key", "value")
        .writeStream.format("kafka")
        .options(**spark_options(out, bootstrap))
        .option("topic", out.topic)
        .option("checkpointLocation", settings.checkpoints)
        .outputMode("update")
        .trigger(realTime="1 minute")
        .start()
    )


def quix(arguments: argparse.Namespace, settings: Settings) -> list[object]:
    """Quix Streams, Kafka → Kafka, exactly once."""
    command: list[object] = [arguments.quix, "-m", "bench.quix_worker"]
    command += ["--group", "quix", "--state", settings.home / "quix"]
    return [*command, "--idle", 3600]


def flink(arguments: argparse.Namespace, settings: Settings) -> list[object]:
    """PyFlink, Kafka → Kafka, exactly once."""
    command: list[object] = [arguments.flink, "-m", "bench.flink_worker"]
    command += ["--connector", arguments.flink_connector]
    return [*command, "--state", settings.home / "flink"]


@contextmanager
def worker(command: list[object], settings: Settings, bootstrap: str) -> Iterator[None]:
    """A program from topic to topic that commits every COMMIT_SECONDS."""
    out = replace(settings, topic="tx-out")
    for each in (settings, out):
        ensure_topic(each, bootstrap)
    command = [*command, "--bootstrap", bootstrap, "--topic", settings.topic]
    command += ["--out", out.topic, "--commit-seconds", COMMIT_SECONDS]
    log = settings.home / "worker.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            yield
            if process.poll() is not None:
                raise SystemExit(f"error: {command[2]}: {log.read_text()[-500:]}")
        finally:
            process.terminate()
            process.wait()


# -- one peer, in a process of its own -----------------------------------------------

OURS, REAL_TIME = "this project", "Real-Time Mode, no rules"
QUIX, FLINK = "Quix Streams", "PyFlink"
WORKERS = {QUIX: quix, FLINK: flink}
FIRST_FORMS: dict[str, Callable] = {
    "foreachBatch MERGE": merge,
    "per-account pandas state, Delta sink": delta_sink,
    "Delta sink, no rules": without_rules,
}
NAMES = (OURS, QUIX, FLINK, *FIRST_FORMS, REAL_TIME)


def one(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """That peer's latencies in ms."""
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    count = int(arguments.rate * (arguments.warm_up + arguments.seconds))
    made = generate(count, max(1, count // EVENTS_PER_ACCOUNT), seed=1)
    file = folder / "events.jsonl"
    file.write_text("\n".join(made.lines) + "\n")
    broker = Broker(settings).start()
    try:
        ensure_topic(settings, broker.bootstrap)
        if name in (*WORKERS, REAL_TIME):
            return _to_kafka(name, arguments, settings, broker.bootstrap, file, count)
        spark = spark_session(settings)
        with _running(name, spark, settings, broker.bootstrap) as failed:
            begun = time.time() * 1000
            replay(settings, broker.bootstrap, file, rate=arguments.rate)
            shown = _shown(settings, count, failed)
        spark.stop()
    finally:
        broker.close()
    return _latency(shown, begun, arguments)


@contextmanager
def _running(
    name: str, spark: SparkSession, settings: Settings, bootstrap: str
) -> Iterator[Callable[[], object]]:
    """The peer's query; gives what raises if it has failed."""
    if name == OURS:
        with pipeline(spark, settings, bootstrap) as running:
            yield running.raise_failure
        return
    query = FIRST_FORMS[name](spark, settings, bootstrap)

    def raise_failure() -> None:
        if query.exception():
            raise SystemExit(f"error: {name}: {query.exception()}")

    try:
        yield raise_failure
    finally:
        query.stop()


def _shown(
    settings: Settings, count: int, raise_failure: Callable[[], object]
) -> pd.DataFrame:
    """When each event was created and visible, as soon as all are there."""
    deadline = time.monotonic() + ARRIVE_SECONDS
    pause = threading.Event()
    while True:
        raise_failure()
        rows = pd.DataFrame(visible(Path(settings.table(SCORED))))
        if len(rows) == count:
            return rows
        if time.monotonic() > deadline:
            raise SystemExit(f"error: {len(rows)} of {count} are visible")
        pause.wait(2)


def _to_kafka(
    name: str,
    arguments: argparse.Namespace,
    settings: Settings,
    bootstrap: str,
    file: Path,
    count: int,
) -> dict[str, object]:
    out = replace(settings, topic="tx-out")
    ensure_topic(out, bootstrap)
    if name in WORKERS:
        running = worker(WORKERS[name](arguments, settings), settings, bootstrap)
    else:
        running = _real_time(settings, bootstrap)
    with running:
        reader = Reader(out, bootstrap)
        try:
            begun = time.time() * 1000
            replay(settings, bootstrap, file, rate=arguments.rate)
            deadline = time.monotonic() + ARRIVE_SECONDS
            pause = threading.Event()
            while len(reader.seen) < count:
                if time.monotonic() > deadline:
                    found = f"{len(reader.seen)} of {count}"
                    raise SystemExit(f"error: {name}: {found} are visible")
                pause.wait(0.5)
        finally:
            reader.close()
    created = {
        _identity(record): record.timestamp
        for record in committed_records(
            settings,
            bootstrap,
            {p: (0, end) for p, end in end_offsets(settings, bootstrap).items()},
        )
    }
    shown = pd.DataFrame({"created_ms": created, "visible_ms": reader.seen})
    return _latency(shown, begun, arguments)


@contextmanager
def _real_time(settings: Settings, bootstrap: str) -> Iterator[None]:
    # All tasks of this mode run at once, one a partition, whatever the cores are.
    slots = f"local[{TOPIC_PARTITIONS}]"
    spark = spark_session(replace(settings, master=slots))
    query = real_time_mode(spark, settings, bootstrap)
    try:
        yield
    finally:
        query.stop()
        spark.stop()


def _latency(
    shown: pd.DataFrame, begun_ms: float, arguments: argparse.Namespace
) -> dict[str, object]:
    warm = shown[shown["created_ms"] >= begun_ms + arguments.warm_up * 1000]
    latency = percentiles(warm["visible_ms"] - warm["created_ms"])
    return {"events": len(warm), **{k: round(v) for k, v in latency.items()}}


def refusals(folder: Path) -> dict[str, str]:
    """What Real-Time Mode says to the parts that this pipeline is made of."""
    settings = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    broker = Broker(settings).start()
    try:
        ensure_topic(settings, broker.bootstrap)
        spark = spark_session(settings)
        raw = read_topic(spark, settings, broker.bootstrap)
        value = raw.select("key", "value")
        kafka = spark_options(settings, broker.bootstrap) | {"topic": "tx-out"}

        def to_kafka(rows: DataFrame):
            return rows.writeStream.format("kafka").options(**kafka)

        forms = {
            "foreachBatch": value.writeStream.foreachBatch(lambda *_: None),
            "Delta sink": value.writeStream.format("delta").option(
                "path", str(folder / "table")
            ),
            "a Python map": to_kafka(
                value.mapInPandas(lambda rows: rows, value.schema)
            ),
            "a pandas state per account": to_kafka(
                per_account(raw, "update").select(
                    F.col("account_id").alias("key"), F.col("answer").alias("value")
                )
            ),
        }
        said = {}
        for number, (name, writer) in enumerate(forms.items()):
            try:
                query = (
                    writer.option("checkpointLocation", str(folder / f"rtm-{number}"))
                    .outputMode("update")
                    .trigger(realTime="5 seconds")
                    .start()
                )
                try:
                    query.awaitTermination(30)
                    said[name] = "runs"
                finally:
                    query.stop()
            except PySparkException as error:
                said[name] = str(error).split("\n")[0][:300]
        spark.stop()
        return said
    finally:
        broker.close()


# -- all of them ---------------------------------------------------------------------


def main() -> None:
    """Run the peers in turn and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="latency beside other ways")
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=60)
    parser.add_argument("--quix", type=Path, help="a Python that has quixstreams")
    parser.add_argument("--flink", type=Path, help="a Python that has apache-flink")
    parser.add_argument(
        "--flink-connector", type=Path, help="its Kafka connector's jar"
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--out", type=Path, default=Path("bench/results/peers.json"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(one(arguments.only[0], arguments, Path(folder))))
        return
    asked = {k: getattr(arguments, k) for k in ("rate", "seconds", "warm_up")}
    runs: dict[str, object] = {}
    if arguments.only != NAMES and arguments.out.exists():
        runs = json.loads(arguments.out.read_text())["latency_ms"]
    for name in arguments.only:
        if (name == QUIX and not arguments.quix) or (
            name == FLINK and not (arguments.flink and arguments.flink_connector)
        ):
            runs[name] = "not measured: not named"
            continue
        words = [sys.executable, "-m", "bench.peers", "--here", "--only", name]
        for option, value in asked.items():
            words += ["--" + option.replace("_", "-"), value]
        for option in ("quix", "flink", "flink_connector"):
            if value := getattr(arguments, option):
                words += ["--" + option.replace("_", "-"), value]
        ran = subprocess.run(
            [str(word) for word in words], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        lines = ran.stdout.splitlines()
        runs[name] = json.loads(lines[-1]) if ran.returncode == 0 else "failed"
        print(name, runs[name], file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        said = refusals(Path(folder))
    figures = {
        "machine": machine(),
        "settings": asked | {"kafka_to_kafka_commit_seconds": COMMIT_SECONDS},
        "latency_ms": runs,
        "real_time_mode_says": said,
    }
    text = json.dumps(figures, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)
    if "failed" in runs.values():
        raise SystemExit("error: a peer has failed")


if __name__ == "__main__":
    main()
