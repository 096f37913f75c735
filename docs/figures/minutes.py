"""How long the workshop's sections and paths take; writes the tables of its page.

    python -m docs.figures.minutes [--measure [FOLDER]]

A section's minutes are those of telling it, by a rule over its text, and those that its
cells ran. ``--measure`` takes the latter from executed notebooks (``make test`` leaves
them in ``executed/``) and keeps them in ``run_seconds.json`` beside this file; without
it the tables are computed from what is kept there.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import nbformat

from docs.figures.executed import LEFT_BEHIND, is_run_of
from docs.figures.sections import notebooks, pieces
from lib.errors import FraudError
from lib.settings import ROOT
from lib.system.signals import run

WORDS_A_MINUTE = 150
"""Of prose, read aloud."""

SECONDS_A_LINE = 2
"""Of code, shown and walked through; blank lines are none."""

SECONDS_A_QUESTION = 60
"""To answer a **Predict**."""

LONG_SECONDS = 8
"""A cell that runs as long leaves a silence: there must be something to say."""

DOCUMENT = ROOT / "docs" / "workshop.md"
PLAN = ROOT / "docs" / "workshop.toml"
MEASURED = Path(__file__).with_name("run_seconds.json")
QUESTION = "**Predict.**"
ANSWERED = ("guess-", "compare-", "try-", "exercise-", "check-")
"""How the ids of cells begin that a reader works on: an answer to a question has the
question's time, and an exercise the time that a path plans for it."""

STARTED, ENDED = "iopub.execute_input", "shell.execute_reply"

Seconds = Mapping[str, Mapping[str, float]]
"""Number of the notebook → id of the cell → how long it ran."""


@dataclass
class Section:
    """A section of a notebook, and what it takes.

    Attributes:
        cells: ids of its code cells, and how many seconds each ran.
    """

    notebook: str
    heading: str
    words: int = 0
    lines: int = 0
    questions: int = 0
    cells: dict[str, float] = field(default_factory=dict)

    @property
    def telling(self) -> float:
        """Minutes to tell it, by the rule."""
        seconds = self.lines * SECONDS_A_LINE + self.questions * SECONDS_A_QUESTION
        return self.words / WORDS_A_MINUTE + seconds / 60

    @property
    def running(self) -> float:
        """Minutes that its cells ran."""
        return sum(self.cells.values()) / 60

    @property
    def minutes(self) -> float:
        """Minutes in all."""
        return self.telling + self.running


@dataclass(frozen=True)
class Step:
    """A row of a path.

    Attributes:
        section: what is told; None if the step is planned.
        what: the text of a planned step.
        planned: its minutes.
        above: minutes that the cells above the section ran which the path leaves out.
        beforehand: whether those are run before the path begins.
    """

    section: Section | None = None
    what: str = ""
    planned: float = 0
    above: float = 0
    beforehand: bool = False

    @property
    def running(self) -> float:
        """Minutes that one waits for cells in it."""
        own = self.section.running if self.section else 0
        return own if self.beforehand else own + self.above

    @property
    def minutes(self) -> float:
        """Minutes of the path that it takes."""
        telling = self.section.telling if self.section else self.planned
        return telling + self.running


@dataclass(frozen=True)
class Route:
    """A way through the notebooks within some minutes."""

    limit: int
    steps: tuple[Step, ...]

    @property
    def minutes(self) -> float:
        """Minutes of all its steps."""
        return sum(step.minutes for step in self.steps)


def sections(seconds: Seconds) -> dict[str, list[Section]]:
    """Number → the notebook's sections in their order.

    Args:
        seconds: how long each cell ran; one that is not in it took no time.
    """
    found: dict[str, list[Section]] = {}
    for number, path in notebooks().items():
        own = found.setdefault(number, [])
        for piece in pieces(path):
            if not own or own[-1].heading != piece.section:
                own.append(Section(number, piece.section))
            last = own[-1]
            if piece.kind == "code":
                last.cells[piece.cell] = seconds.get(number, {}).get(piece.cell, 0)
            if piece.cell.startswith(ANSWERED):
                continue
            if piece.kind == "markdown":
                last.words += len(piece.source.split())
                last.questions += piece.source.count(QUESTION)
            else:
                last.lines += sum(bool(x.strip()) for x in piece.source.splitlines())
    return found


