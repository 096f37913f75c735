"""What Spark's Python workers do otherwise: garbage collection, records and schemas."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from itertools import chain

import pandas as pd
import pyarrow as pa
import pytest
from pyspark.sql.pandas import serializers

from lib.streaming.worker_tuning import take_batches_whole

CODE = """
import gc
import pandas, pyarrow
from lib.streaming.worker_tuning import spare_the_collector
before = len(gc.get_objects())
spare_the_collector()
spare_the_collector()
cycle = []
cycle.append(cycle)
del cycle
print(before, len(gc.get_objects()), gc.get_freeze_count(), gc.collect())
"""


def test_what_is_imported_is_out_of_the_collectors_sight_and_new_garbage_is_not():
    # In a process of its own: what is frozen stays so.
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True)
    before, after, frozen, collected = map(int, run.stdout.split())

    assert frozen > before / 2 > 10_000
    assert after < before / 100
    assert collected >= 1


def test_a_second_collection_is_only_the_daemon_s():
    code = "import gc; from lib.streaming.worker_tuning import spare_the_collector"
    code += "; spare_the_collector(); print(gc.isenabled())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout.strip() == b"False"


RECORDS = pa.table(
    {
        "slot": pa.array([7, 7, 7, 7, 7, 9, 9, 7], pa.int32()),
        "key": pa.array([b"a", None, b"", b"b", b"c", b"\xff", b"d", b"e"]),
        "offset": pa.array(range(8), pa.int64()),
        "kafka_us": pa.array([1, 2, None, 4, 5, 6, 7, 8], pa.int64()),
    }
)


def read(module, batches: list[pa.RecordBatch]) -> list[tuple]:
    """Mode, key and rows of each call of the operator."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, RECORDS.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    sink.seek(0)
    serializer = module.TransformWithStateInPandasSerializer(
        timezone="UTC",
        safecheck=True,
        assign_cols_by_name=True,
        prefer_int_ext_dtype=False,
        arrow_max_records_per_batch=10_000,
        arrow_max_bytes_per_batch=2**31 - 1,
        int_to_decimal_coercion_enabled=False,
    )
    serializer.key_offsets = [0]
    calls = []
    for mode, key, frames in serializer.load_stream(sink):
        rows = [] if frames is None else list(chain(*(f.values for _, f in frames)))
        calls.append((mode.name, key, [type(part) for part in key or ()], rows))
    return calls


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_records_come_as_pyspark_s_own_serializer_gives_them(size: int):
    spec = importlib.util.find_spec(serializers.__name__)
    original = importlib.util.module_from_spec(
        spec
    )  # untouched by `lib.streaming.worker_tuning`
    spec.loader.exec_module(original)
    take_batches_whole()
    batches = RECORDS.to_batches(max_chunksize=size)

    ours, theirs = read(serializers, batches), read(original, batches)

    assert [call[:3] for call in ours] == [call[:3] for call in theirs]
    for (*_, mine), (*_, other) in zip(ours, theirs, strict=True):
        pd.testing.assert_frame_equal(pd.DataFrame(mine), pd.DataFrame(other))
    assert [key for _, key, *_ in ours] == [(7,), (9,), (7,), None, None]
    source = original.TransformWithStateInPandasSerializer.load_stream
    assert source is not serializers.TransformWithStateInPandasSerializer.load_stream
