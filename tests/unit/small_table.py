"""A small table of a local lake, for tests of its log."""

from __future__ import annotations

from datetime import UTC, datetime
from threading import Lock

import pyarrow as pa
from deltalake import DeltaTable

from lib.lake.maintenance import Maintenance
from lib.lake.tables import QUARANTINE, SCHEMAS
from lib.lake.writer import LocalLake

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def row(offset: int) -> pa.Table:
    """One row of the quarantine."""
    record = {
        "value": b"garbage",
        "reason": "malformed_json",
        "detail": "The value is not JSON.",
        "topic": "tx-events",
        "partition": 0,
        "offset": offset,
        "kafka_timestamp": NOW,
    }
    return pa.Table.from_pylist([record], schema=SCHEMAS[QUARANTINE])


def offsets(lake: LocalLake) -> list[int]:
    """What the quarantine holds, as delta-rs reads it from the log alone."""
    table = DeltaTable(lake.uri(QUARANTINE)).to_pyarrow_table(columns=["offset"])
    return sorted(table["offset"].to_pylist())


def tables(lake: LocalLake) -> dict[str, Lock]:
    """The quarantine, as who looks after it takes it."""
    return {lake.uri(QUARANTINE): lake.alone[lake.uri(QUARANTINE)]}


def compact(lake: LocalLake) -> None:
    """Merge the quarantine's files now."""
    maintenance = Maintenance(tables(lake), every=1)
    maintenance.after_batch()
    maintenance.finish()
