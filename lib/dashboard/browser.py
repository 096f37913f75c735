"""A browser that is on this machine, driven over its DevTools protocol.

Enough of it to open a page, ask it something in JavaScript and take its picture; see
https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import websocket

from lib.errors import FraudError
from lib.setup.machine import find_browser
from lib.system.loopback import open_url

START_SECONDS = 60
STOP_SECONDS = 10
POLL_SECONDS = 0.05


class Browser:
    """A headless browser with one page.

    Attributes:
        complaints: errors and warnings that the page put on its console, exceptions
            that it did not catch, and what it could not load.
    """

    def __init__(self, width: int = 1400, height: int = 1000) -> None:
        self._size = width, height
        self._number = 0
        self.complaints: list[str] = []

    def __enter__(self) -> Browser:
        program = find_browser()
        if program is None:
            raise FraudError("no Chromium or Chrome on this machine: install one")
        self._profile = tempfile.TemporaryDirectory(prefix="browser-")
        self._process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",  # pages of our own on loopback, and CI runs as root
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--hide-scrollbars",
                f"--user-data-dir={self._profile.name}",
                f"--window-size={self._size[0]},{self._size[1]}",
                "--remote-debugging-port=0",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            address = self._page_address()
            # A socket of our own: websocket would go by a proxy that http_proxy names.
            place = urlsplit(address)
            self._socket = websocket.create_connection(
                address,
                socket=socket.create_connection((place.hostname, place.port)),
                suppress_origin=True,
                timeout=START_SECONDS,
            )
            for domain in ("Page", "Runtime", "Log"):
                self.command(f"{domain}.enable")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()
        self._end()

    def open(self, url: str) -> None:
        """Go to the page; returns when the browser has its document."""
        self.command("Page.navigate", url=url)
        self.until("document.readyState === 'complete'", START_SECONDS)

    def ask(self, script: str):
        """The value of a JavaScript expression; a promise is waited for.

        Raises:
            FraudError: the expression throws.
        """
        answer = self.command(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if problem := answer.get("exceptionDetails"):
            raise FraudError(f"{script[:80]}: {problem}")
        return answer["result"].get("value")

    def until(self, script: str, timeout: float = 30):
        """The first true value of a JavaScript expression.

        Raises:
            TimeoutError: none came.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                if value := self.ask(script):
                    return value
                shown = "it never was true"
            except FraudError as error:  # the page is on its way to another one
                shown = str(error)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout:g} s: {script}; {shown}")
            time.sleep(POLL_SECONDS)

    def text(self) -> str:
        """What the page shows as text."""
        return self.ask("document.body ? document.body.innerText : ''")

    def picture(self, file: Path) -> Path:
        """A PNG of what the window shows."""
        answer = self.command("Page.captureScreenshot", format="png")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file

    def command(self, method: str, **parameters: object) -> dict:
        """One command of the protocol and its answer.

        Raises:
            FraudError: the browser refuses it.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            got = json.loads(self._socket.recv())
            if got.get("id") == self._number:
                if "error" in got:
                    raise FraudError(f"{method}: {got['error']['message']}")
                return got["result"]
            self._listen(got)

    def _listen(self, event: dict) -> None:
        given = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(given["exceptionDetails"])[:500])
        elif event["method"] == "Runtime.consoleAPICalled":
            if given["type"] in ("error", "assert"):
                said = [
                    str(a.get("value", a.get("description"))) for a in given["args"]
                ]
                self.complaints.append(" ".join(said)[:500])
        elif event["method"] == "Log.entryAdded":
            entry = given["entry"]
            if entry["level"] == "error":
                self.complaints.append(f"{entry['text']} {entry.get('url', '')}")

    def _page_address(self) -> str:
        """The address of the first page's socket, once the browser tells it."""
        told = Path(self._profile.name) / "DevToolsActivePort"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if told.exists() and (lines := told.read_text().split()):
                address = f"http://127.0.0.1:{lines[0]}/json/list"
                with open_url(address, START_SECONDS) as answer:
                    pages = [p for p in json.load(answer) if p["type"] == "page"]
                if pages:
                    return pages[0]["webSocketDebuggerUrl"]
            time.sleep(POLL_SECONDS)
        raise FraudError(f"{self._process.args[0]} does not start")

    def _end(self) -> None:
        """End the browser with all its processes, then remove its profile.

        The first process may end before the one for the network, which still writes
        cookies and caches into the profile while that is being removed.
        """
        try:
            family = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _gone, alive = psutil.wait_procs(family, STOP_SECONDS)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, STOP_SECONDS)
        self._profile.cleanup()
