"""How tests and notebooks share the workers of one run of pytest."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

LONGEST = (
    "test_parameters",
    "test_dbt_runner",
    "04_exactly_once_failures",
    "05_dbt",
    "test_faults",
)
"""Files that are begun first, or one worker would be left with one at the end."""

CHAINED = ("test_commands", "test_jre", "test_masking", "test_offline")
"""Files that look at the chain of commands, which takes minutes: one worker has all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first."""

    def rank(item: pytest.Item) -> int:
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """One worker has all tests of a file, or of the chain."""

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "chain" if Path(file).stem in CHAINED else file

    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """A notebook's JVM is its reader's, whatever tests/conftest.py asks for."""
    if item.path.suffix != ".ipynb":
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAVA_TOOL_OPTIONS", raising=False)
        return (yield)
