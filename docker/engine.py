"""A Docker engine for the test: the one that runs, or one of its own for a while."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker.up import compose_command

BASE = "fraud-base:local"
RELEASE = "trixie"
"""The Debian whose Python stands in for the image's: the same minor version."""
PACKAGES = "python3,python3-venv,make,procps,ca-certificates"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
START_SECONDS = 60
POLL_SECONDS = 0.2


class NoEngine(Exception):
    """There is no engine here, and none can be started; says why."""


@contextmanager
def engine(keep: Path | None = None) -> Iterator[dict[str, str]]:
    """The variables that lead to an engine, for as long as the block runs.

    Args:
        keep: folder for the engine's images, to be used again; by default they go with
            the engine. Of no meaning if an engine runs already.
    """
    if shutil.which("docker") is None:
        raise NoEngine("no `docker` here: install Docker, or Debian's docker.io")
    if _answers({}):
        yield {}
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise NoEngine(
            "no engine runs, and only root can start a dockerd that is there"
        )
    folder = keep or Path(tempfile.mkdtemp(prefix="fraud-docker-", dir="/var/tmp"))
    socket = f"unix://{folder}/socket"
    # It touches nothing of the machine's own network: images are built on the host's,
    # containers meet on a bridge without a way out, and published ports are relayed.
    command = ["dockerd", "--data-root", f"{folder}/data", "--exec-root"]
    command += [f"{folder}/exec", "--pidfile", f"{folder}/pid", "--host", socket]
    command += ["--iptables=false", "--ip-forward=false", "--bridge=none"]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / "log").open("ab") as log:
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            variables = {"DOCKER_HOST": socket, "BUILD_NETWORK": "host"}
            deadline = time.monotonic() + START_SECONDS
            while not _answers(variables):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    said = (folder / "log").read_text().splitlines()[-1:]
                    raise NoEngine(f"dockerd does not start: {''.join(said)}")
                time.sleep(POLL_SECONDS)
            yield variables
        finally:
            daemon.terminate()
            daemon.wait()
            for mount in _mounts_below(folder):
                subprocess.run(["umount", mount], check=True)
    finally:
        if keep is None:
            shutil.rmtree(folder)


def demand_compose() -> None:
    """Raises NoEngine if Compose is missing."""
    command = compose_command()
    if shutil.which(command[0]) is None:
        raise NoEngine("no Compose here: install `docker compose` or `docker-compose`")


def python_image(locked: str) -> str:
    """The image to build on: the locked one, or where no registry answers one that is
    made of Debian's packages."""
    for image in (locked, BASE):
        if _quietly("docker", "image", "inspect", image):
            return image
    if _quietly("docker", "pull", locked):
        return locked
    if shutil.which("mmdebstrap") is None:
        raise NoEngine(f"{locked} can't be pulled, and mmdebstrap is not installed")
    with tempfile.TemporaryDirectory() as folder:
        tree = f"{folder}/base.tar"
        command = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={PACKAGES}",
        ]
        for what in ("doc", "man", "locale"):
            command.append(f"--dpkgopt=path-exclude=/usr/share/{what}/*")
        # A network that reads along is trusted in the image as on its host.
        command.append(f'--customize-hook=cp {CERTIFICATES} "$1{CERTIFICATES}"')
        subprocess.run([*command, RELEASE, tree], check=True)
        change = f"ENV SSL_CERT_FILE={CERTIFICATES}"
        made = ["docker", "import", "--change", change, tree, BASE]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    return BASE


def _mounts_below(folder: Path) -> list[str]:
    """What dockerd leaves mounted in its folder, a network namespace say."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return [place for place in reversed(mounts) if place.startswith(f"{folder}/")]


def _answers(variables: dict[str, str]) -> bool:
    return _quietly("docker", "info", env=os.environ | variables)


def _quietly(*command: str, env=None) -> bool:
    return subprocess.run(command, env=env, capture_output=True).returncode == 0
