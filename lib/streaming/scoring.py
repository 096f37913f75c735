"""What becomes of Kafka records: parsed, deduplicated, scored. Pure Arrow and numpy.

The one place where a record is judged. The stateful operator of the stream
(`lib.streaming.processor`), the rebuild from bronze (`lib.streaming.rebuild`) and the
recovery of a torn batch (`lib.streaming.recovery`) all call it, so they can't disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.detectors import deduplication
from lib.detectors.account_state import fingerprints
from lib.detectors.engine import Arrivals, Bucket, Scored
from lib.detectors.rules import COLUMNS
from lib.detectors.vectorised_rules import Answers
from lib.lake.tables import (
    ANSWERS,
    CONFLICT,
    CONTENT,
    DUPLICATE,
    EVENT,
    IDENTITY,
    NEW,
    REJECTED,
    TIME,
    UNSURE,
)
from lib.streaming.parsing import integers, parse_columns

CONFLICT_REASON = "conflicting_event_id"
CONFLICT_DETAIL = "another record of this account came first under this event_id"

_STATUS = pa.array([NEW, DUPLICATE, CONFLICT, REJECTED, UNSURE])
_CODE = {name: code for code, name in enumerate(_STATUS.to_pylist())}
_OF_HISTORY = np.zeros(3, np.int64)
_OF_HISTORY[deduplication.NEW_CODE] = _CODE[NEW]
_OF_HISTORY[deduplication.DUPLICATE_CODE] = _CODE[DUPLICATE]
_OF_HISTORY[deduplication.CONFLICT_CODE] = _CODE[CONFLICT]

INPUT = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("kafka_timestamp", TIME),
    ]
)
"""A record as it came."""

JUDGED = pa.schema(
    [
        *INPUT,
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        *EVENT,
        *ANSWERS,
    ]
)
"""A record and what became of it: the event's fields and its answers, or a reason."""

CORRECTION = pa.schema(
    [
        ("event_id", pa.string()),
        ("account_id", pa.string()),
        ("ts", TIME),
        *ANSWERS,
    ]
)
"""The new answers of an event that was scored before."""


@dataclass(frozen=True)
class Judged:
    """Records with their scores, corrections of older scores, and the new state.

    Attributes:
        records: the records in Kafka order with their fate, schema JUDGED.
        corrections: schema CORRECTION.
        values: the new state of each account that is to be remembered.
    """

    records: pa.Table
    corrections: pa.Table
    values: dict[str, bytes]


@dataclass(frozen=True)
class Parsed:
    """Records in Kafka order, each with an event's fields or a reason.

    Attributes:
        records: schema INPUT.
        event: columns of `lib.streaming.parsing.PARSED`; null where `reason` is not.
    """

    records: pa.Table
    event: pa.Table

    @property
    def valid(self) -> np.ndarray:
        """Places of the events among the records."""
        return np.flatnonzero(pc.is_null(self.event["reason"]).to_numpy())

    @property
    def accounts(self) -> list[str]:
        """The accounts that have an event among the records."""
        return pc.unique(self.event["account_id"].drop_null()).to_pylist()


def input_table(columns: Iterable[Sequence]) -> pa.Table:
    """Records (schema INPUT) of its columns in their order; times in µs since 1970."""
    arrays = [
        pa.array(values, pa.int64()).cast(field.type)
        if pa.types.is_timestamp(field.type)
        else pa.array(values, field.type)
        for values, field in zip(columns, INPUT, strict=True)
    ]
    return pa.table(arrays, schema=INPUT)


def parse(records: pa.Table) -> Parsed:
    """Put the records (schema INPUT) in Kafka order and parse them.

    Records of several micro-batches have a further column ``batch``: an account that
    has moved to another partition was read in this order.
    """
    keys = [c for c in ("batch", "partition", "offset") if c in records.column_names]
    order = np.lexsort([records[key].to_numpy() for key in reversed(keys)])
    if (np.diff(order) != 1).any():
        records = records.take(order)
    records = records.combine_chunks()
    columns = (_whole(records[c]) for c in ("value", "kafka_timestamp", "key"))
    return Parsed(records, pa.Table.from_batches([parse_columns(*columns)]))


def judge(
    parsed: Parsed,
    values: Mapping[str, bytes],
    watermark_us: int | None,
) -> Judged:
    """Classify each record (new, duplicate, conflict, rejected), and score the events.

    Args:
        parsed: records of these accounts.
        values: what is remembered of them; an account that is not there is unknown.
        watermark_us: accounts this far in the past may have been forgotten; None if
            nothing ever was.
    """
    valid, event = parsed.valid, parsed.event
    if len(valid) < len(event):
        event = event.take(valid)
    bucket = Bucket.of(values)
    scored = bucket.score(_arrivals(event), watermark_us)
    codes = np.full(len(parsed.event), _CODE[REJECTED])
    codes[valid] = np.where(
        scored.check_table, _CODE[UNSURE], _OF_HISTORY[scored.status]
    )
    answers = _answer_arrays(scored.answers)
    if len(valid) < len(codes):
        places = np.full(len(codes), -1)
        places[valid] = np.arange(len(valid))
        index = pa.array(places, mask=places < 0)
        answers = [column.take(index) for column in answers]
    status = _STATUS.take(pa.array(codes))
    columns = {
        **{name: parsed.records[name] for name in INPUT.names},
        **{name: parsed.event[name] for name in parsed.event.column_names},
        **dict(zip(ANSWERS.names, answers, strict=True)),
        "status": status,
        **as_conflicts(pc.equal(status, CONFLICT), parsed.event),
    }
    return Judged(
        records=pa.table([columns[name] for name in JUDGED.names], schema=JUDGED),
        corrections=_corrections(scored),
        values=bucket.values(),
    )


