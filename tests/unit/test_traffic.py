"""What the demo sends: cards that no earlier file has."""

from __future__ import annotations

import json

from lib.cli.traffic import CHUNK, EVENTS_PER_ACCOUNT, FIXTURE, new_cards


def accounts(lines: list[str]) -> set[str]:
    return {json.loads(line)["account_id"] for line in lines}


def test_no_two_files_have_an_account_in_common():
    files = [FIXTURE.read_text().splitlines()]
    files += [new_cards(CHUNK, number) for number in range(1, 7)]
    met: set[str] = set()
    for lines in files:
        found = accounts(lines)
        assert not met & found
        met |= found
    assert len(accounts(files[1])) == CHUNK // EVENTS_PER_ACCOUNT


def test_the_events_are_valid_and_as_many_as_asked_for():
    lines = new_cards(50, 3)

    assert len(lines) == 50
    assert new_cards(50, 3) == lines
    assert all(json.loads(line)["account_id"].startswith("ACCT_") for line in lines)
