"""Many keys of a state at once, where Spark's MapState takes one at a time.

PySpark sends the JVM one request, waits for its answer, and sends the next one. Here
some hundred requests are on their way before the first answer is read. The messages
are PySpark's own (`pyspark.sql.streaming.map_state_client`, whose private parts are
used here: the version is pinned, and each stream in the tests goes through it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pyspark.serializers import write_int
from pyspark.sql.streaming.proto import StateMessage_pb2 as messages
from pyspark.sql.streaming.stateful_processor import MapState

AT_ONCE, AT_ONCE_BYTES = 256, 16 * 2**10
"""Requests that may be unanswered, and their bytes. The JVM writes an answer before it
reads on: were there more requests than a socket's buffers hold, and answers too, both
sides would wait for each other."""


class StateMap:
    """A map state with one string as its key and one binary as its value."""

    def __init__(self, state: MapState) -> None:
        self._name = state._stateName
        self._schemas = (
            state._mapStateClient.user_key_schema,
            state._mapStateClient.value_schema,
        )
        self._client = state._mapStateClient._stateful_processor_api_client

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values of those of the keys that have one.

        Raises RuntimeError if Spark's state can't be read.
        """
        keys = list(keys)
        calls = (
            messages.MapStateCall(
                stateName=self._name, getValue=messages.GetValue(userKey=self._key(key))
            )
            for key in keys
        )
        found = {}
        for key, answer in zip(keys, self._ask(calls), strict=True):
            if answer:
                (value,) = self._client._deserialize_from_bytes(answer)
                found[key] = bytes(value)
        return found

    def put(self, values: Mapping[str, bytes]) -> None:
        """Store the values.

        Raises RuntimeError if Spark's state can't be written.
        """
        calls = (
            messages.MapStateCall(
                stateName=self._name,
                updateValue=messages.UpdateValue(
                    userKey=self._key(key),
                    value=self._client._serialize_to_bytes(self._schemas[1], (value,)),
                ),
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
                removeKey=messages.RemoveKey(userKey=self._key(key)),
            )
            for key in keys
        )
        for _ in self._ask(calls):
            pass

    def _key(self, key: str) -> bytes:
        return self._client._serialize_to_bytes(self._schemas[0], (key,))

    def _ask(self, calls: Iterable[messages.MapStateCall]) -> Iterator[bytes]:
        """The answer to each call, in order."""
        waiting = size = 0
        for call in calls:
            request = messages.StateRequest(
                stateVariableRequest=messages.StateVariableRequest(mapStateCall=call)
            ).SerializeToString()
            if waiting and (waiting == AT_ONCE or size + len(request) > AT_ONCE_BYTES):
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
