"""SIGKILL at named points, on one lake, one after the other; and the laboratory itself
must see the damage that the usual code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import chaos
from lib.config import Settings
from lib.faults import Laboratory, laboratory


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path_factory.mktemp("lab"))})
    with laboratory(settings, "lab", options=chaos.OPTIONS) as lab:
        lab.send()
        lab.settle()
        yield lab


@pytest.mark.parametrize(
    "point",
    [
        "offsets written",
        "after bronze/tx_events",
        "before silver/transactions",
        "state-store commit",
        "before silver/scored",
        "after silver/scored",
        "delta checkpoint",
    ],
)
def test_a_kill_changes_nothing(lab: Laboratory, point: str):
    assert lab.trial(point).damage == chaos.NO_DAMAGE


def test_a_lost_checkpoint_changes_nothing(lab: Laboratory):
    assert chaos.checkpoint_deleted(lab).damage == chaos.NO_DAMAGE


def test_a_correction_after_a_lost_checkpoint(lab: Laboratory):
    assert lab.trial("after upsert of silver/scored").damage == chaos.NO_DAMAGE


def test_a_killed_broker_changes_nothing(lab: Laboratory):
    assert chaos.broker_killed(lab).damage == chaos.NO_DAMAGE


@pytest.mark.parametrize(
    ("lake", "point", "wrong"),
    [
        ("forgetful", "after silver/transactions", "doubled"),
        ("hasty", "before silver/transactions", "lost"),
    ],
)
def test_the_laboratory_sees_the_damage_of_the_wrong_way(
    tmp_path: Path, lake: str, point: str, wrong: str
):
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path)})
    with laboratory(settings, lake, options=("--lake", lake)) as lab:
        found = lab.trial(point).damage

    assert getattr(found, wrong) > 0
