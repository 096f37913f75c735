"""Plotly figures as pictures, drawn by the browser that is there."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote

from plotly.offline import get_plotlyjs

from lib.dashboard.browser import Browser

WIDTH = 900
HEIGHT = 380
PAGE = '<!doctype html><meta charset="utf-8"><div id="it"></div><script>{}</script>'


class Painter:
    """Draws with Plotly's own JavaScript, so a PNG is what the notebook shows."""

    def __enter__(self) -> Painter:
        self._folder = tempfile.TemporaryDirectory()
        page = Path(self._folder.name) / "page.html"
        page.write_text(PAGE.format(get_plotlyjs()))
        self._browser = Browser(WIDTH, HEIGHT).__enter__()
        self._browser.open(page.as_uri())
        self._browser.until("typeof Plotly === 'object'")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._browser.__exit__(kind, error, trace)
        self._folder.cleanup()

    def draw(self, figure: dict, file: Path) -> None:
        """Draw a figure, given as its JSON, into a PNG file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self._image(figure, "png")))

    def svg(self, figure: dict) -> str:
        """The figure, given as its JSON, as the text of an SVG file."""
        return unquote(self._image(figure, "svg"))

    def _image(self, figure: dict, kind: str) -> str:
        """What stands behind the comma of the picture's data URL."""
        layout = figure["layout"]
        size = {"width": WIDTH, "height": layout.get("height") or HEIGHT}
        asked = json.dumps({"data": figure["data"], "layout": layout})
        options = json.dumps({"format": kind, **size})
        url = self._browser.ask(f"Plotly.toImage({asked}, {options})")
        return url.partition(",")[2]
