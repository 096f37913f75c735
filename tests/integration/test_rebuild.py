"""Silver made anew from bronze: after any crash, in any zone, by whatever clock."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from delta import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import lib.streaming.rebuild
from lib.errors import FraudError
from lib.kafka.clients import ensure_topic
from lib.lake.writer import LocalLake, SparkLake
from lib.settings import Settings
from lib.streaming.rebuild import rebuild
from lib.streaming.runner import drain
from lib.verify.reconciliation import reconcile
from tests.integration.conftest import Story
from tests.integration.helpers import (
    at_rest,
    copied,
    forget_last_batch,
    send,
    undo_last_commit,
)
from tests.integration.records import ARRIVED_MS, FIRST, SECOND, line

SILVER = ("silver/transactions", "silver/quarantine", "silver/scored")


@pytest.fixture(scope="module")
def told(spark: SparkSession, story: Story) -> dict[str, list[tuple]]:
    """Silver and scored of the story."""
    return at_rest(spark, story.settings)


@pytest.fixture
def harmed(story: Story, tmp_path: Path) -> Settings:
    """A copy of the story's lake, free to be harmed."""
    return copied(story.settings, tmp_path)


def check(
    spark: SparkSession, settings: Settings, bootstrap: str, told: dict[str, list]
) -> None:
    """Every record accounted for, every row once, and the same rows as before."""
    assert reconcile(spark, settings, bootstrap).differences == []
    assert at_rest(spark, settings) == told


# -- crashes ------------------------------------------------------------------------


def test_a_crash_then_a_rebuild_then_the_stream(
    spark, harmed: Settings, told, bootstrap: str
):
    """The last batch is in the tables, and no checkpoint says so: nothing of it may be
    replayed into what the rebuild makes."""
    forget_last_batch(harmed)

    rebuild(spark, harmed)
    drain(spark, harmed, bootstrap)

    check(spark, harmed, bootstrap, told)


def test_a_rebuild_then_a_crash_then_the_stream(
    spark, settings: Settings, bootstrap: str
):
    """What comes behind a rebuild is replayed after a crash, and changes nothing."""
    ensure_topic(settings, bootstrap)
    first = [(b"ACCT_1", line()), (b"ACCT_1", line(event_id="e-2")), (None, b"{")]
    send(settings, bootstrap, first, ARRIVED_MS)
    drain(spark, settings, bootstrap)
    rebuild(spark, settings)
    more = [(b"ACCT_1", line(event_id="e-3")), (b"ACCT_1", line()), (None, b"[")]
    send(settings, bootstrap, more, ARRIVED_MS)
    drain(spark, settings, bootstrap)
    forget_last_batch(settings)
    drain(spark, settings, bootstrap)

    books = reconcile(spark, settings, bootstrap)
    assert books.differences == []
    names = ("bronze", "transactions", "quarantine", "duplicates", "scored")
    assert [books.counts[name] for name in names] == [6, 3, 2, 1, 3]


class Died(Exception):
    """What a crash is here: nothing after it is done."""


