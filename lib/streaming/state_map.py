"""Batched get, put and remove on Spark's MapState, which takes one key at a time.

PySpark sends the JVM one request, waits for its answer, and sends the next one. Here
some dozens are on their way before the first answer is read. The messages
are PySpark's own (`pyspark.sql.streaming.map_state_client`, whose private parts are
used here: the version is pinned, and each stream in the tests goes through it).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from math import inf

from pyspark.serializers import pickle_protocol, write_int
from pyspark.sql.streaming.proto import StateMessage_pb2 as messages
from pyspark.sql.streaming.stateful_processor import MapState

AT_ONCE, AT_ONCE_BYTES = 32, 4 * 2**10
"""Requests that may be unanswered and, where the answers are of any size, their bytes.
The JVM writes an answer before it reads on: were there more requests than a socket's
buffers hold, and more answers too, both sides would wait for each other. Of a buffer
each answer takes the better part of a kilobyte, however short it is."""


FEW, WHOLE = 100, 4
"""So many keys, and at least every WHOLE-th of those that there are: then they are read
from one pass over the whole map. An entry of it costs about a fifth of a request."""


class StateMap:
    """A map state with one string as its key and one binary as its value."""

    def __init__(self, state: MapState) -> None:
        self._state = state
        self._name = state._stateName
        self._client = state._mapStateClient._stateful_processor_api_client

    def get(self, keys: Iterable[str], of: int | None = None) -> dict[str, bytes]:
        """The values of those of the keys that have one.

        Args:
            keys: the keys.
            of: how many keys there are in all, if it is known. It decides about the
                way only.

        Raises RuntimeError if Spark's state can't be read.
        """
        keys = list(keys)
        if of is not None and len(keys) >= max(FEW, of / WHOLE):
            wanted = set(keys)
            return {
                key: bytes(value)
                for (key,), (value,) in self._state.iterator()
                if key in wanted
            }
        calls = (
            messages.MapStateCall(
                stateName=self._name, getValue=messages.GetValue(userKey=_row(key))
            )
            for key in keys
        )
        found = {}
        for key, answer in zip(keys, self._ask(calls, AT_ONCE_BYTES), strict=True):
            if answer:
                (value,) = pickle.loads(answer)
                found[key] = bytes(value)
        return found

    def put(self, values: Mapping[str, bytes]) -> None:
        """Store the values.

        Raises RuntimeError if Spark's state can't be written.
        """
        calls = (
            messages.MapStateCall(
                stateName=self._name,
                updateValue=messages.UpdateValue(userKey=_row(key), value=_row(value)),
            )
            for key, value in values.items()
        )
        for _ in self._ask(calls):
            pass

    def remove(self, keys: Iterable[str]) -> None:
        """Forget the keys.

        Raises RuntimeError if Spark's state can't be written.
        """
        calls = (
            messages.MapStateCall(
                stateName=self._name,
                removeKey=messages.RemoveKey(userKey=_row(key)),
            )
            for key in keys
        )
        for _ in self._ask(calls):
            pass

    def _ask(
        self, calls: Iterable[messages.MapStateCall], most_bytes: float = inf
    ) -> Iterator[bytes]:
        """The answer to each call, in order."""
        waiting = size = 0
        for call in calls:
            request = messages.StateRequest(
                stateVariableRequest=messages.StateVariableRequest(mapStateCall=call)
            ).SerializeToString()
            if waiting and (waiting == AT_ONCE or size + len(request) > most_bytes):
                yield from self._answers(waiting)
                waiting = size = 0
            write_int(0, self._client.sockfile)  # the version of the protocol
            write_int(len(request), self._client.sockfile)
            self._client.sockfile.write(request)
            waiting, size = waiting + 1, size + len(request)
        yield from self._answers(waiting)

    def _answers(self, count: int) -> Iterator[bytes]:
        self._client.sockfile.flush()
        for _ in range(count):
            status, error, value = self._client._receive_proto_message()
            if status != 0:
                raise RuntimeError(f"Spark's state {self._name}: {error}")
            yield value


def _row(value: str | bytes) -> bytes:
    """A row of one column, as PySpark sends it to the JVM."""
    return pickle.dumps((value,), pickle_protocol)
