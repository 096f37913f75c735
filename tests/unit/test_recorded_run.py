"""What a first `make demo` shows before there are packages."""

from __future__ import annotations

import re
import subprocess
import sys
import webbrowser
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import pytest

from lib.settings import ROOT
from lib.setup import recorded_run


def make_recorded_run(stamp: Path, **variables: str) -> str:
    return subprocess.run(
        ["make", "recorded-run", f"STAMP={stamp}", "PYTHON=python3 -S"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(stamp.parent), **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stderr


def test_the_recorded_run_is_named_before_set_up_and_not_after_it(tmp_path: Path):
    """Without packages (-S), and without a screen."""
    stamp = tmp_path / "ready"

    said = make_recorded_run(stamp)
    stamp.touch()

    (url,) = re.findall(r"file://\S+", said)
    page = Path(url2pathname(urlparse(url).path)).read_text()
    assert "<html" in page[:500]
    assert make_recorded_run(stamp) == ""


def test_demo_shows_it_before_it_sets_up():
    (line,) = [
        line
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("demo:")
    ]
    assert line.partition("##")[0].split() == ["demo:", "recorded-run", "setup"]


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac always has a screen")
@pytest.mark.parametrize("screen", [None, "DISPLAY", "WAYLAND_DISPLAY"])
def test_it_opens_where_there_is_a_screen(
    screen: str | None, monkeypatch: pytest.MonkeyPatch
):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv(screen, ":0")

    recorded_run.main()

    assert opened == ([recorded_run.PAGE.as_uri()] if screen else [])