class Fuse:
    """Counts the steps that leave something behind, and dies after one of them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.deadly: int | None = None

    def after(self, step: str) -> None:
        self.steps.append(step)
        if self.deadly == len(self.steps) - 1:
            raise Died(f"died after: {step}")


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    """A fuse behind every removal and every commit."""
    fuse = Fuse()

    def fused(name: str, inner: Callable, subject: int) -> Callable:
        def call(*arguments, **options):
            result = inner(*arguments, **options)
            fuse.after(f"{name} {Path(str(arguments[subject])).name}")
            return result

        return call

    remove = fused("remove", lib.streaming.rebuild.remove, 1)
    monkeypatch.setattr(lib.streaming.rebuild, "remove", remove)
    for kind in (LocalLake, SparkLake):
        for name in ("append", "merge"):
            method = fused(name, getattr(kind, name), 1)
            monkeypatch.setattr(kind, name, method)
    return fuse


@pytest.mark.parametrize(
    "everywhere",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["at three steps", "at every step"],
)
def test_a_rebuild_that_died_is_done_again(
    *,
    spark,
    settings: Settings,
    bootstrap: str,
    fuse: Fuse,
    tmp_path: Path,
    everywhere: bool,
):
    """... wherever it died: one step after the other, on a lake of its own."""
    ensure_topic(settings, bootstrap)
    records = [(b"ACCT_1", line(event_id=f"e-{n}")) for n in range(3)]
    records += [(b"ACCT_1", line(event_id="e-0")), (None, b"no JSON")]
    send(settings, bootstrap, records, ARRIVED_MS)
    drain(spark, settings, bootstrap)
    told = at_rest(spark, settings)
    whole = copied(settings, tmp_path / "whole")
    fuse.steps.clear()
    rebuild(spark, whole)
    steps = list(fuse.steps)
    assert len(steps) >= 6, steps

    chosen = range(len(steps)) if everywhere else (0, len(steps) // 2, len(steps) - 1)
    for number in chosen:
        lake = copied(settings, tmp_path / str(number))
        fuse.steps, fuse.deadly = [], number
        with pytest.raises((Died, FraudError), match="died after"):
            rebuild(spark, lake)
        fuse.deadly = None
        with pytest.raises(FraudError, match="rebuild"):
            drain(spark, lake, bootstrap)  # it would go on behind what is not there
        rebuild(spark, lake)
        assert at_rest(spark, lake) == told, steps[number]
    drain(spark, lake, bootstrap)
    assert at_rest(spark, lake) == told


# -- clocks -------------------------------------------------------------------------

FIRST_PASS, SECOND_PASS = "2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z"
"""Half past two in Berlin, twice."""


@pytest.fixture
def berlin(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The driver in a zone with summer time: Python, the JVM and the session."""
    zones = spark._jvm.java.util.TimeZone
    before = zones.getDefault()
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    zones.setDefault(zones.getTimeZone("Europe/Berlin"))
    yield
    zones.setDefault(before)
    os.environ.pop("TZ")
    monkeypatch.undo()
    time.tzset()


def taken_in(
    spark: SparkSession, settings: Settings, story: Story, cases: list, moment: str
) -> None:
    """Let bronze say that these records were taken in at that moment."""
    table = DeltaTable.forPath(spark, settings.table("bronze/tx_events"))
    places = [story.position[case.name] for case in cases]
    here = [f"(partition = {part} AND offset = {at})" for part, at in places]
    table.update(" OR ".join(here), {"ingested_at": F.lit(moment).cast("timestamp")})


@pytest.mark.slow
@pytest.mark.usefixtures("berlin")
def test_a_rebuild_of_the_hour_that_comes_twice(
    spark, harmed: Settings, told, story: Story, bootstrap: str
):
    taken_in(spark, harmed, story, FIRST, FIRST_PASS)
    taken_in(spark, harmed, story, SECOND, SECOND_PASS)

    rebuild(spark, harmed)

    check(spark, harmed, bootstrap, told)
    drain(spark, harmed, bootstrap)
    check(spark, harmed, bootstrap, told)


@pytest.mark.usefixtures("berlin")
def test_a_lost_checkpoint_in_the_hour_that_comes_twice(
    spark, harmed: Settings, told, story: Story, bootstrap: str
):
    """The last batch had reached bronze only."""
    taken_in(spark, harmed, story, SECOND, FIRST_PASS)
    for table in SILVER:
        undo_last_commit(harmed, table)
    shutil.rmtree(harmed.checkpoints)

    drain(spark, harmed, bootstrap)

    check(spark, harmed, bootstrap, told)


@pytest.mark.parametrize(
    "by", ["lost checkpoint", pytest.param("rebuild", marks=pytest.mark.slow)]
)
def test_a_clock_that_steps_back(
    spark, harmed: Settings, told, story: Story, bootstrap: str, by: str
):
    """The last batch had reached bronze only, at an earlier time than the first."""
    taken_in(spark, harmed, story, SECOND, "2001-01-01T00:00:00Z")
    for table in SILVER:
        undo_last_commit(harmed, table)

    if by == "rebuild":
        forget_last_batch(harmed)
        rebuild(spark, harmed)
    else:
        shutil.rmtree(harmed.checkpoints)
    drain(spark, harmed, bootstrap)

    check(spark, harmed, bootstrap, told)
