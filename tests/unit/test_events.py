"""The event's rules: one table per rule, and properties over arbitrary input."""

import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction

import pycountry
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.events import card_event
from lib.events.card_event import (
    FIELDS,
    REASONS,
    Event,
    Rejection,
    account_key,
    mask_account,
    mask_accounts,
    parse,
    to_json,
)
from lib.events.iso_codes import countries, currencies

ACCOUNT = "ACCT_0000084"
GOOD = {
    "event_id": "e-000123",
    "account_id": ACCOUNT,
    "ts": "2026-06-01T12:00:00.250Z",
    "merchant": "Starbucks",
    "country": "US",
    "amount": 42.1,
    "currency": "USD",
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
TS_US = (datetime(2026, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC) - EPOCH) // MICROSECOND
NOW_US = TS_US + 1_000_000
GOOD_LINE = json.dumps(GOOD).encode()

quick = settings(deadline=None, max_examples=150)


def line(**changes: object) -> bytes:
    """The good event with other values, as ASCII JSON."""
    return json.dumps(GOOD | changes).encode()


def raw(name: str, text: str) -> bytes:
    """The good event with one value written by hand."""
    rest = json.dumps({key: GOOD[key] for key in FIELDS if key != name})
    return f'{rest[:-1]}, "{name}": {text}}}'.encode()


def reason(value: bytes | None) -> str | None:
    parsed = parse(value, NOW_US)
    return parsed.reason if isinstance(parsed, Rejection) else None


def test_a_good_line_is_an_event():
    expected = Event("e-000123", ACCOUNT, TS_US, "Starbucks", "US", 4210, "USD")
    assert parse(GOOD_LINE, NOW_US) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"   ",
        b"\xff\xfe",
        GOOD_LINE.replace(b"Starbucks", b"\xff"),
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf" + GOOD_LINE,
        GOOD_LINE[:-1],
        GOOD_LINE + b"{}",
        GOOD_LINE + GOOD_LINE,
        b"[" + GOOD_LINE + b"]",
        b"null",
        b'"text"',
        b"17",
        b"{'event_id': 1}",
        raw("amount", "NaN"),
        raw("amount", "Infinity"),
        raw("amount", "-Infinity"),
        GOOD_LINE[:-1] + b', "extra": NaN}',
        raw("amount", "042"),
        raw("amount", "1."),
        raw("amount", "+1"),
        raw("merchant", '"tab\there"'),
        b"[" * 10_000,
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        GOOD_LINE[:-1] + b', "deep": ' + b"[" * 64 + b"]" * 64 + b"}",
    ],
    ids=repr,
)
def test_malformed_json(value):
    assert reason(value) == "malformed_json"
    assert account_key(value) is None


@pytest.mark.parametrize("name", FIELDS)
def test_missing_field(name):
    absent = {key: GOOD[key] for key in FIELDS if key != name}
    for value in (json.dumps(absent).encode(), line(**{name: None})):
        parsed = parse(value, NOW_US)
        assert parsed.reason == "missing_field"
        assert name in parsed.detail


@pytest.mark.parametrize("name", FIELDS)
def test_bad_type_of_every_field(name):
    wrong = [True, False, [], {}, ["x"], "12.5" if name == "amount" else 12.5]
    for value in wrong:
        parsed = parse(line(**{name: value}), NOW_US)
        assert parsed.reason == "bad_type", value
        assert name in parsed.detail


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "amount"])
def test_a_lone_surrogate_is_a_bad_type(name):
    assert reason(line(**{name: "\ud800"})) == "bad_type"
    assert reason(line(**{name: "a\udfff"})) == "bad_type"


def test_neighbouring_fields_cannot_make_a_surrogate_pair():
    assert reason(line(event_id="e\ud83d", account_id="\ude00")) == "bad_type"


def test_a_surrogate_pair_is_one_character():
    assert parse(raw("merchant", '"\\ud83d\\ude00"'), NOW_US).merchant == "😀"


@pytest.mark.parametrize(
    ("event_id", "expected"),
    [("", "bad_type"), ("e", None), ("é" * 64, None), ("e" * 65, "bad_type")],
)
def test_event_id_has_1_to_64_characters(event_id, expected):
    assert reason(line(event_id=event_id)) == expected


