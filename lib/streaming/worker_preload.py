"""PySpark's daemon, with the imports of the workers done before it forks them.

Each Python worker of a session imports pandas, Arrow and the detectors for itself:
three to four CPU seconds, four times over on the first batch. A fork of a process that
has imported them has them. Spark starts this module in the place of `pyspark.daemon`,
see ``spark.python.daemon.module`` in `lib.streaming.session`.

PySpark itself imports after the fork, because a library may start threads when it is
imported, and a fork takes only one thread along. So those that would are told not to;
and if there is a second thread all the same, it is PySpark's way after all, by an exec
that forgets all imports.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

PLAIN = "pyspark.daemon"
IMPORTS = ("pyspark.worker", "lib.streaming.processor")
"""The second brings pandas, Arrow and all else that the stream's functions use."""

_JEMALLOC = "background_thread:false"
NO_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy's
    "JE_ARROW_MALLOC_CONF": _JEMALLOC,  # Arrow's
    "_RJEM_MALLOC_CONF": _JEMALLOC,  # delta-rs's
}
"""Variables that keep the imports from starting threads: none of what a worker does
multiplies matrices or frees memory by the gigabyte."""


def threads() -> int:
    """Threads of this process, those of C libraries included."""
    return len(os.listdir("/proc/self/task"))


def main() -> None:
    """Import, then serve forks until Spark closes stdin."""
    os.environ.update(NO_THREADS)
    for name in IMPORTS:
        import_module(name)
    if threads() > 1:
        os.execv(sys.executable, [sys.executable, "-m", PLAIN, *sys.argv[1:]])
    from lib.streaming.worker_tuning import spare_the_collector

    spare_the_collector()
    import_module(PLAIN).manager()


if __name__ == "__main__":
    main()
