"""One event, one row: whatever its timestamps say, and whatever the state has kept."""

from __future__ import annotations

import shutil
from datetime import datetime

import pytest
from pyspark.sql import SparkSession

from lib.kafka.clients import ensure_topic
from lib.settings import Settings
from lib.streaming.runner import drain
from lib.verify.reconciliation import reconcile
from tests.integration.helpers import send
from tests.integration.records import ARRIVED_MS, line

ANCIENT, RECENT = "1999-12-31T23:59:59Z", "2025-01-15T11:59:58Z"
WHO = "ACCT_77"
"""An account of which nothing is known when its first record comes."""


def event(ts: str) -> tuple[bytes, bytes]:
    return WHO.encode(), line(account_id=WHO, event_id="e-1", ts=ts)


def times(spark: SparkSession, settings: Settings, table: str) -> list[datetime]:
    frame = spark.read.format("delta").load(settings.table(table))
    return [row.ts for row in frame.where(f"account_id = '{WHO}'").collect()]


@pytest.mark.parametrize(
    ("batches", "lost"),
    [
        (2, (0, 1)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (1, ()),
                (1, (0,)),
                (1, (1,)),
                (1, (0, 1)),
                (2, ()),
                (2, (0,)),
                (2, (1,)),
            )
        ),
    ],
    ids=str,
)
def test_an_ancient_event_then_its_namesake(
    spark, settings: Settings, bootstrap: str, batches: int, lost: tuple[int, ...]
):
    """The first stands, the second is a conflict, a repeat of the first a duplicate.

    Args of the cases: in how many batches the two come, and behind which batches the
    checkpoint is lost (0 is the one before them).
    """
    ensure_topic(settings, bootstrap)
    # The stream has seen the present, so what is ancient may have been forgotten.
    others = [
        (b"ACCT_1", line(event_id=f"e-{n}", ts=f"2025-01-15T11:5{n}:00Z"))
        for n in range(9)
    ]
    two, repeat = [event(ANCIENT), event(RECENT)], [event(ANCIENT)]
    parts = [others, two, repeat] if batches == 1 else [others, *zip(two), repeat]

    for number, part in enumerate(parts):
        send(settings, bootstrap, part, ARRIVED_MS)
        drain(spark, settings, bootstrap)
        if number in lost:
            shutil.rmtree(settings.checkpoints)

    books = reconcile(spark, settings, bootstrap)
    assert books.differences == []
    assert books.reasons == {"conflicting_event_id": 1}
    assert books.counts["duplicates"] == 1
    stands = [datetime.fromisoformat(ANCIENT).replace(tzinfo=None)]
    assert times(spark, settings, "silver/transactions") == stands
    assert times(spark, settings, "silver/scored") == stands
