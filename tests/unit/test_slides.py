"""The slides: their cells exist and show something, and the page loads nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import nbformat
import nbformat.v4 as v4
import pytest
from nbformat import NotebookNode

from docs.figures.executed import is_run_of
from docs.figures.sections import notebooks
from docs.figures.slides import Part, Slide, markdown, page, paragraphs, slides
from lib.dashboard.browser import Browser, find_browser
from tests.conftest import missing

CHOSEN = slides()
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
LOADS = re.compile(
    r"""(?:src|srcset|href|data|action|poster)\s*=\s*["']?\s*(?!data:)[^\s"'>]*//"""
    r"""|@import|url\(|<(?:link|iframe|object|embed|base)\b"""
    r"""|\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|import)\s*\(""",
    re.IGNORECASE,
)


def shows_something(source: str) -> bool:
    """Whether a code cell ends in an expression, so that it has a result."""
    return isinstance(ast.parse(source).body[-1], ast.Expr)


@pytest.fixture(scope="module")
def executed() -> Mapping[str, NotebookNode]:
    """The notebooks with a chart as the result of each cell that has one."""
    chart = {"data": [], "layout": {"title": {"text": "see https://example.org/x.js"}}}
    data = {"application/vnd.plotly.v1+json": chart, "text/plain": "Figure"}
    found = {}
    for number, path in notebooks().items():
        found[number] = nbformat.read(path, as_version=4)
        for cell in found[number].cells:
            if cell.cell_type == "code" and shows_something(cell.source):
                cell.outputs = [v4.new_output("display_data", data)]
    return found


@pytest.fixture(scope="module")
def made(executed) -> str:
    return page(CHOSEN, executed, lambda _figure: SVG)


@pytest.mark.parametrize("slide", CHOSEN, ids=lambda slide: slide.title)
def test_a_slides_cells_exist_and_have_what_it_shows(slide: Slide, executed):
    class Named:
        def figure(self, _figure):
            return "a chart"

    for part in slide.parts:
        assert markdown(part, executed, Named())


def test_a_slide_is_not_two():
    titles = [slide.title for slide in CHOSEN]

    assert len(titles) == len(set(titles))


def test_every_notebook_is_on_the_slides():
    assert {part.notebook for slide in CHOSEN for part in slide.show} == set(
        notebooks()
    )


def test_the_page_loads_nothing_from_anywhere(made: str):
    assert LOADS.findall(made) == []
    assert "default-src 'none'" in made
    assert made.count("<section") == len(CHOSEN)


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.org/reveal.js"></script>',
        "<img src=//example.org/a.png>",
        '<link rel="stylesheet" href="a.css">',
        "@import 'a.css'",
        "background: url(https://example.org/a.png)",
        "fetch('a.json')",
    ],
)
def test_what_would_load_something_is_seen(text: str):
    assert LOADS.search(text)


def test_a_browser_without_network_shows_it(made: str, tmp_path):
    if find_browser() is None:
        missing("a Chromium or Chrome")
    file = tmp_path / "slides.html"
    file.write_text(made)
    with Browser(1280, 720) as browser:
        browser.command("Network.enable")
        offline = {"offline": True, "latency": 0}
        rates = {"downloadThroughput": -1, "uploadThroughput": -1}
        browser.command("Network.emulateNetworkConditions", **offline, **rates)
        browser.open(file.as_uri())
        loaded = browser.ask(
            "performance.getEntriesByType('resource').map(e => e.name)"
        )
        broken = browser.ask("[...document.images].filter(i => !i.naturalWidth).length")
        pictures = browser.ask("document.images.length")
        titles = []
        for _ in range(2 * len(CHOSEN)):  # a slide that asks needs a second step
            title = "document.querySelector('section.now h1').lastChild.textContent"
            titles.append(browser.ask(title))
            browser.ask("on()")
        complaints = browser.complaints
    assert [url for url in loaded if not url.startswith("data:")] == []
    assert (broken, complaints) == (0, [])
    assert pictures > len(CHOSEN) / 2
    assert list(dict.fromkeys(titles)) == [slide.title for slide in CHOSEN]


def test_a_question_hides_its_answer_until_the_next_step(made: str):
    asks = [s for s in CHOSEN if any(p.part == "predict" for p in s.show)]

    assert len(asks) > len(CHOSEN) / 2
    assert made.count('<section class="ask"') == len(asks)


def test_paragraphs_go_by_their_label():
    cell = "## Head\n\nFirst.\n\n**Predict.** How\nmany?\n\n**Run.** Go.\n\nLast."

    assert paragraphs(cell) == {
        "predict": "How\nmany?",
        "why": "",
        "text": "First.\n\nLast.",
    }


def test_a_link_leads_nowhere():
    slide = Slide("x", text="see [the policy](../docs/x.md) and [this](https://a.org)")

    told = page([slide], {}, lambda _figure: SVG)

    assert "see the policy and this" in told
    assert "href" not in told


@pytest.mark.parametrize(
    "part", ["01 no-such-cell text", "01 0 code", "01 1 result", "01 2 predict"]
)
def test_what_is_not_there_is_said(part: str, executed):
    with pytest.raises(LookupError):
        markdown(Part.of(part), executed, None)


def test_a_part_has_one_of_the_names():
    with pytest.raises(ValueError, match="01 2 picture"):
        Part.of("01 2 picture")


def test_only_a_whole_run_of_these_very_cells_is_used(tmp_path):
    notebook, copy = tmp_path / "01_x.ipynb", tmp_path / "ran.ipynb"
    cells = [v4.new_markdown_cell("# Title"), v4.new_code_cell("1 + 1")]
    nbformat.write(v4.new_notebook(cells=cells), notebook)
    assert not is_run_of(notebook, copy)

    ran = nbformat.read(notebook, as_version=4)
    nbformat.write(ran, copy)
    assert not is_run_of(notebook, copy)  # not run

    ran.cells[1].execution_count = 1
    nbformat.write(ran, copy)
    assert is_run_of(notebook, copy)

    ran.cells[1].source = "1 + 2"
    nbformat.write(ran, copy)
    assert not is_run_of(notebook, copy)
