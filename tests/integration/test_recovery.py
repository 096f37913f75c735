"""What is left behind by a crash that a repeated batch alone does not mend: a rebuild
that was broken off, a checkpoint of which a part is gone, a torn batch without one.

Whatever it was, the lake ends up as if nothing had happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from lib.datagen.generator import generate
from lib.errors import FraudError
from lib.kafka.clients import end_offsets, ensure_topic
from lib.kafka.producer import replay
from lib.lake.tables import SCHEMAS, SCORED, TRANSACTIONS
from lib.lake.writer import SparkLake
from lib.settings import Settings
from lib.streaming import rebuild
from lib.streaming.checkpoint import Checkpoint
from lib.streaming.query import QUERY
from lib.streaming.runner import drain, pipeline
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import (
    copied,
    eventually,
    lake,
    send,
    undo_last_batch_commit,
    undo_last_commit,
)
from tests.integration.records import ARRIVED_MS, line

MADE_OF = {"duplicates": 0.05, "out_of_order": 0.2, "late": 0.03}
MADE_OF |= {"malformed": 0.05, "conflicts": 0.05}


@pytest.fixture(scope="module")
def base(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """Events in disorder, drained in two batches, so that the second corrects."""
    folder = tmp_path_factory.mktemp("recovery")
    settings = replace(
        base_settings,
        topic="tx-recovery",
        lake=str(folder / "lake"),
        checkpoints=str(folder / "checkpoints"),
    )
    ensure_topic(settings, bootstrap)
    lines = generate(500, 9, seed=3, **MADE_OF).lines
    for part in (lines[:300], lines[300:]):
        file = folder / "events.jsonl"
        file.write_text("\n".join(part) + "\n", errors="surrogateescape")
        replay(settings, bootstrap, file)
        drain(spark, settings, bootstrap)
    return settings


@pytest.fixture(scope="module")
def told(spark: SparkSession, base: Settings) -> dict[str, list[tuple]]:
    return lake(spark, base)


def test_rebuild_after_a_crash_leaves_nothing_to_replay(
    spark, base: Settings, told, bootstrap: str, tmp_path: Path
):
    """The query died after its tables were written, before its checkpoint said so."""
    settings = copied(base, tmp_path)
    undo_last_batch_commit(settings)
    properties = configurations(settings)

    rebuild.rebuild(spark, settings)
    assert drain(spark, settings, bootstrap)["records"] == 0

    assert lake(spark, settings) == told
    assert configurations(settings) == properties


def configurations(settings: Settings) -> dict[str, dict[str, str]]:
    """How long each table's log is kept, and so on."""
    return {
        name: DeltaTable(settings.table(name)).metadata().configuration
        for name in SCHEMAS
    }


class Crash(BaseException):
    """As a SIGKILL, nobody handles it."""


def delete_half(folder: Path) -> None:
    for file in sorted(path for path in folder.rglob("*") if path.is_file())[::2]:
        file.unlink()


def crash_in_deletion(monkeypatch, table: str | None, *, half: bool) -> None:
    """... of this table, or of the checkpoint."""

    def broken(spark: SparkSession, uri: str) -> None:
        if not uri.endswith(table or QUERY):
            return remove(spark, uri)
        if half:
            delete_half(Path(uri))
        else:
            remove(spark, uri)
        raise Crash

    remove = rebuild.remove
    monkeypatch.setattr(rebuild, "remove", broken)


def crash_behind(monkeypatch, table: str) -> None:
    """... the writing of this table."""

    class Broken(SparkLake):
        def append(self, name, rows, batch) -> None:
            super().append(name, rows, batch)
            if name == table:
                raise Crash

    monkeypatch.setattr(rebuild, "SparkLake", Broken)


@pytest.mark.parametrize(
    "crash",
    [
        lambda m: crash_in_deletion(m, None, half=True),
        *(
            pytest.param(crash, marks=pytest.mark.slow)
            for crash in (
                lambda m: crash_in_deletion(m, TRANSACTIONS, half=True),
                lambda m: crash_in_deletion(m, SCORED, half=False),
                lambda m: crash_behind(m, TRANSACTIONS),
                lambda m: crash_behind(m, SCORED),
            )
        ),
    ],
    ids=["half a checkpoint", "half a table", "deleted", "a table", "all tables"],
)
def test_no_stream_starts_behind_a_broken_rebuild(
    *,
    spark,
    base: Settings,
    told,
    bootstrap: str,
    tmp_path: Path,
    monkeypatch,
    crash: Callable[[pytest.MonkeyPatch], None],
):
    settings = copied(base, tmp_path)
    with monkeypatch.context() as patched:
        crash(patched)
        with pytest.raises(Crash):
            rebuild.rebuild(spark, settings)
    before = {path for path in tmp_path.rglob("*") if path.name != ".lock"}

    with pytest.raises(FraudError, match="python -m lib rebuild") as caught:
        drain(spark, settings, bootstrap)
    assert "\n" not in str(caught.value)
    assert {path for path in tmp_path.rglob("*") if path.name != ".lock"} == before

    rebuild.rebuild(spark, settings)
    assert drain(spark, settings, bootstrap)["records"] == 0
    assert lake(spark, settings) == told


