"""Many requests under way at once: each gets its own answer, and nobody waits for ever.

The other side is a socket that answers one request after the other, as Spark's does.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.serializers import CPickleSerializer
from pyspark.sql.streaming.proto import StateMessage_pb2 as messages
from pyspark.sql.streaming.stateful_processor_api_client import (
    StatefulProcessorApiClient,
)
from pyspark.sql.types import BinaryType, StringType, StructType

from lib.streaming import state_map
from lib.streaming.state_map import FEW, WHOLE, AccountMap, StateMap, pack, unpack

BUFFER_BYTES = 16 * 2**10


class Spark(threading.Thread):
    """The JVM's side of the socket, with the state in memory."""

    def __init__(self, there: socket.socket) -> None:
        super().__init__(daemon=True)
        self._file = there.makefile("rwb")
        self.held: dict[bytes, bytes] = {}
        self.failing = False

    def entries(self) -> Iterator[tuple[tuple[str], tuple[bytes]]]:
        """PySpark's own iterator over the map."""
        for key, value in self.held.items():
            yield pickle.loads(key), pickle.loads(value)

    def run(self) -> None:
        while head := self._file.read(8):
            version, length = struct.unpack("!ii", head)
            assert version == 0
            request = messages.StateRequest()
            request.ParseFromString(self._file.read(length))
            call = request.stateVariableRequest.mapStateCall
            assert call.stateName == "accounts"
            answer = messages.StateResponse(statusCode=0)
            if self.failing:
                answer = messages.StateResponse(statusCode=1, errorMessage="no disk")
            elif call.WhichOneof("method") == "getValue":
                answer.value = self.held.get(call.getValue.userKey, b"")
            elif call.WhichOneof("method") == "updateValue":
                self.held[call.updateValue.userKey] = call.updateValue.value
            else:
                self.held.pop(call.removeKey.userKey, None)
            text = answer.SerializeToString()
            self._file.write(struct.pack("!i", len(text)) + text)
            self._file.flush()


@pytest.fixture
def ends() -> Iterator[tuple[StateMap, Spark]]:
    here, there = socket.socketpair()
    for end in (here, there):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    here.settimeout(10)
    client = StatefulProcessorApiClient.__new__(StatefulProcessorApiClient)
    client.sockfile = here.makefile("rwb")
    spark = Spark(there)
    state = SimpleNamespace(
        _stateName="accounts",
        _mapStateClient=SimpleNamespace(
            _stateful_processor_api_client=client,
        ),
        iterator=spark.entries,
    )
    spark.start()
    yield StateMap(state), spark
    here.close()
    there.close()


def test_each_key_has_its_own_value(ends: tuple[StateMap, Spark]):
    state, spark = ends
    # Far more, and far larger, than both sides' buffers hold.
    values = {f"ACCT_{n}": bytes([n % 256]) * (n * 37 % 9000) for n in range(1500)}

    state.put(values)

    assert len(spark.held) == 1500
    names = [*reversed(values), "ACCT_unknown"]
    assert state.get(names) == values
    state.remove(names[:700])
    assert state.get(names) == {name: values[name] for name in names[700:-1]}


def test_all_entries_are_what_was_put(ends: tuple[StateMap, Spark]):
    state, _ = ends
    values = {f"ACCT_{n}": bytes([n % 256]) for n in range(200)}
    state.put(values)
    assert dict(state.entries()) == values


def test_nothing_asked_is_nothing_sent(ends: tuple[StateMap, Spark]):
    state, spark = ends
    state.put({})
    state.remove([])
    assert state.get([]) == {}
    assert spark.held == {}


def test_what_spark_refuses_is_an_error(ends: tuple[StateMap, Spark]):
    state, spark = ends
    spark.failing = True
    with pytest.raises(RuntimeError, match="accounts: no disk"):
        state.get(["ACCT_1"])


def test_a_row_is_pickled_as_pyspark_does(ends: tuple[StateMap, Spark]):
    state, spark = ends
    state.put({"ACCT_1": b"\x00\xff"})
    ((key, value),) = spark.held.items()
    theirs = StatefulProcessorApiClient.__new__(StatefulProcessorApiClient)
    theirs.pickleSer = CPickleSerializer()
    text = StructType().add("account_id", StringType())
    assert key == theirs._serialize_to_bytes(text, ("ACCT_1",))
    binary = StructType().add("value", BinaryType())
    assert value == theirs._serialize_to_bytes(binary, (b"\x00\xff",))


class Entries:
    """A `StateMap` in memory."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.written: list[str] = []
        self.passes = 0

    def entries(self) -> Iterator[tuple[str, bytes]]:
        self.passes += 1
        return iter(list(self.held.items()))

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        keys = list(keys)
        self.asked += keys
        return {key: self.held[key] for key in keys if key in self.held}

    def put(self, values: dict[str, bytes]) -> None:
        self.written += values
        self.held |= values

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.held.pop(key, None)


def names(*numbers: int) -> list[str]:
    return [f"ACCT_{number}" for number in numbers]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four accounts are many."""
    monkeypatch.setattr(state_map, "FEW", 4)
    monkeypatch.setattr(state_map, "AT_A_TIME", 2)


def batch(entries: Entries) -> AccountMap:
    """The state as a batch meets it: twelve accounts and more collide in 3 groups."""
    return AccountMap(entries, 3)


