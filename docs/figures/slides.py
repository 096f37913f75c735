"""The slides of a workshop: cells of the executed notebooks in one HTML file.

    python -m docs.figures.slides [--executed FOLDER] [--out FILE]

``docs/slides.toml`` names the cells of each slide. The file holds all that it shows, so
a room without a network is enough. It needs a Chromium or Chrome, which draws the
charts.
"""

from __future__ import annotations

import argparse
import base64
import html
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from docs.figures import walkthrough
from docs.figures.executed import LEFT_BEHIND, copies
from docs.figures.pictures import Painter
from docs.figures.sections import notebooks
from lib.settings import ROOT
from lib.system.signals import run

LIST = ROOT / "docs" / "slides.toml"
MADE = ROOT / "docs" / "slides.html"
TEMPLATE = Path(__file__).with_name("slides.html")
LABELLED = ("predict", "why", "text")
"""Parts of a Markdown cell: the paragraphs that begin with this word in bold, or, as
``text``, all that begin with none."""

PARTS = (*LABELLED, "code", "result")
Svg = Callable[[dict], str]
"""A Plotly figure, given as its JSON, as the text of an SVG file."""

_LABEL = re.compile(r"\*\*([\w ,']+)\.\*\*\s*")
_HEADING = re.compile(r"^#+ .*\n?", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Part:
    """What a slide shows of one cell."""

    notebook: str
    cell: str
    part: str

    @classmethod
    def of(cls, text: str) -> Part:
        """From ``NOTEBOOK CELL PART``, such as ``01 25 result``."""
        part = cls(*text.split())
        if part.part not in PARTS:
            raise ValueError(f"{text}: the part is one of {', '.join(PARTS)}")
        return part


@dataclass(frozen=True)
class Slide:
    """A slide: its title, what it shows, and what its speaker may say."""

    title: str
    text: str = ""
    show: tuple[Part, ...] = ()
    notes: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of cells that it is made of."""
        return self.show + self.notes


@dataclass
class _Embedded:
    """Pictures within the page: each is named here, and put in its place at the end."""

    svg: Svg
    urls: dict[str, str] = field(default_factory=dict)

    def figure(self, figure: dict) -> str:
        """Markdown of a Plotly figure."""
        drawn = base64.b64encode(self.svg(figure).encode()).decode()
        return self._named(f"data:image/svg+xml;base64,{drawn}")

    def png(self, data: str) -> str:
        """Markdown of a picture, given in base64."""
        return self._named(f"data:image/png;base64,{''.join(data.split())}")

    def _named(self, url: str) -> str:
        name = f"picture-{len(self.urls)}"
        self.urls[name] = url
        return f"![]({name})"

    def into(self, page: str) -> str:
        """The page with its pictures in place of their names."""
        return re.sub(
            r'src="(picture-\d+)"', lambda found: f'src="{self.urls[found[1]]}"', page
        )


def slides(file: Path = LIST) -> list[Slide]:
    """The slides as the list names them."""
    found = tomllib.loads(file.read_text())["slide"]
    return [
        Slide(
            title=one["title"],
            text=one.get("text", ""),
            show=tuple(map(Part.of, one.get("show", ()))),
            notes=tuple(map(Part.of, one.get("notes", ()))),
        )
        for one in found
    ]


def page(chosen: list[Slide], executed: Mapping[str, NotebookNode], svg: Svg) -> str:
    """The slides as one HTML page.

    Args:
        chosen: the slides.
        executed: number → executed notebook.
        svg: draws the charts.

    Raises:
        LookupError: a notebook or cell is not there, or has nothing of that part.
    """
    pictures = _Embedded(svg)
    told = "\n".join(_section(slide, executed, pictures) for slide in chosen)
    colours = HtmlFormatter().get_style_defs(".highlight")
    made = TEMPLATE.read_text().replace("/* code */", colours)
    return made.replace("<!-- slides -->", pictures.into(told))


def _section(slide: Slide, executed: Mapping, pictures: _Embedded) -> str:
    """One slide: its texts, and below them code and results side by side."""
    texts, shown = [slide.text and _html(slide.text)], []
    for part in slide.show:
        told = _html(markdown(part, executed, pictures))
        column = texts if part.part in LABELLED else shown
        column.append(f'<div class="{part.part}">{told}</div>')
    notes = [_html(markdown(part, executed, pictures)) for part in slide.notes]
    numbers = sorted({part.notebook for part in slide.show})
    names = ", ".join(notebooks()[number].stem for number in numbers)
    asks = any(part.part == "predict" for part in slide.show) and bool(shown)
    return "\n".join(
        [
            f'<section class="{"ask" if asks else "tell"}">',
            f"<h1><small>{names}</small>{html.escape(slide.title)}</h1>",
            f'<div class="texts">{"".join(filter(None, texts))}</div>',
            f'<div class="shown">{"".join(shown)}</div>',
            f'<div class="notes">{"".join(notes)}</div>',
            "</section>",
        ]
    )


def markdown(part: Part, executed: Mapping, pictures: walkthrough.Pictures) -> str:
    """A part of a cell as Markdown.

    Raises:
        LookupError: there is no such cell, or it has nothing of that part.
    """
    cells = {cell.id: cell for cell in executed[part.notebook].cells}
    if part.cell not in cells:
        raise LookupError(f"notebook {part.notebook} has no cell {part.cell}")
    cell = cells[part.cell]
    told = None
    if part.part in LABELLED and cell.cell_type == "markdown":
        told = paragraphs(cell.source)[part.part]
    elif part.part == "code" and cell.cell_type == "code":
        told = f"```python\n{cell.source}\n```"
    elif part.part == "result" and cell.cell_type == "code":
        found = [walkthrough.output(shown, pictures) for shown in cell.outputs]
        told = "\n\n".join(filter(None, found))
    if not told:
        raise LookupError(f"{part.notebook}, cell {part.cell}: no {part.part}")
    return told


def paragraphs(source: str) -> dict[str, str]:
    """A Markdown cell's paragraphs by their label; ``text`` are those without one."""
    found = dict.fromkeys(LABELLED, "")
    for paragraph in re.split(r"\n\s*\n", _HEADING.sub("", source).strip()):
        label = _LABEL.match(paragraph)
        name = label[1].lower() if label else "text"
        if name in found:
            body = paragraph[label.end() :] if label else paragraph
            found[name] += f"{body}\n\n"
    return {name: text.strip() for name, text in found.items()}


def _html(text: str) -> str:
    """Markdown as HTML; a link would lead out of the file, so its words alone."""
    return markdown2html(_LINK.sub(r"\1", text))


def main() -> None:
    """Write the slides."""
    parser = argparse.ArgumentParser(description="slides of the executed notebooks")
    parser.add_argument("--executed", type=Path, default=LEFT_BEHIND)
    parser.add_argument("--out", type=Path, default=MADE)
    arguments = parser.parse_args()
    chosen = slides()
    numbers = sorted({part.notebook for slide in chosen for part in slide.parts})
    executed = copies([notebooks()[n] for n in numbers], arguments.executed)
    with Painter() as painter:
        arguments.out.write_text(page(chosen, executed, painter.svg))


if __name__ == "__main__":
    run(lambda _stop: main())
