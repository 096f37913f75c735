"""The embedded broker: it never outlives its users, and never meets another."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from jupyter_client import KernelManager

from lib.errors import FraudError
from lib.faults.laboratory import standing_still
from lib.kafka.broker import Broker
from lib.kafka.clients import ensure_topic
from lib.kafka.producer import replay
from lib.settings import Settings
from tests.integration.helpers import (
    PATIENCE_SECONDS,
    PYTHON,
    consume,
    environment,
    eventually,
    living,
    nothing_left_of,
    processes_of,
    send,
)

MAX_RSS = 512 * 2**20

USER = """
import json, sys
from lib.kafka.broker import Broker
from lib.settings import Settings

broker = Broker(Settings.from_env()).start()
said = {"bootstrap": broker.bootstrap, "pid": broker.pid, "owned": broker.owned}
print(json.dumps(said), flush=True)
if sys.stdin.readline() == "raise\\n":
    raise RuntimeError("on purpose")
"""


class User:
    """Another process that uses a home's broker: waits for a word, and ends."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-c", USER],
            env=environment(home),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        said = self.process.stdout.readline()
        assert said, self.process.communicate()
        self.said = json.loads(said)

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE_SECONDS)


def kill_9(user: User) -> None:
    user.process.kill()


def an_exception(user: User) -> None:
    user.process.stdin.write("raise\n")
    user.process.stdin.flush()


def ctrl_c(user: User) -> None:
    # As a terminal does: to every process of the foreground group.
    os.killpg(user.process.pid, signal.SIGINT)


@pytest.fixture(scope="module")
def owners_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all owners, one after the other: it is formatted only once."""
    return tmp_path_factory.mktemp("owners-home")


@pytest.mark.parametrize("ending", [kill_9, an_exception, ctrl_c])
def test_broker_ends_with_its_owner(owners_home: Path, ending):
    owner = User(owners_home)
    kafka = psutil.Process(owner.said["pid"])
    guard = kafka.parent()
    assert str(owners_home) in " ".join(kafka.cmdline())
    assert "supervisor.py" in " ".join(guard.cmdline())

    ending(owner)
    owner.end()

    pids = [kafka.pid, guard.pid]
    eventually(lambda: not living(pids), "broker and guard ended", lambda: living(pids))
    nothing_left_of(owners_home)
    assert owner.process.returncode != 0


def test_broker_ends_with_the_kernel_of_a_notebook(owners_home: Path):
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment(owners_home), cwd="/")
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE_SECONDS)
        said = []
        reply = client.execute_interactive(
            "from lib.notebook import open_run\n"
            "run = open_run('test')\nrun._broker.pid",
            timeout=PATIENCE_SECONDS,
            output_hook=said.append,
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        (result,) = [m for m in said if m["msg_type"] == "execute_result"]
        kafka = int(result["content"]["data"]["text/plain"])
        assert living([kafka])
    finally:
        client.stop_channels()
        manager.shutdown_kernel()

    eventually(lambda: not living([kafka]), "the broker ended", lambda: kafka)
    nothing_left_of(owners_home)


def test_broker_lives_as_long_as_its_last_user(owners_home: Path):
    settings = Settings.from_env({"FRAUD_HOME": str(owners_home)})
    first = Broker(settings).start()
    try:
        second = User(owners_home)
        assert second.said == {
            "bootstrap": first.bootstrap,
            "pid": first.pid,
            "owned": False,
        }
        first.close()
        assert living([first.pid])
        ensure_topic(settings, first.bootstrap)  # it not only lives, it answers
    finally:
        first.close()
    second.process.kill()
    second.end()

    eventually(lambda: not living([first.pid]), "the broker ended with its last user")
    nothing_left_of(owners_home)


def test_two_homes_never_meet(
    base_settings: Settings, bootstrap: str, mortal_broker: Broker
):
    one, other = base_settings, mortal_broker.settings
    # The same topic on purpose: only the homes tell them apart.
    for settings, servers in ((one, bootstrap), (other, mortal_broker.bootstrap)):
        ensure_topic(settings, servers)
        send(settings, servers, [(None, str(settings.home).encode())])

    def ports(settings: Settings) -> set[int]:
        return set(json.loads((settings.home / "broker" / "ports.json").read_text()))

    def values(settings: Settings, servers: str) -> set[bytes]:
        return {r.value for rs in consume(settings, servers).values() for r in rs}

    assert not ports(one) & ports(other)
    assert values(one, bootstrap) == {str(one.home).encode()}
    assert str(one.home).encode() not in values(other, mortal_broker.bootstrap)


def test_listens_on_loopback_only(base_settings: Settings, bootstrap: str):
    port = int(bootstrap.rpartition(":")[2])
    listening = [
        connection.laddr
        for process in processes_of(base_settings.home / "broker")
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]

    def is_loopback(text: str) -> bool:
        address = ipaddress.ip_address(text)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback

    assert port in {address.port for address in listening}
    assert [a for a in listening if not is_loopback(a.ip)] == []


def test_needs_no_more_than_512_mb(
    settings: Settings, mortal_broker: Broker, tmp_path: Path
):
    file = tmp_path / "traffic"
    file.write_bytes((b"x" * 500 + b"\n") * 20_000)
    assert replay(settings, mortal_broker.bootstrap, file).acked == 20_000

    assert psutil.Process(mortal_broker.pid).memory_info().rss <= MAX_RSS


def test_an_id_that_looks_like_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One random cluster id in 64 begins with a hyphen."""
    chosen = uuid.UUID(bytes=b"\xf8" + bytes(15))
    monkeypatch.setattr("lib.kafka.broker.uuid.uuid4", lambda: chosen)
    broker = Broker(Settings.from_env({"FRAUD_HOME": str(tmp_path)}))
    (tmp_path / "broker").mkdir()

    broker._prepare(1, 2)

    assert (tmp_path / "broker" / "data" / "meta.properties").exists()


