"""A lake written by hand: a few events whose marts can be worked out in the head."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from delta import DeltaTable
from pyspark.sql import SparkSession

from lib.marts.spark_catalog import SOURCES
from lib.settings import Settings

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SENT = datetime(2026, 3, 2, 9, 0, 30, tzinfo=UTC)
SCORED = datetime(2026, 3, 2, 9, 1, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Payment:
    """One event. ``minutes`` is its event time after NOON; ``fired`` the detectors."""

    account_id: str
    event_id: str
    minutes: int
    amount: str
    country: str = "US"
    fired: tuple[str, ...] = ()
    late: bool = False
    merchant: str = "Starbucks"


FIRST = [
    Payment("ACCT_1", "e1", 0, "10.10"),
    Payment("ACCT_1", "e2", 1, "20.20", fired=("velocity", "geo"), country="VN"),
    Payment("ACCT_1", "e3", 2, "0.07", merchant="Target"),
    Payment("ACCT_2", "e1", 0, "99999.99", country="DE", fired=("amount",)),
    Payment("ACCT_3", "e1", 1440, "5.00", country="FR"),
    Payment("ACCT_3", "e2", 0, "6.00", country="ES", late=True),
]


class Writer:
    """Writes records into a lake as the stream does: bronze first, scores apart."""

    def __init__(self, spark: SparkSession, settings: Settings, first: int = 0) -> None:
        self.spark, self.settings = spark, settings
        self.offset = self.batch = first
        for table in SOURCES:
            self._append(table, [])

    def send(self, payments: list[Payment], *, scored_at: datetime = SCORED) -> None:
        """One batch of valid events, and their scores."""
        places = range(self.offset, self.offset + len(payments))
        self.offset += len(payments)
        pairs = list(zip(payments, places, strict=True))
        values = [(json.dumps(_identity(p)).encode(), at) for p, at in pairs]
        self._take_in([_record(v, at) for v, at in values], "new")
        self._append("silver/transactions", [_transaction(p, at) for p, at in pairs])
        self.score(payments, scored_at=scored_at)

    def refuse(self, value: bytes) -> None:
        """One record that is no event."""
        row = _record(value, self.offset)
        self._take_in([row], "rejected")
        refused = row | {"reason": "malformed_json", "detail": "no JSON"}
        self._append("silver/quarantine", [refused])
        self.offset += 1

    def repeat(self, payment: Payment) -> None:
        """One record that repeats an event."""
        value = json.dumps(_identity(payment)).encode()
        self._take_in([_record(value, self.offset)], "duplicate")
        self.offset += 1

    def score(self, payments: list[Payment], *, scored_at: datetime = SCORED) -> None:
        """First answers to events."""
        rows = [_score(payment, scored_at) for payment in payments]
        self._append("silver/scored", rows)

    def revise(self, payment: Payment, *, scored_at: datetime) -> None:
        """A correction of an event's answer, in place."""
        table = DeltaTable.forPath(self.spark, self.settings.table("silver/scored"))
        flags = {f"is_{name}": "false" for name in ("velocity", "geo", "amount")}
        flags |= {f"is_{name}": "true" for name in payment.fired}
        table.update(
            f"account_id = '{payment.account_id}' AND event_id = '{payment.event_id}'",
            {
                **flags,
                "revision": "revision + 1",
                "scored_at": f"timestamp '{scored_at.isoformat()}'",
            },
        )

    def _take_in(self, records: list[dict[str, object]], status: str) -> None:
        """One micro-batch of bronze."""
        said = {"batch": self.batch, "status": status}
        self._append("bronze/tx_events", [record | said for record in records])
        self.batch += 1

    def _append(self, table: str, rows: list[dict[str, object]]) -> None:
        schema = SOURCES[table]
        tuples = [tuple(row.get(name) for name in schema.fieldNames()) for row in rows]
        frame = self.spark.createDataFrame(tuples, schema).coalesce(1)
        frame.write.format("delta").mode("append").save(self.settings.table(table))


def _identity(payment: Payment) -> dict[str, str]:
    return {"account_id": payment.account_id, "event_id": payment.event_id}


def _record(value: bytes, offset: int) -> dict[str, object]:
    return {
        "value": value,
        "topic": "t",
        "partition": 0,
        "offset": offset,
        "kafka_timestamp": SENT,
        "ingested_at": SENT + timedelta(seconds=offset),
    }


def _transaction(payment: Payment, offset: int) -> dict[str, object]:
    return {
        **_identity(payment),
        "ts": NOON + timedelta(minutes=payment.minutes),
        "merchant": payment.merchant,
        "country": payment.country,
        "amount": Decimal(payment.amount),
        "currency": "USD",
        **_record(b"", offset),
    }


def _score(payment: Payment, scored_at: datetime) -> dict[str, object]:
    return {
        **_transaction(payment, 0),
        "late": payment.late,
        **{f"is_{n}": n in payment.fired for n in ("velocity", "geo", "amount")},
        "revision": 0,
        "scored_at": scored_at,
    }
