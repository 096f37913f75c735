"""The lake's tables: name, columns, what one row is, and what identifies it."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import (
    BinaryType,
    BooleanType,
    DecimalType,
    DoubleType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

BRONZE = "bronze/tx_events"  # one row per Kafka record
TRANSACTIONS = "silver/transactions"  # one row per valid event
QUARANTINE = "silver/quarantine"  # one row per rejected record
SCORED = "silver/scored"  # one row per valid event

IDENTITY = ("account_id", "event_id")  # of an event
POSITION = ("topic", "partition", "offset")  # of a Kafka record
CONTENT = ("ts", "merchant", "country", "amount", "currency")
"""What is equal in a duplicate, and differs in a conflict."""


def _fields(**types: type | DecimalType) -> StructType:
    return StructType(
        [StructField(n, t() if isinstance(t, type) else t) for n, t in types.items()]
    )


EVENT = _fields(
    event_id=StringType,
    account_id=StringType,
    ts=TimestampType,
    merchant=StringType,
    country=StringType,
    amount=DecimalType(12, 2),
    currency=StringType,
)
"""An event's fields."""

ANSWERS = _fields(
    late=BooleanType,
    is_velocity=BooleanType,
    velocity_count=LongType,
    is_geo=BooleanType,
    prev_country=StringType,
    gap_seconds=DoubleType,
    is_amount=BooleanType,
    z=DoubleType,
    baseline_n=LongType,
    baseline_mean=DoubleType,
    baseline_stddev=DoubleType,
    revision=LongType,
)
"""What the detectors say of an event."""

_PLACE = _fields(topic=StringType, partition=IntegerType, offset=LongType)
_STAMP = _fields(kafka_timestamp=TimestampType)

SCHEMAS = {
    BRONZE: StructType(
        [
            *_fields(key=BinaryType, value=BinaryType),
            *_PLACE,
            *_STAMP,
            # The micro-batch that brought the record, counted over all lives of the
            # checkpoint, and what it made of the record. A clock may step back, and a
            # payload may be read in other ways by other programs: neither decides.
            *_fields(batch=LongType, status=StringType, ingested_at=TimestampType),
        ]
    ),
    TRANSACTIONS: StructType([*EVENT, *_STAMP, *_PLACE]),
    QUARANTINE: StructType(
        [
            *_fields(value=BinaryType, reason=StringType, detail=StringType),
            *_PLACE,
            *_STAMP,
        ]
    ),
    SCORED: StructType([*EVENT, *ANSWERS, *_STAMP, *_fields(scored_at=TimestampType)]),
}

ANSWER_COLUMNS = ANSWERS.fieldNames()

NEW, DUPLICATE, CONFLICT, REJECTED, UNSURE = (
    "new",
    "duplicate",
    "conflict",
    "rejected",
    "unsure",
)
"""The status of a record. ``unsure``: its account's memory does not go back so far;
only silver/transactions can say whether its event came before. No table holds it."""


def arrow_schema(schema: StructType) -> pa.Schema:
    """The schema as Arrow's: times in whole microseconds UTC."""
    return to_arrow_schema(schema, timezone="UTC")


ARROW = {name: arrow_schema(schema) for name, schema in SCHEMAS.items()}


_MADE = ("topic", "batch", "ingested_at", "scored_at")
_OF_EVENTS = sorted({*ARROW[TRANSACTIONS].names, *ARROW[SCORED].names} - {*_MADE})


def table_rows(
    judged: pa.Table, topic: str, batch: int, now: datetime
) -> dict[str, pa.Table]:
    """Judged records (schema `lib.scoring.JUDGED`) as the rows of each table.

    Args:
        judged: records, none of them unsure.
        topic: the topic they came from.
        batch: their micro-batch, see bronze's column.
        now: ``ingested_at`` and ``scored_at``, UTC.
    """
    status = judged["status"]
    # Without the records themselves, which no table of events has.
    new = judged.select(_OF_EVENTS).filter(pc.equal(status, NEW))
    bad = judged.filter(pc.is_in(status, pa.array([CONFLICT, REJECTED])))
    made = {
        "topic": pa.scalar(topic),
        "batch": pa.scalar(batch, pa.int64()),
        "ingested_at": pa.scalar(now, pa.timestamp("us", "UTC")),
        "scored_at": pa.scalar(now, pa.timestamp("us", "UTC")),
    }
    return {
        name: pa.table(
            [
                pa.repeat(made[column], len(rows)) if column in made else rows[column]
                for column in ARROW[name].names
            ],
            schema=ARROW[name],
        )
        for name, rows in (
            (BRONZE, judged),
            (TRANSACTIONS, new),
            (QUARANTINE, bad),
            (SCORED, new),
        )
    }
