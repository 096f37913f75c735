"""HTTP to a server on this machine: no proxy takes part in it."""

from __future__ import annotations

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