def grouped(values: dict[str, bytes]) -> Entries:
    """The state after one large batch."""
    entries = Entries()
    accounts = batch(entries)
    assert accounts.get(values, of=0) == {}
    accounts.put(values)
    return entries


@pytest.mark.parametrize(
    ("asked", "of", "passes"),
    [(FEW, FEW * WHOLE, 1), (FEW, FEW * WHOLE + 1, 0), (FEW - 1, 0, 0), (FEW, 0, 1)],
    ids=["a large part", "a small part", "few", "told wrong"],
)
def test_one_pass_over_the_state_finds_what_requests_find(
    asked: int, of: int, passes: int
):
    entries = Entries()
    values = {name: name.encode() for name in names(*range(0, 2 * FEW, 2))}
    batch(entries).put(values)
    wanted = names(*range(asked))  # every other one is there

    found = batch(entries).get(wanted, of)

    assert entries.passes == passes
    assert found == batch(entries).get(wanted)
    assert found == {n: values[n] for n in wanted[::2]}


def test_a_group_is_packed_and_unpacked():
    members = {"ACCT_1": b"\x00\xff", "ACCT_22": b"", "ACCT_" + "3" * 70_000: b"x"}
    assert unpack(pack(members)) == members
    assert (pack({}), unpack(b"")) == (b"", {})


steps = st.lists(
    st.tuples(
        st.sampled_from(["large", "small", "remove", "both"]),
        st.dictionaries(st.integers(0, 20), st.binary(max_size=40), max_size=12),
    ),
    max_size=12,
)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("held", [0, 100, 10_000], ids="holds {} bytes".format)
@given(steps=steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wherever_its_value_lies_an_account_has_it(
    held: int, steps: list[tuple[str, dict[int, bytes]]]
):
    entries, expected = Entries(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_map, "HELD_BYTES", held)
        for step, numbered in steps:
            values = {f"ACCT_{n}": value for n, value in numbered.items()}
            accounts = batch(entries)  # the next batch
            known = accounts.get(values, of=None if step == "small" else 0)
            assert known == {a: expected[a] for a in values if a in expected}
            if step in ("remove", "both"):
                gone = list(values)[::2] if step == "both" else list(values)
                accounts.remove(gone)
                values = {a: v for a, v in values.items() if a not in gone}
                expected = {a: v for a, v in expected.items() if a not in gone}
            accounts.put(values)
            expected |= values
            everyone = names(*range(22))
            assert batch(entries).get(everyone) == expected
            assert batch(entries).get(everyone, of=0) == expected
            assert all(v for k, v in entries.held.items() if k.isdigit())


@pytest.mark.usefixtures("few")
def test_a_large_batch_writes_groups_and_a_small_one_its_accounts():
    values = {name: name.encode() for name in names(*range(12))}
    entries = grouped(values)
    assert set(entries.held) == {"0", "1", "2"}
    before, entries.written = dict(entries.held), []

    accounts = batch(entries)
    assert accounts.get(names(1, 99), of=12) == {"ACCT_1": b"ACCT_1"}
    accounts.put({"ACCT_1": b"new", "ACCT_99": b"first"})

    assert entries.written == names(1, 99)
    assert {k: entries.held[k] for k in before} == before
    # The next large one takes in whom it meets, and leaves the others where they are.
    accounts = batch(entries)
    found = accounts.get(names(*range(12)), of=13)
    assert found == values | {"ACCT_1": b"new"}
    accounts.put(dict.fromkeys(found, b"again"))
    assert set(entries.held) == {"0", "1", "2", "ACCT_99"}


@pytest.mark.usefixtures("few")
def test_few_are_written_by_themselves_behind_a_pass_too():
    entries = grouped({name: name.encode() for name in names(*range(12))})
    entries.written = []
    accounts = batch(entries)
    accounts.get(names(*range(12)), of=12)

    accounts.put(dict.fromkeys(names(3, 7), b"new"))  # there are three groups

    assert (entries.passes, entries.written) == (2, names(3, 7))


@pytest.mark.usefixtures("few")
def test_one_account_of_a_group_goes_and_the_last_takes_the_entry_along():
    values = {name: name.encode() for name in names(*range(12))}
    entries = grouped(values)
    small = batch(entries)
    small.get(["ACCT_1"])
    small.put({"ACCT_1": b"new"})  # it is in its group and by itself

    batch(entries).remove(names(1, 50))

    del values["ACCT_1"]
    assert batch(entries).get(names(*range(60))) == values
    batch(entries).remove(values)
    assert entries.held == {}


@pytest.mark.usefixtures("few")
def test_what_a_pass_has_read_is_not_read_again_to_be_written():
    values = {name: name.encode() for name in names(*range(12))}
    entries = grouped(values)
    accounts = batch(entries)
    accounts.put({n: v + b"!" for n, v in accounts.get(values, of=12).items()})
    assert (entries.passes, entries.asked) == (2, [])
    assert entries.written == 2 * entries.written[:3]


def test_accounts_that_nobody_has_asked_for_are_written_by_themselves():
    entries = Entries()
    batch(entries).put(dict.fromkeys(names(*range(12)), b"x"))  # initial state
    assert set(entries.held) == set(names(*range(12)))
