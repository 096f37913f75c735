"""The workflows: what they run exists, what they use cannot be moved."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from lib.cli.commands import _parser
from lib.settings import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(file: Path) -> list[dict]:
    jobs = yaml.safe_load(file.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_actions_are_named_by_commit(workflow: Path):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action


def test_an_action_has_one_commit_in_all_workflows():
    used = {s["uses"] for file in WORKFLOWS for s in steps(file) if "uses" in s}
    assert len({action.partition("@")[0] for action in used}) == len(used)


def test_permissions_are_the_least(workflow: Path):
    text = yaml.safe_load(workflow.read_text())
    assert text["permissions"] == {"contents": "read"}
    for job in text["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_what_is_run_exists(workflow: Path):
    runs = "\n".join(step["run"] for step in steps(workflow) if "run" in step)
    runs = runs.replace("\\\n", " ")
    targets = re.findall(r"^\s*make ([\w-]+)", runs, re.MULTILINE)
    assert targets
    plan = subprocess.run(
        ["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr
    for command in re.findall(r"run --rm cli (.+)", runs):
        assert _parser().parse_args(command.split()).run
    for script in re.findall(r"(?:bash |^\s*)(\.ci/run|docker/\S+\.sh)", runs, re.M):
        assert (ROOT / script).exists()


def test_the_containers_are_required_in_ci():
    runs = [s["run"] for file in WORKFLOWS for s in steps(file) if "run" in s]
    assert "make docker-test REQUIRED=1" in runs
    plan = subprocess.run(
        ["make", "--dry-run", "docker-test", "REQUIRED=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "-m docker.test --required" in plan.stdout
