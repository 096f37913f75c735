"""Make the JVM's class archives (`lib.setup.class_cache`) by one run of the pipeline.

    python -m lib.cli.make_class_cache     make what is missing

`make setup` does it: a broker takes the fixture, the stream drains it, and both JVMs
write down what they have loaded.
"""

from __future__ import annotations

import subprocess
import sys

from lib.errors import FraudError
from lib.kafka.broker import Broker
from lib.kafka.producer import replay
from lib.settings import ROOT, Settings
from lib.setup.class_cache import USES, Recording, found_at_start, make, path
from lib.setup.java import find_java
from lib.streaming.runner import drain
from lib.streaming.session import handed_over, spark_session
from lib.system.signals import Stop, run
from lib.verify.reconciliation import reconcile

EXIT_SECONDS = 180


def run_pipeline(settings: Settings, recording: Recording, stop: Stop) -> None:
    """Drain the fixture and reconcile, once, with all that the JVMs load recorded."""
    with recording("broker"):
        broker = Broker(settings).start()
    jvm = None
    try:
        replay(settings, broker.bootstrap, ROOT / "fixtures" / "tx_events.jsonl")
        with recording("spark"), handed_over(stop.children.append):
            spark = spark_session(settings, short_lived=True)
        jvm = spark.sparkContext._gateway.proc
        try:
            drain(spark, settings, broker.bootstrap)
            reconcile(spark, settings, broker.bootstrap)
        finally:
            spark.stop()
            # The JVM ends when its standard input does, and writes the archive then.
            jvm.stdin.close()
    except BaseException:
        broker.kill()  # it would write its archive first
        raise
    finally:
        broker.close()  # it writes its archive while Spark's JVM still does
        if jvm is not None:
            jvm.wait(EXIT_SECONDS)


def main(stop: Stop) -> int:
    """Entry of ``python -m lib.cli.make_class_cache``: make what this Java lacks, if it
    can.

    Everything runs without the archives, only sooner with them: so what keeps them
    from being made is told, and is no error.
    """
    try:
        java = find_java()
        if not all(path(java, use).is_file() for use in USES):
            print("archiving the JVM's classes, once ...", file=sys.stderr)
            make(java, lambda *given: run_pipeline(*given, stop))
            if not found_at_start():
                print(
                    "note: a space or an accent in the folder's name hides most of the "
                    "archive from Java: everything runs, and starts some seconds later",
                    file=sys.stderr,
                )
    except (FraudError, OSError, subprocess.TimeoutExpired) as error:
        if stop.broken:
            raise
        print(
            f"note: no archive of the JVM's classes ({error}): everything runs, "
            "and starts some seconds later",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    run(main)
