"""`parse` by the column says of every record what `parse` says of it alone."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.datagen.generator import END, generate
from lib.events.card_event import Event, Rejection, parse, to_json
from lib.streaming.parsing import PARSED, integers, parse_columns

NOW_US = int(END.timestamp()) * 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVENT = Event("e-1", "ACCT_0000084", NOW_US - 250_000, "Café", "US", 4210, "USD")


def columns(records: list[tuple[bytes | None, int, bytes | None]]) -> pa.RecordBatch:
    values, stamps, keys = zip(*records, strict=True) if records else ((), (), ())
    return parse_columns(
        pa.array(values, pa.binary()),
        pa.array(stamps, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
        pa.array(keys, pa.binary()),
    )


def answers(batch: pa.RecordBatch) -> list[Event | Rejection]:
    """The rows as `parse` would give them."""
    found = []
    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
    numbers = (integers(batch[name]).tolist() for name in ("ts", "amount"))
    numbers = zip(*numbers, strict=True)
    for (*event, reason, detail), (ts_us, cents) in zip(rows, numbers, strict=True):
        if reason is not None:
            assert event == [None] * 7
            found.append(Rejection(reason, detail))
            continue
        assert detail is None
        assert (event[2] - EPOCH) // datetime.resolution == ts_us
        assert event[5] * 100 == cents
        event[2], event[5] = ts_us, cents
        found.append(Event(*event))
    return found


def check(records: list[tuple[bytes | None, int, bytes | None]]) -> None:
    assert answers(columns(records)) == [parse(*record) for record in records]


def compact(**texts: str) -> bytes:
    """The good event in the producer's form with other texts in their places."""
    line = to_json(EVENT)
    for name, text in texts.items():
        before, _, rest = line.partition(f'"{name}":')
        quoted = '"' * rest.startswith('"')
        behind = rest[rest.index('"', 1) + 1 :] if quoted else rest[rest.index(",") :]
        line = f'{before}"{name}":{quoted}{text}{quoted}{behind}'
    return line.encode("utf-8", "surrogatepass")


EDGES = {
    "event_id": ["", "e" * 64, "e" * 65, "é" * 64, "\x00", "\x1f", "\x7f", r"\u0041"],
    "account_id": [
        "ACCT_",
        "ACCT_1",
        "ACCT_٣",
        "acct_1",
        "ACCT_1 ",
        "",
        r"ACCT\u005f1",
    ],
    "ts": [
        "2026-06-29T23:59:59.999Z",
        "2026-06-29T23:59:59.999999Z",
        "2026-06-29T23:59:59.9999999Z",
        "2026-06-29T23:59:59Z",
        "2026-06-29T23:59:60.000Z",
        "2026-06-29T24:00:00.000Z",
        "2026-06-29t23:59:59.999z",
        "2026-06-29T23:59:59.999+02:00",
        "2026-06-30T00:05:00.000Z",
        "2026-06-30T00:05:00.001Z",
        "2026-02-28T00:00:00.000Z",
        "2026-02-29T00:00:00.000Z",
        "2024-02-29T00:00:00.000Z",
        "2026-06-31T00:00:00.000Z",
        "2026-13-01T00:00:00.000Z",
        "2026-00-01T00:00:00.000Z",
        "2026-01-00T00:00:00.000Z",
        "1970-01-01T00:00:00.000Z",
        "1969-12-31T23:59:59.999Z",
        "1677-09-21T00:12:43.145Z",
        "0001-01-01T00:00:00.000Z",
        "2262-04-11T23:47:16.855Z",
        "9999-12-31T23:59:59.999Z",
    ],
    "merchant": [
        "",
        "漢字 🦊",
        "\ud800",
        "a\tb",
        r"a\tb",
        r"\ud800",
        "x" * 2_000,
        "\x7f",
    ],
    "country": ["GB", "UK", "us", "USA", "", "Ａ"],
    "amount": [
        "0.00",
        "0.01",
        "00.01",
        "999999999.99",
        "1000000000.00",
        "1000000000.01",
        "9999999999.99",
        "-1.00",
        "1.0",
        "1.005",
        "1e2",
        "42",
        '"42.10"',
        "true",
        "9" * 1_200 + ".00",
    ],
    "currency": ["HRK", "DEM", "XEU", "usd", "ABC", ""],
}


