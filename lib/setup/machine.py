"""What this machine has of what set-up and a run need.

Each look needs the standard library only, and no newer Python than 3.9: `doctor` makes
them before `make setup` has installed anything, with whatever Python there is.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zoneinfo
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path

from lib.settings import DASHBOARD_PORT, ROOT, shown
from lib.setup import network
from lib.setup.java import JAVA_VARIABLES
from lib.system.environment import demand_open_files, leading_elsewhere, open_files
from lib.system.loopback import is_free

PYTHONS = ((3, 11), (3, 13))
MODULES = ("venv", "ensurepip", "ssl", "ctypes")
"""Modules of the standard library that set-up needs and that some systems lack."""

GB = 2**30
MIN_MEMORY_GB = 4
TEST_MEMORY_GB = 8
MIN_DISK_GB = 2
SETUP_DISK_GB = 3
"""Packages, jars and an archive of classes take 2 GB, and a run writes, too."""

MIN_CORES = 2
MIN_MAKE = (3, 81)
MIN_WATCHES = 8192

REPO_DATE = date(2026, 11, 24)
"""No clock that is right shows an earlier day."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VENV = ROOT / ".venv"

_CHROME_OF_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMORY_FREE = Path("/proc/meminfo")
_WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")
_LOCAL_TIME = Path("/etc/localtime")
_ANSWER_SECONDS = 60


@dataclass(frozen=True)
class Check:
    """One finding: what was looked at, whether it will do, what was found.

    Attributes:
        name: what was looked at.
        ok: whether it will do. What is optional always does.
        found: what there is.
        remedy: what to do; advice only, if `ok`.
        needed: what there has to be.
        skipped: whether it could not be looked at yet.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: str = ""
    skipped: bool = False

    def as_dict(self) -> dict[str, object]:
        """The check as JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The check for a terminal: one line, and one more for a remedy."""
        mark = "skip" if self.skipped else "note" if self.remedy else "ok"
        mark = mark if self.ok else "FAIL"
        needed = f" (needed: {self.needed})" if self.needed else ""
        first = f"{mark:4} {self.name}: {self.found}{needed}"
        return [first, f"     {self.remedy}"] if self.remedy else [first]


def is_set_up() -> bool:
    """Whether `make setup` has made a virtual environment whose Python is there."""
    return os.access(VENV / "bin" / "python", os.X_OK)


# -- programs -------------------------------------------------------------------


def python() -> Check:
    """This Python: its release and, before set-up, the modules for set-up."""
    low, high = PYTHONS
    found = platform.python_version()
    if not low <= sys.version_info[:2] <= high:
        remedy = "install Python 3.11-3.13, then `make clean setup PYTHON=python3.13`"
        return Check("python", False, found, remedy)
    if missing := [] if is_set_up() else [m for m in MODULES if not _imports(m)]:
        found += f" without {', '.join(missing)}"
        remedy = (
            "install your system's python3-venv package; a Python that you have built "
            "yourself: build it again with OpenSSL and libffi"
        )
        return Check("python", False, found, remedy)
    return Check("python", True, found)


def make() -> Check:
    """GNU make and its version, which the Makefile is written for."""
    program = shutil.which("make")
    said = _first_line(program, "--version") if program else ""
    version = re.match(r"GNU Make (\d+)\.(\d+)", said)
    ok = version is not None and tuple(map(int, version.groups())) >= MIN_MAKE
    found = (said or f"{program} does not start") if program else "none"
    remedy = (
        "install GNU make (`sudo apt install make`, on a Mac `xcode-select --install`)"
    )
    return Check("make", ok, found, "" if ok else remedy)


def find_browser() -> str | None:
    """Chromium or Chrome on this machine; None if there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    return found or (str(_CHROME_OF_MAC) if _CHROME_OF_MAC.exists() else None)


def browser() -> Check:
    """A browser that can be driven. Optional."""
    if found := find_browser():
        return Check("browser", True, found)
    remedy = (
        "any browser shows the dashboard; only `make figures`, `make slides` and the "
        "browser tests want Chromium or Chrome"
    )
    return Check("browser", True, "no Chromium or Chrome", remedy)


# -- memory, cores, disk ----------------------------------------------------------


