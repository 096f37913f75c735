"""What `doctor` says of a machine before set-up and after: each check, right and wrong.

What a check reads of this machine is replaced where it must be another machine's.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import certifi
import pytest

from lib.cli import doctor
from lib.cli.doctor import Check, checks, verdict
from lib.errors import FraudError
from lib.settings import ROOT, Settings
from lib.setup import machine
from lib.setup.machine import GB
from lib.setup.network import BUNDLES, FOLDERS

PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine's own network asks for does not count."""
    for name in (*PROXIES, *map(str.upper, PROXIES), *BUNDLES, FOLDERS, "TZ"):
        monkeypatch.delenv(name, raising=False)


def found(home: object, left_out: tuple[str, ...] = ()) -> dict[str, Check]:
    settings = Settings.from_env({"FRAUD_HOME": str(home)}, check=False)
    return {check.name: check for check in checks(settings, left_out)}


@pytest.mark.parametrize(
    "name", ["[1]", "two\nlines", os.fsdecode(b"caf\xe9"), "x" * 999]
)
def test_a_home_that_cannot_be_used(tmp_path: Path, name: str):
    looked = found(tmp_path / name)

    bad = [check for check in looked.values() if not check.ok]
    assert bad
    for check in bad:
        assert "FRAUD_HOME" in check.remedy
        assert check.found.isprintable()
    assert looked["python"].ok  # and the other looks were made


def test_variables_of_another_installation(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1g")

    check = found(tmp_path, ("SPARK_HOME", "SPARK_REMOTE"))["other installations"]

    assert check.ok
    assert check.found == (
        "ignored: SPARK_HOME, SPARK_REMOTE; every Java obeys JAVA_TOOL_OPTIONS"
    )


def test_few_open_files(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _which: (64, 64))
    monkeypatch.setattr("resource.setrlimit", lambda *_words: None)

    check = found(tmp_path)["open files"]

    assert not check.ok
    assert "ulimit -n" in check.remedy


def script(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


# -- programs ---------------------------------------------------------------------


def test_this_python():
    assert machine.python() == Check("python", True, sys.version.split()[0])


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 10, 0), (3, 14, 0)])
def test_a_python_of_another_release(monkeypatch, version: tuple[int, ...]):
    monkeypatch.setattr("sys.version_info", version)

    check = machine.python()

    assert not check.ok
    assert "make clean setup PYTHON=" in check.remedy


@pytest.mark.parametrize("is_set_up", [False, True])
def test_a_python_without_venv(monkeypatch, is_set_up: bool):
    monkeypatch.setattr(machine, "is_set_up", lambda: is_set_up)
    monkeypatch.setattr(machine, "MODULES", ("venv", "missing_ensurepip"))

    check = machine.python()

    assert check.ok is is_set_up  # then there is a virtual environment
    assert is_set_up or check.found.endswith("without missing_ensurepip")


@pytest.mark.parametrize(
    ("says", "ok"),
    [
        ("GNU Make 3.81", True),
        ("GNU Make 4.4.1", True),
        ("GNU Make 3.80", False),
        ("bmake: unknown option", False),
        ("", False),
    ],
)
def test_make(tmp_path: Path, monkeypatch, says: str, ok: bool):
    script(tmp_path, "make", f"echo '{says}'")
    monkeypatch.setenv("PATH", str(tmp_path))

    check = machine.make()

    assert check.ok is ok
    assert bool(check.remedy) is not ok


