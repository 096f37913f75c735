"""A reader's own sink beside those of notebook 04: it gets there with what it uses of
its notebook, and can't keep the others from being killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib import wrong_ways
from tests.unit.scored_lake import settings_of


@pytest.fixture
def place(tmp_path: Path) -> wrong_ways.Place:
    place = wrong_ways.place_of(settings_of(tmp_path), "sixth")
    place.folder.mkdir(parents=True)
    return place


def ran(settings, sink, place: wrong_ways.Place) -> list[str]:
    """What happens when the process runs the sink that was added."""
    happened = []
    place.point = lambda: happened.append("point")
    wrong_ways.add(settings, sink)
    wrong_ways._sinks(settings)[sink.__name__](happened, 7, place)
    return happened


def test_without_a_readers_sink_there_are_the_five(tmp_path: Path):
    assert wrong_ways._sinks(settings_of(tmp_path)) == wrong_ways.SINKS


def test_a_sink_takes_along_what_it_uses(tmp_path: Path, place: wrong_ways.Place):
    word = "written"

    def sixth(batch, batch_id, place):
        batch.append(f"{word} {batch_id}")
        place.point()

    settings = settings_of(tmp_path)

    assert ran(settings, sixth, place)[:2] == ["written 7", "point"]
    assert set(wrong_ways._sinks(settings)) == {*wrong_ways.SINKS, "sixth"}
    assert wrong_ways.failure(settings, sixth) == ""


def test_a_sink_without_a_point_reaches_one(tmp_path: Path, place: wrong_ways.Place):
    def sixth(batch, batch_id, place):
        batch.append("written")

    assert ran(settings_of(tmp_path), sixth, place) == ["written", "point"]


def test_a_sink_that_fails_is_noted_and_reaches_its_point(
    tmp_path: Path, place: wrong_ways.Place
):
    def sixth(batch, batch_id, place):
        raise KeyError("no such column")

    settings = settings_of(tmp_path)

    assert ran(settings, sixth, place) == ["point"]
    assert "KeyError: 'no such column'" in wrong_ways.failure(settings, sixth)