def section(name: str, found: Mapping[str, list[Section]]) -> Section:
    """The section that a plan calls ``NOTEBOOK NUMBER`` or ``NOTEBOOK HEADING``.

    Raises:
        FraudError: there is none, or there are several.
    """
    number, _, wanted = name.partition(" ")
    fits = [
        one
        for one in found.get(number, [])
        if one.heading == wanted or one.heading.startswith(f"{wanted}. ")
    ]
    if len(fits) != 1:
        raise FraudError(f"{name!r} names {len(fits)} sections: correct {PLAN.name}")
    return fits[0]


def paths(plan: Mapping, found: Mapping[str, list[Section]]) -> list[Route]:
    """The plan's paths.

    Raises:
        FraudError: a section is not there, or out of its notebook's order, or a path
            takes longer than it may.
    """
    made = []
    for one in plan["path"]:
        path = Route(one["minutes"], tuple(_steps(one["steps"], found)))
        if path.minutes > path.limit:
            raise FraudError(
                f"the path of {path.limit} minutes takes {path.minutes:.1f}: leave out "
                f"a step of it in {PLAN.name}"
            )
        made.append(path)
    return made


def _steps(named: Iterable, found: Mapping[str, list[Section]]) -> Iterable[Step]:
    reached: dict[str, int] = {}  # notebook → the first section that was not run yet
    for name in named:
        if not isinstance(name, str):
            yield Step(what=name["what"], planned=name["minutes"])
            continue
        one = section(name, found)
        place, first = found[one.notebook].index(one), one.notebook not in reached
        before = reached.get(one.notebook, 0)
        if place < before:
            raise FraudError(f"{name!r} comes too late in its path: cells run in order")
        skipped = found[one.notebook][before:place]
        yield Step(one, above=sum(s.running for s in skipped), beforehand=first)
        reached[one.notebook] = place + 1


def measured(folder: Path) -> dict[str, dict[str, float]]:
    """How long each cell of the executed notebooks ran, in seconds.

    Raises:
        FraudError: a notebook has not been run as it is now.
    """
    found: dict[str, dict[str, float]] = {}
    for number, path in notebooks().items():
        copy = folder / path.name
        if not is_run_of(path, copy):
            raise FraudError(f"{copy} is no run of {path.name} as it is: run it")
        found[number] = {
            cell.id: round(_seconds(cell.metadata.execution), 1)
            for cell in nbformat.read(copy, as_version=4).cells
            if cell.cell_type == "code"
        }
    return found


def _seconds(times: Mapping[str, str]) -> float:
    """From the start of a cell to its end, as the kernel's messages tell it."""
    begin, end = (datetime.fromisoformat(times[key]) for key in (STARTED, ENDED))
    return (end - begin).total_seconds()


def waits(
    plan: Mapping, walked: Iterable[Route], found: Mapping[str, list[Section]]
) -> list[tuple[str, str, float, str]]:
    """Notebook, cell, seconds and what to say, for what takes long on any path.

    Raises:
        FraudError: there is nothing to say while a long cell runs.
    """
    told = {id(step.section) for path in walked for step in path.steps}
    chosen = [one for own in found.values() for one in own if id(one) in told]
    rows = []
    for one in chosen:
        for cell, seconds in one.cells.items():
            words = plan["say"].get(f"{one.notebook} {cell}", "")
            if words:
                rows.append((one.notebook, cell, seconds, words))
            elif seconds >= LONG_SECONDS:
                raise FraudError(
                    f"cell {cell} of notebook {one.notebook} runs {seconds:.0f} s: say "
                    f"something meanwhile, in {PLAN.name}"
                )
    return rows


