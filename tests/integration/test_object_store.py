"""Lake and checkpoints in an S3-compatible store, the stream killed in mid-commit."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from lib.datagen.generator import Generated, generate, write
from lib.errors import FraudError
from lib.kafka.producer import replay
from lib.settings import ROOT, Settings
from lib.setup import jars
from lib.setup.java import find_java
from lib.streaming.query import QUERY
from lib.streaming.runner import drain
from lib.streaming.session import _properties
from tests.conftest import missing
from tests.integration.helpers import PYTHON, environment, finished, launch
from tests.integration.object_store import BUCKET, ObjectStore, object_store

pytestmark = pytest.mark.slow

EVENTS, PER_BATCH = 400, 250
TABLES = ("bronze/tx_events", "silver/transactions", "silver/quarantine")
TABLES = (*TABLES, "silver/scored")
OF_THE_RUN = ("batch", "ingested_at", "scored_at")
KEYS = {"id": "tests", "secret": "not-a-secret"}


def delta_options(store: ObjectStore) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": KEYS["id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["secret"],
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


def client(store: ObjectStore):
    return boto3.client(
        "s3",
        endpoint_url=store.url,
        aws_access_key_id=KEYS["id"],
        aws_secret_access_key=KEYS["secret"],
        region_name="us-east-1",
    )


@dataclass(frozen=True)
class Lakes:
    """One topic in two lakes."""

    local: Settings
    remote: Settings
    store: ObjectStore
    objects: list[str]
    drained: int

    def rows(self, settings: Settings, table: str) -> list[tuple]:
        uri = settings.table(table).replace("s3a://", "s3://")
        remote = delta_options(self.store) if uri.startswith("s3:") else None
        arrow = DeltaTable(uri, storage_options=remote).to_pyarrow_table()
        names = [n for n in sorted(arrow.column_names) if n not in OF_THE_RUN]
        return sorted((tuple(r[n] for n in names) for r in arrow.to_pylist()), key=repr)


@pytest.fixture(scope="module")
def client_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """The store, and the variables that lead Spark to it: those of the containers,
    with another address."""
    if not all(j.path.is_file() for j in jars.read_lock() if j.use == "s3"):
        missing("the jars for s3a: python -m lib.setup.jars fetch --s3")
    folder = tmp_path_factory.mktemp("s3")
    with object_store() as store:
        given = (ROOT / "docker" / "spark" / "spark-defaults.conf").read_text()
        conf = folder / "conf"
        conf.mkdir()
        text = re.sub(r"http://\S+", store.url, given)
        assert store.url in text
        (conf / "spark-defaults.conf").write_text(text)
        secret = folder / "credentials"
        secret.write_text(
            f"[default]\naws_access_key_id = {KEYS['id']}\n"
            f"aws_secret_access_key = {KEYS['secret']}\n"
        )
        yield {
            "store": store,
            "FRAUD_LAKE": f"s3a://{BUCKET}/lake",
            "FRAUD_CHECKPOINTS": f"s3a://{BUCKET}/checkpoints",
            "SPARK_CONF_DIR": str(conf),
            "AWS_SHARED_CREDENTIALS_FILE": str(secret),
        }


@pytest.fixture(scope="module")
def lakes(
    tmp_path_factory: pytest.TempPathFactory,
    client_environment: dict,
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
) -> Lakes:
    folder = tmp_path_factory.mktemp("s3-events")
    write(_story(), folder)
    local = replace(
        base_settings,
        topic="tx-s3",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    replay(local, bootstrap, folder / "tx_events.jsonl")
    drain(spark, local, bootstrap)

    variables = dict(client_environment)
    store = variables.pop("store")
    s3 = client(store)
    s3.create_bucket(Bucket=BUCKET)
    home = tmp_path_factory.mktemp("s3-home")
    env = environment(home, FRAUD_KAFKA=bootstrap, FRAUD_TOPIC="tx-s3", **variables)
    _kill_in_mid_commit(store, env)
    ran = finished(launch("stream", "--drain", env=env))
    assert ran.code == 0, ran.err
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    objects = [o["Key"] for page in pages for o in page.get("Contents", ())]
    return Lakes(local, Settings.from_env(env), store, objects, ran.result["records"])


def _story() -> Generated:
    """Events in disorder, so that scores are corrected; and three records of an event
    older than anything that the query remembers: new, a duplicate, a conflict."""
    made = generate(
        EVENTS, 20, 10, 4, duplicates=0.05, malformed=0.05, out_of_order=0.05
    )
    last = json.loads(made.lines[-1])
    ts = datetime.fromisoformat(last["ts"]) - timedelta(days=100)
    ancient = last | {"event_id": "ancient", "ts": ts.isoformat()}
    other = ancient | {"merchant": "another one"}
    lines = [*made.lines, *map(json.dumps, (ancient, ancient, other))]
    return replace(made, lines=lines)


def _kill_in_mid_commit(store: ObjectStore, env: dict[str, str]) -> None:
    """The second batch's commit reaches the store; the stream dies before it learns
    of that."""
    command = [PYTHON, "-m", "lib", "stream", "--drain", "--max-offsets", PER_BATCH]
    stream = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    commit = r"^/fraud/lake/bronze/tx_events/_delta_log/0+2\.json$"
    store.kill_at(commit, stream.pid)
    try:
        _, said = stream.communicate(timeout=400)
    finally:
        stream.kill()
    assert store.kills, said
    assert stream.returncode < 0


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_are_those_of_the_local_lake(lakes: Lakes, table: str):
    local, remote = (
        lakes.rows(settings, table) for settings in (lakes.local, lakes.remote)
    )
    assert len(local) == len(remote) > 0
    assert local == remote


def test_scores_were_corrected_and_what_was_forgotten_was_looked_up(lakes: Lakes):
    """Or the tables above would be equal without a MERGE and without a look-up."""
    arrow = DeltaTable(
        lakes.remote.table("silver/scored").replace("s3a://", "s3://"),
        storage_options=delta_options(lakes.store),
    ).to_pyarrow_table(columns=["event_id", "late", "revision"])
    rows = arrow.to_pylist()
    assert sum(row["revision"] for row in rows) > 0
    assert [row["late"] for row in rows if row["event_id"] == "ancient"] == [True]


def test_the_batch_that_was_killed_is_there_once(lakes: Lakes):
    offsets = [r[:] for r in lakes.rows(lakes.remote, "bronze/tx_events")]
    assert len(offsets) == len(set(offsets))
    assert len(lakes.store.kills) == 1
    # The second run took what the first had not noted as done, and not all.
    assert 0 < lakes.drained < len(offsets)


def test_nothing_is_renamed_into_place(lakes: Lakes):
    """No temporary name is left or was ever used: a checkpoint's file is uploaded
    under its own."""
    assert [key for key in lakes.objects if ".tmp" in key] == []
    assert any(
        re.fullmatch(rf"checkpoints/{QUERY}/commits/\d+", k) for k in lakes.objects
    )


def test_the_managers_of_an_object_store(lakes: Lakes):
    properties = _properties(lakes.remote, find_java())

    manager = properties["spark.sql.streaming.checkpointFileManagerClass"]
    assert manager.endswith(".AbortableStreamBasedCheckpointFileManager")
    store = properties["spark.delta.logStore.s3a.impl"]
    assert store == "io.delta.storage.S3SingleDriverLogStore"
    for name in ("spark.driver.extraClassPath",):
        paths = properties[name].split(os.pathsep)
        assert all(Path(path).is_file() for path in paths)


# -- two processes that write one table ----------------------------------------------

ROWS = pa.schema([("id", pa.int64()), ("writer", pa.string())])
FIRST, SECOND = 10, 5
"""Rows of the writer that is overtaken, and of the one that overtakes it."""


def overtaken(store: ObjectStore, bucket: str) -> str:
    """A new table; whoever writes its first commit is overtaken by another writer."""
    client(store).create_bucket(Bucket=bucket)
    uri = f"s3://{bucket}/table"
    append(store, uri, "maker", 0)
    store.overtake(
        rf"^/{bucket}/table/_delta_log/0+1\.json$",
        lambda: append(store, uri, "second", SECOND),
    )
    return uri


def append(store: ObjectStore, uri: str, writer: str, rows: int) -> None:
    """By delta-rs, which puts a commit on the condition that there is none."""
    write_deltalake(
        uri,
        pa.table([range(rows), [writer] * rows], schema=ROWS),
        mode="append",
        storage_options=delta_options(store),
    )


def writers(store: ObjectStore, uri: str) -> dict[str, int]:
    table = DeltaTable(uri, storage_options=delta_options(store))
    return dict(Counter(table.to_pyarrow_table()["writer"].to_pylist()))


def test_a_lock_in_one_process_loses_the_rows_of_another(
    client_environment: dict, tmp_path: Path
):
    variables = dict(client_environment)
    store = variables.pop("store")
    uri = overtaken(store, "plain").replace("s3:", "s3a:")
    ran = subprocess.run(
        [PYTHON, "-m", "tests.integration.append_rows", uri, str(FIRST)],
        cwd=ROOT,
        env=environment(tmp_path, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    # Both were told that their rows are there.
    assert writers(store, uri.replace("s3a:", "s3:")) == {"spark": FIRST}


def test_a_conditional_put_loses_none(client_environment: dict):
    store = client_environment["store"]
    uri = overtaken(store, "conditional")
    append(store, uri, "first", FIRST)
    assert writers(store, uri) == {"first": FIRST, "second": SECOND}


def test_without_its_jars_it_says_what_to_do(
    lakes: Lakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    locked = [jar for jar in jars.read_lock() if jar.use == "s3"]
    monkeypatch.setattr(jars, "read_lock", lambda: locked)
    monkeypatch.setattr(jars, "JAR_DIR", tmp_path)

    with pytest.raises(FraudError, match=r"python -m lib\.setup\.jars fetch --s3"):
        _properties(lakes.remote, find_java())