@pytest.mark.parametrize(
    "account_id",
    [
        "",
        "ACCT_",
        "84",
        "acct_84",
        "ACCT_84 ",
        "ACCT_84\n",
        " ACCT_84",
        "ACCT_8x",
        "ACCT_-1",
        "ACCT_٣٤",
        "ACCT_²",
    ],
)
def test_bad_account(account_id):
    assert reason(line(account_id=account_id)) == "bad_account"


@pytest.mark.parametrize(
    ("ts", "same_as"),
    [
        ("2026-06-01T12:00:00Z", "2026-06-01T12:00:00+00:00"),
        ("2026-06-01T12:00:00.1Z", "2026-06-01T12:00:00.100+00:00"),
        ("2026-06-01T12:00:00.1234567Z", "2026-06-01T12:00:00.123456+00:00"),
        ("2026-06-01T12:00:00.9999999Z", "2026-06-01T12:00:00.999999+00:00"),
        ("2026-06-01T14:00:00+02:00", "2026-06-01T12:00:00+00:00"),
        ("2026-06-01T12:00:00-00:00", "2026-06-01T12:00:00+00:00"),
        ("2026-06-01t12:00:00z", "2026-06-01T12:00:00+00:00"),
        ("2026-06-01t14:00:00.5+02:00", "2026-06-01T12:00:00.500+00:00"),
        ("2026-06-01T06:30:00-05:30", "2026-06-01T12:00:00+00:00"),
        ("2024-02-29T00:00:00Z", "2024-02-29T00:00:00+00:00"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"),
        ("1970-01-01T01:00:00+01:00", "1970-01-01T00:00:00+00:00"),
        ("1969-12-31T23:30:00-01:00", "1970-01-01T00:30:00+00:00"),
    ],
)
def test_timestamps(ts, same_as):
    expected = (datetime.fromisoformat(same_as) - EPOCH) // MICROSECOND
    assert parse(line(ts=ts), NOW_US).ts_us == expected


@pytest.mark.parametrize(
    "ts",
    [
        "",
        "yesterday",
        "2026-06-01",
        "2026-06-01T12:00:00",
        "2026-06-01 12:00:00Z",
        "2026-06-01T12:00Z",
        "2026-06-01T12:00+00:00",
        "20260601T120000Z",
        "2026-W23-1T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2025-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-06-00T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-06-01T24:00:00Z",
        "2026-06-01T12:60:00Z",
        "2026-06-01T12:00:60Z",
        "2026-06-01T12Z",
        "2026-06-01T12:00:00.Z",
        "2026-06-01T12:00:00,5Z",
        "2026-06-01T12:00.5Z",
        "2026-06-01T12:00:00+24:00",
        "2026-06-01T12:00:00+02:60",
        "2026-06-01T12:00:00+2",
        "2026-06-01T14:00:00+0200",
        "2026-06-01T14:00:00+02",
        "2026-06-01T12:00:00+02:00:00",
        "2026-06-01T12:00:00ZZ",
        "2026-06-01T12:00:00Z\n",
        " 2026-06-01T12:00:00Z",
        "٢٠٢٦-06-01T12:00:00Z",
        "0001-01-01T00:00:00Z",  # the zero of Go and .NET
        "0001-01-01T00:00:00+00:01",
        "1677-09-21T00:12:43Z",  # before the first nanosecond of 64 bits
        "1969-12-31T23:59:59.9999999Z",
        "1970-01-01T00:59:59.999999+01:00",
        "9999-12-31T23:59:59-00:01",
    ],
)
def test_bad_timestamp(ts):
    assert reason(line(ts=ts)) == "bad_timestamp"


def test_the_last_moment_of_year_9999_is_only_in_the_future():
    last = line(ts="9999-12-31T23:59:59.999999Z")
    assert reason(last) == "future_timestamp"
    ts_us = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
    assert parse(last, ts_us).ts_us == ts_us


@pytest.mark.parametrize(
    ("ahead_us", "expected"), [(300_000_000, None), (300_000_001, "future_timestamp")]
)
def test_five_minutes_ahead_of_kafka_are_tolerated(ahead_us, expected):
    parsed = parse(GOOD_LINE, TS_US - ahead_us)
    assert (parsed.reason if isinstance(parsed, Rejection) else None) == expected


@pytest.mark.parametrize("country", ["", "us", "USA", "UK", "XX", "ZZ", "U", "U S"])
def test_bad_country(country):
    assert reason(line(country=country)) == "bad_country"


@pytest.mark.parametrize("currency", ["", "usd", "US", "BTC", "ABC", "840", "XEU"])
def test_bad_currency(currency):
    assert reason(line(currency=currency)) == "bad_currency"


@pytest.mark.parametrize("currency", ["EUR", "HRK", "DEM", "ZWL", "BGN", "XCG"])
def test_currencies_also_those_withdrawn_since_2000(currency):
    assert parse(line(currency=currency), NOW_US).currency == currency


def test_the_lists_lack_no_code_that_is_in_force():
    """A new code comes to the package first; the lists are the repo's own."""
    assert {c.alpha_2 for c in pycountry.countries} <= countries()
    assert {c.alpha_3 for c in pycountry.currencies} <= currencies()


@pytest.mark.parametrize(
    "key", [b"", b"ACCT_0000085", b"acct_0000084", b"\xff", b" " + ACCOUNT.encode()]
)
def test_a_key_that_is_not_the_account_id(key):
    parsed = parse(GOOD_LINE, NOW_US, key)
    assert parsed.reason == "bad_key"
    assert "ACCT_••84" in parsed.detail


@pytest.mark.parametrize("key", [None, ACCOUNT.encode()])
def test_the_account_id_as_a_key_and_no_key_at_all(key):
    assert parse(GOOD_LINE, NOW_US, key) == parse(GOOD_LINE, NOW_US)


@pytest.mark.parametrize("country", ["US", "GB", "VN", "AQ", "SS"])
def test_countries(country):
    assert parse(line(country=country), NOW_US).country == country


@pytest.mark.parametrize(
    ("amount", "cents"),
    [
        ("42.10", 4210),
        ("42.1", 4210),
        ("42", 4200),
        ("0.01", 1),
        ("1.500", 150),
        ("1.5" + "0" * 100, 150),
        ("1e2", 10_000),
        ("1E+2", 10_000),
        ("1.5e0", 150),
        ("1e-2", 1),
        ("0.00015e4", 150),
        ("1e9", 100_000_000_000),
        ("1000000000", 100_000_000_000),
        ("1000000000.00", 100_000_000_000),
        ("999999999.99", 99_999_999_999),
        ("123456789.01", 12_345_678_901),
    ],
)
def test_amounts_are_exact(amount, cents):
    assert parse(raw("amount", amount), NOW_US).amount_cents == cents


@pytest.mark.parametrize(
    "amount",
    [
        "0",
        "-0",
        "0.00",
        "-1",
        "0.001",
        "0.009",
        "1.005",
        "1e-3",
        "1000000000.01",
        "1000000000." + "0" * 50 + "1",
        "1e10",
        "1e999",
        "1e999999999999999999",
        "1e9999999999999999999999",
        "1e-999999999999999999",
        "1e-9999999999999999999999",
        "0e9999999999999999999999",
        "9" * 5_000,
        "0." + "9" * 5_000,
        "1e" + "9" * 5_000,
    ],
    ids=lambda amount: amount[:30],
)
def test_bad_amount(amount):
    assert reason(raw("amount", amount)) == "bad_amount"


@pytest.mark.parametrize("number", ["9" * 5_000, "1e" + "9" * 5_000, "1" + "0" * 400])
def test_huge_numbers_elsewhere_do_no_harm(number):
    assert reason(raw("extra", number)[:-1] + b', "amount": 1}') is None
    assert reason(raw("merchant", number)) == "bad_type"


def test_ten_megabytes_are_read_and_refused():
    for value in (
        b"[" * 10_000_000,
        b'"' * 10_000_000,
        b'"' + b'\\"' * 5_000_000 + b"[" * 65,
        line(event_id="e" * 10_000_000),
        raw("amount", "9" * 10_000_000),
    ):
        assert reason(value) in {"malformed_json", "bad_type", "bad_amount"}


def test_no_stack_left_is_malformed(monkeypatch):
    def overflow(_text: str, _start: int) -> None:
        raise RecursionError

    monkeypatch.setattr(card_event, "_scan", overflow)
    assert reason(GOOD_LINE) == "malformed_json"


def test_depth_within_strings_does_not_count():
    merchant = '{"[' * 100
    assert parse(line(merchant=merchant), NOW_US).merchant == merchant


def test_depth_to_the_limit_is_fine():
    deep = b"[" * 63 + b"]" * 63
    assert reason(GOOD_LINE[:-1] + b', "deep": ' + deep + b"}") is None


def test_the_last_of_two_equal_keys_counts():
    twice = GOOD_LINE[:-1] + b', "amount": 7, "account_id": "ACCT_99"}'
    parsed = parse(twice, NOW_US)
    assert (parsed.amount_cents, parsed.account_id) == (700, "ACCT_99")
    assert account_key(twice) == b"ACCT_99"
    assert reason(GOOD_LINE[:-1] + b', "amount": null}') == "missing_field"


@pytest.mark.parametrize(
    "merchant", ["", "<script>alert(1)</script>", "a\x00b", "'; drop table--", "\u2028"]
)
def test_odd_merchants_are_only_text(merchant):
    assert parse(line(merchant=merchant), NOW_US).merchant == merchant


def test_unknown_fields_are_ignored():
    extra = {"label": "fraud", "bad\ud800": "\ud800", "nested": {"amount": []}}
    assert parse(line(**extra), NOW_US) == parse(GOOD_LINE, NOW_US)


FAULTS = {
    "missing_field": {"merchant": None},
    "bad_type": {"event_id": 7},
    "bad_account": {"account_id": "84"},
    "bad_timestamp": {"ts": "never"},
    "future_timestamp": {"ts": "2099-01-01T00:00:00Z"},
    "bad_country": {"country": "ZZ"},
    "bad_amount": {"amount": -1},
    "bad_currency": {"currency": "ZZZ"},
}


def test_the_first_broken_rule_names_the_reason():
    for size in range(1, len(FAULTS) + 1):
        for chosen in itertools.combinations(FAULTS, size):
            # A later fault must not undo an earlier one of the same field.
            changes = {}
            for fault in reversed(chosen):
                changes |= FAULTS[fault]
            assert parse(line(**changes), NOW_US, b"other").reason == chosen[0]


def test_reasons_are_the_contract():
    expected = ("malformed_json", *FAULTS, "bad_key", "conflicting_event_id")
    assert expected == REASONS


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*GOOD.values(), "\ud800", "ACCT_٣", "2026-06-01T12:00:00z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def check_rejection(parsed: Rejection, account_id: object) -> None:
    assert parsed.reason in REASONS[:-1]
    assert 0 < len(parsed.detail) <= 200
    assert "\n" not in parsed.detail
    if isinstance(account_id, str) and len(account_id) > len("ACCT_00"):
        assert account_id not in parsed.detail


@quick
@given(
    st.binary() | st.text().map(str.encode) | ANY_JSON.map(json.dumps).map(str.encode)
)
def test_arbitrary_bytes_never_raise(value):
    check_rejection(parse(value, NOW_US), None)
    assert account_key(value) is None or isinstance(account_key(value), bytes)


@quick
@given(st.dictionaries(st.sampled_from(FIELDS), ANY_JSON))
def test_arbitrary_fields_never_raise_and_never_leak(changes):
    record = GOOD | changes
    parsed = parse(json.dumps(record).encode(), NOW_US)
    if isinstance(parsed, Rejection):
        check_rejection(parsed, record["account_id"])
    else:
        assert parse(to_json(parsed).encode(), NOW_US) == parsed


def naive_key(value: bytes) -> bytes | None:
    """account_key as its contract reads."""
    try:
        record = json.loads(value.decode(), parse_constant=lambda _: 1 / 0)
        key = record["account_id"].encode()
    except (ValueError, ZeroDivisionError, TypeError, KeyError, AttributeError):
        return None
    return key or None


@quick
@given(st.dictionaries(st.sampled_from(FIELDS), ANY_JSON), st.binary(max_size=2))
def test_account_key_reads_what_it_can(record, rest):
    value = json.dumps(record).encode() + rest
    assert account_key(value) == naive_key(value)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (GOOD_LINE, b"ACCT_0000084"),
        (line(amount="x", ts=None), b"ACCT_0000084"),
        (b'{"account_id": "anything"}', b"anything"),
        ('{"account_id": "Ä"}'.encode(), "Ä".encode()),
        (b'{"\\u0061ccount_id": "A"}', b"A"),
        (b'{"a": {"account_id": "inner"}}', None),
        (b'{"account_id": ""}', None),
        (b'{"account_id": 84}', None),
        (b'{"account_id": "\\ud800"}', None),
        (b'{"account_id": "A"} x', None),
        (b"{}", None),
        (None, None),
    ],
)
def test_account_key(value, key):
    assert account_key(value) == key


