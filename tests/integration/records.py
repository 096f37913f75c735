"""Records as they arrive, each with the place where it must end up."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import NamedTuple

ARRIVED = datetime(2025, 1, 15, 12, 0, 0, tzinfo=UTC)
ARRIVED_MS = int(ARRIVED.timestamp()) * 1000
"""Kafka's timestamp of every record: what is in the future depends on it alone."""

TRANSACTION, DUPLICATE = "transaction", "duplicate"

GOOD = {
    "event_id": "e-1",
    "account_id": "ACCT_1",
    "ts": "2025-01-15T11:59:58.250Z",
    "merchant": "Starbucks",
    "country": "US",
    "amount": 42.1,
    "currency": "USD",
}


class Case(NamedTuple):
    """One record. ``place`` is TRANSACTION, DUPLICATE or a quarantine reason."""

    name: str
    key: bytes | None
    value: bytes | None
    place: str


def line(**changes: object) -> bytes:
    """The good event with other values; ``None`` is null."""
    return json.dumps(GOOD | changes, ensure_ascii=False).encode()


def written(field: str, text: str, **changes: object) -> bytes:
    """The good event with one value written by hand, as no encoder would."""
    rest = {k: v for k, v in (GOOD | changes).items() if k != field}
    return f'{json.dumps(rest)[:-1]},"{field}":{text}}}'.encode()


def _keyed(name: str, value: bytes, place: str) -> Case:
    return Case(name, json.loads(value)["account_id"].encode(), value, place)


def _good(name: str, account: int, **changes: object) -> Case:
    value = line(account_id=f"ACCT_{account}", **changes)
    return _keyed(name, value, TRANSACTION)


def _bad(name: str, reason: str, **changes: object) -> Case:
    return Case(name, b"ACCT_1", line(**changes), reason)


def _shuffled(account: int) -> bytes:
    event = dict(reversed((GOOD | {"account_id": f"ACCT_{account}"}).items()))
    return json.dumps(event | {"channel": "web"}, indent=2).encode()


_DEEP = b"[" * 10_000 + b"]" * 10_000
_BIG = "x" * 2_000_000

FIRST = [
    _good("plain", 1),
    _good("the same id on another account", 2),
    _good("repeated later", 3),
    _good("conflicting later", 4),
    _good("Unicode", 5, merchant="Café 漢字 🦊 ½"),
    Case(
        "an escaped NUL in a string",
        b"ACCT_6",
        written("merchant", '"A\\u0000B"', account_id="ACCT_6"),
        TRANSACTION,
    ),
    _good("a 2 MB record", 7, note=_BIG),
    _good("five minutes ahead", 8, ts="2025-01-15T12:05:00Z"),
    _good("the largest amount", 9, amount=1_000_000_000),
    Case(
        "an amount with an exponent",
        b"ACCT_10",
        written("amount", "1.5E+1", account_id="ACCT_10"),
        TRANSACTION,
    ),
    _good("a currency that is withdrawn", 12, currency="HRK"),
    _keyed("duplicate at once", line(account_id="ACCT_3"), DUPLICATE),
    _keyed(
        "conflict at once",
        line(account_id="ACCT_4", amount=42.11),
        "conflicting_event_id",
    ),
    Case("no value at all", b"ACCT_1", None, "malformed_json"),
    Case("an empty value", None, b"", "malformed_json"),
    Case("no JSON, odd key", b"\x00\xff key", b"not json\r", "malformed_json"),
    Case("not UTF-8", None, line().replace(b"Starbucks", b"\xff"), "malformed_json"),
    Case("a NUL in the JSON", b"\x00", b"\x00" + line(), "malformed_json"),
    Case("two objects", None, line() + line(), "malformed_json"),
    Case("an array", None, b"[" + line() + b"]", "malformed_json"),
    Case(
        "nested 10,000 deep",
        b"ACCT_1",
        line()[:-1] + b',"x":' + _DEEP + b"}",
        "malformed_json",
    ),
    _bad("null field", "missing_field", merchant=None),
    Case("absent field", None, b'{"event_id": "e-1"}', "missing_field"),
    _bad("a bool is no number", "bad_type", amount=True),
    _bad("an amount in quotes", "bad_type", amount="42.1"),
    _bad("an event_id of 65", "bad_type", event_id="e" * 65),
    _bad("an account without digits", "bad_account", account_id="ACCT_"),
    _bad("no offset", "bad_timestamp", ts="2025-01-15T11:59:58"),
    _bad("the 30th of February", "bad_timestamp", ts="2025-02-30T11:59:58Z"),
    _bad("the year 1", "bad_timestamp", ts="0001-01-01T00:00:00Z"),
    _bad("from 2099", "future_timestamp", ts="2099-01-01T00:00:00Z"),
    _bad("5 min 1 ms ahead", "future_timestamp", ts="2025-01-15T12:05:00.001Z"),
    _bad("no country", "bad_country", country="XX"),
    _bad("zero", "bad_amount", amount=0),
    Case("1e308", b"ACCT_1", written("amount", "1e308"), "bad_amount"),
    _bad("three decimals", "bad_amount", amount=1.001),
    _bad("no currency", "bad_currency", currency="XYZ"),
    Case("another account's key", b"ACCT_1", line(account_id="ACCT_13"), "bad_key"),
    Case("an empty key", b"", line(account_id="ACCT_13"), "bad_key"),
    _bad("country before amount", "bad_country", country="us", amount=-1),
]
"""In the lake after the first drain: every rule, one record after the other."""

SECOND = [
    _good("a second event", 1, event_id="e-2", ts="2025-01-15T11:59:59Z"),
    Case("other spacing, order and a field", b"ACCT_3", _shuffled(3), DUPLICATE),
    _keyed(
        "the same instant in another offset",
        line(account_id="ACCT_3", ts="2025-01-15T13:59:58.25+02:00"),
        DUPLICATE,
    ),
    Case(
        "the same amount in other digits",
        b"ACCT_3",
        written("amount", "4210e-2", account_id="ACCT_3"),
        DUPLICATE,
    ),
    _keyed(
        "a field given twice, of which the last one counts",
        b'{"event_id": "other", ' + line(account_id="ACCT_3")[1:],
        DUPLICATE,
    ),
    _keyed(
        "another merchant",
        line(account_id="ACCT_3", merchant="Starbucks 2"),
        "conflicting_event_id",
    ),
    _keyed(
        "a millisecond later",
        line(account_id="ACCT_4", ts="2025-01-15T11:59:58.251Z"),
        "conflicting_event_id",
    ),
    _good("a first event", 11),
    _keyed("and its duplicate", line(account_id="ACCT_11"), DUPLICATE),
    _keyed(
        "and its conflict",
        line(account_id="ACCT_11", country="DE"),
        "conflicting_event_id",
    ),
    _keyed("and another duplicate", line(account_id="ACCT_11"), DUPLICATE),
    Case("garbage again", b"ACCT_1", b"{", "malformed_json"),
]
"""In the lake after the second drain: what has a history, in the lake or here."""

EVERYTHING = [*FIRST, *SECOND]
