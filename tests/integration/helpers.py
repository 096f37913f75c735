"""Processes, records and lakes, looked at from outside."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import psutil
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lib.kafka.clients import committed_records, end_offsets
from lib.kafka.producer import make_producer
from lib.lake.tables import SCHEMAS
from lib.settings import ROOT, Settings
from lib.streaming.query import QUERY

PYTHON = sys.executable
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 90
"""Far more than anything takes on an idle machine: reached only by what never comes."""

ODD_NAME = "José's home, (1) #2 日 &;=@!+~ {x,y} <z> a*b?c $d"
"""Of a folder, with as many odd characters as a name may have."""

T = TypeVar("T")


# -- waiting ----------------------------------------------------------------------


def eventually(
    condition: Callable[[], T],
    what: str,
    evidence: Callable[[], object] = lambda: "none",
    timeout: float = PATIENCE_SECONDS,
) -> T:
    """The first true value of ``condition``; fails with the evidence if none comes."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {timeout:g} s: {what}; evidence: {evidence()}"
            )
        time.sleep(POLL_SECONDS)
    return value


# -- processes --------------------------------------------------------------------


def processes_of(home: Path) -> list[psutil.Process]:
    """Living processes with the home in their command line; a zombie has ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(str(home) in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # it ended while we looked
    return found


def jvms_of(home: Path) -> dict[str, Path]:
    """The programs that run as Kafka and as Spark for the home, by main class."""
    mains = ("kafka.Kafka", "org.apache.spark.deploy.SparkSubmit")
    found = {}
    for process in processes_of(home):
        try:
            # process_iter hands out the same objects again, and they keep the first
            # exe they saw: the shell's, if that was before it became the JVM.
            words, program = process.cmdline(), Path(psutil.Process(process.pid).exe())
        except psutil.Error:
            continue
        # Spark's start scripts have the same words and are no JVM yet.
        if program.name == "java":
            found |= {main: program for main in mains if main in words}
    return found


def living(pids: Iterable[int]) -> list[int]:
    """Those of the processes that still run."""
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid)
        and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def nothing_left_of(home: Path) -> None:
    """Fails unless every process of the home ends soon."""

    def evidence() -> list[str]:
        return [f"{p.pid} {' '.join(p.cmdline())[:200]}" for p in processes_of(home)]

    eventually(lambda: not processes_of(home), f"no process of {home}", evidence)


# -- commands ---------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, object]:
        """The JSON line, which must be all there is on stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if "error:" in line]


def environment(home: Path, **changes: str | None) -> dict[str, str]:
    """The test's environment with this FRAUD_HOME and no other FRAUD_ variable."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("FRAUD_")}
    env |= {"FRAUD_HOME": str(home), "FRAUD_SPARK_MASTER": "local[2]"}
    for name, value in changes.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    return env


def another_installation(folder: Path) -> dict[str, str]:
    """Variables of a machine with a Spark of its own that is of no use, behind a proxy
    that does not answer, and without a locale."""
    other = folder / "other-spark"
    (other / "python" / "pyspark").mkdir(parents=True)
    module = other / "python" / "pyspark" / "__init__.py"
    module.write_text("raise ImportError('the PySpark of another installation')")
    conf = other / "conf"
    conf.mkdir()
    (conf / "spark-env.sh").write_text("exit 1\n")
    (conf / "spark-defaults.conf").write_text("spark.master yarn\n")
    (conf / "core-site.xml").write_text("no xml")
    return {
        "SPARK_HOME": str(other),
        "SPARK_CONF_DIR": str(conf),
        "SPARK_REMOTE": "sc://127.0.0.1:9",
        "SPARK_LOCAL_IP": "192.0.2.1",
        "SPARK_LOCAL_DIRS": "/nowhere",
        "PYSPARK_SUBMIT_ARGS": "--master yarn pyspark-shell",
        "PYSPARK_PYTHON": "/nowhere/python",
        "PYSPARK_DRIVER_PYTHON": "jupyter",
        "HADOOP_CONF_DIR": str(conf),
        "PYTHONPATH": str(other / "python"),
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
        "LC_ALL": "C",
    }


def path_without_java(folder: Path) -> Path:
    """A folder with every program on the PATH, save Java's."""
    tools = folder / "tools"
    tools.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            link = tools / program.name
            if not program.name.startswith("java") and not os.path.lexists(link):
                link.symlink_to(program)
    return tools