VALID = st.builds(
    Event,
    event_id=st.text(min_size=1, max_size=64),
    account_id=st.from_regex(r"ACCT_[0-9]{1,12}", fullmatch=True),
    ts_us=st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)).map(
        lambda t: (t - EPOCH) // MICROSECOND
    ),
    merchant=st.text(),
    country=st.sampled_from(["US", "VN", "RU"]),
    amount_cents=st.integers(1, 100_000_000_000),
    currency=st.sampled_from(["USD", "JPY", "EUR"]),
)


@quick
@given(VALID)
def test_to_json_and_parse_undo_each_other(event):
    text = to_json(event)
    assert "\n" not in text
    assert tuple(json.loads(text)) == FIELDS
    assert parse(text.encode(), event.ts_us, event.account_id.encode()) == event


@pytest.mark.parametrize(
    ("ts_us", "cents", "expected"),
    [
        (TS_US, 4210, '"ts":"2026-06-01T12:00:00.250Z"'),
        (TS_US + 1, 4210, '"ts":"2026-06-01T12:00:00.250001Z"'),
        (0, 4210, '"ts":"1970-01-01T00:00:00.000Z"'),
        (TS_US, 4210, '"amount":42.10,'),
        (TS_US, 5, '"amount":0.05,'),
        (TS_US, 100_000_000_000, '"amount":1000000000.00,'),
        (TS_US, 4210, '"merchant":"Café"'),
    ],
)
def test_to_json_is_canonical(ts_us, cents, expected):
    event = Event("e-1", ACCOUNT, ts_us, "Café", "FR", cents, "EUR")
    assert expected in to_json(event)