def test_no_make(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert machine.make().found == "none"
    assert not machine.make().ok


def test_browser(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(machine, "_CHROME_OF_MAC", tmp_path / "Chrome")
    monkeypatch.setenv("PATH", str(tmp_path))
    without = machine.browser()
    program = script(tmp_path, "chromium", "")

    assert without.ok  # it is optional
    assert "any browser shows the dashboard" in without.remedy
    assert machine.browser() == Check("browser", True, str(program))


@pytest.mark.parametrize("packages", [False, True])
def test_no_java_is_a_fault_after_set_up_only(monkeypatch, packages: bool):
    def none() -> None:
        raise FraudError("no Java 17 or 21 found: run `make setup`")

    monkeypatch.setattr(doctor, "find_java", none)
    monkeypatch.setattr(doctor, "find_spec", lambda _name: packages or None)

    check = doctor._made("java", doctor._java)

    assert check.ok is not packages
    assert "make setup" in check.remedy


# -- memory, cores, disk ------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "free", "ok", "advice"),
    [
        (16, 9, True, ""),
        (16, None, True, ""),  # a Mac does not say
        (16, 1, True, "close other programs"),
        (6, 5, True, "WORKERS=1"),
        (3, 2, False, "4 GB"),
    ],
)
def test_memory(monkeypatch, total: int, free: int | None, ok: bool, advice: str):
    monkeypatch.setattr(machine, "_memory_gb", lambda: (total, free))

    check = machine.memory()

    assert check.ok is ok
    assert check.found.startswith(f"{total}.0 GB")
    assert ("of it free" in check.found) is (free is not None)
    assert advice in check.remedy
    assert bool(advice) is bool(check.remedy)


@pytest.mark.parametrize(("limit", "total"), [(str(GB // 4), 0.25), ("max", None)])
def test_memory_of_a_container(tmp_path: Path, monkeypatch, limit: str, total):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    (tmp_path / "limit").write_text(f"{limit}\n")
    (tmp_path / "free").write_text("MemTotal: 9 kB\nMemAvailable:  131072 kB\n")
    monkeypatch.setattr(machine, "_MEMORY_LIMIT", tmp_path / "limit")
    monkeypatch.setattr(machine, "_MEMORY_FREE", tmp_path / "free")

    assert machine._memory_gb() == (total or whole / GB, 0.125)


@pytest.mark.parametrize(("number", "slow"), [(2, False), (1, True)])
def test_cores(monkeypatch, number: int, slow: bool):
    monkeypatch.setattr(machine, "_cores", lambda: number)

    check = machine.cores()

    assert check.ok
    assert check.found == str(number)
    assert bool(check.remedy) is slow


@pytest.mark.parametrize(
    ("free", "is_set_up", "remedy"),
    [
        (3.5, False, ""),
        (2.5, True, ""),
        (2.5, False, "move the repository"),
        (1.5, True, "FRAUD_HOME"),
    ],
)
def test_disk(tmp_path: Path, monkeypatch, free: float, is_set_up: bool, remedy: str):
    usage = SimpleNamespace(free=free * GB)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    monkeypatch.setattr(machine, "is_set_up", lambda: is_set_up)

    check = machine.disk(tmp_path / "not" / "yet")

    assert check.ok is (remedy == "")
    assert remedy in check.remedy
    assert f"{free} GB free in {tmp_path}" in check.found


def test_a_home_that_can_be_written(tmp_path: Path):
    assert machine.home(tmp_path / "not" / "yet").ok
    assert list(tmp_path.iterdir()) == []  # nothing was made


def test_a_home_that_can_not_be_written(tmp_path: Path):
    (tmp_path / "file").touch()

    check = machine.home(tmp_path / "file")

    assert not check.ok
    assert "FRAUD_HOME" in check.remedy


# -- limits -------------------------------------------------------------------------


def test_open_files(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _which: (4096, 4096))

    assert machine.open_file_limit().found.startswith("4096 files")


@pytest.mark.parametrize(
    ("text", "few"), [("65536\n", False), ("1024\n", True), (None, False)]
)
def test_file_watches(tmp_path: Path, monkeypatch, text: str | None, few: bool):
    file = tmp_path / "max_user_watches"
    if text:
        file.write_text(text)
    monkeypatch.setattr(machine, "_WATCHES", file)

    check = machine.file_watches()

    assert check.ok  # it is optional
    assert bool(check.remedy) is few


# -- network ------------------------------------------------------------------------


def test_loopback():
    assert machine.loopback().ok


def test_no_loopback(monkeypatch):
    def refused(*_words: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("socket.create_server", refused)

    check = machine.loopback()

    assert not check.ok
    assert "127.0.0.1" in check.remedy


def test_the_port_of_the_dashboard(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(machine, "DASHBOARD_PORT", server.getsockname()[1])
        taken = machine.dashboard_port()
    free = machine.dashboard_port()

    assert taken.ok  # it is optional
    assert taken.found.endswith("is taken")
    assert "--port" in taken.remedy
    assert free.found.endswith("is free")
    assert not free.remedy


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "none"),
        ({"https_proxy": "proxy.example:3128"}, "https by proxy.example:3128"),
        (
            {"ALL_PROXY": "http://me:secret@proxy.example"},
            "http by proxy.example, https by proxy.example",
        ),
    ],
)
def test_proxies(monkeypatch, variables: dict[str, str], found: str):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("lib.setup.network.getproxies", _proxies_of_environment)

    assert machine.proxies() == Check("proxy", True, found)


@pytest.mark.parametrize(
    "address",
    ["http://", "http://me:se/cret@proxy:3128", "http://proxy:secret", "http://[proxy"],
)
def test_a_proxy_that_is_none(monkeypatch, address: str):
    monkeypatch.setenv("https_proxy", address)

    check = machine.proxies()

    assert not check.ok
    assert "https_proxy" in check.remedy
    assert "cret" not in check.found + check.remedy


def _proxies_of_environment() -> dict[str, str]:
    from urllib.request import getproxies_environment

    return getproxies_environment()  # and not those of a Mac's settings


@pytest.mark.parametrize("variable", BUNDLES)
def test_certificates(tmp_path: Path, monkeypatch, variable: str):
    monkeypatch.setenv(variable, certifi.where())
    monkeypatch.setenv(FOLDERS, str(Path(certifi.where()).parent))

    check = machine.certificates()

    assert check.ok
    assert check.found == f"PEM in {variable}, {FOLDERS}"


def test_no_certificates_are_named():
    assert machine.certificates() == Check("certificates", True, "the public ones")


def test_a_bundle_that_is_missing(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))

    check = machine.certificates()

    assert not check.ok
    assert "can't be read" in check.found
    assert "SSL_CERT_FILE" in check.remedy


@pytest.mark.parametrize("kind", ["DER", "empty"])
def test_a_bundle_that_is_not_pem(tmp_path: Path, monkeypatch, kind: str):
    first = Path(certifi.where()).read_text().partition("-----END")[0]
    pem = f"-----BEGIN{first.partition('-----BEGIN')[2]}-----END CERTIFICATE-----\n"
    file = tmp_path / "network.cer"
    file.write_bytes(ssl.PEM_cert_to_DER_cert(pem) if kind == "DER" else b"")
    monkeypatch.setenv("PIP_CERT", str(file))

    check = machine.certificates()

    assert not check.ok
    assert "not PEM" in check.found
    assert "openssl x509" in check.remedy


@pytest.mark.parametrize(("variable", "ok"), [(FOLDERS, True), ("PIP_CERT", False)])
def test_a_folder_without_certificates(tmp_path: Path, monkeypatch, variable, ok: bool):
    (tmp_path / "readme").write_text("none here")
    monkeypatch.setenv(variable, str(tmp_path))

    check = machine.certificates()

    assert check.ok is ok  # programs pass over SSL_CERT_DIR
    assert variable in check.remedy


# -- surroundings ---------------------------------------------------------------------


def test_variables_of_another_machine_that_are_used(monkeypatch):
    for name in machine.JAVA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HADOOP_CONF_DIR", "/etc/hadoop")

    used = machine.other_installations(["SPARK_HOME"])

    assert used.found == "ignored: SPARK_HOME; used: HADOOP_CONF_DIR"


def test_clock():
    check = machine.clock()

    assert check.ok
    assert not check.remedy
    assert "zone " in check.found


def test_a_clock_that_is_behind(monkeypatch):
    early = datetime(*machine.REPO_DATE.timetuple()[:3]) - timedelta(days=1)
    monkeypatch.setattr(machine, "_now", early.astimezone)

    check = machine.clock()

    assert not check.ok
    assert str(machine.REPO_DATE) in check.remedy


@pytest.mark.parametrize(
    ("zone", "known"), [("UTC", True), (":UTC", True), ("Vienna", False), ("/", False)]
)
def test_the_zone_is_named(monkeypatch, zone: str, known: bool):
    monkeypatch.setenv("TZ", zone)

    check = machine.clock()

    assert check.ok
    assert f"zone {zone.lstrip(':')} " in check.found
    assert bool(check.remedy) is not known


# -- the project ----------------------------------------------------------------------


@pytest.mark.parametrize("writable", [True, False])
def test_checkout_before_set_up(monkeypatch, writable: bool):
    monkeypatch.setattr(doctor, "is_set_up", lambda: False)
    monkeypatch.setattr("os.access", lambda *_words: writable)

    check = doctor._checkout()

    assert check.ok is writable
    assert writable or "copy the repository" in check.remedy


def test_a_checkout_with_a_bad_name(monkeypatch):
    monkeypatch.setattr(doctor, "ROOT", Path("/work [1]"))

    check = doctor._checkout()

    assert not check.ok
    assert "'['" in check.found


def test_the_virtual_environment(tmp_path: Path, monkeypatch):
    folder = tmp_path / ".venv"
    for module in (machine, doctor):
        monkeypatch.setattr(module, "VENV", folder)
    none_yet = doctor._venv()
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(tmp_path / "removed")
    broken = doctor._venv()
    (folder / "bin" / "python").unlink()
    script(folder / "bin", "python", "")
    another = doctor._venv()
    monkeypatch.setattr("sys.prefix", str(folder))
    right = doctor._venv()
    monkeypatch.setattr(doctor, "find_spec", lambda name: name == "pip" or None)
    half_made = doctor._venv()
    monkeypatch.setattr(doctor, "find_spec", lambda _name: None)
    without_pip = doctor._venv()

    assert none_yet.ok
    assert none_yet.skipped
    assert right == Check("virtual environment", True, str(folder))
    for check, remedy in (
        (broken, "run `make clean setup`"),
        (another, "use .venv/bin/python"),
        (half_made, "run `make setup` again: it goes on where it stopped"),
        (without_pip, "install your system's python3-venv package"),
    ):
        assert not check.ok
        assert check.remedy.startswith(remedy)


def test_an_archive_of_classes_is_optional(monkeypatch):
    def none() -> None:
        raise FraudError("no Java: install one")

    monkeypatch.setattr(doctor, "find_java", none)

    check = doctor._made("class archive", doctor._archive)

    assert check.ok
    assert "lib.cli.make_class_cache" in check.remedy


# -- what is said --------------------------------------------------------------------


def test_verdict():
    right, advice = Check("a", True, ""), Check("b", True, "", "do")
    skipped = Check("c", True, "", "do", skipped=True)
    disk, python = Check("disk", False, "", "do"), Check("python", False, "", "do")

    assert verdict([right, advice, skipped]) == "ready"
    assert verdict([right, disk, skipped, python]) == "not ready: disk, python"


@pytest.mark.parametrize(
    ("check", "lines"),
    [
        (Check("a", True, "1", needed="2"), ["ok   a: 1 (needed: 2)"]),
        (Check("a", True, "1", "do"), ["note a: 1", "     do"]),
        (Check("a", True, "1", "do", skipped=True), ["skip a: 1", "     do"]),
        (Check("a", False, "1", "do", "2"), ["FAIL a: 1 (needed: 2)", "     do"]),
    ],
)
def test_lines(check: Check, lines: list[str]):
    assert check.lines() == lines


def test_every_check_says_what_is_needed(tmp_path: Path):
    for name, check in found(tmp_path).items():
        assert check.needed, name


# -- before set-up -------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `doctor` needs of a clone, and nothing that set-up makes."""
    folder = tmp_path / "a clone"
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=without)
    for name in ("Makefile", "jars.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def bare_environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, **more}


def test_a_python_without_packages(checkout: Path, tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-S", "-m", "lib", "doctor"],
        cwd=tmp_path,
        env=bare_environment(PYTHONPATH=str(checkout)),
        capture_output=True,
        text=True,
    )

    looked = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    lines = ran.stderr.splitlines()
    assert looked.keys() == found(tmp_path).keys()
    for name in looked:
        assert any(line[5:].startswith(f"{name}: ") for line in lines), name
    skipped = [name for name, check in looked.items() if check["skipped"]]
    assert skipped == ["virtual environment", "jars", "class archive"]
    for name in skipped:
        assert "make setup" in looked[name]["remedy"]
    failed = [name for name, check in looked.items() if not check["ok"]]
    assert lines[-1] == (f"not ready: {', '.join(failed)}" if failed else "ready")
    assert ran.returncode == bool(failed)
    assert not (checkout / ".data").exists()


def test_make_doctor_before_set_up(checkout: Path, tmp_path: Path):
    python = shlex.quote(sys.executable)
    bare = script(tmp_path / "bin", "bare", f'exec {python} -S "$@"')

    ran = _make_doctor(checkout, bare)

    lines = ran.stdout.splitlines()
    assert any(line.startswith("skip jars: ") for line in lines), ran
    assert lines[-1] == "ready" or lines[-1].startswith("not ready: ")
    assert (ran.returncode == 0) is (lines[-1] == "ready")


@pytest.mark.parametrize("text", [None, "exit 1"])  # none, and one that is too old
def test_make_doctor_without_a_python(checkout: Path, tmp_path: Path, text: str | None):
    python = script(tmp_path / "bin", "old", text) if text else tmp_path / "missing"

    ran = _make_doctor(checkout, python)

    assert ran.returncode != 0
    assert ran.stdout.splitlines()[-1] == "not ready: python"


def _make_doctor(checkout: Path, python: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "doctor", f"PYTHON={shlex.quote(str(python))}"],
        cwd=checkout,
        env=bare_environment(),
        capture_output=True,
        text=True,
    )
