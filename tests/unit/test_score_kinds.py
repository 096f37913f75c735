"""What a row is to the table, when the table is older than the checkpoint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from lib.errors import FraudError
from lib.score import AGAIN, CORRECTION, FRESH, UNSURE, batch_writer, met_again

UNTIL = datetime(2026, 6, 30, tzinfo=UTC)
BEFORE, AFTER = UNTIL - timedelta(seconds=1), UNTIL + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("kind", "kafka_timestamp", "becomes"),
    [
        (FRESH, BEFORE, AGAIN),
        (FRESH, UNTIL, AGAIN),
        (FRESH, AFTER, FRESH),
        (UNSURE, BEFORE, UNSURE),
        (CORRECTION, None, CORRECTION),  # of an event, not of a record
    ],
)
def test_only_an_old_first_answer_is_met_again(kind, kafka_timestamp, becomes):
    rows = pa.table(
        {
            "kind": pa.array([kind], pa.int32()),
            "kafka_timestamp": pa.array([kafka_timestamp], pa.timestamp("us", "UTC")),
        }
    )

    assert met_again(rows, UNTIL)["kind"].to_pylist() == [becomes]


def test_a_row_of_no_kind_stops_the_batch(monkeypatch: pytest.MonkeyPatch):
    rows = pa.table({"kind": pa.array([FRESH, None], pa.int32())})
    monkeypatch.setattr("lib.score.table_rows", lambda given: given)

    class Batch:
        def toArrow(self):
            return rows

    write = batch_writer(None, "app", lambda _id, _kinds: None)
    with pytest.raises(FraudError, match="no known kind"):
        write(Batch(), 7)
