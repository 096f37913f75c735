"""What the pipeline's functions owe to the Python processes that Spark runs them in."""

from __future__ import annotations

import gc
from functools import cache


@cache
def spare_the_collector() -> None:
    """Take what is imported out of the garbage collector's sight, once per process.

    After every task PySpark's daemon runs a full collection, and that one walks
    through all of pandas, numpy and Arrow, which never become garbage: about 65 ms
    of CPU per task, of which a micro-batch has a dozen.
    """
    gc.collect()
    gc.freeze()
