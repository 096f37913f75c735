"""The page answers to its own names only.

Whoever can make a browser look a name of theirs up as 127.0.0.1 (DNS rebinding) could
otherwise have a page of theirs read this one. Streamlit 1.67 can check the host of a
websocket (``server.allowedHosts``), but not that of a request, and not the port; and
for an origin that it does not know it asks a host on the internet for its own address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

NAMES = ("127.0.0.1", "localhost", "[::1]")
_HTTP_PORT = 80
"""Left out of a URL, and so of the headers."""

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable, Callable], Awaitable[None]]


class OwnNames:
    """ASGI middleware: 403 unless ``Host`` is a name of this server with its port, and
    ``Origin``, where there is one, a page under such a name.

    Browsers send ``Origin`` with every websocket, and cannot be made to leave it out.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Callable, send: Callable):
        """One connection; see https://asgi.readthedocs.io."""
        if scope["type"] == "lifespan" or allowed(scope["headers"], scope["server"][1]):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it is accepted: a 403
        else:
            await _refuse(send, scope["server"][1])


def allowed(headers: list[tuple[bytes, bytes]], port: int) -> bool:
    """Whether a request with these headers is meant for the server at this port."""
    own = {f"{name}:{port}" for name in NAMES}
    if port == _HTTP_PORT:
        own |= set(NAMES)
    hosts, origins = (_values(headers, name) for name in (b"host", b"origin"))
    pages = {f"http://{name}" for name in own}
    return len(hosts) == 1 and set(hosts) <= own and set(origins) <= pages


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1").lower() for key, value in headers if key == name]


async def _refuse(send: Callable, port: int) -> None:
    text = f"This page answers to http://{NAMES[0]}:{port} only: open it there.\n"
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": 403, "headers": [kind]})
    await send({"type": "http.response.body", "body": text.encode()})
