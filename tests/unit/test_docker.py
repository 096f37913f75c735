"""The compose file against its schema, and against the code that it starts.

There is no Docker here: what a daemon would find out is asked of the files.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest
import yaml

from lib.cli.commands import _parser
from lib.dashboard.allowed_hosts import allowed
from lib.settings import ROOT, Settings
from lib.setup.jars import read_lock

DOCKER = ROOT / "docker"
SCHEMA = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
FRAUD_VARIABLES = {
    "FRAUD_HOME": "home",
    "FRAUD_KAFKA": "kafka",
    "FRAUD_KAFKA_PROPERTIES": "kafka_properties",
    "FRAUD_TOPIC": "topic",
    "FRAUD_LAKE": "lake",
    "FRAUD_CHECKPOINTS": "checkpoints",
    "FRAUD_SPARK_MASTER": "master",
}


def environment_file() -> dict[str, str]:
    lines = (DOCKER / ".env").read_text().splitlines()
    return dict(x.split("=", 1) for x in lines if x and not x.startswith("#"))


def interpolated(text: str) -> str:
    """The compose file as Compose reads it: ``${NAME:?}`` from .env, else an error."""
    text = re.sub(
        r"\$\{(\w+):\?\}", lambda found: environment_file()[found.group(1)], text
    )
    assert not re.search(r"(?<!\$)\$\{", text), "another form of interpolation"
    return text


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(interpolated((DOCKER / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def services(compose: dict) -> dict[str, dict]:
    return compose["services"]


def ours(services: dict[str, dict]) -> dict[str, dict]:
    return {n: s for n, s in services.items() if s["image"].startswith("fraud-")}


def instructions() -> list[tuple[str, str]]:
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [x for x in text.splitlines() if x and not x.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def copied() -> list[str]:
    """What the Dockerfile copies, in its order."""
    sources = []
    for word, rest in instructions():
        if word == "COPY":
            sources += [x for x in rest.split()[:-1] if not x.startswith("--")]
    return sources


# -- the compose file ---------------------------------------------------------------


def test_compose_file_obeys_the_specification(compose: dict):
    jsonschema.Draft7Validator(SCHEMA).validate(compose)


def test_the_schema_can_say_no(compose: dict):
    wrong = {**compose, "services": {"x": {"image": "x", "prots": ["1:1"]}}}
    with pytest.raises(jsonschema.ValidationError, match="prots"):
        jsonschema.Draft7Validator(SCHEMA).validate(wrong)


def test_every_image_has_an_exact_version():
    images = {k: v for k, v in environment_file().items() if k.endswith("_IMAGE")}
    assert images
    for image in images.values():
        assert re.fullmatch(
            r"[\w./-]+:(\d+\.\d+\.\d+|RELEASE\.)[\w.-]*(@sha256:[0-9a-f]{64})?", image
        ), image


def test_kafka_is_the_version_of_the_lock():
    (locked,) = [
        jar.coordinate.rpartition(":")[2]
        for jar in read_lock()
        if ":kafka_2.13:" in jar.coordinate
    ]
    assert environment_file()["KAFKA_IMAGE"].partition("@")[0].endswith(f":{locked}")


def test_every_variable_is_one_that_the_settings_read(services: dict[str, dict]):
    assert set(FRAUD_VARIABLES.values()) == {f.name for f in fields(Settings)}
    for name, service in ours(services).items():
        environment = service.get("environment", {})
        unknown = [
            v
            for v in environment
            if v not in FRAUD_VARIABLES
            and v not in ("AWS_SHARED_CREDENTIALS_FILE", "SPARK_CONF_DIR")
        ]
        assert unknown == [], name
        fraud = {k: v for k, v in environment.items() if k.startswith("FRAUD_")}
        if fraud:
            # They are not merely accepted: each changes what the settings say.
            without = Settings.from_env({"FRAUD_HOME": "/elsewhere"})
            read = Settings.from_env(fraud)
            for variable in fraud:
                field = FRAUD_VARIABLES[variable]
                assert getattr(read, field) != getattr(without, field), variable


def test_every_command_is_one_of_ours(services: dict[str, dict]):
    seen = 0
    for service in ours(services).values():
        if "entrypoint" not in service and "command" in service:
            assert _parser().parse_args(service["command"]).run
            seen += 1
    assert seen


def test_brokers_meet_where_clients_look_for_them(services: dict[str, dict]):
    hosts = {n: s for n, s in services.items() if "KAFKA_NODE_ID" in str(s)}
    ports = {}
    for name, broker in hosts.items():
        settings = broker["environment"]
        (advertised,) = re.findall(r"BROKER://([\w-]+):(\d+)", settings[ADVERTISED])
        assert advertised[0] == name
        assert f"BROKER://:{advertised[1]}" in settings["KAFKA_LISTENERS"]
        voters = settings["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")
        voter = f"{settings['KAFKA_NODE_ID']}@{name}:9093"
        assert voter in voters
        assert "CONTROLLER://:9093" in settings["KAFKA_LISTENERS"]
        ports[name] = advertised[1]
    for service in ours(services).values():
        kafka = service.get("environment", {}).get("FRAUD_KAFKA")
        for server in kafka.split(",") if kafka else ():
            host, _, port = server.partition(":")
            assert ports[host] == port


ADVERTISED = "KAFKA_ADVERTISED_LISTENERS"


def test_only_loopback_is_published(services: dict[str, dict]):
    published = {n: s["ports"] for n, s in services.items() if "ports" in s}
    assert published
    for ports in published.values():
        for port in ports:
            assert port.startswith("127.0.0.1:")


def test_the_page_answers_to_the_names_of_its_published_port(
    services: dict[str, dict],
):
    page, relay = services["dashboard"], services["dashboard-relay"]
    arguments = _parser().parse_args(page["command"])
    ((address, outside, inside),) = [port.split(":") for port in page["ports"]]
    assert relay["entrypoint"][-2:] == [inside, str(arguments.port)]
    for name in (address, "localhost"):
        host = [(b"host", f"{name}:{outside}".encode())]
        assert allowed(host, arguments.port)


def test_no_service_is_root_or_has_capabilities(services: dict[str, dict]):
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        if service["image"].startswith("apache/kafka"):
            continue  # its own user, appuser, is what the image sets
        if service.get("cap_add"):
            # Gives a new volume to the user of another service, and ends.
            assert (service["cap_add"], service["restart"]) == (["CHOWN"], "no")
            assert service["network_mode"] == "none"
        else:
            assert service["user"] == "1000:1000", name


def test_secrets_come_from_files_that_git_ignores(compose: dict):
    made = (DOCKER / "secrets.sh").read_text()
    for secret in compose["secrets"].values():
        file = secret["file"]
        assert file.startswith("secrets/")
        assert re.search(
            rf"(secret|secrets/){Path(file).name}|secret {Path(file).name}", made
        )
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "docker/secrets/" in ignored
    for service in compose["services"].values():
        for secret in service.get("secrets", ()):
            assert secret in compose["secrets"]
        for variable, value in service.get("environment", {}).items():
            secretive = re.search("PASSWORD|TOKEN|SECRET|ACCESS_KEY", variable)
            assert not secretive or str(value).startswith("/run/secrets/")


def test_secrets_are_made_once_and_unreadable_from_outside(tmp_path: Path):
    shutil.copy(DOCKER / "secrets.sh", tmp_path)
    made = []
    for _ in range(2):
        subprocess.run([tmp_path / "secrets.sh"], check=True)
        folder = tmp_path / "secrets"
        made.append({p.name: p.read_text() for p in folder.iterdir()})
        assert folder.stat().st_mode & 0o077 == 0
    assert made[0] == made[1]
    assert len(set(made[0].values())) == len(made[0])


def test_what_waits_waits_for_something_with_a_health_check(services: dict[str, dict]):
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert services[name]["restart"] == "no"


def test_volumes_and_paths_are_those_of_the_image(compose: dict):
    (made,) = [r for w, r in instructions() if w == "RUN" and "useradd" in r]
    for name, service in ours(compose["services"]).items():
        for volume in service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            assert source in compose["volumes"]
            # Only a folder that the image gives to the user becomes a volume of his.
            assert target in made, name
        home = service.get("environment", {}).get("FRAUD_HOME")
        assert home in (None, "/data")
    checked = compose["services"]["stream"]["healthcheck"]["test"].split()[-1]
    settings = Settings.from_env({"FRAUD_HOME": "/data"})
    assert checked == f"{settings.table('bronze/tx_events')}/_delta_log"


# -- the image ------------------------------------------------------------------------


def test_the_context_has_what_the_image_copies():
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignore if line.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists(), source
        assert source in let_in
    assert "docker/secrets" in ignore
    assert not any(fnmatch.fnmatch(".data", pattern) for pattern in let_in)


def test_the_image_never_runs_as_root():
    words = [word for word, _ in instructions()]
    user = words.index("USER")
    assert instructions()[user][1] == "fraud"
    assert words.count("USER") == 1
    assert words.index("COPY") > user


def test_set_up_needs_only_what_was_copied_before_it(tmp_path: Path):
    """`make setup` in the folder as it is at that step: every prerequisite is there,
    and the code that fetches the jars runs."""
    for word, rest in instructions():
        if word == "RUN" and "make setup" in rest:
            break
        if word == "COPY":
            for source in [x for x in rest.split()[:-1] if not x.startswith("--")]:
                place = ROOT / source
                if place.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(place, tmp_path / source, ignore=ignored)
                else:
                    shutil.copy(place, tmp_path)

    plan = subprocess.run(
        ["make", "--dry-run", "setup"], cwd=tmp_path, capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr
    assert "requirements.txt" in plan.stdout
    script = "from lib.setup import jars; print(len(jars.read_lock()), jars.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    count, file = ran.stdout.split()
    assert int(count) == len(read_lock())
    assert file == str(tmp_path / "lib" / "setup" / "jars.py")


def test_make_has_the_targets():
    plan = subprocess.run(
        ["make", "--dry-run", "docker-up", "docker-down"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert plan.returncode == 0, plan.stderr
    assert "docker compose --file docker/compose.yaml up --build" in plan.stdout
    assert "docker compose --file docker/compose.yaml down" in plan.stdout
