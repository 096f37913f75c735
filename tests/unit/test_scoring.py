"""Records judged in parts have the answers of records judged at once."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pyarrow as pa
import pytest

from lib.detectors.thresholds import SECOND
from lib.events.card_event import to_json
from lib.streaming.scoring import INPUT, fold, judge, parse
from tests.unit.histories import START, event

NOW = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def records() -> pa.Table:
    """700 payments of six cards, one a second, each up to two minutes late; some come
    twice, and some are no events."""
    random = Random(5)
    order = sorted(range(700), key=lambda second: second + random.random() * 120)
    values = []
    for second in order:
        payment = event(
            second,
            START + second * SECOND,
            account_id=f"ACCT_{second % 6}",
            amount_cents=random.randrange(1, 10_000),
            country=random.choice(["FR", "GB"]),
        )
        values.append(to_json(payment).encode())
        if second % 20 == 0:
            values += [values[-1], b"no JSON"]
    count = len(values)
    columns = [[None] * count, values, [0] * count, list(range(count)), [NOW] * count]
    return pa.table(columns, schema=INPUT)


def in_parts(records: pa.Table, values: dict[str, bytes], size: int) -> list:
    parts = []
    for first in range(0, len(records), size):
        part = judge(parse(records.slice(first, size)), values, None)
        values = values | part.values
        parts.append(part)
    return parts


@pytest.mark.parametrize("size", [7, 200, 5_000])
def test_parts_are_folded_into_what_one_call_says(records: pa.Table, size: int):
    before = judge(parse(records.slice(0, 200)), {}, None).values
    rest = records.slice(200)
    whole = judge(parse(rest), before, None)
    assert len(whole.corrections) > 0

    parts = in_parts(rest, before, size)
    folded = fold(parts)

    if size < len(rest):  # or there would be nothing to fold
        assert sum(len(p.corrections) for p in parts) > len(whole.corrections)
    assert pa.concat_tables([p.records for p in folded]) == whole.records
    order = [(name, "ascending") for name in ("account_id", "event_id")]
    corrections = pa.concat_tables([p.corrections for p in folded]).sort_by(order)
    assert corrections == whole.corrections.sort_by(order)
