"""silver/scored written by delta-rs as the stream writes it, without Spark."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from lib.settings import Settings

MICROS = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("account_id", pa.string()),
        ("ts", MICROS),
        ("merchant", pa.string()),
        ("country", pa.string()),
        ("amount", pa.decimal128(12, 2)),
        ("currency", pa.string()),
        ("late", pa.bool_()),
        ("is_velocity", pa.bool_()),
        ("velocity_count", pa.int64()),
        ("is_geo", pa.bool_()),
        ("prev_country", pa.string()),
        ("gap_seconds", pa.float64()),
        ("is_amount", pa.bool_()),
        ("z", pa.float64()),
        ("baseline_n", pa.int64()),
        ("baseline_mean", pa.float64()),
        ("baseline_stddev", pa.float64()),
        ("revision", pa.int64()),
        ("kafka_timestamp", MICROS),
        ("scored_at", MICROS),
    ]
)
TABLES = {
    "bronze/tx_events": pa.schema(
        [
            ("value", pa.binary()),
            ("topic", pa.string()),
            ("partition", pa.int32()),
            ("offset", pa.int64()),
        ]
    ),
    "silver/transactions": pa.schema(
        [
            ("event_id", pa.string()),
            ("account_id", pa.string()),
            ("partition", pa.int32()),
            ("offset", pa.int64()),
        ]
    ),
    "silver/quarantine": pa.schema([("reason", pa.string())]),
}
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def settings_of(folder: Path) -> Settings:
    return Settings.from_env({"FRAUD_HOME": str(folder)})


def event(number: int, account: int = 84, **changes: object) -> dict[str, object]:
    """A scored row; ``number`` is its second, too."""
    row = dict.fromkeys(SCHEMA.names)
    row |= {
        "event_id": f"e-{number}",
        "account_id": f"ACCT_{account:08d}",
        "ts": NOON + timedelta(seconds=number),
        "merchant": "Starbucks",
        "country": "US",
        "amount": Decimal("12.50"),
        "currency": "USD",
        "late": False,
        "is_velocity": False,
        "velocity_count": 1,
        "is_geo": False,
        "is_amount": False,
        "revision": 0,
        "kafka_timestamp": NOON + timedelta(seconds=number),
        "scored_at": NOON + timedelta(seconds=number),
    }
    return row | changes


def append(settings: Settings, rows: Iterable[dict[str, object]], batch: int) -> None:
    """One micro-batch of first answers."""
    write_deltalake(settings.table("silver/scored"), _table(rows, batch), mode="append")


def merge(settings: Settings, rows: Iterable[dict[str, object]], batch: int) -> None:
    """One micro-batch with corrections, as ``lib.lake.writer`` merges it."""
    table = DeltaTable(settings.table("silver/scored"))
    same = "old.account_id = new.account_id AND old.event_id = new.event_id"
    (
        table.merge(_table(rows, batch), same, source_alias="new", target_alias="old")
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )


def write(settings: Settings, name: str, rows: Iterable[dict[str, object]]) -> None:
    """Rows of another table."""
    table = pa.Table.from_pylist(list(rows), schema=TABLES[name])
    write_deltalake(settings.table(name), table, mode="append")


def _table(rows: Iterable[dict[str, object]], batch: int) -> pa.Table:
    # All that one batch writes carries one scored_at, later than every batch before.
    at = {"scored_at": NOON + timedelta(hours=1, seconds=batch)}
    return pa.Table.from_pylist([row | at for row in rows], schema=SCHEMA)
