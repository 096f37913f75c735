"""An S3-compatible server on loopback that kills a process in mid-request."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    create_backend_app,
)
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "fraud"


class _Handler(WSGIRequestHandler):
    """Says "100 Continue" once: its two base classes both would, and Java's client
    takes the second for the answer."""

    def handle_expect_100(self) -> bool:
        return True

    def log_request(self, *_words: object) -> None:
        """A line a request is of no use here."""


class ObjectStore:
    """The server; ``url`` is where it listens.

    Attributes:
        kills: what its traps have caught, in order.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._trap: tuple[re.Pattern[str], bool, int] | None = None
        self._lock = threading.Lock()
        self.kills: list[str] = []
        self._server = make_server(
            "127.0.0.1", 0, self, threaded=True, request_handler=_Handler
        )
        self.url = f"http://127.0.0.1:{self._server.port}"

    def kill_at(self, pattern: str, pid: int, *, stored: bool) -> None:
        """Kill the process when it writes an object whose path matches.

        Args:
            pattern: of the whole path, bucket first.
            pid: the process.
            stored: after the object is stored, and before anybody is told; else
                before it is stored.
        """
        self._trap = (re.compile(pattern), stored, pid)

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        with self._lock:
            trap = self._trap
            caught = (
                trap and environ["REQUEST_METHOD"] == "PUT" and trap[0].search(path)
            )
            if caught:
                self._trap = None
                self.kills.append(path)
        if caught and not trap[1]:
            os.killpg(trap[2], signal.SIGKILL)
            start_response("503 Service Unavailable", [])
            return [b""]
        answer = self._app(environ, start_response)
        if caught:
            os.killpg(trap[2], signal.SIGKILL)
        return answer


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """The server for as long as the block runs, with one empty bucket."""
    store = ObjectStore()
    thread = threading.Thread(target=store._server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store._server.shutdown()
        thread.join()
