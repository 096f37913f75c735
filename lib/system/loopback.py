"""Servers on this machine: HTTP to one without a proxy, and free ports for one."""

from __future__ import annotations

import socket
import urllib.request
from contextlib import ExitStack

NAMES = ("127.0.0.1", "localhost", "::1")
"""What this machine calls itself."""

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def open_url(url: str, timeout: float):
    """The answer of a server on this machine, as ``urllib.request.urlopen``.

    Python's own sends a request for 127.0.0.1 to ``http_proxy``, unless ``no_proxy``
    names it.

    Args:
        url: of a loopback address.
        timeout: seconds.

    Raises:
        OSError: no answer, or one that says that something is wrong.
    """
    return _direct.open(url, timeout=timeout)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    try:
        # As the server does it, with SO_REUSEADDR: what lingers from an earlier run is
        # no obstacle.
        socket.create_server((NAMES[0], port)).close()
    except OSError:
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports that the operating system says are free, and gives to nobody else for a
    minute.

    A port that was merely closed may be another process's by the time a server takes
    it. One on which a connection has just been closed waits for that connection's last
    packets (TIME_WAIT, RFC 9293, section 3.6.1): a server may bind it by its number,
    with SO_REUSEADDR as all do, but who asks for any port is given a different one.
    """
    with ExitStack() as opened:  # all at once, so that they differ
        servers = [
            opened.enter_context(socket.create_server((NAMES[0], 0)))
            for _ in range(count)
        ]
        for server in servers:
            client = socket.create_connection(server.getsockname())
            server.accept()[0].close()  # first, or it is the client's port that waits
            client.close()
        return [server.getsockname()[1] for server in servers]
