"""What listens does so on loopback or in a file, and is told so where it starts."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest

from lib.dashboard import serve
from lib.settings import ROOT, Settings
from lib.setup.java import find_java
from lib.streaming.session import _properties, sockets_fit


def test_jupyter_is_started_on_loopback():
    plan = subprocess.run(
        ["make", "--dry-run", "lab"], cwd=ROOT, capture_output=True, text=True
    )
    assert "jupyterlab --ip=127.0.0.1 " in plan.stdout


def test_the_dashboard_is_started_on_loopback():
    assert ipaddress.ip_address(serve.HOST).is_loopback


def test_spark_serves_no_pages_and_its_ports_are_on_loopback(tmp_path):
    for master in ("local[2]", "spark://127.0.0.1:7077"):
        env = {"FRAUD_HOME": str(tmp_path), "FRAUD_SPARK_MASTER": master}
        properties = _properties(Settings.from_env(env), find_java())
        assert properties["spark.ui.enabled"] == "false"
        assert properties["spark.driver.bindAddress"] == "127.0.0.1"


@pytest.mark.parametrize(("path_bytes", "fits"), [(103, True), (104, False)])
def test_python_workers_are_met_in_a_file_if_its_name_fits(path_bytes: int, fits: bool):
    name = "/.00000000-0000-0000-0000-000000000000.sock"
    letters = path_bytes - len("/é") - 1 - len(name)  # é has two bytes
    folder = Path("/é" + letters * "a")

    assert sockets_fit(folder) == fits


def test_a_home_with_a_long_name_is_served_on_loopback(tmp_path: Path):
    env = {"FRAUD_HOME": str(tmp_path / ("long" * 20))}

    properties = _properties(Settings.from_env(env), find_java())

    assert properties["spark.python.unix.domain.socket.enabled"] == "false"
