"""One definition of a card event: its fields, its rules, its JSON form.

Pure Python, so that the producer, the Spark parser and the tests share it.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from lib.events.iso_codes import countries, currencies

FIELDS = ("event_id", "account_id", "ts", "merchant", "country", "amount", "currency")
REASONS = (
    "malformed_json",
    "missing_field",
    "bad_type",
    "bad_account",
    "bad_timestamp",
    "future_timestamp",
    "bad_country",
    "bad_amount",
    "bad_currency",
    "bad_key",
    "conflicting_event_id",  # needs the account's history: parse never returns it
)
FUTURE_TOLERANCE = timedelta(minutes=5)
MAX_AMOUNT = 1_000_000_000
MAX_EVENT_ID = 64  # characters
MAX_DEPTH = 64  # RFC 8259 §9 allows a limit; the decoder's own varies with Python

_FUTURE_US = FUTURE_TOLERANCE // timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1)  # naive and UTC, like all arithmetic below
_EPOCH_DAY = _EPOCH.toordinal()
_DAY_US = 86_400_000_000
_MAX_US = (date.max.toordinal() + 1 - _EPOCH_DAY) * _DAY_US - 1
_CENT = Decimal("0.01")
# Raises instead of rounding, whatever context the calling thread has set.
_EXACT = Context(prec=28, traps=[Inexact, InvalidOperation])
# JSON can write a lone surrogate, as an escape, but no UTF-8 can hold it.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ACCOUNT = re.compile(r"ACCT_[0-9]+")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]"
    r"([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
# The closing quote is optional: the scan stays linear on an unclosed string.
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_quote = json.JSONEncoder(ensure_ascii=False).encode


class Event(NamedTuple):
    """One valid card payment."""

    event_id: str  # 1-64 characters, unique within its account
    account_id: str  # ACCT_ and digits
    ts_us: int  # event time, microseconds since 1970-01-01T00:00:00Z, never negative
    merchant: str
    country: str  # ISO 3166-1 alpha-2
    amount_cents: int  # hundredths of the currency's unit, 1 to 1e11
    currency: str  # ISO 4217, also one that was withdrawn since 2000


class Rejection(NamedTuple):
    """Why a record is no event."""

    reason: str  # one of REASONS
    detail: str  # one sentence, at most 200 characters, no account id in full


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# Numbers stay as written, as the bytes that no JSON value can otherwise become:
# exact, no limit on digits, and nearly free until the amount is needed.
_scan = json.JSONDecoder(
    parse_float=str.encode, parse_int=str.encode, parse_constant=_refuse_constant
).scan_once


def parse(
    value: bytes | None, kafka_ts_us: int, key: bytes | None = None
) -> Event | Rejection:
    """The event in a Kafka record, or the first rule of REASONS that it breaks.

    `kafka_ts_us` is the record's Kafka timestamp in microseconds since the epoch. A
    record with a `key`, be it an empty one, must have its account_id there: Kafka
    keeps an order within a partition, and the key chooses the partition. Without a key
    the value decides.

    Of a field given twice the last one counts; unknown fields are ignored. Never
    raises.
    """
    record = _read_object(value)
    if type(record) is Rejection:
        return record
    raw = tuple(map(record.get, FIELDS))
    if None in raw:
        absent = [name for name in FIELDS if record.get(name) is None]
        return Rejection("missing_field", f"Absent or null: {', '.join(absent)}.")
    if (type_error := _type_error(raw, value)) is not None:
        return Rejection("bad_type", type_error)
    event_id, account_id, ts, merchant, country, amount, currency = raw
    if _ACCOUNT.fullmatch(account_id) is None:
        return Rejection("bad_account", "account_id is not ACCT_ and digits.")
    if (ts_us := _microseconds(ts)) is None:
        return _reject("bad_timestamp", account_id, "ts is not RFC 3339 since 1970")
    if ts_us > kafka_ts_us + _FUTURE_US:
        return _reject(
            "future_timestamp", account_id, "ts is ahead of its Kafka timestamp"
        )
    if country not in countries():
        return _reject("bad_country", account_id, "country is not in ISO 3166-1")
    if (cents := _cents(amount)) is None:
        return _reject("bad_amount", account_id, "amount is not 0.01 to 1e9 in cents")
    if currency not in currencies():
        return _reject("bad_currency", account_id, "currency is not in ISO 4217")
    if key is not None and key != account_id.encode():
        return _reject("bad_key", account_id, "the record's key is not its account_id")
    return Event(event_id, account_id, ts_us, merchant, country, cents, currency)


def account_key(value: bytes | None) -> bytes | None:
    """The Kafka key of a raw line: its account_id as UTF-8, whatever else is wrong.

    None unless the line is one JSON object and that a non-empty, valid string.
    """
    record = _read_object(value)
    account_id = None if type(record) is Rejection else record.get("account_id")
    if type(account_id) is not str or _SURROGATE.search(account_id):
        return None
    return account_id.encode() or None


def mask_account(account_id: str) -> str:
    """The account as people may see it: ACCT_0000084 becomes ACCT_••84.

    Of fewer than four digits none is shown: two would be the account, or most of it.
    """
    digits = account_id.removeprefix("ACCT_")
    return f"ACCT_••{digits[-2:] if len(digits) >= 4 else ''}"


def mask_accounts(text: str) -> str:
    """A text that may quote records, with every account in it masked."""
    return _ACCOUNT.sub(lambda found: mask_account(found[0]), text)


def to_json(event: Event) -> str:
    """The event as one line of compact JSON, fields in the order of FIELDS.

    ts ends in Z and has milliseconds, or microseconds where it needs them.
    """
    digits = "microseconds" if event.ts_us % 1000 else "milliseconds"
    moment = _EPOCH + timedelta(microseconds=event.ts_us)
    ts = moment.isoformat(timespec=digits)
    units, cents = divmod(event.amount_cents, 100)
    return (
        f'{{"event_id":{_quote(event.event_id)},'
        f'"account_id":{_quote(event.account_id)},"ts":"{ts}Z",'
        f'"merchant":{_quote(event.merchant)},"country":{_quote(event.country)},'
        f'"amount":{units}.{cents:02d},"currency":{_quote(event.currency)}}}'
    )


def _reject(reason: str, account_id: str, what: str) -> Rejection:
    return Rejection(reason, f"{what} ({mask_account(account_id)}).")


def _read_object(value: bytes | None) -> dict | Rejection:
    """The one JSON object (RFC 8259) in value; numbers stay as written."""
    if not value:
        return Rejection("malformed_json", "The value is empty.")
    if value.count(b"[") + value.count(b"{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return Rejection("malformed_json", f"Nested deeper than {MAX_DEPTH} levels.")
    try:
        text = value.decode().strip(" \t\n\r")
        record, end = _scan(text, 0)
    except UnicodeDecodeError:
        return Rejection("malformed_json", "The value is not UTF-8.")
    except (ValueError, StopIteration, RecursionError):
        return Rejection("malformed_json", "The value is not JSON.")
    if type(record) is not dict or end != len(text):
        return Rejection("malformed_json", "The value is not one JSON object.")
    return record


def _depth(value: bytes) -> int:
    """How deep brackets nest outside strings."""
    brackets = _JSON_STRING.sub(b"", value).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _type_error(raw: tuple, value: bytes) -> str | None:
    """The sentence about the field that has the wrong type, or None."""
    for name, field in zip(FIELDS, raw, strict=True):
        if type(field) is not (bytes if name == "amount" else str):
            return f"{name} has the wrong JSON type."
    if b"\\u" in value and _SURROGATE.search("".join(raw[:5] + raw[6:])):
        return "A string is not valid Unicode."
    if not 0 < len(raw[0]) <= MAX_EVENT_ID:
        return f"event_id does not have 1 to {MAX_EVENT_ID} characters."
    return None


def _microseconds(text: str) -> int | None:
    """RFC 3339 to microseconds since the epoch; None if it is none, or before it.

    Digits beyond are cut. A lower-case t or z is as good as T or Z (section 5.6: the
    grammar's letters have no case). Second 60 is refused: Unix time has none.
    """
    if (match := _TIMESTAMP.fullmatch(text)) is None:
        return None
    day, hour, minute, second, fraction, sign, ahead_hour, ahead_minute = match.groups()
    if (midnight := _midnight_us(day)) is None:
        return None
    minutes = int(hour) * 60 + int(minute)
    if sign is not None:
        ahead = int(ahead_hour) * 60 + int(ahead_minute)
        minutes -= ahead if sign == "+" else -ahead
    ts_us = midnight + (minutes * 60 + int(second)) * 1_000_000
    if fraction is not None:
        ts_us += int(fraction[:6].ljust(6, "0"))
    return ts_us if 0 <= ts_us <= _MAX_US else None


@lru_cache(maxsize=4096)
def _midnight_us(day: str) -> int | None:
    """Start of an ISO date in UTC, microseconds since the epoch; None if unreal."""
    try:
        return (date.fromisoformat(day).toordinal() - _EPOCH_DAY) * _DAY_US
    except ValueError:
        return None


def _cents(amount: bytes) -> int | None:
    """A JSON number to hundredths, exactly; None if out of range or finer."""
    units, _, cents = amount.partition(b".")
    if len(cents) == 2 and len(units) < 10 and (digits := units + cents).isdigit():
        return (
            int(digits) or None
        )  # the form that to_json writes, and four times faster
    try:
        exact = _EXACT.create_decimal(amount.decode())
        if not 0 < exact <= MAX_AMOUNT:
            return None
        return int(_EXACT.quantize(exact, _CENT).scaleb(2, _EXACT))
    except ArithmeticError:
        return None
