"""The containers, run for real: both profiles, with a broker, a worker and the stream
killed on the way, the books closed, and the result compared with one laptop's.

python -m docker.test [--required] [--keep FOLDER] [--record FILE] [PROFILE ...]

Skips, with the reason, where there is no Docker engine and it may not start one; with
--required that is a failure. It leaves nothing behind but its record and the page's
picture (and, in an engine that ran before, the image).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.machine import machine
from docker.engine import NoEngine, demand_compose, engine, python_image
from docker.up import compose_command, containers, wait
from lib.dashboard.browser import Browser
from lib.setup.machine import find_browser

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "bench" / "results" / "containers.json"
PICTURE = ROOT / "docs" / "images" / "containers.png"
README = ROOT / "docker" / "README.md"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
PROFILES = ["default", "cluster"]
PROJECT = "fraud-test"
IMAGE = "fraud-signals:local"
FIRST, MINUTE = "first", "minute"
EVENTS, RATE = {FIRST: 40, MINUTE: 1200}, 20
"""Of the two files that are produced: one to wait for, one with crashes."""
LARGEST_BYTES, PATIENCE_SECONDS = 1_600_000_000, 600
"""Of the image; and how long a first score is waited for."""
PICTURE_AT, FIRST_KILL_AT, KILL_EVERY = 6, 15, 14
"""Seconds after the minute's beginning."""

STREAM = {"default": "stream", "cluster": "cluster-stream"}
CLI = {"default": "cli", "cluster": "cluster-cli"}
KILLED = {
    "default": ("stream", "kafka"),
    "cluster": ("kafka-2", "spark-worker-1", "cluster-stream"),
}
SCORES = {
    "default": ("stream", "/data/lake"),
    "cluster": ("s3", "/data/s3/fraud/lake"),
}
"""Which container sees the lake's files, and where."""


def say(text: str) -> None:
    """A line about what happens, for whoever waits."""
    sys.stderr.write(f"{text}\n")


def run(*command: str | Path, **options) -> str:
    """Run a command; returns what it printed. Raises if it fails."""
    words = list(map(str, command))
    options = {
        "check": True,
        "text": True,
        "stdout": subprocess.PIPE,
        "cwd": ROOT,
    } | options
    return subprocess.run(words, **options).stdout


def compose(*words: str) -> str:
    """Run Compose on this project; returns what it printed."""
    return run(*compose_command(), *words)


def container(service: str) -> str:
    """Id of a service's container."""
    return compose("ps", "--quiet", service).strip()


def cli(profile: str, *words: str) -> dict:
    """Run a command of the pipeline in a container of its own; its JSON result."""
    said = compose("run", "--rm", "-T", CLI[profile], *words)
    return json.loads(said.strip().splitlines()[-1])


def laptop(home: Path, *words: str) -> str:
    """Run a command of the pipeline on this machine, in a home of its own."""
    env = os.environ | {"FRAUD_HOME": str(home)}
    return run(sys.executable, "-m", "lib", *words, env=env)


# -- what is looked at ---------------------------------------------------------------


def first_score(profile: str, start: float) -> float:
    """Seconds from ``start`` until a row of silver/scored has been committed."""
    service, lake = SCORES[profile]
    log = f"grep -qs '\"add\"' {lake}/silver/scored/_delta_log/*.json"
    look = ["docker", "exec", container(service), "sh", "-c", log]
    while subprocess.run(look, capture_output=True).returncode:
        if time.monotonic() - start > PATIENCE_SECONDS:
            sys.exit(f"error: nothing scored: {containers()}")
        time.sleep(0.5)
    return time.monotonic() - start


def kill(service: str) -> None:
    """SIGKILL to the service's process, as a crash; Docker starts it again."""
    # Process 1 is Docker's small init, which ends with its child.
    run("docker", "exec", container(service), "sh", "-c", "kill -9 $(pgrep -P 1)")


def restarts(service: str) -> int:
    """How often Docker has started the service's container again."""
    found = run("docker", "inspect", "-f", "{{.RestartCount}}", container(service))
    return int(found)


def hardened(profile: str) -> list[str]:
    """What Docker says of each container that is not as it should be."""
    wrong = []
    project = f"label=com.docker.compose.project={PROJECT}"
    ids = run("docker", "ps", "--quiet", "--filter", project).split()
    for found in json.loads(run("docker", "inspect", *ids)):
        host, config = found["HostConfig"], found["Config"]
        ports = [p for ps in (host["PortBindings"] or {}).values() for p in ps]
        good = {
            "user": config["User"] == "1000:1000",
            "capabilities": host["CapDrop"] == ["ALL"] and not host["CapAdd"],
            "read-only": host["ReadonlyRootfs"],
            "privileges": "no-new-privileges:true" in host["SecurityOpt"],
            "loopback": all(p["HostIp"] == "127.0.0.1" for p in ports),
        }
        wrong += [f"{found['Name']} {what}" for what, fine in good.items() if not fine]
    assert set(KILLED[profile]) < set(containers())
    return wrong


