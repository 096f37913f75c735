"""The archive of the JVM's classes: used where it fits, harmless where not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lib.kafka.broker import Broker
from lib.settings import Settings
from lib.setup import class_cache
from lib.setup.class_cache import found_at_start, options, path
from lib.setup.jars import pyspark_jars
from lib.setup.java import Java, find_java
from tests.integration.helpers import environment

ON_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="what a process maps is told by /proc"
)


def maps(pid: int, file: Path) -> bool:
    return str(file) in Path(f"/proc/{pid}/maps").read_text()


@pytest.fixture
def made() -> None:
    if not path(find_java(), "spark").is_file():
        pytest.skip(
            "no archive for this Java: python -m lib.cli.make_class_cache says why"
        )


@ON_LINUX
@pytest.mark.usefixtures("made")
def test_a_session_maps_it(spark: SparkSession):
    assert maps(spark.sparkContext._gateway.proc.pid, path(find_java(), "spark"))


@ON_LINUX
@pytest.mark.usefixtures("made")
def test_a_broker_maps_it(tmp_path: Path):
    broker = Broker(Settings.from_env({"FRAUD_HOME": str(tmp_path)})).start()
    try:
        assert maps(broker.pid, path(find_java(), "broker"))
    finally:
        broker.close()


@pytest.mark.parametrize("folder", ["plain", "a+b~c", "with space", "José"])
def test_java_finds_what_the_folders_name_does_not_hide(tmp_path: Path, folder: str):
    """What this Java does is what `found_at_start` says of the name."""
    place = tmp_path / folder
    place.mkdir()
    (found,) = (
        jar for jar in map(Path, pyspark_jars()) if "jackson-core-2" in jar.name
    )
    jar, archive = place / "a.jar", place / "a.jsa"
    jar.write_bytes(found.read_bytes())
    name = "com.fasterxml.jackson.core.JsonFactory"
    env = environment(tmp_path, JAVA_TOOL_OPTIONS=None, LC_ALL="C.UTF-8")
    command = [find_java().executable, "-Xshare:auto", "-cp", jar]

    def run(*options: str) -> str:
        ran = subprocess.run(
            [*command, *options, name], env=env, capture_output=True, text=True
        )
        return ran.stdout

    run(f"-XX:ArchiveClassesAtExit={archive}")
    if not archive.is_file():
        pytest.skip("this Java archives no classes")
    loaded = run(f"-XX:SharedArchiveFile={archive}", "-Xlog:class+load")

    (line,) = (line for line in loaded.splitlines() if f" {name} source" in line)
    assert ("shared objects file" in line) is found_at_start(place)


def test_one_that_is_damaged_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(class_cache, "FOLDER", tmp_path)
    java = find_java()
    assert options(java, "spark") == []
    file = path(java, "spark")
    file.write_bytes(b"\0" * 5000)

    command = [java.executable, *options(java, "spark"), "-XshowSettings:none"]
    ran = subprocess.run([*command, "--version"], capture_output=True, text=True)

    assert str(file) in " ".join(options(java, "spark"))
    assert ran.returncode == 0
    assert "cds" not in ran.stdout + ran.stderr


def test_a_java_that_makes_none_is_told_and_no_error(tmp_path: Path):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    real = find_java().executable
    # As one that does not know the option: it refuses to start.
    java.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-XX:ArchiveClassesAtExit*)\n'
        '    echo "Unrecognized option: -XX:ArchiveClassesAtExit" >&2; exit 1\n'
        "esac\n"
        f'exec "{real}" "$@"\n'
    )
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    server = tmp_path / "lib" / "server"
    server.mkdir(parents=True)
    (server / "classes.jsa").touch()
    env = environment(tmp_path / "home", JAVA_HOME=str(tmp_path))
    others = path(Java(tmp_path / "of" / "java", 17, "another"), "spark")
    others.parent.mkdir(exist_ok=True)
    others.touch()

    ran = subprocess.run(
        [sys.executable, "-m", "lib.cli.make_class_cache"],
        env=env,
        capture_output=True,
        text=True,
    )

    assert ran.returncode == 0
    note = ran.stderr.splitlines()[-1]
    assert note.startswith("note: no archive of the JVM's classes (")
    assert "Unrecognized option" in note
    assert not list(class_cache.FOLDER.glob("tmp*"))
    assert others.is_file(), "that of another Java of the same release"
    others.unlink()


def test_a_jar_of_another_moment_is_another_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    jar = tmp_path / "a.jar"
    jar.write_bytes(b"classes")
    monkeypatch.setattr(class_cache, "class_path", lambda _use: str(jar))
    java = Java(tmp_path / "bin" / "java", 17, "nowhere")

    names = set()
    for moment in (1, 2, 1):
        os.utime(jar, (moment, moment))
        class_cache._digest.cache_clear()
        names.add(path(java, "broker"))

    assert len(names) == 2