def memory() -> Check:
    """Memory in GB (2**30 bytes) of the machine, or of the container that this is."""
    total, free = _memory_gb()
    found = f"{total:.1f} GB"
    if free is not None:
        found += f", {free:.1f} GB of it free"
    if total < MIN_MEMORY_GB:
        remedy = f"take a machine, or a limit, with {MIN_MEMORY_GB} GB"
        return Check("memory", False, found, remedy)
    remedy = ""
    if free is not None and free < MIN_MEMORY_GB:
        remedy = f"close other programs; a run wants {MIN_MEMORY_GB} GB"
    elif total < TEST_MEMORY_GB:
        remedy = "for the tests, use `make test WORKERS=1`"
    return Check("memory", True, found, remedy)


def cores() -> Check:
    """CPU cores that this process may use. One is a note: everything is slow then."""
    number = _cores()
    remedy = "everything runs, but slowly: take a machine with two cores"
    return Check("cores", True, str(number), "" if number >= MIN_CORES else remedy)


def disk(home: Path) -> Check:
    """Free disk in GB (2**30 bytes): for a run and, before set-up, for packages.

    Args:
        home: folder of what a run writes; need not be there.
    """
    wanted = {_existing(home): (MIN_DISK_GB, "set FRAUD_HOME to another disk")}
    if not is_set_up():
        wanted[ROOT] = SETUP_DISK_GB, "move the repository to another disk"
    found, remedies = [], []
    for folder, (least, otherwise) in wanted.items():
        free = shutil.disk_usage(folder).free / GB
        found.append(f"{free:.1f} GB free in {shown(folder)}")
        if free < least:
            remedies.append(f"free {least} GB in {shown(folder)}, or {otherwise}")
    return Check("disk", not remedies, "; ".join(found), "; ".join(remedies))


