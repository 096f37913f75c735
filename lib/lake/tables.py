"""The lake's tables: of each its name, what one row is, its key and its columns.

No Spark is imported here: who reads the lake without a JVM needs the names, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lib.detectors.rules import COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BRONZE = "bronze/tx_events"
TRANSACTIONS = "silver/transactions"
QUARANTINE = "silver/quarantine"
SCORED = "silver/scored"

IDENTITY = ("account_id", "event_id")  # of an event
POSITION = ("topic", "partition", "offset")  # of a Kafka record
CONTENT = ("ts", "merchant", "country", "amount", "currency")
"""What is equal in a duplicate, and differs in a conflict."""

NEW, DUPLICATE, CONFLICT, REJECTED, UNSURE = (
    "new",
    "duplicate",
    "conflict",
    "rejected",
    "unsure",
)
"""The status of a record. ``unsure``: its account's memory does not go back so far;
only silver/transactions can say whether its event came before. No table holds it."""

TIME = pa.timestamp("us", "UTC")

EVENT = pa.schema(
    {
        "event_id": pa.string(),
        "account_id": pa.string(),
        "ts": TIME,
        "merchant": pa.string(),
        "country": pa.string(),
        "amount": pa.decimal128(12, 2),
        "currency": pa.string(),
    }
)
"""An event's fields."""

_KINDS = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
}
ANSWERS = pa.schema(
    {
        "late": pa.bool_(),
        **{column.name: _KINDS[column.kind] for column in COLUMNS},
        "revision": pa.int64(),
    }
)
"""What the detectors say of an event."""

_PLACE = pa.schema(
    {"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64()}
)
_STAMP = pa.field("kafka_timestamp", TIME)


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    Attributes:
        name: its place below the lake.
        row: what one row is.
        statuses: the status of the records that become its rows.
        key: the columns that name a row; no other row has the same values.
        schema: its columns.
    """

    name: str
    row: str
    statuses: tuple[str, ...]
    key: tuple[str, ...]
    schema: pa.Schema


TABLES = {
    table.name: table
    for table in (
        Table(
            BRONZE,
            row="a Kafka record",
            statuses=(NEW, DUPLICATE, CONFLICT, REJECTED),
            key=POSITION,
            schema=pa.schema(
                [
                    pa.field("key", pa.binary()),
                    pa.field("value", pa.binary()),
                    *_PLACE,
                    _STAMP,
                    # The micro-batch that brought the record, counted over all lives
                    # of the checkpoint, and what it made of the record. A clock may
                    # step back, and a payload may be read in other ways by other
                    # programs: neither decides.
                    pa.field("batch", pa.int64()),
                    pa.field("status", pa.string()),
                    pa.field("ingested_at", TIME),
                ]
            ),
        ),
        Table(
            TRANSACTIONS,
            row="a valid event",
            statuses=(NEW,),
            key=IDENTITY,
            schema=pa.schema([*EVENT, _STAMP, *_PLACE]),
        ),
        Table(
            QUARANTINE,
            row="a rejected record",
            statuses=(CONFLICT, REJECTED),
            key=POSITION,
            schema=pa.schema(
                [
                    pa.field("value", pa.binary()),
                    pa.field("reason", pa.string()),
                    pa.field("detail", pa.string()),
                    *_PLACE,
                    _STAMP,
                ]
            ),
        ),
        Table(
            SCORED,
            row="a valid event with its score",
            statuses=(NEW,),
            key=IDENTITY,
            schema=pa.schema([*EVENT, *ANSWERS, _STAMP, pa.field("scored_at", TIME)]),
        ),
    )
}

SCHEMAS = {name: table.schema for name, table in TABLES.items()}

MADE_OF_BRONZE = (TRANSACTIONS, QUARANTINE, SCORED)
"""Tables that can be made anew from bronze."""


_COLUMNS_OF = {
    statuses: {
        column
        for table in TABLES.values()
        if table.statuses == statuses
        for column in table.schema.names
    }
    for statuses in {table.statuses for table in TABLES.values()}
}
"""Statuses → the columns of all tables that take the records with these."""


def table_rows(
    judged: pa.Table, topic: str, batch: int, now: datetime
) -> dict[str, pa.Table]:
    """Judged records (schema `lib.streaming.scoring.JUDGED`) as the rows of each table.

    Args:
        judged: records, none of them unsure.
        topic: the topic they came from.
        batch: their micro-batch, see bronze's column.
        now: ``ingested_at`` and ``scored_at``, UTC.
    """
    made = {
        "topic": pa.scalar(topic),
        "batch": pa.scalar(batch, pa.int64()),
        "ingested_at": pa.scalar(now, TIME),
        "scored_at": pa.scalar(now, TIME),
    }
    # Of all records there is no copy, and of those that two tables take only one.
    taken = {TABLES[BRONZE].statuses: judged}
    found = {}
    for name, table in TABLES.items():
        if table.statuses not in taken:
            mine = pc.is_in(judged["status"], pa.array(table.statuses))
            # Not the records themselves where none of the tables has them.
            wanted = _COLUMNS_OF[table.statuses]
            own = [name for name in judged.column_names if name in wanted]
            taken[table.statuses] = judged.select(own).filter(mine)
        rows = taken[table.statuses]
        columns = [
            pa.repeat(made[column], len(rows)) if column in made else rows[column]
            for column in table.schema.names
        ]
        found[name] = pa.table(columns, schema=table.schema)
    return found


def spark_rows(judged: DataFrame, name: str) -> DataFrame:
    """The same for one table in Spark; ``judged`` has all columns of the table."""
    table = TABLES[name]
    mine = judged.where(judged["status"].isin(*table.statuses))
    return mine.select(*table.schema.names)