def test_rebuild_deletes_nothing_before_it_has_read_bronze(
    spark, base: Settings, tmp_path: Path
):
    settings = copied(base, tmp_path)
    next(Path(settings.table("bronze/tx_events")).glob("*.parquet")).unlink()
    before = {path for path in tmp_path.rglob("*") if path.name != ".lock"}

    with pytest.raises(Exception, match=r"(?i)not exist|not.found"):
        rebuild.rebuild(spark, settings)

    assert {path for path in tmp_path.rglob("*") if path.name != ".lock"} == before


@pytest.fixture
def small(spark, settings: Settings, bootstrap: str) -> Settings:
    """A lake of four events, drained two at a time; it may go on."""
    ensure_topic(settings, bootstrap)
    for ids in (("e-1", "e-2"), ("e-3", "e-4")):
        send(settings, bootstrap, [(b"ACCT_1", line(event_id=name)) for name in ids])
        drain(spark, settings, bootstrap)
    return settings


def counts(spark, settings: Settings) -> dict[str, int]:
    return {name: len(rows) for name, rows in lake(spark, settings).items()}


def test_what_is_left_of_a_checkpoint_does_not_count(
    spark, small: Settings, bootstrap: str
):
    """Its deletion was broken off: there are commits and state, and no offsets."""
    shutil.rmtree(Path(small.checkpoint(QUERY)) / "offsets")
    assert drain(spark, small, bootstrap)["records"] == 0

    # The next batches have the numbers of the last life's, and their own memory.
    for number in range(5, 9):
        ids = (f"e-{number}", f"e-{number - 1}")
        send(small, bootstrap, [(b"ACCT_1", line(event_id=name)) for name in ids])
        drain(spark, small, bootstrap)

    assert list(counts(spark, small).values()) == [12, 8, 0, 8]
    assert reconcile(spark, small, bootstrap).differences == []


def test_what_a_query_begins_with_does_not_slow_it_down(
    spark, settings: Settings, bootstrap: str
):
    """Each batch is planned anew: no plan may read silver/scored, which only the first
    batch of a new checkpoint asks."""
    ensure_topic(settings, bootstrap)
    send(settings, bootstrap, [(b"ACCT_1", line(event_id="e-0"))], ARRIVED_MS)
    drain(spark, settings, bootstrap)
    shutil.rmtree(settings.checkpoints)

    with pipeline(spark, settings, bootstrap) as running:
        send(settings, bootstrap, [(b"ACCT_1", line(event_id="e-0"))], ARRIVED_MS)
        ends = end_offsets(settings, bootstrap)
        eventually(lambda: running.reached(ends), "the record", running.raise_failure)
        plan = running.query._jsq.explainInternal(True)

    assert "TransformWithStateInPySpark" in plan
    assert "FileScan" not in plan
    assert SCORED not in plan
    assert reconcile(spark, settings, bootstrap).counts["duplicates"] == 1


def test_the_first_batch_of_a_new_checkpoint_died_long_ago(
    spark, small: Settings, bootstrap: str
):
    """It was in all tables, and what silver/scored was before is kept for an hour."""
    shutil.rmtree(small.checkpoints)
    event = (b"ACCT_1", line(event_id="died"))
    send(small, bootstrap, [event])
    assert drain(spark, small, bootstrap)["records"] == 1
    undo_last_batch_commit(small)
    kept = {"delta.deletedFileRetentionDuration": "interval 0 seconds"}
    DeltaTable(small.table(SCORED)).alter.set_table_properties(kept)

    send(small, bootstrap, [event, (b"ACCT_1", line(event_id="next"))])
    assert drain(spark, small, bootstrap)["records"] == 2

    assert list(counts(spark, small).values()) == [7, 6, 0, 6]
    assert reconcile(spark, small, bootstrap).differences == []


def test_a_torn_batch_with_an_ancient_event_and_no_checkpoint(
    spark, settings: Settings, bootstrap: str, tmp_path: Path
):
    """The watermark is 91 days past a new account's first event: it is late. So it is
    when recovery completes the batch; and its event_id is taken."""
    ensure_topic(settings, bootstrap)

    def sent(*values: bytes) -> int:
        send(settings, bootstrap, [(None, value) for value in values], ARRIVED_MS)
        return drain(spark, settings, bootstrap)["records"]

    # Every partition of the state has seen something recent.
    sent(*(line(account_id=f"ACCT_1{n:02}") for n in range(40)))
    ancient = line(ts="1999-01-01T00:00:00Z")
    sent(ancient)
    told = lake(spark, settings)
    (late,) = [row for row in told[SCORED] if row[2].year == 1999]
    assert late[7] is True  # late

    shutil.rmtree(settings.checkpoints)
    for table in (TRANSACTIONS, SCORED):
        undo_last_commit(settings, table)
    assert drain(spark, settings, bootstrap)["records"] == 0
    assert lake(spark, settings) == told

    assert sent(line(), ancient) == 2
    books = reconcile(spark, settings, bootstrap)
    assert books.differences == []
    assert books.reasons == {"conflicting_event_id": 1}
    assert books.counts["duplicates"] == 1


def test_a_plan_is_dropped_with_the_state_that_it_left(spark, tmp_path: Path):
    """A snapshot of the state may be there, of records that are planned in another way
    now: later batches would begin with it."""
    stays = [
        "offsets/3",
        "state/0/0/3.changelog",
        "state/0/1/2.zip",
        "state/0/1/SSTs/9",
    ]
    goes = ["offsets/4", "state/0/0/5.changelog", "state/0/1/5.zip"]
    for name in stays + goes:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    Checkpoint(spark, str(tmp_path)).drop_plan(4)

    left = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert left == set(stays)
