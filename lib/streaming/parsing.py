"""`lib.events.card_event.parse` a column at a time, on Arrow: the same answers, lines
as our producer writes them in a sixth of the time. And Spark's way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from lib.events import iso_codes
from lib.events.card_event import (
    FUTURE_TOLERANCE,
    MAX_EVENT_ID,
    Event,
    Rejection,
    parse,
)
from lib.lake.tables import EVENT, TIME
from lib.streaming.worker_tuning import spare_the_collector

PARSED = from_arrow_schema(
    pa.schema([*EVENT, ("reason", pa.string()), ("detail", pa.string())])
)
"""An event's fields, or a reason and its detail; the other part is null."""

_TEXT, _AMOUNT = pa.string(), EVENT.field("amount").type
_FUTURE_US = FUTURE_TOLERANCE // timedelta(microseconds=1)
_NO_EVENT, _NO_REASON = (None,) * len(Event._fields), (None,) * len(Rejection._fields)

_LONG = 1024
"""Bytes. The expression takes 50 ns a byte, so longer lines are left to `parse`."""

# A day since 1970 that any year has; 29 February is left to `parse`.
_DATE = (
    r"(?:19[7-9][0-9]|[2-9][0-9]{3})-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_COMPACT = (
    r'^\{"event_id":"(?P<event_id>[ !#-\[\]-~]+)"'
    r',"account_id":"(?P<account_id>ACCT_[0-9]+)"'
    rf',"ts":"(?P<ts>{_DATE}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]'
    r'\.[0-9]{3}(?:[0-9]{3})?Z)"'
    r',"merchant":"(?P<merchant>[^"\\\x00-\x1f\x{D800}-\x{DFFF}]*)"'
    r',"country":"(?P<country>[A-Z]{2})"'
    r',"amount":(?P<amount>(?:0|[1-9][0-9]{0,8})\.[0-9]{2})'
    r',"currency":"(?P<currency>[A-Z]{3})"\}$'
)
"""The form of `lib.events.card_event.to_json`, in RE2's syntax. What it matches is
UTF-8 and JSON without an escape: the text between two quotes is the string itself."""


def parse_columns(
    values: pa.Array, kafka_timestamps: pa.Array, keys: pa.Array
) -> pa.RecordBatch:
    """Parse raw records: for each the same answer as `lib.events.card_event.parse`.

    Valid events in the compact form are taken apart by one regular expression, 2 µs
    each; `parse` answers all other records, 17 µs each.

    Args:
        values: binary, shape (n,); null for an empty record.
        kafka_timestamps: timestamp, shape (n,).
        keys: binary, shape (n,); null where a record has none.

    Returns:
        columns of PARSED, n rows; see `integers` for the numbers behind them.
    """
    stamps = kafka_timestamps.cast(TIME).cast(pa.int64())
    events, valid = _compact(values, stamps, keys)
    if valid.all():
        return events
    rest = np.flatnonzero(~valid)
    columns = (column.take(pa.array(rest)) for column in (values, stamps, keys))
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    others = _columns([parse(*row) for row in rows])
    found = np.flatnonzero(valid)
    order = np.argsort(np.concatenate([found, rest]), kind="stable")
    both = pa.concat_batches([events.take(pa.array(found)), others])
    return both.take(pa.array(order))


def _compact(
    values: pa.Array, stamps: pa.Array, keys: pa.Array
) -> tuple[pa.RecordBatch, np.ndarray]:
    """Each record as an event, and whether that is what `parse` would say (n)."""
    short = pc.if_else(pc.less_equal(pc.binary_length(values), _LONG), values, None)
    # The cast does not check for UTF-8: what is none does not match.
    found = pc.extract_regex(short.cast(_TEXT, safe=False), pattern=_COMPACT)
    names = [field.name for field in found.type]
    text = dict(zip(names, found.flatten(), strict=True))
    ts = text["ts"].cast(TIME)
    tests = (
        pc.less_equal(pc.binary_length(text["event_id"]), MAX_EVENT_ID),
        pc.less_equal(pc.subtract(ts.cast(pa.int64()), stamps), _FUTURE_US),
        pc.is_in(text["country"], _set(iso_codes.countries)),
        pc.not_equal(text["amount"], "0.00"),
        pc.is_in(text["currency"], _set(iso_codes.currencies)),
        pc.or_kleene(
            pc.is_null(keys), pc.equal(text["account_id"].cast(pa.binary()), keys)
        ),
    )
    valid = reduce(pc.and_kleene, tests).fill_null(False)
    nothing = pa.nulls(len(values), _TEXT)
    amount = text["amount"].cast(_AMOUNT)
    made = text | {"ts": ts, "amount": amount, "reason": nothing, "detail": nothing}
    events = [made[name] for name in PARSED.fieldNames()]
    batch = pa.record_batch(events, names=PARSED.fieldNames())
    return batch, valid.to_numpy(zero_copy_only=False)


def _columns(answers: Sequence[Event | Rejection]) -> pa.RecordBatch:
    """Answers of `parse` (n) as columns of PARSED."""
    rows = [
        (*_NO_EVENT, *answer) if type(answer) is Rejection else (*answer, *_NO_REASON)
        for answer in answers
    ]
    columns = dict(zip(PARSED.fieldNames(), zip(*rows, strict=True), strict=True))
    made = {"ts": lambda times: times.cast(TIME), "amount": decimals}
    arrays = [
        made[name](pa.array(column, pa.int64()))
        if name in made
        else pa.array(column, _TEXT)
        for name, column in columns.items()
    ]
    return pa.record_batch(arrays, names=list(columns))


@cache
def _set(strings: Callable[[], frozenset[str]]) -> pa.Array:
    return pa.array(sorted(strings()), _TEXT)


def decimals(integers: pa.Array) -> pa.Array:
    """Whole cents, int64 (n), as decimal(12, 2) without a Python Decimal per row: the
    unscaled integer of such a decimal *is* the number of cents.

    Example: 1.23 is 123, in two times 64 bits [123, 0]; -1.23 is [-123, -1].
    """
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


def integers(column: pa.Array) -> np.ndarray:
    """The whole microseconds of a timestamp column or cents of an amount column.

    Returns:
        int64 (n), without a Python object per row; of no meaning where it is null.
    """
    if not len(column):
        return np.zeros(0, np.int64)
    words = 2 if column.type == _AMOUNT else 1  # 64 bits each, the lowest first
    numbers = np.frombuffer(column.buffers()[1], np.int64)
    return numbers[words * column.offset :: words][: len(column)]


def parse_records(raw: DataFrame) -> DataFrame:
    """The rows with the parsed struct's fields (PARSED) beside them."""
    # Wrapped here and not at import: the wrapper needs a running session.
    event = F.arrow_udf(_in_worker, PARSED)("value", "kafka_timestamp", "key")
    with_event = raw.select(*raw.columns, event.alias("event"))
    return with_event.select(*raw.columns, "event.*")


def _in_worker(
    values: pa.Array, kafka_timestamps: pa.Array, keys: pa.Array
) -> pa.Array:
    spare_the_collector()
    return parse_columns(values, kafka_timestamps, keys).to_struct_array()