def picture(port: str) -> bool:
    """The page's picture, if a Chromium or Chrome is here; whether it was taken."""
    if find_browser() is None:
        say("no picture: no Chromium or Chrome here")
        return False
    with Browser() as browser:
        browser.open(f"http://127.0.0.1:{port}")
        browser.until("document.querySelectorAll('tr[data-event]').length", 60)
        browser.until("!document.body.innerText.includes('looking at the stream')", 60)
        browser.picture(PICTURE)
    return True


# -- one profile ---------------------------------------------------------------------


def profile_run(profile: str, files: dict[str, str], expected: list[str]) -> dict:
    """Up, a minute of events with kills, drain, reconcile, compare, down."""
    # The tools are in a profile of their own, which only `run` asks for.
    os.environ["COMPOSE_PROFILES"] = profile
    start = time.monotonic()
    run("make", "docker-up", f"PROFILE={profile}", stdout=sys.stderr)
    figures = {"healthy_seconds": round(time.monotonic() - start, 1)}
    say(f"{profile}: healthy after {figures['healthy_seconds']} s")
    assert hardened(profile) == []

    for name, file in files.items():
        write = ["docker", "exec", "-i", container(STREAM[profile]), "sh", "-c"]
        run(*write, f"cat > /data/{name}.jsonl", input=file)
    sent = {FIRST: cli(profile, "produce", f"/data/{FIRST}.jsonl")}
    figures["first_score_seconds"] = round(first_score(profile, start), 1)
    figures["load"] = [round(load, 1) for load in os.getloadavg()]
    say(f"{profile}: first score after {figures['first_score_seconds']} s")

    words = ["produce", f"/data/{MINUTE}.jsonl", "--rate", str(RATE)]
    producer = threading.Thread(
        target=lambda: sent.update({MINUTE: cli(profile, *words)})
    )
    begin = time.monotonic()
    producer.start()
    if profile == "default":
        time.sleep(max(0, begin + PICTURE_AT - time.monotonic()))
        figures["picture"] = picture(os.environ["PAGE_PORT"])
    for number, service in enumerate(KILLED[profile]):
        time.sleep(
            max(0, begin + FIRST_KILL_AT + number * KILL_EVERY - time.monotonic())
        )
        assert producer.is_alive()
        kill(service)
        say(f"{profile}: killed {service}")
    producer.join()
    wait()
    figures["restarts"] = {name: restarts(name) for name in KILLED[profile]}
    # Each came back; the stream once more if it found the only broker down.
    assert min(figures["restarts"].values()) >= 1, figures
    assert {name: told["acked"] for name, told in sent.items()} == EVENTS

    compose("stop", STREAM[profile])
    cli(profile, "stream", "--drain")
    figures["reconcile"] = cli(profile, "reconcile")
    rows = compose(
        "run", "--rm", "-T", "--entrypoint", "python", CLI[profile], "docker/rows.py"
    ).splitlines()
    figures["rows"] = len(rows)
    figures["rows_unlike_laptop"] = len(set(rows) ^ set(expected))
    assert rows == expected
    say(f"{profile}: {len(rows)} rows equal those of the laptop run; books closed")
    return figures


@contextmanager
def project() -> Iterator[None]:
    """Whatever is started in the block is gone after it."""
    everything = "default,cluster,tools,cluster-tools"
    try:
        yield
    except BaseException:
        os.environ["COMPOSE_PROFILES"] = everything
        say(compose("logs", "--no-color", "--tail", "60"))
        raise
    finally:
        os.environ["COMPOSE_PROFILES"] = everything
        compose("down", "--volumes", "--remove-orphans")
        label = f"label=com.docker.compose.project={PROJECT}"
        for what in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
            left = run("docker", *what, "--quiet", "--filter", label)
            assert left == "", (what, left)


# -- all of it -----------------------------------------------------------------------


def built() -> dict:
    """Build the image, then again with a change in lib/, as the next commit would."""
    build = ["docker", "build", "--network", os.environ.get("BUILD_NETWORK", "default")]
    build += ["--build-arg", f"PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}"]
    build += ["--file", "docker/Dockerfile", "--tag"]
    start = time.monotonic()
    run(*build, IMAGE, ".", stdout=sys.stderr)
    figures = {"build_seconds": round(time.monotonic() - start, 1)}
    size = run("docker", "image", "inspect", "-f", "{{.Size}}", IMAGE)
    figures["image_bytes"] = int(size)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        unwanted = shutil.ignore_patterns(".venv", ".jars", ".data", ".git", "secrets")
        shutil.copytree(ROOT, tree, ignore=unwanted)
        with (tree / "lib" / "__main__.py").open("a") as file:
            file.write("# changed\n")
        start = time.monotonic()
        again = f"{IMAGE}-again"
        run(*build, again, ".", cwd=tree, stdout=sys.stderr)
        figures["rebuild_seconds"] = round(time.monotonic() - start, 1)
    layers = [
        json.loads(
            run("docker", "image", "inspect", "-f", "{{json .RootFS.Layers}}", i)
        )
        for i in (IMAGE, again)
    ]
    run("docker", "image", "rm", again)
    figures["layers"] = len(layers[0])
    kept = [a == b for a, b in zip(*layers, strict=True)]
    figures["layers_kept_by_a_change_in_lib"] = sum(kept)
    return figures


