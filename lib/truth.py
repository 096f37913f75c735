"""What a lake must hold, told from the topic by the readable rules, and what it holds.

Nothing of the pipeline takes part: kafka-python reads the topic, `lib.events` parses,
`lib.detectors` judges one account after the other, and the tables are read file by
file from their logs.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow.parquet as pq
from deltalake import DeltaTable

from lib.clients import begin_offsets, committed_records, end_offsets
from lib.config import Settings, local_path
from lib.datafiles import scan
from lib.detectors import THRESHOLDS, Answer, Thresholds, score_history
from lib.events import Event, Rejection, parse

_FIELDS = Answer._fields[1:]  # all but the status


class Record(NamedTuple):
    """One Kafka record."""

    partition: int
    offset: int
    kafka_ms: int
    key: bytes | None
    value: bytes | None


@dataclass(frozen=True)
class Damage:
    """What is wrong in a lake at rest; all zero if nothing is.

    Attributes:
        lost: events of the topic that are not in silver/transactions, or not in
            silver/scored.
        doubled: rows beyond one per event, in either.
        out_of_order: rows that a commit shows after a later record of their account.
        differs: scored events whose answer is not what the rules say.
    """

    lost: int
    doubled: int
    out_of_order: int
    differs: int

    def __bool__(self) -> bool:
        """Whether anything is wrong."""
        return any(asdict(self).values())


def read_topic(settings: Settings, bootstrap: str, **options: object) -> list[Record]:
    """Every committed record that the topic holds now, by partition and offset.

    ``options`` are further ones of kafka-python's consumer.

    Raises:
        FraudError: the topic can't be read.
    """
    begins = begin_offsets(settings, bootstrap)
    ends = end_offsets(settings, bootstrap)
    spans = {part: (begins[part], end) for part, end in ends.items()}
    records = (
        Record(r.partition, r.offset, r.timestamp, r.key, r.value)
        for r in committed_records(settings, bootstrap, spans, **options)
    )
    return sorted(records, key=lambda record: record[:2])


def expected(
    records: list[Record], rules: Thresholds = THRESHOLDS
) -> dict[tuple[str, str], Answer]:
    """The answer of every event in the records, by (account_id, event_id)."""
    histories: dict[str, list[Event]] = defaultdict(list)
    for record in records:
        event = parse(record.value, record.kafka_ms * 1000, record.key)
        if not isinstance(event, Rejection):
            histories[event.account_id].append(event)
    answers = {}
    for account, events in histories.items():
        for event, answer in zip(events, score_history(events, rules), strict=True):
            if answer.status == "new":
                answers[account, event.event_id] = answer
    return answers


def damage(settings: Settings, truth: dict[tuple[str, str], Answer]) -> Damage:
    """How a local lake at rest differs from the truth."""
    transactions = _rows(settings, "silver/transactions", ())
    scored = _rows(settings, "silver/scored", _FIELDS)
    lost = doubled = 0
    for rows in (transactions, scored):
        times = Counter((row["account_id"], row["event_id"]) for row in rows)
        lost += len(truth.keys() - times.keys())
        doubled += sum(n - 1 for n in times.values())
        doubled += len(times.keys() - truth.keys())
    return Damage(
        lost=lost,
        doubled=doubled,
        out_of_order=out_of_order(Path(local_path(settings.table("bronze/tx_events")))),
        differs=sum(_differs(row, truth) for row in scored),
    )


def out_of_order(table: Path) -> int:
    """Rows that a commit shows after a later offset of their partition."""
    shown: dict[int, int] = {}
    wrong = 0
    for entry in sorted((table / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        newest: dict[int, int] = {}
        for path in (a["add"]["path"] for a in actions if "add" in a):
            rows = pq.read_table(
                table / unquote(path), columns=["partition", "offset"]
            ).to_pylist()
            for row in rows:
                part, offset = row["partition"], row["offset"]
                wrong += offset <= shown.get(part, -1)
                newest[part] = max(newest.get(part, -1), offset)
        for part, offset in newest.items():
            shown[part] = max(shown.get(part, -1), offset)
    return wrong


def _rows(settings: Settings, name: str, columns: tuple[str, ...]) -> list[dict]:
    uri = str(local_path(settings.table(name)))
    if not DeltaTable.is_deltatable(uri):
        return []
    wanted = ["account_id", "event_id", *columns]
    return [row for part in scan(DeltaTable(uri), wanted) for row in part.to_pylist()]


def _differs(row: dict, truth: dict[tuple[str, str], Answer]) -> bool:
    answer = truth.get((row["account_id"], row["event_id"]))
    if answer is None:
        return False  # counted as doubled
    return any(not _same(row[name], getattr(answer, name)) for name in _FIELDS)


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return ours == theirs or (math.isnan(ours) and math.isnan(theirs))
    return ours == theirs
