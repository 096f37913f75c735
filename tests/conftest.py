"""What the tests share: one home, one broker and one Spark session for all of them;
a topic, a lake and checkpoints of its own for each test that asks for settings."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest

from lib.kafka.broker import Broker
from lib.settings import Settings

# A JVM of the tests lives for seconds: the optimising compiler and the parallel
# collector would take a core for what soon ends. It changes no answer. Spark's and
# Kafka's logs get the note that a JVM prints about it.
os.environ.setdefault(
    "JAVA_TOOL_OPTIONS",
    "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC",
)

# What an example takes depends on what else the machine does.
hypothesis.settings.register_profile("no clock", deadline=None)
hypothesis.settings.load_profile("no clock")

IN_CI = os.environ.get("CI") == "true"


def missing(reason: str) -> None:
    """Skip on a laptop; fail in CI, where nothing may be missing silently."""
    if IN_CI:
        pytest.fail(f"required in CI: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fraud-home")


@pytest.fixture(scope="session")
def base_settings(home: Path) -> Settings:
    return Settings.from_env(
        {"FRAUD_HOME": str(home), "FRAUD_SPARK_MASTER": "local[2]"}
    )


@pytest.fixture(scope="session")
def bootstrap(base_settings: Settings):
    broker = Broker(base_settings).start()
    yield broker.bootstrap
    broker.close()


@pytest.fixture(scope="session")
def spark(base_settings: Settings):
    from lib.streaming.session import INTERPRETED, spark_session

    # The tests of the commands run Spark as readers do.
    conf = {**INTERPRETED, "spark.sql.shuffle.partitions": "2"}
    session = spark_session(base_settings, conf, short_lived=True)
    yield session
    session.stop()


@pytest.fixture
def settings(base_settings: Settings, tmp_path: Path) -> Settings:
    """Settings of one test: nothing in it has a name that another test has."""
    name = f"tx-{uuid.uuid4().hex[:8]}"
    return replace(
        base_settings,
        topic=name,
        lake=str(tmp_path / "lake"),
        checkpoints=str(tmp_path / "checkpoints"),
    )