def all_profiles(profiles: list[str]) -> dict:
    """Build, run each profile, and the laptop run that both are compared with."""
    here = dict(
        line.split("=", 1)
        for line in (ROOT / "docker" / ".env").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    image = python_image(here["PYTHON_IMAGE"])
    os.environ.update(
        PYTHON_IMAGE=image,
        COMPOSE_PROJECT_NAME=PROJECT,
        PAGE_PORT=str(free_port()),
        LAB_PORT=str(free_port()),
    )
    engine_version = run("docker", "version", "-f", "{{.Server.Version}}").strip()
    record = {
        "machine": machine(),
        "engine": engine_version,
        "compose": " ".join(Path(w).name for w in compose_command()[:-2]),
        "python_image": image,
        "events": sum(EVENTS.values()),
        **built(),
    }
    say(f"image: {record['image_bytes'] / 1e9:.2f} GB")
    assert record["image_bytes"] <= LARGEST_BYTES
    files, expected = laptop_run()
    secrets = ROOT / "docker" / "secrets"
    had_secrets = secrets.exists()
    record["profiles"] = {}
    try:
        for profile in profiles:
            with project():
                record["profiles"][profile] = profile_run(profile, files, expected)
    finally:
        if not had_secrets:
            shutil.rmtree(secrets, ignore_errors=True)
    return record


def laptop_run() -> tuple[dict[str, str], list[str]]:
    """The two files, and silver/scored of their events on this machine, without
    containers."""
    files = {}
    with tempfile.TemporaryDirectory(prefix="fraud-laptop-") as folder:
        home = Path(folder)
        for number, (name, events) in enumerate(EVENTS.items()):
            words = ["--events", str(events), "--accounts", "50", "--days", "2"]
            words += ["--seed", str(number), "--out", str(home / name)]
            laptop(home, "generate", *words)
            file = home / name / "tx_events.jsonl"
            files[name] = file.read_text()
            laptop(home, "produce", str(file))
        laptop(home, "stream", "--drain")
        laptop(home, "reconcile")
        env = os.environ | {"FRAUD_HOME": folder}
        rows = run(sys.executable, "docker/rows.py", env=env).splitlines()
    return files, rows


def table(record: dict) -> str:
    """The record as the table of README.md."""
    machine = record["machine"]
    profiles = record["profiles"]
    name = record["python_image"].partition("@")[0]
    kept, layers = record["layers_kept_by_a_change_in_lib"], record["layers"]
    rows = [
        ("image", f"{record['image_bytes'] / 1e9:.2f} GB, on {name}"),
        ("… built with nothing in the cache", f"{record['build_seconds']:.0f} s"),
        (
            "… built again after a change in lib/",
            f"{record['rebuild_seconds']:.0f} s; {kept} layers of {layers} kept",
        ),
    ]
    for profile, figures in profiles.items():
        crashed = ", ".join(f"`{name}`" for name in figures["restarts"])
        rows += [
            (
                f"`{profile}`: from `make docker-up`, image built, to all healthy",
                f"{figures['healthy_seconds']:.0f} s",
            ),
            (
                "… to the first scored event; the load of the minute then",
                f"{figures['first_score_seconds']:.0f} s; {figures['load'][0]:.0f}",
            ),
            ("… killed during a minute at 20 events/s", crashed),
            (
                f"… rows of silver/scored, of {record['events']:,} events sent",
                f"{figures['rows']:,}; unlike a run without containers: "
                f"{figures['rows_unlike_laptop']}",
            ),
        ]
    lines = [f"| {what} | {figure} |\n" for what, figure in rows]
    where = (
        f"{machine['cores']} cores of an {machine['cpu']}, {machine['memory_gb']} GB"
    )
    head = (
        f"| On {where}; engine {record['engine']}, {record['compose']} | |\n|---|---|\n"
    )
    return head + "".join(lines)


def write_table(record: dict, file: Path = README) -> None:
    """Put the table where README.md has its marks."""
    before, _, rest = file.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}")


def free_port() -> int:
    """A port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("profiles", nargs="*", default=PROFILES)
    arguments = parser.parse_args()
    try:
        with engine(arguments.keep) as variables:
            os.environ.update(variables)
            demand_compose()
            record = all_profiles(arguments.profiles)
    except NoEngine as reason:
        say(f"{'error' if arguments.required else 'skipped'}: {reason}")
        return int(arguments.required)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.record == RECORD and arguments.profiles == PROFILES:
        write_table(record)
    say(f"figures are in {arguments.record}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
