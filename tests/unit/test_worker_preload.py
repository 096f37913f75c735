"""The process that Spark's Python workers are forked from."""

from __future__ import annotations

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="used on Linux only")

IMPORTED = """
import os
from lib.streaming import worker_preload
os.environ.update(worker_preload.NO_THREADS)
for name in worker_preload.IMPORTS:
    __import__(name)
print(worker_preload.threads())
"""
MAIN = """
import os, sys, threading
from lib.streaming import worker_preload
worker_preload.IMPORTS = ("json",)
if "busy" in sys.argv:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
os.execv = lambda program, words: (print("exec", *words[1:], flush=True), os._exit(0))
worker_preload.PLAIN = "tests.unit.test_worker_preload"
worker_preload.main()
"""


def manager() -> None:
    """In the place of PySpark's."""
    sys.stdout.write("serves\n")


def said(code: str, *words: str) -> list[str]:
    command = [sys.executable, "-c", code, *words]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    return run.stdout.split()


@linux
def test_the_imports_start_no_thread():
    assert said(IMPORTED) == ["1"]


@linux
def test_it_forks_itself_while_it_has_one_thread():
    assert said(MAIN, "pyspark.worker") == ["serves"]


@linux
def test_with_a_second_thread_pyspark_forks_instead():
    plain = ["exec", "-m", "tests.unit.test_worker_preload"]
    assert said(MAIN, "busy") == [*plain, "busy"]
