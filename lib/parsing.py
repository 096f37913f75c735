"""Spark's way into ``lib.events``: the same rules, a column at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lib.events import Rejection, parse
from lib.workers import spare_the_collector

PARSED = T.StructType(
    [
        T.StructField("event_id", T.StringType()),
        T.StructField("account_id", T.StringType()),
        T.StructField("ts", T.TimestampType()),
        T.StructField("merchant", T.StringType()),
        T.StructField("country", T.StringType()),
        T.StructField("amount", T.DecimalType(12, 2)),
        T.StructField("currency", T.StringType()),
        T.StructField("reason", T.StringType()),
        T.StructField("detail", T.StringType()),
    ]
)
"""An event's fields, or a reason and its detail; the other part is null."""

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_AMOUNT = pa.decimal128(12, 2)
_NOTHING = (None,) * 7


def parse_columns(values: pa.Array, kafka_timestamps: pa.Array) -> pa.Array:
    """Parse raw records.

    Args:
        values: binary, shape (n,); null for an empty record.
        kafka_timestamps: timestamp, shape (n,).

    Returns:
        struct array of PARSED, shape (n,).
    """
    stamps = kafka_timestamps.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    rows = []
    for value, stamp in zip(values.to_pylist(), stamps.to_pylist(), strict=True):
        parsed = parse(value, stamp)
        if isinstance(parsed, Rejection):
            rows.append((*_NOTHING, *parsed))
        else:
            rows.append((*parsed, None, None))
    columns = list(zip(*rows, strict=True)) or [()] * len(PARSED)
    strings = [pa.array(column, pa.string()) for column in columns[:2]]
    ts = microseconds(pa.array(columns[2], pa.int64()))
    middle = [pa.array(column, pa.string()) for column in columns[3:5]]
    amount = decimals(pa.array(columns[5], pa.int64()))
    rest = [pa.array(column, pa.string()) for column in columns[6:]]
    return pa.StructArray.from_arrays(
        [*strings, ts, *middle, amount, *rest], names=PARSED.fieldNames()
    )


def microseconds(times: pa.Array) -> pa.Array:
    """Whole microseconds since 1970 UTC, int64 (n), as timestamps."""
    return times.cast(_TIMESTAMP)


def decimals(integers: pa.Array) -> pa.Array:
    """Whole cents, int64 (n), as decimal(12, 2) without a Python Decimal per row: the
    unscaled integer of such a decimal *is* the number of cents."""
    low = integers.fill_null(0).to_numpy()
    # 128 bits, little endian: the number, then its sign extended.
    limbs = np.column_stack([low, low >> 63])
    valid = integers.is_valid()
    bitmap = None if integers.null_count == 0 else valid.buffers()[1]
    return pa.Array.from_buffers(
        _AMOUNT,
        len(integers),
        [bitmap, pa.py_buffer(limbs)],
        null_count=integers.null_count,
    )


def cents(amounts: pa.Array) -> np.ndarray:
    """decimal(12, 2) (n), without nulls, as whole cents, int64 (n): see `decimals`."""
    if not len(amounts):
        return np.zeros(0, np.int64)
    limbs = np.frombuffer(amounts.buffers()[1], np.int64)
    return limbs[2 * amounts.offset :: 2][: len(amounts)].copy()


def parsed(value: Column, kafka_timestamp: Column) -> Column:
    """Column expression: the record's parsed struct (schema PARSED)."""
    # Wrapped here and not at import: the wrapper needs a running session.
    return F.arrow_udf(_in_worker, PARSED)(value, kafka_timestamp)


def parse_records(raw: DataFrame) -> DataFrame:
    """The rows with the parsed struct's fields (PARSED) beside them."""
    event = parsed(F.col("value"), F.col("kafka_timestamp")).alias("event")
    return raw.select(*raw.columns, event).select(*raw.columns, "event.*")


def _in_worker(values: pa.Array, kafka_timestamps: pa.Array) -> pa.Array:
    spare_the_collector()
    return parse_columns(values, kafka_timestamps)
