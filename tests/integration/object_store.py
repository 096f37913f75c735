"""An S3-compatible server on loopback where things happen in mid-request."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
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
        kills: what its traps have killed for, in order.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._before: dict[re.Pattern[str], Callable[[], None]] = {}
        self._after: dict[re.Pattern[str], Callable[[], None]] = {}
        self._lock = threading.Lock()
        self.kills: list[str] = []
        self._server = make_server(
            "127.0.0.1", 0, self, threaded=True, request_handler=_Handler
        )
        self.url = f"http://127.0.0.1:{self._server.port}"

    def kill_at(self, pattern: str, pid: int) -> None:
        """Kill the process when it has written an object whose path matches, and
        before it is told.

        Args:
            pattern: of the whole path, bucket first.
            pid: the process, leader of its group.
        """

        def kill() -> None:
            self.kills.append(pattern)
            os.killpg(pid, signal.SIGKILL)

        self._after[re.compile(pattern)] = kill

    def overtake(self, pattern: str, action: Callable[[], None]) -> None:
        """Let something else happen while an object whose path matches is on its way:
        it is stored after that."""
        self._before[re.compile(pattern)] = action

    def _caught(self, traps: dict, environ) -> Callable[[], None]:
        """What the request sets off; each trap catches once."""
        with self._lock:
            for pattern in traps:
                put = environ["REQUEST_METHOD"] == "PUT"
                if put and pattern.search(environ["PATH_INFO"]):
                    return traps.pop(pattern)
        return lambda: None

    def __call__(self, environ, start_response):
        self._caught(self._before, environ)()
        answer = self._app(environ, start_response)
        self._caught(self._after, environ)()
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