def test_an_empty_meta_properties_is_put_back(
    mortal_broker: Broker, settings: Settings
):
    """The file without which Kafka can't open its log; the error names a copy."""
    ensure_topic(settings, mortal_broker.bootstrap)
    send(settings, mortal_broker.bootstrap, [(b"k", b"v")])
    mortal_broker.kill()
    folder = mortal_broker.settings.home / "broker"
    damaged, kept = folder / "data" / "meta.properties", folder / "meta.properties"
    damaged.write_bytes(b"")

    with pytest.raises(FraudError) as caught:
        mortal_broker.start()

    assert f"copy {kept} to it" in str(caught.value)
    shutil.copy(kept, damaged)
    mortal_broker.close()
    mortal_broker.start()
    held = consume(settings, mortal_broker.bootstrap).values()
    assert [r.value for records in held for r in records] == [b"v"]


def test_a_taken_port_makes_it_choose_another(
    mortal_broker: Broker, settings: Settings
):
    """After a crash, too; and every acknowledged record is there. (That it comes back
    on the same port if that is free: see the bounce in test_producer.)"""
    old, pid = mortal_broker.bootstrap, mortal_broker.pid
    ensure_topic(settings, old)
    sent = [(str(i % 7).encode(), str(i).encode()) for i in range(500)]
    send(settings, old, sent)
    mortal_broker.kill()
    assert not living([pid])

    with socket.create_server(("127.0.0.1", int(old.rpartition(":")[2]))):
        mortal_broker.start()
        assert mortal_broker.bootstrap != old
        parts = consume(settings, mortal_broker.bootstrap).values()
        held = [(r.key, r.value) for records in parts for r in records]

    assert sorted(held) == sorted(sent)


def test_a_broker_that_stands_still_answers_nobody(mortal_broker: Broker):
    """It has stopped when the block begins, in all its threads, and goes on behind."""

    def states() -> set[str]:
        found = set()
        for stat in Path(f"/proc/{mortal_broker.pid}/task").glob("*/stat"):
            with suppress(OSError):  # this thread has ended meanwhile
                found.add(stat.read_text().rpartition(")")[2].split()[0])
        return found

    for _ in range(20):  # an answer in these milliseconds is a matter of chance
        with standing_still(mortal_broker):
            assert states() == {"T"}
        eventually(lambda: "T" not in states(), "all threads go on", states)
