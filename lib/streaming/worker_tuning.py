"""Tuning of the Python workers in which Spark runs the stateful operator."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby, pairwise
from operator import itemgetter

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import types
from pyspark.sql.conversion import ArrowBatchTransformer
from pyspark.sql.pandas.serializers import (
    ArrowStreamPandasSerializer,
    TransformWithStateInPandasSerializer,
)
from pyspark.sql.streaming.stateful_processor_util import (
    TransformWithStateInPandasFuncMode as Mode,
)


@cache
def spare_the_collector() -> None:
    """Take what is imported out of the garbage collector's sight, once per process.

    After every task PySpark's daemon runs a full collection, and that one walks
    through all of pandas, numpy and Arrow, which never become garbage: about 65 ms
    of CPU per task, of which a micro-batch has a dozen. Beside that one no other is
    wanted: those that Python begins by itself, after so many new objects, took a
    twelfth of a large batch's time and found nothing.
    """
    gc.collect()
    gc.freeze()
    gc.disable()


def take_batches_whole() -> None:
    """Hand the stateful operator its records as they come, many at a time.

    PySpark cuts each Arrow batch into rows, looks at every row's key, and makes data
    frames of the rows again. To be called before the first record is read.
    """
    TransformWithStateInPandasSerializer.load_stream = _load_stream


def read_schemas_once() -> None:
    """Parse the schema of rows from the state once; in a worker only.

    It comes with every row, as JSON, and to parse it costs ten times what the row does.
    """
    if not hasattr(types._parse_datatype_json_string, "cache_info"):
        types._parse_datatype_json_string = cache(types._parse_datatype_json_string)


def _load_stream(
    serializer: TransformWithStateInPandasSerializer, stream: object
) -> Iterator[tuple]:
    """In the place of the serializer's own; gives what that one gives."""
    batches = super(ArrowStreamPandasSerializer, serializer).load_stream(stream)
    frames = _frames(serializer, batches)
    for key, of_key in groupby(frames, key=itemgetter(0)):
        yield Mode.PROCESS_DATA, key, of_key
    yield Mode.PROCESS_TIMER, None, None
    yield Mode.COMPLETE, None, None


def _frames(
    serializer: TransformWithStateInPandasSerializer, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[tuple, pd.DataFrame]]:
    for batch in batches:
        columns = ArrowBatchTransformer.to_pandas(
            batch,
            timezone=serializer._timezone,
            schema=serializer._input_type,
            struct_in_pandas=serializer._struct_in_pandas,
            ndarray_as_list=serializer._ndarray_as_list,
            prefer_int_ext_dtype=serializer._prefer_int_ext_dtype,
            df_for_struct=serializer._df_for_struct,
        )
        yield from runs(pd.concat(columns, axis=1), serializer.key_offsets)


def runs(
    rows: pd.DataFrame, keys: Sequence[int]
) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Each key with its rows, as often as it begins anew.

    Args:
        rows: the rows.
        keys: places of the key's columns.
    """
    key = rows.iloc[:, list(keys)]
    starts = np.flatnonzero((key != key.shift()).any(axis=1))
    for start, stop in pairwise([*starts.tolist(), len(rows)]):
        run = rows.iloc[start:stop]
        first = next(run.itertuples(index=False))
        yield tuple(first[place] for place in keys), run
