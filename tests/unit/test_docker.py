"""The files of docker/ against their schemas, and against the code that they start.

What needs an engine is in docker/test.py (`make docker-test`).
"""

from __future__ import annotations

import copy
import fnmatch
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest
import yaml

from docker import broker, locked, rows, store
from docker import test as docker_test
from lib.cli.commands import _parser
from lib.dashboard.allowed_hosts import allowed
from lib.kafka import broker as embedded
from lib.kafka.clients import AHEAD_MS, MAX_RECORD_BYTES
from lib.lake.tables import ANSWERS, EVENT, SCHEMAS, SCORED
from lib.settings import DASHBOARD_PORT, ROOT, Settings
from lib.setup.jars import read_lock

DOCKER = ROOT / "docker"
SCHEMA = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
KUBERNETES = json.loads((ROOT / "tests" / "data" / "kubernetes-1.37.json").read_text())
OTHER_VARIABLES = ("AWS_SHARED_CREDENTIALS_FILE", "SPARK_CONF_DIR", "HOME")
FRAUD_VARIABLES = {
    "FRAUD_HOME": "home",
    "FRAUD_KAFKA": "kafka",
    "FRAUD_KAFKA_PROPERTIES": "kafka_properties",
    "FRAUD_TOPIC": "topic",
    "FRAUD_LAKE": "lake",
    "FRAUD_CHECKPOINTS": "checkpoints",
    "FRAUD_SPARK_MASTER": "master",
    "FRAUD_STATE_PARTITIONS": "state_partitions",
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


def brokers(services: dict[str, dict]) -> dict[str, dict]:
    return {n: s for n, s in services.items() if "KAFKA_NODE_ID" in str(s)}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(interpolated((DOCKER / "compose.yaml").read_text()))


@pytest.fixture(scope="module")
def services(compose: dict) -> dict[str, dict]:
    return compose["services"]


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


def test_the_only_image_from_outside_has_a_version_and_a_digest():
    (image,) = (v for k, v in environment_file().items() if k.endswith("_IMAGE"))
    assert re.fullmatch(r"python:3\.1[1-3]\.\d+-[\w-]+@sha256:[0-9a-f]{64}", image)


def test_every_service_is_of_our_image(services: dict[str, dict]):
    for name, service in services.items():
        assert service["image"] == docker_test.IMAGE, name
        assert service["build"]["dockerfile"] == "docker/Dockerfile"


def test_kafka_and_the_store_are_those_of_the_lock():
    for use in ("broker", "store"):
        jars = [str(jar.path) for jar in read_lock() if jar.use == use]
        assert jars
        assert locked.class_path(use).split(os.pathsep) == jars
    command = locked.java("store", "256m", "Main")
    assert Path(command[0]).is_file()
    assert command[-3:] == ["-cp", locked.class_path("store"), "Main"]


def test_a_broker_here_limits_records_as_the_embedded_one(services: dict[str, dict]):
    alike = ("auto.create.topics.enable", "group.initial.rebalance.delay.ms")
    alike += ("log.retention.ms", "log.message.timestamp.after.max.ms")
    alike += ("message.max.bytes", "replica.fetch.max.bytes")
    text = embedded._PROPERTIES.format(
        broker=1, controller=2, largest=MAX_RECORD_BYTES, ahead=AHEAD_MS
    )
    wanted = dict(x.split("=", 1) for x in text.splitlines() if "=" in x)
    for name, service in brokers(services).items():
        made = broker.properties(service["environment"] | {"PATH": "/bin"})
        settings = dict(line.split("=", 1) for line in made.splitlines())
        assert {k: settings[k] for k in alike} == {k: wanted[k] for k in alike}, name
        assert {"path", "heap", "cluster.id"}.isdisjoint(settings)
        replicas = int(settings["default.replication.factor"])
        assert replicas == (3 if "-" in name else 1)


@pytest.mark.parametrize(("error", "expected"), [(0, True), (35, False)])
def test_a_broker_is_healthy_when_it_answers_the_first_question(error, expected):
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                asked.append(connection.recv(100))
                connection.sendall(struct.pack(">iih", 6, 1, error))

        thread = threading.Thread(target=serve)
        thread.start()
        assert broker.answers(*server.getsockname()) is expected
        thread.join()
    length, key = struct.unpack(">ih", asked[0][:6])
    assert (length, key) == (len(asked[0]) - 4, broker.API_VERSIONS)


def test_the_store_asks_for_the_secrets_and_listens_where_spark_looks():
    settings = dict(x.split("=", 1) for x in store.properties("u", "p").splitlines())
    assert (settings["s3proxy.identity"], settings["s3proxy.credential"]) == ("u", "p")
    assert settings["s3proxy.authorization"] == "aws-v2-or-v4"
    endpoint = re.search(
        r"endpoint +(\S+)", (DOCKER / "spark/spark-defaults.conf").read_text()
    )
    port = settings["s3proxy.endpoint"].rpartition(":")[2]
    assert endpoint.group(1) == f"http://s3:{port}"


def test_what_is_compared_are_the_answers(monkeypatch: pytest.MonkeyPatch):
    kept = set(SCHEMAS[SCORED].names) - set(rows.OF_THE_RUN)
    assert kept == {*EVENT.names, *ANSWERS.names} - {"revision"}
    monkeypatch.setenv("FRAUD_HOME", "/data")
    monkeypatch.delenv("FRAUD_LAKE", raising=False)
    assert rows.lake() == (Settings.from_env().lake, {})


def test_every_variable_is_one_that_the_settings_read(services: dict[str, dict]):
    assert set(FRAUD_VARIABLES.values()) == {f.name for f in fields(Settings)}
    for name, service in services.items():
        environment = service.get("environment", {})
        unknown = [
            v
            for v in environment
            if v not in FRAUD_VARIABLES
            and v not in OTHER_VARIABLES
            and not (v.startswith("KAFKA_") and name in brokers(services))
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
    for service in services.values():
        if "entrypoint" not in service and "command" in service:
            assert _parser().parse_args(service["command"]).run
            seen += 1
    assert seen


def test_what_the_real_test_names_are_services(services: dict[str, dict]):
    for profile in docker_test.PROFILES:
        killed = docker_test.KILLED[profile]
        named = {*killed, docker_test.STREAM[profile], docker_test.SCORES[profile][0]}
        for name in named:
            assert services[name]["profiles"] == [profile]
            # A crash is mended by Docker alone.
            assert services[name]["restart"] == "unless-stopped"
        assert docker_test.STREAM[profile] in killed
        assert services[docker_test.CLI[profile]]["restart"] == "no"


def test_brokers_meet_where_clients_look_for_them(services: dict[str, dict]):
    ports = {}
    for name, service in brokers(services).items():
        settings = service["environment"]
        (advertised,) = re.findall(r"BROKER://([\w-]+):(\d+)", settings[ADVERTISED])
        assert advertised[0] == name
        assert f"BROKER://:{advertised[1]}" in settings["KAFKA_LISTENERS"]
        voters = settings["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")
        voter = f"{settings['KAFKA_NODE_ID']}@{name}:9093"
        assert voter in voters
        assert "CONTROLLER://:9093" in settings["KAFKA_LISTENERS"]
        ports[name] = advertised[1]
    for service in services.values():
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


def test_no_service_is_root_has_capabilities_or_a_root_to_write_on(
    services: dict[str, dict],
):
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service
        assert service["user"] == "1000:1000", name
        assert service["read_only"] is True, name


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
    for name, service in compose["services"].items():
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
        assert Path(source).parts[0] in let_in
    assert "docker/secrets" in ignore
    assert not any(fnmatch.fnmatch(".data", pattern) for pattern in let_in)


def test_the_image_never_runs_as_root():
    words = [word for word, _ in instructions()]
    user = words.index("USER")
    assert instructions()[user][1] == "fraud"
    assert words.count("USER") == 1
    assert words.index("COPY") > user


def copied_until(step: str, folder: Path) -> None:
    """The image's folder /app as it is when the step's RUN begins."""
    for word, rest in instructions():
        if word == "RUN" and step in rest:
            return
        if word == "COPY":
            *sources, target = [x for x in rest.split() if not x.startswith("--")]
            for source in sources:
                place = ROOT / source
                to = folder / target
                if place.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(place, to, ignore=ignored, dirs_exist_ok=True)
                else:
                    to.mkdir(parents=True, exist_ok=True)
                    shutil.copy(place, to)
    raise AssertionError(f"no step has {step}")


def test_packages_are_installed_before_anything_of_lib_is_there(tmp_path: Path):
    copied_until("make packages", tmp_path)
    assert not (tmp_path / "lib").exists()
    plan = subprocess.run(
        ["make", "--dry-run", "packages"], cwd=tmp_path, capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr
    assert "requirements.txt" in plan.stdout
    assert (tmp_path / "slim.sh").is_file()


def test_jars_are_fetched_by_the_few_modules_that_are_there(tmp_path: Path):
    (step,) = [r for w, r in instructions() if w == "RUN" and " fetch " in r]
    module = re.search(r"-m (\S+) fetch --s3 --store", step).group(1)
    copied_until(" fetch ", tmp_path)
    assert not (tmp_path / "lib" / "cli").exists()
    script = f"import {module} as jars; print(len(jars.read_lock()), jars.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    count, file = ran.stdout.split()
    assert int(count) == len(read_lock())
    assert file.startswith(str(tmp_path))


def test_the_last_step_finds_all_that_it_installs(tmp_path: Path):
    copied_until("make installed", tmp_path)
    for name in ("pyproject.toml", "jars.lock", "lib/__main__.py", "docker/up.py"):
        assert (tmp_path / name).is_file()


def test_make_has_the_targets():
    plan = subprocess.run(
        ["make", "--dry-run", "docker-up", "docker-down", "docker-test"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert plan.returncode == 0, plan.stderr
    for script in ("docker/secrets.sh", "docker/up.py", "up.py --down", "docker.test"):
        assert script in plan.stdout


def test_the_figures_in_the_readme_are_those_of_the_record(tmp_path: Path):
    record = json.loads(docker_test.RECORD.read_text())
    copied = tmp_path / "README.md"
    shutil.copy(docker_test.README, copied)
    docker_test.write_table(record, copied)
    assert copied.read_text() == docker_test.README.read_text()
    assert list(record["profiles"]) == docker_test.PROFILES
    for figures in record["profiles"].values():
        assert figures["rows"] > 0
        assert figures["rows_unlike_laptop"] == 0


# -- the development container ------------------------------------------------------


def test_the_development_container_is_the_same_image():
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    build = told["build"]
    assert (ROOT / ".devcontainer" / build["dockerfile"]).samefile(
        DOCKER / "Dockerfile"
    )
    assert build["args"] == {"PYTHON_IMAGE": environment_file()["PYTHON_IMAGE"]}
    assert told["remoteUser"] == dict(instructions())["USER"]
    assert set(map(str, told["forwardPorts"])) == set(told["portsAttributes"])
    assert DASHBOARD_PORT in told["forwardPorts"]
    assert all(port["label"] for port in told["portsAttributes"].values())
    assert (ROOT / told["postCreateCommand"].split()[-1]).is_file()


# -- Kubernetes -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict]:
    files = sorted((DOCKER / "kubernetes").glob("*.yaml"))
    found = [x for f in files for x in yaml.safe_load_all(f.read_text())]
    return {(x["kind"], x["metadata"]["name"]): x for x in found}


def kubernetes(thing: dict) -> None:
    """Raises if the API's schema refuses the object."""
    schema = KUBERNETES | {"$ref": f"#/definitions/{thing['kind']}"}
    jsonschema.Draft202012Validator(schema).validate(thing)


def pods(objects: dict[tuple[str, str], dict]) -> dict[str, dict]:
    deployments = {n: x for (kind, n), x in objects.items() if kind == "Deployment"}
    return {n: x["spec"]["template"]["spec"] for n, x in deployments.items()}


def test_kubernetes_objects_obey_the_schema(objects: dict[tuple[str, str], dict]):
    assert len(objects) == 7
    for thing in objects.values():
        kubernetes(thing)
    wrong = copy.deepcopy(objects["Deployment", "stream"])
    wrong["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        kubernetes(wrong)


def test_pods_run_the_commands_of_the_profile_cluster(
    objects: dict[tuple[str, str], dict], services: dict[str, dict]
):
    for name, like in (
        ("spark-master", "spark-master"),
        ("spark-worker", "spark-worker-1"),
        ("stream", "cluster-stream"),
    ):
        (container,) = pods(objects)[name]["containers"]
        service = services[like]
        assert container.get("command") == service.get("entrypoint"), name
        words = [x for x in container["args"] if x not in ("--host", "$(POD_IP)")]
        host = ("--host", service.get("hostname"))
        assert words == [x for x in service["command"] if x not in host], name
        assert container["image"] == service["image"]


def test_a_query_has_one_owner(objects: dict[tuple[str, str], dict]):
    spec = objects["Deployment", "stream"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_pods_are_as_confined_as_the_services(objects: dict[tuple[str, str], dict]):
    for name, pod in pods(objects).items():
        assert pod["securityContext"]["runAsUser"] == 1000, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        (container,) = pod["containers"]
        rules = container["securityContext"]
        assert rules["readOnlyRootFilesystem"] is True
        assert rules["allowPrivilegeEscalation"] is False
        assert rules["capabilities"] == {"drop": ["ALL"]}


def test_pods_find_what_they_name(objects: dict[tuple[str, str], dict]):
    settings = objects["ConfigMap", "fraud-settings"]["data"]
    for name, pod in pods(objects).items():
        (container,) = pod["containers"]
        for source in container["envFrom"]:
            assert ("ConfigMap", source["configMapRef"]["name"]) in objects
        names = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {m["mountPath"]: names[m["name"]] for m in container["volumeMounts"]}
        assert {"/data", "/tmp"} <= mounted.keys()
        if name == "spark-master":
            continue
        spark = mounted[settings["SPARK_CONF_DIR"]]["configMap"]["name"]
        lines = objects["ConfigMap", spark]["data"]["spark-defaults.conf"].splitlines()
        here = (DOCKER / "spark" / "spark-defaults.conf").read_text().splitlines()
        assert lines == [line for line in here if not line.startswith("#")]
        folder, file = settings["AWS_SHARED_CREDENTIALS_FILE"].rsplit("/", 1)
        secret = objects["Secret", mounted[folder]["secret"]["secretName"]]
        assert set(secret["stringData"]) == {file}
        assert "CHANGE_ME" in secret["stringData"][file]
    service = objects["Service", "spark-master"]["spec"]
    master = objects["Deployment", "spark-master"]["spec"]["template"]["metadata"]
    assert service["selector"].items() <= master["labels"].items()
    _, host, port = settings["FRAUD_SPARK_MASTER"].split(":")
    assert host == "//spark-master"
    assert int(port) in [p["port"] for p in service["ports"]]


def test_pods_have_variables_that_the_settings_read(
    objects: dict[tuple[str, str], dict],
):
    given = objects["ConfigMap", "fraud-settings"]["data"]
    assert set(given) <= {*FRAUD_VARIABLES, *OTHER_VARIABLES}
    assert Settings.from_env(given).master == given["FRAUD_SPARK_MASTER"]
