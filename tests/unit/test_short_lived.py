"""A JVM takes one garbage collector: whose choice it is."""

from __future__ import annotations

import pytest

from lib.streaming.session import short_lived_options

VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_ours_if_nobody_chose():
    assert "-XX:+UseParallelGC" in short_lived_options().split()


@pytest.mark.parametrize("variable", VARIABLES)
def test_one_from_the_environment_is_left_alone(variable, monkeypatch):
    monkeypatch.setenv(variable, "-Xmx1g -XX:+UseSerialGC -Dx=y")

    assert "GC" not in short_lived_options()
    assert "-XX:TieredStopAtLevel=1" in short_lived_options().split()


@pytest.mark.parametrize("other", ["-XX:-UseSerialGC", "-XX:+UseGCOverheadLimit"])
def test_other_options_choose_none(other, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", other)

    assert "-XX:+UseParallelGC" in short_lived_options().split()
