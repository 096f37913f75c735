"""What of the environment is left out, and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.settings import ROOT, Settings
from lib.system.environment import (
    ignored,
    jvm_locale,
    leave_out,
    on_this_machine,
    spark_home,
)

FOREIGN = {
    "SPARK_HOME": "/opt/spark",
    "SPARK_REMOTE": "sc://elsewhere",
    "SPARK_LOCAL_DIRS": "/scratch",
    "PYSPARK_SUBMIT_ARGS": "--master yarn",
    "PYSPARK_PYTHON": "/usr/bin/python3",
    "HADOOP_HOME": "/opt/hadoop",
    "HIVE_CONF_DIR": "/etc/hive",
    "PYTHONPATH": "/opt/spark/python",
}
OF_A_CLUSTER = {
    "SPARK_CONF_DIR": "/etc/spark",
    "SPARK_LOCAL_IP": "192.0.2.1",
    "HADOOP_CONF_DIR": "/etc/hadoop",
}
OURS = {"FRAUD_SPARK_MASTER": "local[2]", "JAVA_HOME": "/opt/java", "PATH": "/bin"}
EVERYTHING = {**FOREIGN, **OF_A_CLUSTER, **OURS}


def test_on_one_machine_no_variable_of_a_spark_counts():
    assert ignored(True, EVERYTHING) == sorted([*FOREIGN, *OF_A_CLUSTER])


def test_elsewhere_those_count_that_lead_there():
    assert ignored(False, EVERYTHING) == sorted(FOREIGN)


@pytest.mark.parametrize(
    ("variables", "alone"),
    [
        ({}, True),
        ({"FRAUD_SPARK_MASTER": "spark://127.0.0.1:7077"}, True),
        ({"FRAUD_LAKE": "file:///data/lake"}, True),
        ({"FRAUD_SPARK_MASTER": "yarn"}, False),
        ({"FRAUD_LAKE": "s3a://bucket/lake"}, False),
        ({"FRAUD_CHECKPOINTS": "hdfs://host/checkpoints"}, False),
    ],
)
def test_where_things_are(variables: dict[str, str], alone: bool):
    assert on_this_machine(Settings.from_env(variables)) is alone


def test_what_is_left_out_is_gone_and_said():
    env = dict(EVERYTHING)

    assert leave_out(True, env) == sorted([*FOREIGN, *OF_A_CLUSTER])
    assert {k: v for k, v in env.items() if k.lower() != "no_proxy"} == OURS


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "a, localhost"}, "a,localhost,127.0.0.1,::1"),
    ],
)
def test_no_proxy_is_asked_for_this_machine(given: dict[str, str], wanted: str):
    env = dict(given)
    leave_out(True, env)

    assert env == {"no_proxy": wanted, "NO_PROXY": wanted}


def test_who_wants_no_proxy_at_all_gets_none():
    env = {"no_proxy": "*"}
    leave_out(True, env)

    assert env == {"no_proxy": "*"}


def test_the_spark_of_the_packages_is_used():
    assert (spark_home() / "bin" / "spark-class").is_file()
    assert Path(sys.prefix) in spark_home().parents


def test_packages_of_pythonpath_come_behind_ours(tmp_path: Path):
    other = tmp_path / "pyspark"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('the other one')")
    code = (
        "from lib.system import environment; environment.own_packages_first(); "
        "import pyspark; print(pyspark.__version__)"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr


def limited(soft: int, hard: int) -> str:
    """What a process says that begins with these limits."""
    code = (
        "import resource, sys; from lib.system.environment import *;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "try: demand_open_files(); print(open_files())\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_few_open_files_become_more_where_that_is_allowed():
    assert limited(256, 2000) == "1024"
    assert limited(1500, 2000) == "1500"


def test_too_few_for_spark_is_said_before_its_jvm_starts():
    assert limited(256, 256).startswith("256 files may be open at once here")
    assert "ulimit -n 1024" in limited(256, 256)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are always UTF-8")
@pytest.mark.parametrize(
    ("encoding", "wanted"),
    [("UTF-8", {}), ("ANSI_X3.4-1968", {"LC_ALL": "C.UTF-8"})],
)
def test_a_jvm_reads_names_as_utf_8(monkeypatch, encoding: str, wanted: dict):
    monkeypatch.setattr("locale.getencoding", lambda: encoding)

    assert jvm_locale() == wanted
