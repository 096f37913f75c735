"""After set-up nothing needs a network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import missing
from tests.integration.conftest import Chain
from tests.integration.helpers import PYTHON

# Of TEST-NET-1 (RFC 5737), which no machine has: where there is a way to other
# networks, the answer is a timeout or a refusal.
PROBE = """
import errno, socket
with socket.socket() as probe:
    probe.settimeout(5)
    print(errno.errorcode.get(probe.connect_ex(("192.0.2.1", 443))))
"""


@pytest.fixture
def cut_off(chain: Chain) -> list[str]:
    if not chain.cut_off:
        reason = "this machine permits no network namespace (unshare --net)"
        if sys.platform == "linux":
            missing(reason)
        pytest.skip(reason)
    return chain.cut_off


def test_there_is_no_network(cut_off: list[str]):
    probe = subprocess.run([*cut_off, PYTHON, "-c", PROBE], stdout=subprocess.PIPE)

    assert probe.stdout.decode().split() == ["ENETUNREACH"]


@pytest.mark.usefixtures("cut_off")
def test_events_reach_the_lake_without_a_network(chain: Chain):
    for name, ran in chain.ran.items():
        assert ran.code == 0, (name, ran.err)
    assert chain.ran["reconcile"].result["balanced"] is True
