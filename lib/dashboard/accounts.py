"""Read on demand: one account's history, and dbt's accounts at risk."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lib.dashboard.model import ROW_COLUMNS, Row, shortened
from lib.detectors.rules import NAMES
from lib.lake.follower import NoTable, rows_of
from lib.lake.tables import SCORED, TRANSACTIONS
from lib.settings import Settings

HISTORY_ROWS = 500
TOP_ACCOUNTS = 10
GOLD = "gold/dim_account"
_ALERTS = tuple(f"{name}_alerts" for name in NAMES)


@dataclass(frozen=True)
class History:
    """An account's newest events, newest first.

    Attributes:
        rows: at most HISTORY_ROWS of them.
        total: how many there are in all.
        places: event_id → (partition, offset) of its Kafka record.
    """

    rows: list[Row]
    total: int
    places: dict[str, tuple[int, int]]


def history(settings: Settings, account_id: str) -> History:
    """An account's history, with each event's place in Kafka.

    Raises:
        NoTable: the table can't be read.
    """
    pieces = rows_of(settings.table(SCORED), account_id, ROW_COLUMNS)
    pieces = map(shortened, pieces)
    found = [values for piece in pieces for values in piece.to_pylist()]
    found.sort(key=lambda values: (values["ts"], values["event_id"]), reverse=True)
    rows = [Row(**values) for values in found[:HISTORY_ROWS]]
    try:
        columns = ("event_id", "partition", "offset")
        pieces = rows_of(settings.table(TRANSACTIONS), account_id, columns)
    except NoTable:
        pieces = []
    placed = [values for piece in pieces for values in piece.to_pylist()]
    places = {p["event_id"]: (p["partition"], p["offset"]) for p in placed}
    return History(rows, len(found), places)


@dataclass(frozen=True)
class AtRisk:
    """dbt's accounts with the most alerts.

    Attributes:
        accounts: rows of dim_account, most alerts first.
        built_ms: the table's last commit, milliseconds since the epoch.
    """

    accounts: list[dict[str, object]]
    built_ms: int


def at_risk(settings: Settings) -> AtRisk | None:
    """The accounts with the most alerts in dbt's dim_account; None as long as there
    is no such table."""
    columns = ["account_id", "transactions", *_ALERTS, "risk_band"]
    try:
        table = DeltaTable(settings.table(GOLD))
        built = table.history(1)[0].get("timestamp", 0)
        rows = table.to_pyarrow_table(columns=columns).to_pylist()
    except (DeltaError, OSError, ValueError, KeyError, IndexError, pa.ArrowException):
        return None
    for row in rows:
        row["alerts"] = sum(row[name] or 0 for name in _ALERTS)
    rows = [row for row in rows if row["alerts"]]
    rows.sort(key=lambda row: (-row["alerts"], row["account_id"]))
    return AtRisk(rows[:TOP_ACCOUNTS], built)
