"""What went wrong in Spark, in one line for a person."""

import pytest

from lib.streaming.session import cause_of

_FRAMES = """Traceback (most recent call last):
  File "/opt/spark/worker.py", line 1, in main
    process()
  File "/opt/lib/score.py", line 7, in score_bucket
    batch = pd.concat(chunks)
            ^^^^^^^^^^^^^^^^^
"""
_JAVA = """
	at org.apache.spark.api.python.BasePythonRunner.handle(PythonRunner.scala:1)
	at java.base/java.lang.Thread.run(Thread.java:840)

=== Streaming Query ===
Identifier: score
"""


@pytest.mark.parametrize(
    "line",
    [
        "pyarrow.lib.ArrowInvalid: Casting from timestamp[us] would lose data",
        "ValueError: a country is two letters",
        "lib.errors.FraudError: no space: free some",
        "KeyboardInterrupt",
        "_pickle.PickleIsOdd: what ends in neither",
    ],
)
def test_the_python_workers_own_line(line: str):
    error = RuntimeError(
        "[STREAM_FAILED] Query terminated with exception: Job aborted: "
        "org.apache.spark.api.python.PythonException: An exception was thrown from "
        f"the Python worker. See the stack trace below.\n{_FRAMES}{line}\n{_JAVA}"
    )
    assert cause_of(error) == line


def test_the_innermost_of_two_python_errors():
    error = RuntimeError(
        f"An exception was raised by the Python Proxy. Return Message: {_FRAMES}"
        "KeyError: 'a'\n\nDuring handling of the above exception, another exception "
        f"occurred:\n\n{_FRAMES}lib.x.Refused: no such batch\n{_JAVA}"
    )
    assert cause_of(error) == "lib.x.Refused: no such batch"


def test_what_py4j_says_is_no_cause():
    error = RuntimeError(
        f"{_FRAMES}py4j.protocol.Py4JJavaError: An error occurred while calling o1.load"
        "\n: org.apache.spark.SparkException: Job aborted\n"
        "Caused by: java.io.IOException: Input/output error\n"
    )
    assert cause_of(error) == "java.io.IOException: Input/output error"


def test_java_alone_and_a_text_alone():
    java = (
        "Job aborted\n\tat a.b(C.scala:1)\nCaused by: java.net.SocketException: reset\n"
    )
    assert cause_of(RuntimeError(java)) == "java.net.SocketException: reset"
    assert cause_of(RuntimeError("no such option\nsecond line")) == "no such option"
    assert cause_of(RuntimeError()) == "RuntimeError()"
