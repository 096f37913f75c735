"""Servers on this machine: HTTP to one without a proxy, and whether a port is free."""

from __future__ import annotations

import socket
import urllib.request

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
    with socket.socket() as probe:
        # As the server does it: what lingers from an earlier run is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((NAMES[0], port))
        except OSError:
            return False
    return True
