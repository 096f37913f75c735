"""What is changed for a block is as before behind it, even if the block fails."""

from __future__ import annotations

import os
from contextlib import suppress
from types import SimpleNamespace

import pytest

from lib.system.temporary import attribute, environment


def test_an_attribute_in_a_block_that_fails():
    owner = SimpleNamespace(name="before")

    with suppress(ZeroDivisionError), attribute(owner, "name", "within"):
        assert owner.name == "within"
        raise ZeroDivisionError

    assert owner.name == "before"


def test_no_attribute_is_made_anew():
    with pytest.raises(AttributeError), attribute(SimpleNamespace(), "name", 1):
        pytest.fail("the block ran")


def test_the_environment_in_a_block_that_fails(monkeypatch):
    monkeypatch.setenv("CHANGED", "before")
    monkeypatch.setenv("REMOVED", "before")
    before = dict(os.environ)

    with suppress(ZeroDivisionError), environment({"CHANGED": "1", "NEW": "1"}):
        assert (os.environ["CHANGED"], os.environ["NEW"]) == ("1", "1")
        os.environ["BY_THE_BLOCK"] = "1"
        del os.environ["REMOVED"]
        raise ZeroDivisionError

    assert dict(os.environ) == before
