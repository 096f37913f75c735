"""Builds the image and starts the services of COMPOSE_PROFILES; waits until they are
healthy.

python docker/up.py           up
python docker/up.py --down    stop and remove the containers; the volumes stay

With Compose's second version or its first: the first has no `up --wait`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

FILE = Path(__file__).resolve().parent / "compose.yaml"
ANY_SERVICE = {"default": "stream", "cluster": "cluster-stream"}
"""All services of a profile have one image: one of them builds it."""
POLL_SECONDS = 0.5
READY_SECONDS = 300


def compose_command() -> list[str]:
    """`docker compose`, else `docker-compose`."""
    second = ["docker", "compose"]
    found = subprocess.run([*second, "version"], capture_output=True).returncode == 0
    return [*(second if found else ["docker-compose"]), "--file", str(FILE)]


def containers() -> dict[str, str]:
    """State of each service's container of this project: health, else status."""
    project = os.environ.get("COMPOSE_PROJECT_NAME", "fraud-signals")
    # Not those of `compose run`, which come and go.
    labels = [f"project={project}", "oneoff=False"]
    filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
    ids = _output("docker", "ps", "--all", "--quiet", *filters).split()
    states = {}
    for found in json.loads(_output("docker", "inspect", *ids)) if ids else []:
        name = found["Config"]["Labels"]["com.docker.compose.service"]
        state = found["State"]
        states[name] = state.get("Health", {}).get("Status") or state["Status"]
    return states


def wait() -> float:
    """Seconds until every container is healthy, or runs if it has no health check.

    Raises SystemExit if that takes too long.
    """
    start = time.monotonic()
    while not all(state in ("healthy", "running") for state in containers().values()):
        if time.monotonic() - start > READY_SECONDS:
            sys.exit(f"error: not healthy after {READY_SECONDS} s: {containers()}")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - start


def _output(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> int:
    """Build, start and wait; or stop."""
    profile = os.environ.get("COMPOSE_PROFILES") or "default"
    command = compose_command()
    if sys.argv[1:] == ["--down"]:
        return subprocess.run([*command, "down"]).returncode
    for words in (["build", ANY_SERVICE[profile]], ["up", "--detach", "--no-build"]):
        if code := subprocess.run([*command, *words]).returncode:
            return code
    wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
