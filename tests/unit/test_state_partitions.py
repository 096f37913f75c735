"""How many tasks parse and score."""

from __future__ import annotations

import os

import pytest

from lib.settings import Settings
from lib.setup.java import find_java
from lib.streaming.session import _properties


@pytest.mark.parametrize(
    ("variables", "cores", "expected"),
    [
        ({}, 2, "2"),
        ({}, 64, "4"),
        ({}, None, "1"),
        ({"FRAUD_SPARK_MASTER": "spark://host:7077"}, 2, "4"),
        ({"FRAUD_STATE_PARTITIONS": "24"}, 2, "24"),
        (
            {"FRAUD_SPARK_MASTER": "spark://host:7077", "FRAUD_STATE_PARTITIONS": "1"},
            64,
            "1",
        ),
    ],
)
def test_the_setting_or_this_machine_decides(
    variables: dict[str, str],
    cores: int | None,
    expected: str,
    tmp_path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path), **variables})

    properties = _properties(settings, find_java())

    assert properties["spark.sql.shuffle.partitions"] == expected
