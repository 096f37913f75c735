"""A reader's own sink beside those of notebook 04: it gets there with what it uses of
its notebook, and can't keep the others from being killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.faults import naive_sinks
from tests.unit.scored_lake import settings_of


@pytest.fixture
def place(tmp_path: Path) -> naive_sinks.Place:
    place = naive_sinks.place_of(settings_of(tmp_path), "sixth")
    place.folder.mkdir(parents=True)
    return place


def ran(settings, sink, place: naive_sinks.Place) -> list[str]:
    """What happens when the process runs the sink that was added."""
    happened = []
    place.point = lambda: happened.append("point")
    naive_sinks.add(settings, sink)
    naive_sinks._sinks(settings)[sink.__name__](happened, 7, place)
    return happened


def test_without_a_readers_sink_there_are_the_five(tmp_path: Path):
    assert naive_sinks._sinks(settings_of(tmp_path)) == naive_sinks.SINKS


def test_a_sink_takes_along_what_it_uses(tmp_path: Path, place: naive_sinks.Place):
    word = "written"

    def sixth(batch, batch_id, place):
        batch.append(f"{word} {batch_id}")
        place.point()

    settings = settings_of(tmp_path)

    assert ran(settings, sixth, place)[:2] == ["written 7", "point"]
    assert set(naive_sinks._sinks(settings)) == {*naive_sinks.SINKS, "sixth"}
    assert naive_sinks.failure(settings, sixth) == ""


def test_a_sink_without_a_point_reaches_one(tmp_path: Path, place: naive_sinks.Place):
    def sixth(batch, batch_id, place):
        batch.append("written")

    assert ran(settings_of(tmp_path), sixth, place) == ["written", "point"]


def test_a_sink_that_fails_is_noted_and_reaches_its_point(
    tmp_path: Path, place: naive_sinks.Place
):
    def sixth(batch, batch_id, place):
        raise KeyError("no such column")

    settings = settings_of(tmp_path)

    assert ran(settings, sixth, place) == ["point"]
    assert "KeyError: 'no such column'" in naive_sinks.failure(settings, sixth)