def tables(plan: Mapping, kept: Mapping) -> dict[str, str]:
    """Name of a table → its Markdown."""
    found = sections(kept["seconds"])
    walked = paths(plan, found)
    names = {number: path.stem for number, path in notebooks().items()}
    made = {"rule": _rule(kept["machine"]), "sections": _sections(found, names)}
    for path in walked:
        made[f"path of {path.limit}"] = _path(path)
    rows = [
        f"| {_link(names[n], c)} | {s:.0f} s | {words} |"
        for n, c, s, words in waits(plan, walked, found)
    ]
    made["waits"] = "\n".join(
        ["| cell | it ran | what to say |", "|---|---|---|", *rows]
    )
    return made


def _rule(machine: Mapping) -> str:
    return (
        f"Telling a section takes a minute for {WORDS_A_MINUTE} words of its text, "
        f"{SECONDS_A_LINE} s for each line of its code, and {SECONDS_A_QUESTION} s for "
        "each question (**Predict**). Running it takes what its cells took in a run on "
        f"{machine['cores']} cores ({machine['cpu']}) with {machine['memory_gb']} GB "
        "of memory. Pauses, exercises and questions have the minutes that were planned "
        "for them."
    )


def _sections(found: Mapping[str, list[Section]], names: Mapping[str, str]) -> str:
    lines = ["| section | words | lines | questions | telling | running |"]
    lines.append("|---|---|---|---|---|---|")
    for number, own in found.items():
        telling, running = sum(s.telling for s in own), sum(s.running for s in own)
        link = f"[{names[number]}](../notebooks/{names[number]}.ipynb)"
        lines.append(f"| **{link}** | | | | **{telling:.0f}** | **{running:.1f}** |")
        lines += [
            f"| {s.heading} | {s.words} | {s.lines} | {s.questions} "
            f"| {s.telling:.1f} | {s.running:.1f} |"
            for s in own
        ]
    return "\n".join(lines)


def _path(path: Route) -> str:
    lines = ["| at | what | telling | running | run before |", "|---|---|---|---|---|"]
    at = 0.0
    for step in path.steps:
        clock = f"{int(at) // 60}:{int(at) % 60:02d}"
        at += step.minutes
        if step.section is None:
            lines.append(f"| {clock} | *{step.what}* | {step.planned:.0f} | | |")
            continue
        what = f"{step.section.notebook}, {step.section.heading}"
        before = f"{60 * step.above:.0f} s" if step.beforehand else ""
        lines.append(
            f"| {clock} | {what} | {step.section.telling:.1f} | {step.running:.1f} "
            f"| {before} |"
        )
    lines.append(f"| {int(at) // 60}:{int(at) % 60:02d} | end | | | |")
    return "\n".join(lines)


def _link(name: str, cell: str) -> str:
    return f"[{name[:2]}, cell {cell}](../notebooks/{name}.ipynb#cell-id={cell})"


def filled(text: str, made: Mapping[str, str]) -> str:
    """The page with each table in its place.

    Raises:
        FraudError: a table has no place, or a place no table.
    """
    places = re.findall(r"<!-- begin (.+?) -->", text)
    if sorted(places) != sorted(made):
        raise FraudError(f"{DOCUMENT.name} has the places {places}, not {list(made)}")
    for name, table in made.items():
        place = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        parts = (r"\g<1>", table.replace("\\", r"\\"), r"\n\g<2>")
        text = re.sub(place, "".join(parts), text, flags=re.DOTALL)
    return text


def plan() -> dict:
    """The workshop's plan."""
    return tomllib.loads(PLAN.read_text())


def page() -> str:
    """The workshop's page as it should be now."""
    made = tables(plan(), json.loads(MEASURED.read_text()))
    return filled(DOCUMENT.read_text(), made)


def main() -> None:
    """Measure if that is asked for, and write the tables."""
    parser = argparse.ArgumentParser(description="minutes of the workshop's paths")
    parser.add_argument("--measure", nargs="?", const=LEFT_BEHIND, type=Path)
    arguments = parser.parse_args()
    if arguments.measure:
        from bench.machine import machine

        kept = {"machine": machine(), "seconds": measured(arguments.measure)}
        MEASURED.write_text(json.dumps(kept, indent=1) + "\n")
    DOCUMENT.write_text(page())


if __name__ == "__main__":
    run(lambda _stop: main())
