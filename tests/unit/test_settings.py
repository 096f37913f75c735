"""Settings: defaults, empty variables, and where things lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.errors import FraudError
from lib.settings import ROOT, Settings, local_path


def test_defaults():
    settings = Settings.from_env({})

    assert settings == Settings(
        home=ROOT / ".data",
        kafka="",
        kafka_properties=None,
        topic="tx-events",
        lake=str(ROOT / ".data" / "lake"),
        checkpoints=str(ROOT / ".data" / "checkpoints"),
        master="local[*]",
    )


def test_an_empty_variable_is_an_unset_one():
    names = ("HOME", "KAFKA", "KAFKA_PROPERTIES", "TOPIC", "LAKE", "CHECKPOINTS")
    env = {f"FRAUD_{name}": "" for name in (*names, "SPARK_MASTER", "STATE_PARTITIONS")}

    assert Settings.from_env(env) == Settings.from_env({})


def test_every_variable_is_read(tmp_path: Path):
    properties = tmp_path / "client.properties"
    properties.touch()

    settings = Settings.from_env(
        {
            "FRAUD_HOME": str(tmp_path),
            "FRAUD_KAFKA": " one:9092,two:9092 ",
            "FRAUD_KAFKA_PROPERTIES": str(properties),
            "FRAUD_TOPIC": "cards",
            "FRAUD_LAKE": "s3a://bucket/lake/",
            "FRAUD_CHECKPOINTS": "file:///somewhere/checkpoints",
            "FRAUD_SPARK_MASTER": "spark://host:7077",
            "FRAUD_STATE_PARTITIONS": "24",
        }
    )

    assert settings == Settings(
        home=tmp_path,
        kafka="one:9092,two:9092",
        kafka_properties=properties,
        topic="cards",
        lake="s3a://bucket/lake",
        checkpoints="/somewhere/checkpoints",
        master="spark://host:7077",
        state_partitions=24,
    )
    assert Settings.from_env(settings.as_env()) == settings
    assert settings.table("silver/scored") == "s3a://bucket/lake/silver/scored"
    assert settings.checkpoint("x") == "/somewhere/checkpoints/x"


@pytest.mark.parametrize("given", ["0", "-1", "2.5", "four", "10001", "٣"])
def test_a_number_of_tasks_that_is_none(given: str):
    with pytest.raises(FraudError, match=r"FRAUD_STATE_PARTITIONS.*from 1 to 10000"):
        Settings.from_env({"FRAUD_STATE_PARTITIONS": given})


def test_lake_and_checkpoints_follow_the_home(tmp_path: Path):
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path)})

    assert settings.lake == str(tmp_path / "lake")
    assert settings.checkpoints == str(tmp_path / "checkpoints")
    assert settings.log_dir.is_relative_to(tmp_path)


@pytest.mark.parametrize("variable", ["LAKE", "CHECKPOINTS", "HOME"])
def test_a_relative_path_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
):
    monkeypatch.chdir(tmp_path)

    settings = Settings.from_env({f"FRAUD_{variable}": "some/where"})

    found = str(getattr(settings, variable.lower()))
    assert found == str(tmp_path / "some" / "where")


def test_a_tilde_is_the_readers_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/reader")

    settings = Settings.from_env({"FRAUD_HOME": "~/fraud", "FRAUD_LAKE": "~/lake"})

    assert settings.home == Path("/home/reader/fraud")
    assert settings.lake == "/home/reader/lake"


@pytest.mark.parametrize(
    "uri", ["s3a://bucket/lake", "abfss://c@account.example/lake", "hdfs://host/lake"]
)
def test_a_uri_is_kept(uri: str):
    assert Settings.from_env({"FRAUD_LAKE": uri}).lake == uri


def test_a_file_uri_is_the_path_that_it_names():
    lake = Settings.from_env({"FRAUD_LAKE": "file:///data/with%20space/"}).lake

    assert lake == "/data/with space"


@pytest.mark.parametrize("name", ["José's home, (1) #2 日 🙂", "a&b;c=d@e!f+g~h", "."])
@pytest.mark.parametrize("variable", ["HOME", "LAKE", "CHECKPOINTS"])
def test_a_folder_may_have_an_odd_name(tmp_path: Path, variable: str, name: str):
    settings = Settings.from_env({f"FRAUD_{variable}": str(tmp_path / name)})

    assert str(getattr(settings, variable.lower())) == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("[1]", "'['"),
        ("two\nlines", "'\\n'"),
        ("a\tb", "'\\t'"),
        ("back\\slash", "'\\\\'"),
        ("50%", "'%'"),
        ("a|b", "'|'"),
        ("a:b", "':'"),
        ("${a}", "'${'"),
        ("a^b", "'^'"),
        ("é" * 128, "255 bytes"),
        (os.fsdecode(b"caf\xe9"), "UTF-8"),
    ],
)
@pytest.mark.parametrize("variable", ["FRAUD_HOME", "FRAUD_LAKE", "FRAUD_CHECKPOINTS"])
def test_a_folder_that_no_program_could_use_is_refused(
    tmp_path: Path, variable: str, name: str, word: str
):
    env = {"FRAUD_HOME": str(tmp_path), variable: str(tmp_path / name)}

    with pytest.raises(FraudError, match=f": set {variable} ") as caught:
        Settings.from_env(env)

    said = str(caught.value)
    assert word in said
    assert str(tmp_path) in said
    assert said.isprintable()
    said.encode()  # and any terminal can be told
    assert Settings.from_env(env, check=False) != Settings.from_env({})


def test_a_locale_that_reads_names_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.fsencode", lambda name: name.encode("iso-8859-1"))
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso8859-1")

    with pytest.raises(FraudError, match="iso8859-1; LC_ALL=C"):
        Settings.from_env({"FRAUD_HOME": str(tmp_path / "é")})


def test_two_homes_have_two_fingerprints(tmp_path: Path):
    def fingerprint(name: str) -> str:
        return Settings.from_env({"FRAUD_HOME": str(tmp_path / name)}).fingerprint

    assert fingerprint("a") == fingerprint("a") != fingerprint("b")


def test_properties_that_are_not_there(tmp_path: Path):
    missing = str(tmp_path / "client.properties")

    with pytest.raises(FraudError, match="FRAUD_KAFKA_PROPERTIES") as caught:
        Settings.from_env({"FRAUD_KAFKA_PROPERTIES": missing})
    assert missing in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/data/lake", Path("/data/lake")),
        ("/data/with space", Path("/data/with space")),
        ("file:///data/lake", Path("/data/lake")),
        ("file:/data/with%20space", Path("/data/with space")),
        ("s3a://bucket/lake", None),
        ("hdfs://host/lake", None),
    ],
)
def test_local_path(uri: str, path: Path | None):
    assert local_path(uri) == path
