"""What the environment brings that is not meant for this project.

A Spark or Hadoop of the machine's own announces itself by variables that PySpark, its
scripts and its workers obey: with them it would start another Spark than the one that
the packages bring. And a proxy for the network is none for this machine's own servers.
"""

from __future__ import annotations

import locale
import os
import resource
import sys
from collections.abc import Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path

from lib.errors import FraudError
from lib.settings import Settings, local_path
from lib.system.loopback import NAMES

OPEN_FILES, FEWEST_FILES = 1024, 512
"""Files and sockets that a process of ours likes to have open at once, and the fewest
that it has been tried with. With 256 Spark's JVM, which opens every jar of its class
path, does not start."""

LOOPBACK_MASTERS = ("local", "spark://127.0.0.1:")
"""How the name of a Spark master on this machine begins."""

_FOREIGN = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_", "HIVE_")
_FOREIGN_PATHS = ("PYTHONPATH", "CLASSPATH")
_FOR_ELSEWHERE = (
    "SPARK_CONF_DIR",
    "SPARK_LOCAL_IP",
    "SPARK_LOCAL_HOSTNAME",
    "SPARK_PUBLIC_DNS",
    "HADOOP_CONF_DIR",
    "HADOOP_USER_NAME",
    "YARN_CONF_DIR",
)
"""Where to find another machine's services, and how they find this one."""


def on_this_machine(settings: Settings) -> bool:
    """Whether lake, checkpoints and Spark's master are all on this machine."""
    folders = (settings.lake, settings.checkpoints)
    local = all(local_path(folder) is not None for folder in folders)
    return local and settings.master.startswith(LOOPBACK_MASTERS)


def ignored(alone: bool, env: Mapping[str, str] | None = None) -> list[str]:
    """Names of the variables that are left out, in alphabetical order.

    Args:
        alone: whether everything is on this machine, see `on_this_machine`; else
            those that lead to other machines' services count.
        env: the variables; by default this process's.
    """
    env = os.environ if env is None else env
    wanted = () if alone else _FOR_ELSEWHERE
    return sorted(
        name
        for name in env
        if (name.startswith(_FOREIGN) or name in _FOREIGN_PATHS) and name not in wanted
    )


def leading_elsewhere() -> list[str]:
    """Names of this process's variables that lead to other machines' services."""
    return sorted(name for name in _FOR_ELSEWHERE if name in os.environ)


def leave_out(alone: bool, env: MutableMapping[str, str] | None = None) -> list[str]:
    """Make the environment (by default this process's) what our programs want.

    For good, and not only while a JVM starts: PySpark looks at it at many a call.

    Args:
        alone: see `ignored`.
        env: see `ignored`.

    Returns:
        the names of the variables that were left out.
    """
    env = os.environ if env is None else env
    left_out = ignored(alone, env)
    for name in left_out:
        del env[name]
    for name in ("no_proxy", "NO_PROXY"):  # each program reads one of them
        given = env.get(name) or env.get(name.swapcase(), "")
        names = [part.strip() for part in given.split(",") if part.strip()]
        if "*" not in names:
            env[name] = ",".join(dict.fromkeys([*names, *NAMES]))
    return left_out


def spark_home() -> Path:
    """The folder of the Spark that comes with the packages."""
    return Path(find_spec("pyspark").origin).parent


def own_packages_first() -> None:
    """Let modules of PYTHONPATH, another PySpark say, come behind our packages'."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    foreign = [path for path in sys.path if path in given and path]
    sys.path[:] = [path for path in sys.path if path not in foreign] + foreign


def open_files() -> int:
    """How many files this process, and each that it starts, may have open at once.

    The limit is raised to OPEN_FILES first, where that is allowed: a Mac's shell begins
    with 256.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    if soft < OPEN_FILES:
        soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def demand_open_files() -> None:
    """See that a JVM of Spark may open the files that it needs.

    Raises:
        FraudError: it may not.
    """
    if (allowed := open_files()) < FEWEST_FILES:
        raise FraudError(
            f"{allowed} files may be open at once here, and Spark opens some hundreds "
            f"of jars alone: `ulimit -n {OPEN_FILES}`, or ask who limits it"
        )


def jvm_locale() -> dict[str, str]:
    """Variables with which a JVM reads the names of files as this process does.

    A JVM takes the encoding of names from the locale, and in that of an empty
    environment (C) no name may have other letters than ASCII's. Python makes do with
    UTF-8 there.
    """
    if sys.platform != "linux" or locale.getencoding().lower() in ("utf-8", "utf8"):
        return {}
    return {"LC_ALL": "C.UTF-8"}
