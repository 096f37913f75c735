"""What the state remembers of many accounts at once.

Spark's MapState takes one key at a time: PySpark sends the JVM one request, waits for
its answer, and sends the next one. Here some dozens are on their way before the first
answer is read. The messages are PySpark's own
(`pyspark.sql.streaming.map_state_client`, whose private parts are used here: the
version is pinned, and each stream in the tests goes through it).

An entry costs as much however short it is, to be written (some 25 µs of CPU) as well as
to be read in a pass over all. So a batch that meets a large part of all accounts writes
them in groups: a million events of a million accounts then took JVM and workers 53 CPU
seconds, and 70 without.
"""

from __future__ import annotations

import pickle
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from zlib import crc32

from pyspark.serializers import pickle_protocol, write_int
from pyspark.sql.streaming.proto import StateMessage_pb2 as messages
from pyspark.sql.streaming.stateful_processor import MapState

AT_ONCE, AT_ONCE_BYTES = 32, 4 * 2**10
"""Requests that may be unanswered and, where the answers are of any size, their bytes.
The JVM writes an answer before it reads on: were there more requests than a socket's
buffers hold, and more answers too, both sides would wait for each other. Of a buffer
each answer takes the better part of a kilobyte, however short it is."""

FEW, WHOLE = 100, 4
"""So many accounts, and at least every WHOLE-th of those that there are: then they are
read from one pass over the whole map, where an entry costs a fifth of a request."""

GROUPS = 2**14
"""Groups of accounts in a state partition. From so many accounts on what was read in a
pass is written in groups; fewer would be nearly alone in theirs. It is part of the
layout: with another number an account would be looked for in the wrong group, so the
version in `lib.detectors.account_state` has to change with it."""

HELD_BYTES = 64 * 2**20
"""Groups that are kept from a pass until they are written; if there are more of them,
they are read again."""

AT_A_TIME = 1_000
"""Groups that are changed together."""

_SIZES = struct.Struct("<II")


class AccountMap:
    """Values by account.

    An account has an entry under its id, or is a member of the entry of its group, or
    both, and then the one under its id is the newer one. So a small batch writes its
    accounts and no others. No answer rests on where a value lies.
    """

    def __init__(self, state: StateMap, groups: int = GROUPS) -> None:
        """The accounts in `state`.

        Args:
            state: the entries.
            groups: how many groups there may be, always the same for one checkpoint.
        """
        self._state = state
        self._count = groups
        self._alone: set[str] | None = None
        """Of the accounts last asked for, those with an entry of their own; None if
        there was no pass."""
        self._groups: dict[str, bytes] | None = None
        """All groups, as the state has them; None if it has to be asked."""

    def get(self, accounts: Iterable[str], of: int | None = None) -> dict[str, bytes]:
        """The values of those of the accounts that have one.

        Args:
            accounts: the accounts.
            of: how many accounts there are in all, if it is known. It decides about
                the way only.

        Raises RuntimeError if Spark's state can't be read.
        """
        accounts = list(accounts)
        self._alone = self._groups = None
        if of is not None and len(accounts) >= max(FEW, of / WHOLE):
            return self._scan(set(accounts))
        found = self._state.get(accounts)
        rest = self._by_group({a: b"" for a in accounts if a not in found})
        for group, members in self._state.get(rest).items():
            found |= {a: v for a, v in unpack(members).items() if a in rest[group]}
        return found

    def put(self, values: Mapping[str, bytes]) -> None:
        """Store the values; in groups if they are many and `get` was a pass.

        Raises RuntimeError if Spark's state can't be read or written.
        """
        if self._alone is None or len(values) < self._count:
            self._state.put(values)
            return
        self._change(values)
        self._state.remove(self._alone & values.keys())
        self._alone = self._groups = None

    def remove(self, accounts: Iterable[str]) -> None:
        """Forget the accounts.

        Raises RuntimeError if Spark's state can't be read or written.
        """
        accounts = list(accounts)
        self._change(dict.fromkeys(accounts))
        self._state.remove(accounts)

    def _scan(self, wanted: set[str]) -> dict[str, bytes]:
        """The values of these accounts, by one pass over the whole state."""
        own, shared, groups, size = {}, {}, {}, 0
        for key, value in self._state.entries():
            if key in wanted:
                own[key] = value
            elif key.isdigit():  # no account's id is
                shared |= {a: v for a, v in unpack(value).items() if a in wanted}
                size += len(value)
                if size <= HELD_BYTES:
                    groups[key] = value
        self._alone = set(own)
        self._groups = groups if size <= HELD_BYTES else None
        return shared | own

    def _change(self, values: Mapping[str, bytes | None]) -> None:
        """Write the groups of these accounts; None is the value of one that goes."""
        changes = self._by_group(values)
        numbers = list(changes)
        for first in range(0, len(numbers), AT_A_TIME):
            some = numbers[first : first + AT_A_TIME]
            before = self._state.get(some) if self._groups is None else self._groups
            put, remove = {}, []
            for group in some:
                old = before.get(group, b"")
                new = pack(unpack(old) | changes[group])
                if new and new != old:
                    put[group] = new
                elif old and not new:
                    remove.append(group)
            self._state.put(put)
            self._state.remove(remove)
            if self._groups is not None:
                self._groups |= put | dict.fromkeys(remove, b"")

    def _by_group(
        self, values: Mapping[str, bytes | None]
    ) -> dict[str, dict[str, bytes | None]]:
        """The accounts' values, by the key of their group."""
        groups: dict[int, dict[str, bytes | None]] = defaultdict(dict)
        for account, value in values.items():
            groups[crc32(account.encode()) % self._count][account] = value
        return {str(number): members for number, members in groups.items()}


def pack(members: Mapping[str, bytes | None]) -> bytes:
    """A group's accounts and their values as one value; without those of None."""
    parts = []
    for account, value in members.items():
        if value is None:
            continue
        name = account.encode()
        parts += (_SIZES.pack(len(name), len(value)), name, value)
    return b"".join(parts)


def unpack(group: bytes) -> dict[str, bytes]:
    """The accounts and values behind `pack`."""
    members, at = {}, 0
    while at < len(group):
        name, value = _SIZES.unpack_from(group, at)
        start = at + _SIZES.size
        at = start + name + value
        members[group[start : start + name].decode()] = group[start + name : at]
    return members


class StateMap:
    """A map state with one string as its key and one binary as its value."""

    def __init__(self, state: MapState) -> None:
        self._state = state
        self._name = state._stateName
        self._client = state._mapStateClient._stateful_processor_api_client

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """All keys and their values; to be read to its end."""
        for (key,), (value,) in self._state.iterator():
            yield key, bytes(value)

    def get(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The values of those of the keys that have one.

        Raises RuntimeError if Spark's state can't be read.
        """
        keys = list(keys)
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
