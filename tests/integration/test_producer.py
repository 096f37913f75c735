"""The producer: every line, as it stands, in its order, once."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from lib.errors import FraudError
from lib.kafka.broker import Broker
from lib.kafka.producer import Sent, replay
from lib.settings import Settings
from tests.integration.helpers import consume, eventually
from tests.integration.records import line

WEIRD = [
    line(),
    b"",
    b"\r",
    b"  " + line(account_id="ACCT_22") + b"\r",
    b"\x00\x01\xfe\xff",
    "Café 漢字 🦊".encode(),
    b"\xc3(",
    b"\xef\xbb\xbf" + line(),
    line(account_id=7),
    line(account_id="somebody else"),
    b'{"account_id": "ACCT_5"}',
    b"[" + line() + b"]",
    line(note="y" * 1_000_000),
    b"no line feed at the end",
]
KEYS = [
    b"ACCT_1",
    None,
    None,
    b"ACCT_22",
    None,
    None,
    None,
    None,
    None,
    b"somebody else",
    b"ACCT_5",
    None,
    b"ACCT_1",
    None,
]


def held(settings: Settings, bootstrap: str) -> list[tuple[bytes | None, bytes]]:
    """(key, value) of every record, partition after partition."""
    parts = consume(settings, bootstrap).values()
    return [(r.key, r.value) for records in parts for r in records]


def numbered(path: Path, count: int, accounts: int = 11) -> list[bytes]:
    """A file of so many events, each with its own number; returns its lines."""
    lines = [
        json.dumps({"event_id": f"e-{i}", "account_id": f"ACCT_{i % accounts}"})
        for i in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return [text.encode() for text in lines]


def in_order_of_each_key(settings: Settings, bootstrap: str) -> dict[bytes, list]:
    """The values of each key as the topic holds them."""
    by_key = defaultdict(list)
    for key, value in held(settings, bootstrap):
        by_key[key].append(value)
    return by_key


def in_order_of_each_account(lines: list[bytes]) -> dict[bytes, list]:
    """The lines of each account as the file holds them."""
    by_account = defaultdict(list)
    for text in lines:
        by_account[json.loads(text)["account_id"].encode()].append(text)
    return by_account


def test_every_line_travels_byte_for_byte_with_its_key(
    settings: Settings, bootstrap: str, tmp_path: Path
):
    file = tmp_path / "weird"
    file.write_bytes(b"\n".join(WEIRD))

    sent = replay(settings, bootstrap, file)

    assert (sent.sent, sent.acked) == (len(WEIRD), len(WEIRD))
    arrived = held(settings, bootstrap)
    assert sorted(arrived, key=repr) == sorted(zip(KEYS, WEIRD, strict=True), key=repr)


@pytest.mark.parametrize(
    ("content", "values"),
    [(b"", []), (b"\n", [b""]), (b"\n\nx", [b"", b"", b"x"]), (b"x\n\n", [b"x", b""])],
)
def test_a_line_feed_ends_a_line(
    settings: Settings, bootstrap: str, tmp_path: Path, content, values
):
    file = tmp_path / "lines"
    file.write_bytes(content)

    assert replay(settings, bootstrap, file).acked == len(values)

    assert sorted(held(settings, bootstrap)) == sorted((None, v) for v in values)


def test_the_lines_before_one_that_is_too_long_are_sent(
    settings: Settings, bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lib.kafka.producer.MAX_RECORD_BYTES", 8192)
    file = tmp_path / "file"
    lines = numbered(file, 3_000)
    with file.open("ab") as more:
        more.write(b"x" * 5_000 + b"\n" + lines[0])

    with pytest.raises(
        FraudError, match=r"line 3001 .* 3000 lines before it were sent"
    ):
        replay(settings, bootstrap, file)

    assert sorted(v for _, v in held(settings, bootstrap)) == sorted(lines)


def test_each_key_keeps_the_order_of_the_file(
    settings: Settings, bootstrap: str, tmp_path: Path
):
    lines = numbered(tmp_path / "file", 5_000)

    replay(settings, bootstrap, tmp_path / "file")

    used = [p for p, records in consume(settings, bootstrap).items() if records]
    assert len(used) > 1
    arrived = in_order_of_each_key(settings, bootstrap)
    assert arrived == in_order_of_each_account(lines)


def test_a_bounce_of_the_broker_loses_and_doubles_nothing(
    mortal_broker: Broker, settings: Settings, tmp_path: Path
):
    lines = numbered(tmp_path / "file", 1_500)
    bootstrap, pid = mortal_broker.bootstrap, mortal_broker.pid
    acked, outcome = [0], []

    def send() -> None:
        outcome.append(
            replay(
                settings,
                bootstrap,
                tmp_path / "file",
                rate=500,
                on_acked=acked.append,
            )
        )

    thread = threading.Thread(target=send)
    thread.start()
    eventually(lambda: acked[-1] >= 200, "the replay is under way", lambda: acked[-1])
    mortal_broker.kill()
    at_the_kill = acked[-1]
    mortal_broker.start()
    thread.join()

    assert at_the_kill < len(lines)
    assert (mortal_broker.bootstrap, mortal_broker.pid != pid) == (bootstrap, True)
    (sent,) = outcome
    assert (sent.sent, sent.acked) == (len(lines), len(lines))
    arrived = in_order_of_each_key(settings, bootstrap)
    assert sorted(v for values in arrived.values() for v in values) == sorted(lines)
    assert arrived == in_order_of_each_account(lines)


@pytest.mark.parametrize("rate", [None, 2_000.0])
def test_stopped_midway_it_reports_what_was_acknowledged(
    settings: Settings, bootstrap: str, tmp_path: Path, rate: float | None
):
    lines = numbered(tmp_path / "file", 20_000)
    stop, calls = threading.Event(), []

    def on_acked(acked: int) -> None:
        calls.append(acked)
        if len(calls) == 4:
            stop.set()

    sent: Sent = replay(
        settings, bootstrap, tmp_path / "file", rate=rate, stop=stop, on_acked=on_acked
    )

    assert 0 < sent.sent == sent.acked < len(lines)
    arrived = [value for _, value in held(settings, bootstrap)]
    assert sorted(arrived) == sorted(lines[: sent.sent])
