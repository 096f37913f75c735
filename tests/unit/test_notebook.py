"""What a notebook says to a guess: one line, for any guess."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.notebook import Run, compare, source
from lib.settings import Settings


@pytest.mark.parametrize(
    ("guess", "answer"),
    [
        (5, np.int64(5)),
        (" Fewer ", "fewer"),
        ([1, 2], (np.int64(1), np.int64(2))),
        ("MERGE", {"MERGE"}),
        (["a", "b"], {"b", "a"}),
        ({"a": "lost"}, {"a": "lost"}),
        (0.5, np.float64(0.5)),
    ],
)
def test_a_right_guess_holds(guess, answer):
    assert compare(guess, answer).startswith("Your guess holds: ")


@pytest.mark.parametrize(
    ("guess", "answer"),
    [(6, 5), ("more", "fewer"), ((1, 2, 3), (1, 2)), ({"a"}, {"a", "b"}), (True, "x")],
)
def test_a_wrong_guess_is_told_so_with_the_answer(guess, answer):
    line = compare(guess, answer)

    assert line.startswith("Not so: you said ")
    assert line.endswith("What makes the difference?")


def test_close_is_only_what_is_asked_for():
    assert compare(5.5, 6, within=1) == "Close: you said **5.5**, and it is **6**."
    assert compare(4.5, 6, within=1).startswith("Not so")
    assert compare(6, 6, within=1) == "Your guess holds: **6**."


def test_of_a_dict_each_entry_counts():
    told = compare({"a": 1, "b": 2}, {"a": 1, "b": 3})

    assert "a: 1, b: 2" in told
    assert "(1 of 2 right)" in told


@pytest.mark.parametrize("nothing", [..., None])
def test_without_a_guess_the_answer_is_told(nothing):
    assert compare(nothing, 20_000) == "You made no guess. It is **20,000**."
    assert compare(nothing, set()) == "You made no guess. It is **none**."


@pytest.mark.parametrize("guess", ["none", "None ", set(), ()])
def test_none_of_them_is_said_by_a_word_or_by_an_empty_set(guess):
    assert compare(guess, set()) == "Your guess holds: **none**."
    assert compare(guess, {"a"}).startswith("Not so: ")


class Rude:
    """A guess that lets nobody compare it."""

    def __eq__(self, other):
        raise RuntimeError

    __hash__ = None


@pytest.mark.parametrize("guess", ["five", [1], Rude(), object(), np.arange(3), 1j])
@pytest.mark.parametrize("answer", [5, (1, 2), {"a"}, {"a": 1}, "word", 0.5])
def test_no_guess_makes_it_fail(guess, answer):
    assert compare(guess, answer, within=1).startswith("Not so: ")


def test_a_long_guess_is_cut():
    assert len(compare("x" * 10_000, 5)) < 300


def documented(number: int) -> int:
    """The answer.

    In two paragraphs.
    """
    return number + 1  # kept


def bare(number: int) -> int:
    return number


def test_source_without_what_it_does():
    lines = ["def documented(number: int) -> int:", "    return number + 1  # kept"]
    assert source(documented).splitlines() == lines


def test_source_of_a_function_without_docstring():
    assert source(bare).splitlines()[1] == "    return number"


def test_a_command_that_was_started_ends_with_the_run(tmp_path: Path):
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path)})
    run = Run("01", settings, bootstrap="", folder=tmp_path)
    started = run.start(settings, "broker")
    run.close()

    assert started.returncode is not None
