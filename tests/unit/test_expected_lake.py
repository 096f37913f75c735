"""The laboratory's count of damage sees a row too few or too many in each table."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lib.datagen.generator import generate
from lib.lake.tables import (
    BRONZE,
    QUARANTINE,
    SCHEMAS,
    SCORED,
    TRANSACTIONS,
    table_rows,
)
from lib.lake.writer import LocalLake
from lib.settings import Settings
from lib.streaming.scoring import INPUT, judge, parse
from lib.verify.expected_lake import Damage, Record, damage, expected

NOW = datetime(2026, 7, 1, tzinfo=UTC)
NOW_MS = int(NOW.timestamp()) * 1000
MADE = generate(30, 2, seed=5, duplicates=0.1, malformed=0.2, conflicts=0.1)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    values = [line.encode(errors="surrogateescape") for line in MADE.lines]
    return [Record(0, n, NOW_MS, None, value) for n, value in enumerate(values)]


@pytest.fixture(scope="module")
def rows(records: list[Record]) -> dict[str, pa.Table]:
    table = pa.table(
        [
            pa.array([r.key for r in records], pa.binary()),
            pa.array([r.value for r in records], pa.binary()),
            pa.array([r.partition for r in records], pa.int32()),
            pa.array([r.offset for r in records], pa.int64()),
            pa.array([NOW] * len(records), INPUT.field("kafka_timestamp").type),
        ],
        schema=INPUT,
    )
    return table_rows(judge(parse(table), {}, None).records, "topic", 0, NOW)


def held(rows: dict[str, pa.Table], tmp_path: Path) -> Settings:
    """A lake with these rows."""
    settings = replace(Settings.from_env({}), lake=str(tmp_path))
    lake = LocalLake(tmp_path)
    for name in SCHEMAS:
        lake.create(name)
        lake.append(name, rows[name], None)
    return settings


def test_nothing_is_wrong(records, rows, tmp_path: Path):
    assert damage(held(rows, tmp_path), expected(records)) == Damage(0, 0, 0, 0)


@pytest.mark.parametrize("table", [BRONZE, TRANSACTIONS, QUARANTINE, SCORED])
def test_a_row_too_few_or_too_many_is_seen(records, rows, tmp_path: Path, table: str):
    assert len(rows[table]) > 1
    few, many = rows[table].slice(1), pa.concat_tables([rows[table]] * 2)

    lost = damage(held({**rows, table: few}, tmp_path / "few"), expected(records))
    doubled = damage(held({**rows, table: many}, tmp_path / "many"), expected(records))

    assert (lost.lost, lost.doubled) == (1, 0)
    assert (doubled.lost, doubled.doubled) == (0, len(rows[table]))
