"""SIGKILL at named points, on one lake, one after the other; and the laboratory itself
must see the damage that the usual code does.

One of each kind: `make chaos` has the whole matrix.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from lib.errors import FraudError
from lib.faults import chaos
from lib.faults.laboratory import Laboratory, laboratory
from lib.settings import Settings
from lib.verify.expected_lake import Damage

NO_DAMAGE = Damage(0, 0, 0, 0)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory):
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path_factory.mktemp("lab"))})
    with laboratory(settings, "lab", options=chaos.OPTIONS) as lab:
        lab.send()
        lab.settle()
        yield lab


@pytest.mark.parametrize(
    ("point", "workers_files"),
    [
        ("offsets written", False),
        ("state-store commit", True),
        ("after bronze/tx_events", False),
        # Notebook 04 dies there, by papermill.
        pytest.param("before silver/transactions", True, marks=pytest.mark.slow),
        ("after merge of silver/scored", True),
        ("delta checkpoint", False),
    ],
)
def test_a_kill_changes_nothing(lab: Laboratory, point: str, workers_files: bool):
    lab.workers_files = workers_files  # the way of the rows in the process that is next

    assert lab.trial(point).damage == NO_DAMAGE


def test_a_point_that_no_batch_passes(lab: Laboratory):
    """One point in the place of notebook 04's list of them is a list of letters."""
    with pytest.raises(FraudError, match=r"'a'.*after silver/scored"):
        lab.trial("a")


@pytest.mark.parametrize(
    "fault",
    [
        partial(chaos.checkpoint_lost, point="before merge of silver/scored"),
        chaos.broker_killed,
        *(
            pytest.param(fault, marks=pytest.mark.slow)
            for fault in (
                partial(chaos.completion_killed, point="completed silver/quarantine"),
                partial(chaos.first_batch_killed, point="after silver/scored"),
                partial(
                    chaos.rebuild_killed,
                    point="rebuild: half of silver/transactions deleted",
                ),
            )
        ),
    ],
    ids=["lost", "broker", "lost twice", "first batch", "rebuild"],
)
def test_worse_changes_nothing_either(lab: Laboratory, fault):
    assert fault(lab).damage == NO_DAMAGE


@pytest.mark.slow
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
