"""Which requests are meant for the page, and which were led to it."""

from __future__ import annotations

import asyncio

import pytest

from lib.dashboard.allowed_hosts import NAMES, OwnNames, allowed

PORT = 8501


def headers(host: str | None, *origins: str) -> list[tuple[bytes, bytes]]:
    hosts = [] if host is None else [(b"host", host.encode())]
    return hosts + [(b"origin", origin.encode()) for origin in origins]


@pytest.mark.parametrize("name", [*NAMES, "LocalHost"])
def test_its_own_names(name: str):
    assert allowed(headers(f"{name}:{PORT}"), PORT)
    assert allowed(headers(f"{name}:{PORT}", f"http://{name}:{PORT}"), PORT)
    assert allowed(headers("127.0.0.1:8501", f"http://{name}:{PORT}"), PORT)
    assert allowed(headers(name, f"http://{name}"), 80)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8501",
        "localhost",
        "localhost:8502",
        "localhost.evil.example:8501",
        "127.0.0.1.evil.example:8501",
        "user@localhost:8501",
        "localhost:8501:8501",
        "localhost:08501",
        "localhost:8501 evil.example",
        "0.0.0.0:8501",
        "127.0.0.2:8501",
        "::1:8501",
        "löcalhost:8501",
    ],
)
def test_hosts_of_others(host: str | None):
    assert not allowed(headers(host), PORT)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "http://evil.example:8501",
        "http://localhost",
        "http://localhost:8888",
        "https://localhost:8501",
        "http://localhost:8501.evil.example",
        "http://localhost:8501@evil.example",
        "file://",
    ],
)
def test_pages_of_others(origin: str):
    own = "http://localhost:8501"
    assert not allowed(headers("localhost:8501", origin), PORT)
    assert not allowed(headers("localhost:8501", own, origin), PORT)


def test_two_hosts_are_one_too_many():
    both = headers("localhost:8501") + headers("evil.example")
    assert not allowed(both, PORT)


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_what_is_refused_never_reaches_the_page(kind: str):
    reached, sent = [], []

    async def page(scope, _receive, _send) -> None:
        reached.append(scope["headers"])

    async def send(message) -> None:
        sent.append(message)

    async def ask(host: str) -> None:
        scope = {"type": kind, "headers": headers(host), "server": ("::1", PORT)}
        await OwnNames(page)(scope, None, send)

    asyncio.run(ask("localhost:8501"))
    assert (reached, sent) == ([headers("localhost:8501")], [])
    asyncio.run(ask("evil.example"))
    assert len(reached) == 1
    assert sent[0].get("status", 403) == 403
    assert sent[0]["type"] in ("http.response.start", "websocket.close")