@quick
@given(
    st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_timestamps_agree_with_the_standard_library(moment, offset):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    expected = (moment - EPOCH) // MICROSECOND
    assert parse(line(ts=moment.isoformat()), expected).ts_us == expected


NUMBERS = r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?"


@quick
@given(st.from_regex(NUMBERS, fullmatch=True))
def test_amounts_agree_with_fractions(text):
    cents = Fraction(text) * 100
    fits = 0 < cents <= 10**11 and cents.denominator == 1
    parsed = parse(raw("amount", text), NOW_US)
    if fits:
        assert parsed.amount_cents == cents
    else:
        assert parsed.reason == "bad_amount"


@pytest.mark.parametrize(
    ("account_id", "masked"),
    [
        ("ACCT_0000084", "ACCT_••84"),
        ("ACCT_1234", "ACCT_••34"),
        ("ACCT_123", "ACCT_••"),  # two of three digits would be most of it
        ("ACCT_70", "ACCT_••"),
        ("ACCT_7", "ACCT_••"),
    ],
)
def test_mask_account(account_id, masked):
    assert mask_account(account_id) == masked


def test_a_text_that_quotes_accounts_is_masked():
    text = "no ACCT_0000084, ACCT_70ACCT_123456 and ACCT_"
    assert mask_accounts(text) == "no ACCT_••84, ACCT_••ACCT_••56 and ACCT_"


@pytest.mark.parametrize(
    ("account_id", "masked"), [(ACCOUNT, "ACCT_••84"), ("ACCT_70", "ACCT_••")]
)
def test_details_mask_the_account(account_id, masked):
    parsed = parse(line(account_id=account_id, country="ZZ"), NOW_US)
    assert f"({masked})" in parsed.detail
    assert account_id not in parsed.detail


def test_the_rules_need_no_package():
    """An update of a package changes no answer, and importing the rules is quick."""
    code = (
        "import sys; from lib.events.card_event import parse; "
        f"parse({GOOD_LINE!r}, {NOW_US}); "
        "names = {name.partition('.')[0] for name in sys.modules}; "
        "sys.exit(bool(names & {'pycountry', 'numpy', 'pandas', 'pyarrow'}))"
    )
    root = card_event.__file__.rsplit("/", 3)[0]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert done.returncode == 0
