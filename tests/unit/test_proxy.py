"""A proxy for the network is none for this machine's own servers."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lib.dashboard.browser import Browser
from lib.dashboard.serve import Dashboard
from lib.settings import ROOT, Settings
from lib.setup.machine import find_browser
from lib.system.loopback import open_url

PROXIES = [f"{name}_proxy" for name in ("http", "https", "all")] + [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
]
NOBODY = "http://127.0.0.1:9"  # the discard service, which nobody runs


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a server on loopback, in an environment with a proxy."""
    for name in PROXIES:
        monkeypatch.setenv(name, NOBODY)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_local_server_is_asked_directly(server: int):
    with open_url(f"http://127.0.0.1:{server}/", timeout=30) as answer:
        assert answer.read() == b"ok"


def test_the_dashboard_is_found_although_there_is_a_proxy(server: int, tmp_path: Path):
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path)})

    assert Dashboard(settings, server)._answers()


def test_nothing_else_opens_addresses():
    """`urllib.request` goes through a proxy, so only lib/system/loopback.py may use
    it."""
    users = set()
    for file in (ROOT / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in getattr(node, "names", ()) if hasattr(a, "name")]
            module = getattr(node, "module", None) or ""
            modules = names if isinstance(node, ast.Import) else [module]
            if any(
                m.startswith(("urllib.request", "requests", "http.client"))
                for m in modules
            ):
                users.add(file.name)
    assert users == {"loopback.py", "network.py"}  # the second asks for the proxies


@pytest.mark.usefixtures("server")
def test_a_browser_is_asked_directly():
    if find_browser() is None:
        pytest.skip("no Chromium or Chrome on this machine")
    with Browser() as browser:
        assert browser.ask("1 + 1") == 2
