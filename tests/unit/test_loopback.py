"""What a browser opens listens on loopback, and is told so where it is started."""

from __future__ import annotations

import ipaddress
import subprocess

from lib.config import ROOT, Settings
from lib.dashboard import serve
from lib.java import find_java
from lib.spark import _properties


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