@pytest.mark.parametrize("name", EDGES)
def test_the_edges_of_every_field(name):
    key = EVENT.account_id.encode()
    lines = [compact(**{name: text}) for text in EDGES[name]]
    stamps = (NOW_US, 0, 2**62)
    check([(line, at, None) for line in lines for at in stamps])
    check([(line, at, key) for line in lines for at in stamps])


def test_other_forms_of_a_line():
    line = compact()
    lines = [
        line + b" ",
        line + b"\n",
        line + b"{}",
        b" " + line,
        line[:-1] + b',"extra":1}',
        line[:-1] + b',"country":"ZZ"}',
        line.replace(b":", b": "),
        line.replace("é".encode(), b"\xe9"),
        line.replace("é".encode(), b"\xc0\xaf"),
        line.replace("é".encode(), b"\xf4\x90\x80\x80"),
        line.replace("é".encode(), b"\\u00e9"),
        b"",
        None,
        b"\x00",
    ]
    check([(each, NOW_US, None) for each in lines])


def test_what_is_between_others_stays_in_its_place():
    lines = [compact(merchant=str(n)) for n in range(20)]
    lines[3], lines[4], lines[19] = b"{", lines[4].replace(b":", b": "), None
    check([(line, NOW_US, None) for line in lines])


@pytest.mark.parametrize(
    "key", [None, b"", b"ACCT_0000084", b"ACCT_0000085", b"\xff", "ACCT_٨".encode()]
)
def test_keys(key):
    check([(compact(), NOW_US, key), (compact()[:-1], NOW_US, key)])


def test_nothing_at_all():
    assert columns([]).schema.names == PARSED.fieldNames()
    check([])


def test_a_part_of_a_column():
    """Arrow hands on slices: their buffers begin before their first row."""
    lines = [to_json(EVENT._replace(amount_cents=n)).encode() for n in range(1, 9)]
    batch = columns([(line, NOW_US, None) for line in lines]).slice(2, 3)
    assert integers(batch["amount"]).tolist() == [3, 4, 5]
    assert integers(batch["ts"]).tolist() == [EVENT.ts_us] * 3
    assert integers(batch["ts"]).dtype == np.int64


@pytest.fixture(scope="module")
def messy() -> list[bytes]:
    shares = dict.fromkeys(
        ("duplicates", "out_of_order", "late", "malformed", "conflicts"), 0.05
    )
    lines = generate(3_000, 60, 40, seed=5, **shares).lines
    return [line.encode("utf-8", "surrogateescape") for line in lines]


def test_the_generators_lines(messy):
    check([(line, NOW_US, None) for line in messy])


def test_the_producers_form_needs_no_second_look(messy, monkeypatch):
    """Or the fast path would be a slow one that nobody notices."""

    def looked_at(*_record: object) -> None:
        raise AssertionError("parsed one by one")

    parsed = [(line, parse(line, NOW_US)) for line in messy]
    events = [(line, event) for line, event in parsed if isinstance(event, Event)]
    plain = [(line, event) for line, event in events if line == to_json(event).encode()]
    lines, expected = (list(column) for column in zip(*plain, strict=True))
    assert len(lines) > 3_000
    monkeypatch.setattr("lib.streaming.parsing.parse", looked_at)
    assert answers(columns([(line, NOW_US, None) for line in lines])) == expected


TEXT = st.sampled_from(
    [
        b'"',
        b"\\",
        b"{",
        b"}",
        b",",
        b":",
        b"0",
        b"9",
        b".",
        b"-",
        b"T",
        b"Z",
        b" ",
        b"\x00",
    ]
) | st.binary(max_size=3)


@st.composite
def near_misses(draw: st.DrawFn) -> bytes:
    """A good line in which a few bytes are others, or gone, or more."""
    fields = draw(
        st.fixed_dictionaries(
            {}, optional={name: st.sampled_from(texts) for name, texts in EDGES.items()}
        )
    )
    line = compact(**fields)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(line)))
        gone = draw(st.integers(0, 3))
        line = line[:place] + draw(TEXT) + line[place + gone :]
    return line


@given(
    st.lists(
        st.tuples(
            near_misses(),
            st.sampled_from([0, NOW_US, NOW_US - 300_250_000, 2**60]),
            st.sampled_from([None, b"", b"ACCT_0000084", b"ACCT_1"]),
        ),
        max_size=8,
    )
)
def test_near_misses(records):
    check(records)
