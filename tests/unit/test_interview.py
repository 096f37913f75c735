"""The interview questions: an answer is asserted by the very line that it quotes from a
cell, or it says that it is not shown, and names a test or a document."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from lib.settings import ROOT
from tests.unit.evidence import (
    Shown,
    assertions,
    files_in,
    missing,
    named_tests,
    shown_in,
)

DOCUMENT = ROOT / "docs" / "interview.md"
QUESTIONS = 40
ASSERTED_AT_LEAST = 34

HEADING = re.compile(r"^### (\d+)\. (.+)$", re.MULTILINE)
EVIDENCE = re.compile(r"^(Shown by:|Not shown here\b)", re.MULTILINE)


@dataclass(frozen=True)
class Question:
    """A question, its answer, and what stands behind it."""

    number: int
    title: str
    answer: str
    evidence: str

    @property
    def shown_by(self) -> list[Shown]:
        return shown_in(self.evidence)


def questions() -> list[Question]:
    """The document's questions; one without evidence has an empty one."""
    _intro, *parts = HEADING.split(DOCUMENT.read_text())
    found = []
    for number, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        own = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        begins = EVIDENCE.search(own)
        end = begins.start() if begins else len(own)
        found.append(Question(int(number), title, own[:end].strip(), own[end:]))
    return found


ALL = questions()
each_question = pytest.mark.parametrize("question", ALL, ids=lambda q: str(q.number))


def test_the_questions_are_numbered():
    assert [question.number for question in ALL] == [*range(1, QUESTIONS + 1)]
    assert len({question.title for question in ALL}) == QUESTIONS


@each_question
def test_a_question_has_a_short_answer(question: Question):
    sentences = re.findall(r"[.?!](?=\s|$)", question.answer)

    assert question.title.endswith("?")
    assert 2 <= len(sentences) <= 4


@each_question
def test_what_is_shown_is_asserted_by_that_very_line(question: Question):
    assert [shown for shown in question.shown_by if not shown.is_asserted()] == []


@each_question
def test_what_is_not_shown_says_so_and_where_else_it_is(question: Question):
    if question.evidence.startswith("Shown by:"):
        assert question.shown_by
        # No link to a cell escapes the checks by another form.
        assert question.evidence.count(".ipynb") == len(question.shown_by)
    else:
        assert question.evidence.startswith("Not shown here")
        assert ".ipynb" not in question.evidence
        assert named_tests(question.evidence) or files_in(question.evidence)


def test_nearly_all_are_shown():
    assert sum(bool(question.shown_by) for question in ALL) >= ASSERTED_AT_LEAST


def test_the_tests_and_files_that_are_named_exist():
    assert list(missing(DOCUMENT)) == []


def test_a_cell_that_asserts_nothing_is_seen():
    assert assertions("print('assert x == 1')  # assert") == []
    assert assertions("assert x == 1, 'why'") == ["assert x == 1, 'why'"]
    assert assertions("pd.testing.assert_frame_equal(a, b)") == [
        "pd.testing.assert_frame_equal(a, b)"
    ]
