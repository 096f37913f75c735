"""A trigger is checked before a JVM starts for it."""

from __future__ import annotations

import argparse

import pytest

from lib.cli.commands import _interval


@pytest.mark.parametrize(
    "text",
    [
        "500 milliseconds",
        "1 second",
        "2 MINUTES",
        " 1 minute 30 seconds ",
        "0 hours",
        "1 day",
    ],
)
def test_what_spark_takes(text: str):
    assert _interval(text) == text


@pytest.mark.parametrize(
    "text", ["", "5", "seconds", "-1 second", "1.5 seconds", "a day"]
)
def test_what_it_does_not(text: str):
    with pytest.raises(argparse.ArgumentTypeError, match="say '500 milliseconds'"):
        _interval(text)
