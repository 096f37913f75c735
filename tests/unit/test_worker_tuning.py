"""The garbage collector in Spark's Python workers."""

from __future__ import annotations

import subprocess
import sys

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
