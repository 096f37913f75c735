"""Many requests under way at once: each gets its own answer, and nobody waits for ever.

The other side is a socket that answers one request after the other, as Spark's does.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from pyspark.serializers import CPickleSerializer
from pyspark.sql.streaming.proto import StateMessage_pb2 as messages
from pyspark.sql.streaming.stateful_processor_api_client import (
    StatefulProcessorApiClient,
)
from pyspark.sql.types import BinaryType, StringType, StructType

from lib.streaming.state_map import FEW, WHOLE, StateMap

BUFFER_BYTES = 16 * 2**10


class Spark(threading.Thread):
    """The JVM's side of the socket, with the state in memory."""

    def __init__(self, there: socket.socket) -> None:
        super().__init__(daemon=True)
        self._file = there.makefile("rwb")
        self.held: dict[bytes, bytes] = {}
        self.failing = False
        self.passes = 0

    def entries(self) -> Iterator[tuple[tuple[str], tuple[bytes]]]:
        """PySpark's own iterator over the map."""
        self.passes += 1
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


@pytest.mark.parametrize(
    ("asked", "of", "passes"),
    [(FEW, FEW * WHOLE, 1), (FEW, FEW * WHOLE + 1, 0), (FEW - 1, 0, 0), (FEW, 0, 1)],
    ids=["a large part", "a small part", "few", "told wrong"],
)
def test_one_pass_over_the_map_finds_what_requests_find(
    ends: tuple[StateMap, Spark], asked: int, of: int, passes: int
):
    state, spark = ends
    values = {f"ACCT_{n}": bytes([n % 256]) for n in range(0, 2 * FEW, 2)}
    state.put(values)
    names = [f"ACCT_{n}" for n in range(asked)]  # every other one is there

    found = state.get(names, of=of)

    assert spark.passes == passes
    assert found == state.get(names) == {n: values[n] for n in names[::2]}


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
