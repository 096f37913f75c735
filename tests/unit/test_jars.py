"""The lock file, and that nothing else than what it names is used."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from lib.errors import FraudError
from lib.setup import jars
from lib.setup.jars import LOCK_FILE, ROOTS, class_path, fetch, read_lock

CONTENT = b"a jar"
COORDINATE = "org.example:thing:1.0"


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    """A lock of one jar."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    file = tmp_path / "jars.lock"
    file.write_text(f"# comment\n\nspark {sha256} {len(CONTENT)} {COORDINATE}\n")
    return file


def served(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> list[str]:
    """Serve that content for every jar; returns the coordinates asked for."""
    asked = []

    def retrieve(coordinates, target: Path, **_options) -> None:
        for coordinate in coordinates:
            asked.append(coordinate)
            if content is not None:
                name = coordinate.replace(":", "__") + ".jar"
                (target / name).write_bytes(content)

    monkeypatch.setattr(jars, "_retrieve", retrieve)
    return asked


def test_the_lock_names_all_roots_by_version_and_hash():
    locked = read_lock()

    assert {(jar.use, jar.coordinate) for jar in locked} >= {
        (use, coordinate) for use, roots in ROOTS.items() for coordinate in roots
    }
    for jar in locked:
        assert jar.use in ROOTS
        assert re.fullmatch(r"[0-9a-f]{64}", jar.sha256)
        assert jar.size > 0
        assert re.fullmatch(r"[\w.-]+:[\w.-]+:\d[\w.-]*", jar.coordinate)


def test_no_class_path_has_a_jar_twice():
    for use in ROOTS:
        names = [j.coordinate.rpartition(":")[0] for j in read_lock() if j.use == use]
        assert len(names) == len(set(names))


def test_the_lock_is_written_by_us_alone():
    assert LOCK_FILE.read_text().startswith("# use sha256 bytes")


def test_fetch_takes_what_is_locked_and_asks_once(
    tmp_path: Path, lock_file: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = served(monkeypatch, CONTENT)
    folder = tmp_path / "jars"

    assert fetch(folder, lock_file) == 1
    assert fetch(folder, lock_file) == 0

    assert asked == [COORDINATE]
    (jar,) = folder.iterdir()  # and nothing half-fetched beside it
    assert jar.read_bytes() == CONTENT


def test_a_damaged_jar_is_fetched_again(
    tmp_path: Path, lock_file: Path, monkeypatch: pytest.MonkeyPatch
):
    served(monkeypatch, CONTENT)
    fetch(tmp_path / "jars", lock_file)
    (jar,) = (tmp_path / "jars").iterdir()
    jar.write_bytes(b"A jar")

    assert fetch(tmp_path / "jars", lock_file) == 1
    assert jar.read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [b"A jar", b"a jar and more", b""])
def test_another_file_is_refused_by_name_and_both_hashes(
    tmp_path: Path, lock_file: Path, monkeypatch: pytest.MonkeyPatch, wrong: bytes
):
    served(monkeypatch, wrong)
    folder = tmp_path / "jars"

    with pytest.raises(FraudError) as caught:
        fetch(folder, lock_file)

    said = str(caught.value)
    for part in (
        COORDINATE,
        hashlib.sha256(CONTENT).hexdigest(),
        hashlib.sha256(wrong).hexdigest(),
    ):
        assert part in said
    assert "\n" not in said
    assert list(folder.iterdir()) == []


def test_a_jar_that_does_not_come(
    tmp_path: Path, lock_file: Path, monkeypatch: pytest.MonkeyPatch
):
    served(monkeypatch, None)

    with pytest.raises(FraudError, match=COORDINATE):
        fetch(tmp_path / "jars", lock_file)


@pytest.mark.parametrize("content", [None, CONTENT[:-1]])
def test_a_class_path_with_a_hole(
    tmp_path: Path, lock_file: Path, monkeypatch: pytest.MonkeyPatch, content
):
    locked = read_lock(lock_file)
    monkeypatch.setattr(jars, "JAR_DIR", tmp_path)
    monkeypatch.setattr(jars, "read_lock", lambda: locked)
    if content is not None:
        locked[0].path.write_bytes(content)

    with pytest.raises(FraudError, match=f"{COORDINATE}.*make setup"):
        class_path("spark")


def test_a_whole_class_path(
    tmp_path: Path, lock_file: Path, monkeypatch: pytest.MonkeyPatch
):
    locked = read_lock(lock_file)
    monkeypatch.setattr(jars, "JAR_DIR", tmp_path)
    monkeypatch.setattr(jars, "read_lock", lambda: locked)
    locked[0].path.write_bytes(CONTENT)

    assert class_path("spark") == str(tmp_path / "org.example__thing__1.0.jar")
    assert class_path("broker") == ""


def test_optional_jars_come_on_request_only(
    tmp_path: Path, lock_file: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = served(monkeypatch, CONTENT)
    lock_file.write_text(lock_file.read_text().replace("spark", "s3"))

    assert fetch(tmp_path / "jars", lock_file) == 0
    assert asked == []
    assert fetch(tmp_path / "jars", lock_file, optional=["s3"]) == 1
    assert asked == [COORDINATE]


def test_the_sdk_is_locked_in_modules_and_not_as_one_file():
    s3 = [jar for jar in read_lock() if jar.use == "s3"]
    assert sum(jar.size for jar in s3) < 20_000_000
    # None that Spark's own class path has in another version.
    artifacts = {jar.coordinate.split(":")[1] for jar in s3}
    spark = {j.coordinate.split(":")[1] for j in read_lock() if j.use == "spark"}
    assert not artifacts & spark
