"""The expected tables, computed from the topic by the readable rules, and a diff.

Nothing of the pipeline takes part: kafka-python reads the topic,
`lib.events.card_event` parses, `lib.detectors.rules` judges one account after the
other, and the tables are read file by file from their logs.
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

from lib.detectors.rules import Answer, score_history
from lib.events.card_event import Event, Rejection, parse
from lib.kafka.clients import begin_offsets, committed_records, end_offsets
from lib.lake.data_files import scan
from lib.settings import Settings, local_path

_FIELDS = Answer._fields[1:]  # all but the status
_IDENTITY, _PLACE = ("account_id", "event_id"), ("partition", "offset")


class Record(NamedTuple):
    """One Kafka record."""

    partition: int
    offset: int
    kafka_ms: int
    key: bytes | None
    value: bytes | None


Place = tuple[int, int]  # partition, offset


@dataclass(frozen=True)
class ExpectedLake:
    """What a lake must hold of a topic.

    Attributes:
        answers: of every event, by (account_id, event_id).
        records: where the topic's records stand.
        rejected: where those stand that belong in quarantine.
    """

    answers: dict[tuple[str, str], Answer]
    records: set[Place]
    rejected: set[Place]


@dataclass(frozen=True)
class Damage:
    """What is wrong in a lake at rest; all zero if nothing is.

    Attributes:
        lost: events of the topic that are not in silver/transactions, or not in
            silver/scored; records that are not in bronze, or not in quarantine.
        doubled: rows of a table beyond those.
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


def topic_records(
    settings: Settings, bootstrap: str, **options: object
) -> list[Record]:
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


def expected(records: list[Record]) -> ExpectedLake:
    """What a lake must hold of these records."""
    histories: dict[str, list[tuple[Place, Event]]] = defaultdict(list)
    answers, rejected = {}, set()
    for record in records:
        place = record.partition, record.offset
        event = parse(record.value, record.kafka_ms * 1000, record.key)
        if isinstance(event, Rejection):
            rejected.add(place)
        else:
            histories[event.account_id].append((place, event))
    for account, history in histories.items():
        events = [event for _place, event in history]
        said = score_history(events)
        for (place, event), answer in zip(history, said, strict=True):
            if answer.status == "new":
                answers[account, event.event_id] = answer
            elif answer.status == "conflict":
                rejected.add(place)
    places = {(record.partition, record.offset) for record in records}
    return ExpectedLake(answers, places, rejected)


def damage(settings: Settings, truth: ExpectedLake) -> Damage:
    """Count how a local lake at rest differs from the expected one."""
    scored = _rows(settings, "silver/scored", (*_IDENTITY, *_FIELDS))
    held = (
        (truth.answers, _rows(settings, "silver/transactions", _IDENTITY), _IDENTITY),
        (truth.answers, scored, _IDENTITY),
        (truth.records, _rows(settings, "bronze/tx_events", _PLACE), _PLACE),
        (truth.rejected, _rows(settings, "silver/quarantine", _PLACE), _PLACE),
    )
    lost = doubled = 0
    for wanted, rows, key in held:
        times = Counter(tuple(row[column] for column in key) for row in rows)
        lost += len(set(wanted) - times.keys())
        doubled += sum(n - 1 for n in times.values())
        doubled += len(times.keys() - set(wanted))
    return Damage(
        lost=lost,
        doubled=doubled,
        out_of_order=out_of_order(Path(local_path(settings.table("bronze/tx_events")))),
        differs=sum(_differs(row, truth.answers) for row in scored),
    )


def out_of_order(table: Path) -> int:
    """Rows that a commit shows after a later offset of their partition."""
    shown: dict[int, int] = {}
    wrong = 0
    for entry in sorted((table / "_delta_log").glob("*.json")):
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        newest: dict[int, int] = {}
        added = (a["add"] for a in actions if "add" in a)
        # A compaction shows no row that was not shown before.
        for path in (add["path"] for add in added if add["dataChange"]):
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
    parts = scan(DeltaTable(uri), list(columns))
    return [row for part in parts for row in part.to_pylist()]


def _differs(row: dict, truth: dict[tuple[str, str], Answer]) -> bool:
    answer = truth.get((row["account_id"], row["event_id"]))
    if answer is None:
        return False  # counted as doubled
    return any(not _same(row[name], getattr(answer, name)) for name in _FIELDS)


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, float) and isinstance(theirs, float):
        return ours == theirs or (math.isnan(ours) and math.isnan(theirs))
    return ours == theirs