def launch(
    *arguments: object, env: Mapping[str, str], prefix: Iterable[str] = ()
) -> subprocess.Popen[str]:
    """Start ``python -m lib ARGUMENTS``."""
    return subprocess.Popen(
        [*prefix, PYTHON, "-m", "lib", *map(str, arguments)],
        cwd=ROOT,
        env=env,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finished(process: subprocess.Popen[str], timeout: float = 240) -> Ran:
    """Wait for a launched command, and check what holds for each of them."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args} hangs; stderr: {err[-2000:]}") from None
    assert "Traceback" not in out + err, err
    return Ran(process.returncode, out, err)


def run(*arguments: object, env: Mapping[str, str], prefix: Iterable[str] = ()) -> Ran:
    """Run a command to its end; no process of its home may be left."""
    ran = finished(launch(*arguments, env=env, prefix=prefix))
    nothing_left_of(Path(env["FRAUD_HOME"]))
    return ran


def assert_trouble(ran: Ran, *words: str) -> None:
    """One clear line, no result, and an exit code that says so."""
    assert ran.code not in (0, 130), ran
    assert ran.out == "", ran.out
    (line,) = ran.errors
    for word in words:
        assert word in line, line


def permitted(prefix: list[str]) -> bool:
    """Whether commands can be started that way on this machine."""
    try:
        return subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def _namespace(kinds: list[str], script: str) -> list[str]:
    inside = ["sh", "-c", f'{script} && exec "$@"', "sh"]
    for flags in (kinds, ["--user", "--map-root-user", *kinds]):
        if permitted(prefix := ["unshare", *flags, *inside]):
            return prefix
    return []


def unplugged() -> list[str]:
    """What to put before a command so that it finds loopback and no other network,
    on a machine whose name has no address.

    Empty if this machine does not permit it.
    """
    script = "ip link set lo up && hostname nowhere.invalid"
    return _namespace(["--net", "--uts"], script)


def small_disk(folder: Path, options: str) -> list[str]:
    """What to put before a command so that it finds a small disk in the folder."""
    mount = f"mount -t tmpfs -o {options} tmpfs '{folder}'"
    return _namespace(["--mount"], mount)


# -- records ----------------------------------------------------------------------


def send(
    settings: Settings,
    bootstrap: str,
    records: Iterable[tuple[bytes | None, bytes | None]],
    timestamp_ms: int | None = None,
) -> list[tuple[int, int]]:
    """Send (key, value) pairs; returns each one's (partition, offset)."""
    producer = make_producer(settings, bootstrap)
    try:
        futures = [
            producer.send(
                settings.topic, key=key, value=value, timestamp_ms=timestamp_ms
            )
            for key, value in records
        ]
        producer.flush(timeout=PATIENCE_SECONDS)
        found = [future.get(timeout=1) for future in futures]
    finally:
        producer.close(timeout=0)
    return [(meta.partition, meta.offset) for meta in found]


def consume(settings: Settings, bootstrap: str) -> dict[int, list]:
    """Every record of the topic, by partition, in the order of the offsets."""
    spans = {part: (0, end) for part, end in end_offsets(settings, bootstrap).items()}
    found = {part: [] for part, (_, end) in spans.items() if end}
    for record in committed_records(settings, bootstrap, spans):
        found[record.partition].append(record)
    return found


# -- lakes ------------------------------------------------------------------------


def copied(settings: Settings, folder: Path) -> Settings:
    """The settings with a copy of their lake and checkpoints, free to be harmed."""
    shutil.copytree(settings.lake, folder / "lake")
    shutil.copytree(settings.checkpoints, folder / "checkpoints")
    return replace(
        settings,
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )


def rows(spark: SparkSession, settings: Settings, table: str) -> list[tuple]:
    """A table's rows in an order of their own, without what differs by run."""
    frame = spark.read.format("delta").load(settings.table(table))
    stamps = ("ingested_at", "scored_at", "batch")
    return sorted(map(tuple, frame.drop(*stamps).collect()), key=repr)


def lake(spark: SparkSession, settings: Settings) -> dict[str, list[tuple]]:
    """The rows of all four tables."""
    return {table: rows(spark, settings, table) for table in SCHEMAS}


def delta_commits(settings: Settings, table: str) -> list[Path]:
    """The table's commit files, oldest first."""
    log = Path(settings.table(table)) / "_delta_log"
    return sorted(path for path in log.glob("*.json") if path.stem.isdigit())


def undo_last_commit(settings: Settings, table: str) -> None:
    """Make it as if the table's last commit had never happened, as a crash would."""
    last = delta_commits(settings, table)[-1]
    for path in last.parent.iterdir():
        if last.stem in path.name:
            path.unlink()


def undo_last_batch_commit(settings: Settings) -> int:
    """Make it as if the query had died before it noted its last batch as done."""
    commits = Path(settings.checkpoint(QUERY)) / "commits"
    last = max(int(path.name) for path in commits.iterdir() if path.name.isdigit())
    (commits / str(last)).unlink()
    (commits / f".{last}.crc").unlink(missing_ok=True)
    return last


def forget_last_batch(settings: Settings) -> None:
    """Make it as if every query had died before it noted its last batch as done."""
    folders = list(Path(settings.checkpoints).rglob("commits"))
    assert folders, "there is no checkpoint"
    for commits in folders:
        last = max(int(path.name) for path in commits.iterdir() if path.name.isdigit())
        (commits / str(last)).unlink()
        (commits / f".{last}.crc").unlink(missing_ok=True)


def at_rest(spark: SparkSession, settings: Settings) -> dict[str, list[tuple]]:
    """What silver and scored say, without what differs by run or by batch."""
    tables = ("silver/transactions", "silver/quarantine", "silver/scored")
    found = {}
    for table in tables:
        frame = spark.read.format("delta").load(settings.table(table))
        frame = frame.drop("scored_at")
        for name, kind in frame.dtypes:
            if kind == "timestamp":  # collected, it would be told in the driver's zone
                frame = frame.withColumn(name, F.unix_micros(name))
        found[table] = sorted(map(tuple, frame.collect()), key=repr)
    return found
