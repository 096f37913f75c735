"""The relay of the containers: every byte, both ways, many at once."""

from __future__ import annotations

import asyncio
import importlib.util

from lib.settings import ROOT

_SPEC = importlib.util.spec_from_file_location("relay", ROOT / "docker" / "relay.py")
relay = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(relay)

MANY = bytes(range(256)) * 2000


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readexactly(len(MANY)))
    await writer.drain()
    writer.close()


async def _ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(MANY)
    answer = await reader.read(-1)
    writer.close()
    return answer


def _port(server: asyncio.Server) -> int:
    return server.sockets[0].getsockname()[1]


async def _free_port() -> int:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = _port(server)
    server.close()
    await server.wait_closed()
    return port


async def _connected(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.01)
        else:
            writer.close()
            return


async def _through(target_listens: bool) -> list[bytes]:
    port = await _free_port()
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    target = _port(server)
    if not target_listens:
        server.close()
    serving = asyncio.create_task(relay.serve("127.0.0.1", port, target))
    await asyncio.wait_for(_connected(port), 30)
    answers = await asyncio.wait_for(asyncio.gather(*[_ask(port)] * 1), 30)
    if target_listens:
        answers += await asyncio.gather(*(_ask(port) for _ in range(10)))
    serving.cancel()
    server.close()
    return answers


def test_every_byte_comes_back():
    assert asyncio.run(_through(target_listens=True)) == [MANY] * 11


def test_a_target_that_is_not_there_ends_the_connection():
    try:
        answers = asyncio.run(_through(target_listens=False))
    except ConnectionError:
        return  # the reset of a connection that had sent something
    assert answers == [b""]
