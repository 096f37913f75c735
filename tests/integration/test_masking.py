"""No account in full in what a run writes for people: logs, messages, pages."""

from __future__ import annotations

import re
from pathlib import Path

from tests.integration.conftest import Chain
from tests.integration.records import GOOD

ACCOUNT = re.compile(rb"ACCT_\d")
DATA = ("broker", "lake", "checkpoints", "warehouse", "tmp")
"""Folders of a home that hold the data itself, which cannot do without accounts."""


def written_for_people(home: Path) -> list[Path]:
    files = [path for path in home.rglob("*") if path.is_file()]
    return [p for p in files if p.relative_to(home).parts[0] not in DATA]


def test_commands_write_no_account_in_full(chain: Chain):
    files = written_for_people(chain.home)

    assert {"logs"} <= {path.relative_to(chain.home).parts[0] for path in files}
    shown = [path for path in files if ACCOUNT.search(path.read_bytes())]
    assert shown == []
    for ran in chain.ran.values():
        assert not ACCOUNT.search((ran.out + ran.err).encode())


def test_the_account_is_where_it_belongs(chain: Chain):
    """The test above could see it: it went through this home."""
    log = chain.home / "broker" / "data"
    account = GOOD["account_id"].encode()
    assert any(account in path.read_bytes() for path in log.rglob("*.log"))