def home(folder: Path) -> Check:
    """Whether FRAUD_HOME can be written. A file without a name is opened for that, in
    the folder or in the one in which it would be made."""
    there = _existing(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        found = f"{shown(there)}: {error.strerror}"
        remedy = "set FRAUD_HOME to a folder that you may write"
        return Check("home", False, found, remedy)
    return Check("home", True, f"{shown(there)} can be written")


# -- limits -----------------------------------------------------------------------


def open_file_limit() -> Check:
    """How many files a process may open.

    Raises:
        FraudError: too few for a JVM of Spark.
    """
    demand_open_files()
    found = f"{open_files()} files and sockets at once for each process"
    return Check("open files", True, found)


def file_watches() -> Check:
    """inotify watches of a user, on Linux. Optional: nothing here takes one."""
    try:
        number = int(_WATCHES.read_text())
    except (OSError, ValueError):
        return Check("file watches", True, "no such limit here")
    remedy = (
        "an editor may miss that files change: "
        "`sudo sysctl fs.inotify.max_user_watches=524288`"
    )
    enough = number >= MIN_WATCHES
    return Check("file watches", True, str(number), "" if enough else remedy)


# -- network ----------------------------------------------------------------------


def loopback() -> Check:
    """Whether a program may listen on 127.0.0.1."""
    try:
        socket.create_server(("127.0.0.1", 0)).close()
    except OSError as error:
        return Check(
            "loopback", False, str(error), "allow programs to listen on 127.0.0.1"
        )
    return Check("loopback", True, "127.0.0.1 gives ports")


def dashboard_port() -> Check:
    """Whether the dashboard's default port is free. Optional: it takes others."""
    if is_free(DASHBOARD_PORT):
        return Check("dashboard port", True, f"{DASHBOARD_PORT} is free")
    remedy = (
        "`make demo` takes another port by itself; "
        f"`python -m lib dashboard --port {DASHBOARD_PORT + 1}`"
    )
    return Check("dashboard port", True, f"{DASHBOARD_PORT} is taken", remedy)


def proxies() -> Check:
    """The proxies, without their passwords, and whether they are addresses."""
    try:
        given = network.proxies()
        hosts = {scheme: _host_and_port(given[scheme]) for scheme in given}
    except ValueError:
        # It is not shown: there may be a password in it.
        remedy = (
            "set http_proxy and https_proxy to http://HOST:PORT (other signs than "
            "letters and digits of a password as %40), or unset them"
        )
        return Check("proxy", False, "a variable is no proxy's address", remedy)
    found = ", ".join(f"{scheme} by {host}" for scheme, host in hosts.items())
    return Check("proxy", True, found or "none")


def certificates() -> Check:
    """Whether the files that SSL_CERT_FILE and its like name hold certificates.

    A wrong folder of SSL_CERT_DIR is a note: programs pass over it.
    """
    wrong, right = {}, []
    for variable, paths in network.bundles().items():
        for path in paths:
            if trouble := _trouble_with_bundle(path):
                wrong[variable] = f"{variable} names {shown(path)}, {trouble}"
            else:
                right.append(variable)
    if not wrong:
        found = f"PEM in {', '.join(right)}" if right else "the public ones"
        return Check("certificates", True, found)
    remedy = (
        f"correct or unset {', '.join(wrong)}; of a DER file (.cer, .der) "
        "`openssl x509 -inform der -in FILE -out FILE.pem` makes PEM"
    )
    ok = not wrong.keys() - {network.FOLDERS}
    return Check("certificates", ok, "; ".join(wrong.values()), remedy)


# -- surroundings -------------------------------------------------------------------


def other_installations(left_out: Sequence[str]) -> Check:
    """What is in the environment of another Spark's, and of every Java's.

    Args:
        left_out: names of the variables that are ignored, see `lib.system.environment`.
    """
    found = f"ignored: {', '.join(left_out)}" if left_out else "nothing to be ignored"
    if used := [name for name in leading_elsewhere() if name not in left_out]:
        found += f"; used: {', '.join(used)}"
    if obeyed := [name for name in JAVA_VARIABLES if os.environ.get(name)]:
        found += f"; every Java obeys {', '.join(obeyed)}"
    return Check("other installations", True, found)


def clock() -> Check:
    """The wall clock, which may not be before the repo's date, and the time zone.

    A zone that nobody knows is a note: events carry their own, and Spark has UTC.
    """
    now, zone = _now(), _zone()
    found = f"{now:%Y-%m-%d %H:%M}, zone {zone} (UTC{now:%z})"
    if now.date() < REPO_DATE:
        remedy = f"set the clock: today is {REPO_DATE} or later"
        return Check("clock", False, found, remedy)
    remedy = "set TZ to a name such as Europe/Vienna, or unset it"
    unknown = os.environ.get("TZ") and not _is_zone(zone)
    return Check("clock", True, found, remedy if unknown else "")


# -- what the looks are made of -----------------------------------------------------


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def _first_line(program: str, *words: str) -> str:
    """Of what it prints; empty if it does not start."""
    try:
        out = subprocess.run(
            [program, *words], capture_output=True, text=True, timeout=_ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return out.stdout.partition("\n")[0].strip()


def _memory_gb() -> tuple[float, float | None]:
    """All there is, or that a container may have; and what is free, if that is told."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (limit := _text(_MEMORY_LIMIT).strip()).isdigit():
        total = min(total, int(limit))
    available = re.search(r"^MemAvailable: *(\d+) kB", _text(_MEMORY_FREE), re.M)
    free = min(total, int(available.group(1)) * 1024) / GB if available else None
    return total / GB, free


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not os.path.exists(folder):
        folder = folder.parent
    return folder


def _host_and_port(address) -> str:
    """Of a proxy.

    Raises:
        ValueError: it has none.
    """
    if not address.hostname:
        raise ValueError("no host")
    port = f":{address.port}" if address.port else ""
    return f"{address.hostname}{port}"


def _trouble_with_bundle(path: Path) -> str:
    """What keeps a file, or a folder of files, from being certificates; or nothing."""
    if path.is_dir():
        return (
            "" if network.has_certificates(path) else "where no certificates (PEM) are"
        )
    try:
        import ssl  # which a Python may be without
    except ImportError:
        return ""  # see `python`
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return "which is not PEM"
    except OSError as error:
        return f"which can't be read ({error.strerror})"
    return ""


def _now() -> datetime:
    return datetime.now().astimezone()


def _zone() -> str:
    if given := os.environ.get("TZ", "").lstrip(":"):
        return given
    name = os.path.realpath(_LOCAL_TIME).partition("zoneinfo/")[2]
    return name or time.tzname[0]


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True
