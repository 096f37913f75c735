"""Ports for a server that binds them by their number, some time later."""

from __future__ import annotations

import socket
import sys

import pytest

from lib.system.loopback import free_ports

PORTS, ASKED = 64, 20_000


def any_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_they_differ_and_a_server_can_have_them():
    ports = free_ports(6)

    assert len(set(ports)) == 6
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.skipif(sys.platform != "linux", reason="known of Linux only")
def test_nobody_else_is_given_one():
    ports = set(free_ports(PORTS))

    others = {any_port() for _ in range(ASKED)}

    assert len(others) > ASKED / 10, "the system hands out many, not always the same"
    assert not ports & others