def fold(parts: list[Judged]) -> list[Judged]:
    """Merge the results of a batch that was judged in parts.

    A later part may correct an answer that an earlier one gave: to an event of the
    batch itself, which then has one answer, or to an older one, which then has one
    correction. Of two answers the one with the greater revision is the later.
    """
    if len(parts) == 1:
        return parts
    corrections = pa.concat_tables([part.corrections for part in parts])
    corrections = corrections.sort_by("revision").combine_chunks()
    names = _names(corrections)
    last = dict(zip(names.to_pylist(), range(len(names)), strict=True))
    corrections = corrections.take(pa.array(sorted(last.values()), pa.int64()))
    names = _names(corrections)
    records, older = [], np.ones(len(corrections), bool)
    for part in parts:
        table = part.records
        found = pc.index_in(_names(table), value_set=names)
        mine = pc.and_(pc.equal(table["status"], NEW), pc.is_valid(found))
        older[found.filter(mine).to_numpy()] = False
        for name in ANSWERS.names:
            column = pc.if_else(mine, corrections[name].take(found), table[name])
            table = table.set_column(JUDGED.get_field_index(name), name, column)
        records.append(table.cast(JUDGED))
    nothing = CORRECTION.empty_table()
    left = [*[nothing] * (len(parts) - 1), corrections.filter(pa.array(older))]
    return [
        replace(part, records=table, corrections=rest)
        for part, table, rest in zip(parts, records, left, strict=True)
    ]


def _names(rows: pa.Table) -> pa.Array:
    """One string per identity (n); null for a record without one."""
    account, event = (_whole(rows[column]) for column in IDENTITY)
    return pc.binary_join_element_wise(account, event, "\0")


def settle(
    rows: pa.Table, stored: Callable[[list[str]], Iterator[pa.Table]]
) -> pa.Table:
    """Decide the unsure records (schema JUDGED): new, duplicate or conflict.

    The first record of an identity stands. A record that finds *itself* in
    silver/transactions is new again, so that a replayed batch decides as it did the
    first time.

    Args:
        rows: records of one topic in Kafka order.
        stored: the transactions of some accounts, with identity, content and position.
    """
    unsure = np.flatnonzero(pc.equal(rows["status"], UNSURE).to_numpy())
    if not len(unsure):
        return rows
    place = ("partition", "offset")
    columns = [*IDENTITY, *CONTENT, *place]
    asked = rows.take(unsure)
    standing: dict[tuple, dict] = {}
    for part in stored(pc.unique(asked["account_id"]).to_pylist()):
        for row in part.select(columns).to_pylist():
            standing[tuple(row[c] for c in IDENTITY)] = row
    decided = []
    for row in asked.select(columns).to_pylist():
        first = standing.setdefault(tuple(row[c] for c in IDENTITY), row)
        if all(row[c] == first[c] for c in place):
            decided.append(NEW)
        else:
            same = all(row[c] == first[c] for c in CONTENT)
            decided.append(DUPLICATE if same else CONFLICT)
    status = pa.chunked_array([decided], pa.string())
    texts = as_conflicts(pc.equal(status, CONFLICT), asked)
    for name, column in {"status": status, **texts}.items():
        asked = asked.set_column(JUDGED.get_field_index(name), name, column)
    sure = np.setdiff1d(np.arange(len(rows)), unsure)
    back = np.argsort(np.concatenate([sure, unsure]))
    return pa.concat_tables([rows.take(sure), asked.cast(JUDGED)]).take(back)


def as_conflicts(
    conflict: pa.Array, rows: pa.Table
) -> dict[str, pa.ChunkedArray | pa.Array]:
    """``reason`` and ``detail`` of the rows, where `conflict` those of a conflict."""
    texts = {"reason": CONFLICT_REASON, "detail": CONFLICT_DETAIL}
    return {
        name: pc.if_else(conflict, text, rows[name]) for name, text in texts.items()
    }


def _arrivals(event: pa.Table) -> Arrivals:
    return Arrivals(
        event_id=event["event_id"].to_pylist(),
        account_id=event["account_id"].to_pylist(),
        ts_us=integers(_whole(event["ts"])),
        amount_cents=integers(_whole(event["amount"])),
        country=event["country"].to_pylist(),
        fingerprint=fingerprints(
            event["merchant"].to_pylist(), event["currency"].to_pylist()
        ),
    )


def _corrections(scored: Scored) -> pa.Table:
    return pa.table(
        [
            pa.array(scored.event_id, pa.string()),
            pa.array(scored.account_id, pa.string()),
            pa.array(scored.ts_us, pa.int64()).cast(TIME),
            *_answer_arrays(scored.corrections),
        ],
        schema=CORRECTION,
    )


def _answer_arrays(answers: Answers) -> list[pa.Array]:
    """The answer columns; -1 and NaN become null where they stand for it."""
    arrays = []
    kinds = dict(COLUMNS)
    for field in ANSWERS:
        values, null = getattr(answers, field.name), None
        if kinds.get(field.name) == "int64":
            null = values < 0
        elif kinds.get(field.name) == "float64":
            null = np.isnan(values)
        arrays.append(pa.array(values, field.type, mask=null))
    return arrays


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
