"""Passes connections from a port of this container on to one of its loopback.

python relay.py PORT LOOPBACK_PORT
"""

from __future__ import annotations

import asyncio
import sys

CHUNK = 65536


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything from one to the other, until the one has said all."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass  # one side went away: close the other
    finally:
        writer.close()


async def serve(address: str, port: int, target: int) -> None:
    """Relay until cancelled."""

    async def relay(reader, writer) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    server = await asyncio.start_server(relay, address, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve("0.0.0.0", int(sys.argv[1]), int(sys.argv[2])))
