"""What `doctor` says about settings that no run could use, and ignored variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.config import Settings
from lib.doctor import Check, checks


def found(home: object, left_out: tuple[str, ...] = ()) -> dict[str, Check]:
    settings = Settings.from_env({"FRAUD_HOME": str(home)}, check=False)
    return {check.name: check for check in checks(settings, left_out)}


@pytest.mark.parametrize(
    "name", ["[1]", "two\nlines", os.fsdecode(b"caf\xe9"), "x" * 999]
)
def test_a_home_that_cannot_be_used(tmp_path: Path, name: str):
    looked = found(tmp_path / name)

    bad = [check for check in looked.values() if not check.ok]
    assert bad
    for check in bad:
        assert "FRAUD_HOME" in check.remedy
        assert check.found.isprintable()
    assert looked["python"].ok  # and the other looks were made


def test_variables_of_another_installation(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1g")

    check = found(tmp_path, ("SPARK_HOME", "SPARK_REMOTE"))["other installations"]

    assert check.ok
    assert check.found == (
        "ignored: SPARK_HOME, SPARK_REMOTE; every Java obeys JAVA_TOOL_OPTIONS"
    )


def test_few_open_files(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _which: (64, 64))
    monkeypatch.setattr("resource.setrlimit", lambda *_words: None)

    check = found(tmp_path)["open files"]

    assert not check.ok
    assert "ulimit -n" in check.remedy
