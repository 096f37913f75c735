"""What costs much and is only looked at: made once for all integration tests."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lib.kafka.broker import Broker
from lib.kafka.clients import ensure_topic
from lib.settings import Settings
from lib.streaming.runner import drain
from tests.integration.helpers import (
    ODD_NAME,
    Ran,
    another_installation,
    copied,
    environment,
    finished,
    jvms_of,
    launch,
    nothing_left_of,
    path_without_java,
    send,
    unplugged,
)
from tests.integration.records import ARRIVED_MS, FIRST, SECOND, Case, line


@dataclass(frozen=True)
class Story:
    """A topic and the lakes it became.

    Attributes:
        settings: the lake after both drains.
        early: the lake as it was after the first drain.
        drained: what each drain said it took.
        position: (partition, offset) by name of the record.
    """

    settings: Settings
    early: Settings
    drained: list[int]
    position: dict[str, tuple[int, int]]


@pytest.fixture(scope="session")
def story(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Story:
    """FIRST drained, then SECOND drained. To be looked at; harm a copy of it."""
    folder = tmp_path_factory.mktemp("story")
    settings = replace(
        base_settings,
        topic="tx-story",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    ensure_topic(settings, bootstrap)
    position, drained = {}, []

    def tell(cases: list[Case]) -> None:
        pairs = [(case.key, case.value) for case in cases]
        positions = send(settings, bootstrap, pairs, ARRIVED_MS)
        names = [case.name for case in cases]
        position.update(zip(names, positions, strict=True))
        drained.append(drain(spark, settings, bootstrap)["records"])

    tell(FIRST)
    early = copied(settings, folder / "early")
    tell(SECOND)
    return Story(settings, early, drained, position)


@pytest.fixture(scope="session")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Broker:
    """A broker of a home of its own, which a test may kill: it starts, if need be."""
    home = tmp_path_factory.mktemp("mortal-home")
    broker = Broker(Settings.from_env({"FRAUD_HOME": str(home)}))
    yield broker
    broker.close()


@pytest.fixture
def mortal_broker(mortal: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """The mortal broker, alive, on a Java with no options of the tests."""
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    if not (mortal.pid and mortal.alive()):
        mortal.close()
        mortal.start()
    return mortal


@dataclass(frozen=True)
class Chain:
    """The README's commands one after the other, on two small files.

    They run without a network and without a Java of the machine's own, so that they
    show at once what they do, and that they need neither; in a home with an odd name,
    and with the variables of another installation.

    Attributes:
        home: their FRAUD_HOME.
        cut_off: what cut them off the network, put in front of each; empty where
            that is not permitted.
        ran: what each did.
        java: the programs that ran as a JVM, by main class.
    """

    home: Path
    cut_off: list[str]
    ran: dict[str, Ran]
    java: dict[str, set[Path]]


GARBAGE = b"\nno json\n[1]\n{}\n\xff\xfe\n"


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """One line produced, then garbage; both drained; then the books."""
    folder = tmp_path_factory.mktemp("chain")
    home = folder / ODD_NAME
    one, garbage = folder / "one.jsonl", folder / "garbage.jsonl"
    one.write_bytes(line())
    garbage.write_bytes(GARBAGE)
    cut_off, tools = unplugged(), path_without_java(folder)
    others = another_installation(folder)
    env = environment(home, JAVA_HOME=None, PATH=str(tools), **others)
    commands = {
        "one": ["produce", one],
        "garbage": ["produce", garbage],
        "drain": ["stream", "--drain"],
        "reconcile": ["reconcile"],
    }
    ran, java = {}, defaultdict(set)
    for name, command in commands.items():
        process = launch(*command, env=env, prefix=cut_off)
        while process.poll() is None:
            for main, program in jvms_of(home).items():
                java[main].add(program)
            time.sleep(0.2)
        ran[name] = finished(process)
        nothing_left_of(home)
    return Chain(home, cut_off, ran, dict(java))
