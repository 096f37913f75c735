"""Spark's two ways to keep state in Python, beneath the same score query.

    python -m bench.stateful [--events N] [--out FILE]

The query of `lib.score` runs as it is, and once more with `transformWithStateInPandas`
in the place of `applyInPandasWithState`: same buckets, same `lib.history.Bucket`, same
table. Measured are a drain in large batches and the time of small ones, as they occur
at 20 events/s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from pyspark.sql import DataFrame, GroupedData
from pyspark.sql.streaming import StatefulProcessor, StatefulProcessorHandle

from bench.drain import EVENTS_PER_ACCOUNT, WARM_UP_EVENTS, drained
from bench.machine import machine
from lib import oracle
from lib.broker import Broker
from lib.config import Settings
from lib.generator import generate, write
from lib.producer import replay
from lib.spark import spark_session
from lib.stream import drain

SMALL_EVENTS, SMALL_BATCH = 400, 10


class _State:
    """A ValueState and timer values with the face of a GroupState."""

    def __init__(self, value, timers) -> None:
        self._value, self._timers = value, timers

    @property
    def exists(self) -> bool:
        return self._value.exists()

    @property
    def get(self) -> tuple:
        return self._value.get()

    def update(self, row: tuple) -> None:
        self._value.update(row)

    def getCurrentWatermarkMs(self) -> int:
        return self._timers.getCurrentWatermarkInMs()


class _Processor(StatefulProcessor):
    """`lib.score.score_bucket` as a stateful processor."""

    def __init__(self, function: Callable, state_type) -> None:
        self._function, self._type = function, state_type

    def init(self, handle: StatefulProcessorHandle) -> None:
        self._value = handle.getValueState("bucket", self._type)

    def handleInputRows(
        self,
        key,
        rows: Iterator[pd.DataFrame],
        timerValues,
    ) -> Iterator[pd.DataFrame]:
        yield from self._function(key, rows, _State(self._value, timerValues))

    def close(self) -> None:
        """Nothing to close."""


def _transform(grouped: GroupedData, function, output, state, mode, _timeout):
    """`applyInPandasWithState`'s arguments, the other operator."""
    return grouped.transformWithStateInPandas(
        _Processor(function, state), output, mode, "EventTime"
    )


ROCKSDB = {
    "spark.sql.streaming.stateStore.providerClass": (
        "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
    )
}
"""transformWithState refuses every other store, so here both run on this one."""


def main() -> None:
    """Run the benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description="two kinds of state in Python")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/stateful.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), arguments.events)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n")
    print(text)


def run(folder: Path, events: int) -> dict[str, object]:
    """Both operators over the same topics; their tables must be the same."""
    base = Settings.from_env({"FRAUD_HOME": str(folder / "home")})
    sizes = {"warm": WARM_UP_EVENTS, "large": events, "small": SMALL_EVENTS}
    broker = Broker(base).start()
    spark = spark_session(base, ROCKSDB)
    figures: dict[str, object] = {"events": events, "small_batch": SMALL_BATCH}
    tables: list[DataFrame] = []
    try:
        for name, size in sizes.items():
            made = generate(size, max(1, size // EVENTS_PER_ACCOUNT), seed=1)
            file, _ = write(made, folder / name)
            replay(_named(base, folder, name, ""), broker.bootstrap, file)
        for operator, patched in (
            ("applyInPandasWithState", nullcontext()),
            (
                "transformWithStateInPandas",
                patch.object(GroupedData, "applyInPandasWithState", _transform),
            ),
        ):
            of = {name: _named(base, folder, name, operator) for name in sizes}
            with patched:
                drain(spark, of["warm"], broker.bootstrap, names=("score",))
                seconds, _ = drained(spark, of["large"], broker.bootstrap)
                _, reports = drained(
                    spark, of["small"], broker.bootstrap, max_offsets=SMALL_BATCH
                )
            spent = [r["durationMs"]["triggerExecution"] for r in reports[3:]]
            figures[operator] = {
                "events_per_second": round(events / seconds),
                "small_batch_ms_median": statistics.median(spent),
                "small_batch_ms_max": max(spent),
                "small_batches": len(spent),
            }
            table = of["large"].table("silver/scored")
            tables.append(spark.read.format("delta").load(table))
        figures["differences"] = oracle.differences(*tables).count()
    finally:
        spark.stop()
        broker.close()
    return figures


def _named(base: Settings, folder: Path, name: str, operator: str) -> Settings:
    home = folder / f"{name}-{operator}"
    return replace(
        base,
        topic=f"tx-{name}",
        lake=str(home / "lake"),
        checkpoints=str(home / "checkpoints"),
    )


if __name__ == "__main__":
    main()
