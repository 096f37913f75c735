"""What this machine lacks, each with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lib import archive, clients, jars
from lib.config import ROOT, Settings, shown, trouble_with
from lib.errors import FraudError
from lib.java import JAVA_VARIABLES, find_java
from lib.surroundings import demand_open_files, open_files

PYTHONS = ((3, 11), (3, 13))
MIN_MEMORY_GB = 4
MIN_DISK_GB = 2


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it will do, what was found."""

    name: str
    ok: bool
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, object]:
        """The check as JSON."""
        return asdict(self)


def checks(settings: Settings, left_out: Sequence[str] = ()) -> list[Check]:
    """Look at all that a run needs; never raises for what it finds.

    Args:
        settings: those that a run would have, usable or not.
        left_out: variables of other installations, see `lib.surroundings`.
    """
    looks: dict[str, Callable[[Settings], Check]] = {
        "python": _python,
        "settings": _settings,
        "checkout": _checkout,
        "virtual environment": _venv,
        "java": _java,
        "jars": _jars,
        "class archive": _archive,
        "memory": _memory,
        "disk": _disk,
        "loopback": _loopback,
        "open files": _open_files,
        "other installations": lambda _settings: _others(left_out),
        "kafka": _kafka,
    }
    found = []
    for name, look in looks.items():
        try:
            found.append(look(settings))
        except FraudError as error:
            what, _, remedy = str(error).rpartition(": ")
            found.append(Check(name, False, what or remedy, remedy))
        except OSError as error:
            found.append(Check(name, False, str(error), "correct it"))
    return found


def _settings(settings: Settings) -> Check:
    settings.check()
    return Check("settings", True, f"FRAUD_HOME is {shown(settings.home)}")


def _checkout(_settings: Settings) -> Check:
    for folder in (ROOT, Path(sys.prefix)):
        if trouble := trouble_with(folder):
            found = f"{shown(folder)} has {trouble}"
            return Check("checkout", False, found, "move the repository elsewhere")
    return Check("checkout", True, str(ROOT))


def _python(_settings: Settings) -> Check:
    low, high = PYTHONS
    ok = low <= sys.version_info[:2] <= high
    remedy = "install Python 3.11-3.13, then `make clean setup PYTHON=python3.13`"
    return Check("python", ok, platform.python_version(), "" if ok else remedy)


def _venv(_settings: Settings) -> Check:
    ok = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
    remedy = "run `make setup`, then use .venv/bin/python"
    return Check("virtual environment", ok, sys.prefix, "" if ok else remedy)


def _java(_settings: Settings) -> Check:
    java = find_java()
    return Check("java", True, f"Java {java.release} from {java.origin}")


def _jars(_settings: Settings) -> Check:
    locked = [jar for jar in jars.read_lock() if jar.use not in jars.OPTIONAL]
    broken = [jar.coordinate for jar in locked if not jar.intact()]
    if broken:
        found = f"{len(broken)} of {len(locked)} missing or damaged: {broken[0]}"
        return Check("jars", False, found, "run `make setup`")
    return Check("jars", True, f"{len(locked)} jars, every SHA-256 as locked")


def _archive(_settings: Settings) -> Check:
    java = find_java()
    if all(archive.path(java, use).is_file() for use in archive.USES):
        return Check("class archive", True, f"made for this Java {java.release}")
    found = "none for this Java: JVMs start some seconds later"
    return Check("class archive", True, found, "run `.venv/bin/python -m lib.archive`")


def _memory(_settings: Settings) -> Check:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    ok = gigabytes >= MIN_MEMORY_GB
    remedy = f"close other programs; a run wants {MIN_MEMORY_GB} GB"
    return Check("memory", ok, f"{gigabytes:.1f} GB", "" if ok else remedy)


def _disk(settings: Settings) -> Check:
    folder = settings.home
    while not os.path.exists(folder):
        folder = folder.parent
    gigabytes = shutil.disk_usage(folder).free / 2**30
    ok = gigabytes >= MIN_DISK_GB and os.access(folder, os.W_OK)
    found = f"{gigabytes:.1f} GB free in {shown(folder)}"
    if not os.access(folder, os.W_OK):
        found += ", not writable"
    remedy = f"set FRAUD_HOME to a writable folder with {MIN_DISK_GB} GB"
    return Check("disk", ok, found, "" if ok else remedy)


def _loopback(_settings: Settings) -> Check:
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError as error:
        return Check(
            "loopback", False, str(error), "allow programs to listen on 127.0.0.1"
        )
    return Check("loopback", True, "127.0.0.1 gives ports")


def _open_files(_settings: Settings) -> Check:
    demand_open_files()
    found = f"{open_files()} files and sockets at once for each process"
    return Check("open files", True, found)


def _others(left_out: Sequence[str]) -> Check:
    """What is in the environment of another Spark's, and of every Java's."""
    obeyed = [name for name in JAVA_VARIABLES if os.environ.get(name)]
    found = f"ignored: {', '.join(left_out)}" if left_out else "nothing to be ignored"
    if obeyed:
        found += f"; every Java obeys {', '.join(obeyed)}"
    return Check("other installations", True, found)


def _kafka(settings: Settings) -> Check:
    if not settings.kafka:
        return Check("kafka", True, "the embedded broker")
    clients.admin(settings, settings.kafka).close()
    return Check("kafka", True, f"{settings.kafka} answers")
