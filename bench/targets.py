"""The same events on one process, on a cluster and on an object store: equal tables.

    python -m bench.targets [--events N] [--out FILE]

Seconds of each, and a digest of each table without the columns that say when and where
a run put its rows. The object store is moto's server, which has the speed of a test
double: its seconds say nothing about a real one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import boto3
from deltalake import DeltaTable

from bench.machine import machine
from lib.cli.cluster import Cluster
from lib.datagen.generator import generate, write
from lib.kafka.broker import Broker
from lib.settings import ROOT, Settings
from tests.integration.object_store import BUCKET, object_store

TABLES = ("bronze/tx_events", "silver/transactions", "silver/scored")
OF_THE_RUN = ("batch", "ingested_at", "kafka_timestamp", "scored_at", "revision")
PLACE = ("partition", "offset")
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}


def main() -> None:
    """Run the three and print the figures as JSON; exit 1 if a table differs."""
    parser = argparse.ArgumentParser(description="equal tables on three targets")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/targets.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(generate(arguments.events, 1_000, seed=6), folder := Path(folder))
        file = folder / "tx_events.jsonl"
        runs = {
            "local[2]": _local(folder / "local", file),
            "cluster": _cluster(folder / "cluster", file),
            "s3a": _object_store(folder / "s3a", file),
        }
    digests = {json.dumps(run["tables"]) for run in runs.values()}
    equal = len(digests) == 1
    figures = {"machine": machine(), "events": arguments.events, "equal": equal}
    text = json.dumps({**figures, "runs": runs}, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)
    if not equal:
        raise SystemExit("error: the tables differ")


def _local(home: Path, file: Path) -> dict[str, object]:
    env = _environment(home, FRAUD_SPARK_MASTER="local[2]")
    broker = Broker(Settings.from_env(env)).start()
    try:
        return _run(env, file)
    finally:
        broker.close()


def _cluster(home: Path, file: Path) -> dict[str, object]:
    env = _environment(home)
    begun = time.monotonic()
    cluster = Cluster(Settings.from_env(env)).start()
    started = time.monotonic() - begun
    try:
        run = _run(env | cluster.environment, file)
        return {"start_seconds": round(started, 1), **run}
    finally:
        cluster.stop()


def _object_store(home: Path, file: Path) -> dict[str, object]:
    with object_store() as store:
        options = {"endpoint_url": store.url, "region_name": "us-east-1"}
        keys = {name.lower(): value for name, value in KEYS.items()}
        boto3.client("s3", **options, **keys).create_bucket(Bucket=BUCKET)
        conf = home / "conf"
        conf.mkdir(parents=True)
        (conf / "spark-defaults.conf").write_text(
            f"spark.hadoop.fs.s3a.endpoint {store.url}\n"
            "spark.hadoop.fs.s3a.endpoint.region us-east-1\n"
            "spark.hadoop.fs.s3a.path.style.access true\n"
        )
        env = _environment(
            home,
            FRAUD_SPARK_MASTER="local[2]",
            FRAUD_LAKE=f"s3a://{BUCKET}/lake",
            FRAUD_CHECKPOINTS=f"s3a://{BUCKET}/checkpoints",
            SPARK_CONF_DIR=str(conf),
            **KEYS,
        )
        broker = Broker(Settings.from_env(env)).start()
        try:
            return _run(env, file, {"AWS_ENDPOINT_URL": store.url})
        finally:
            broker.close()


def _environment(home: Path, **changes: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FRAUD_")}
    return {**env, "FRAUD_HOME": str(home), **changes}


def _run(
    env: dict[str, str], file: Path, options: dict[str, str] | None = None
) -> dict[str, object]:
    seconds = {}
    for name, command in (("produce", ["produce", file]), ("stream", ["stream"])):
        words = [*command, "--drain"] if name == "stream" else command
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "lib", *map(str, words)],
            cwd=ROOT,
            env=env,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seconds[f"{name}_seconds"] = round(time.monotonic() - begun, 1)
    if options is not None:
        options |= {**KEYS, "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
    settings = Settings.from_env(env)
    uris = {t: settings.table(t).replace("s3a:", "s3:") for t in TABLES}
    return {**seconds, "tables": {t: _digest(u, options) for t, u in uris.items()}}


def _digest(uri: str, options: dict[str, str] | None) -> dict[str, object]:
    """Number of rows, and SHA-256 of the rows in an order of their own."""
    frame = DeltaTable(uri, storage_options=options).to_pandas()
    frame = frame.drop(columns=[*OF_THE_RUN, *PLACE], errors="ignore")
    frame = frame[sorted(frame.columns)]
    rows = sorted(map(repr, frame.itertuples(index=False, name=None)))
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    return {"rows": len(rows), "sha256": digest}


if __name__ == "__main__":
    main()
