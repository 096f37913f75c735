"""Appends to a Delta table on a local disk, by one entry in its log and nothing else.

delta-rs lists the whole log with each commit and makes a list of all files after it,
so that a commit costs more the longer a table lives (`python -m bench.commits`). An
append needs neither. What it does need stands in Delta's protocol
(https://github.com/delta-io/delta/blob/master/PROTOCOL.md): an entry is made whole or
not at all, under the next free version; somebody else's entry that came first does not
matter to an append, unless it changes the table's metadata or protocol.

Everything else (corrections, compaction, checkpoints, tables with features that an
appender has to know of) is left to delta-rs.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from deltalake import DeltaTable

from lib.lake.delta_log import LOG, Folder, newest_checkpoint

_PLAIN_WRITER = 2
"""The writer version up to which an append is no more than ``add`` actions. Source:
the protocol's "Requirements for Writers"."""


_STAGED = ".append-"
"""How an entry's name begins that is written and not made a version yet. Readers of a
log pass over it."""


class File(Protocol):
    """A data file that no entry names yet, see `lib.lake.writer.DataFile`."""

    path: str
    size: int
    stats: str


class AppendLog:
    """One table's log, as far as an append needs it."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        """The table in that folder; `schema` is that of the rows to come.

        Raises deltalake's errors if it can't be read.
        """
        self._folder, self._log, self._schema = folder, folder / LOG, schema
        for left in self._log.glob(f"{_STAGED}*"):
            left.unlink()  # by a process that was killed
        self._open()

    @property
    def is_plain(self) -> bool:
        """Whether the table takes appends of this kind."""
        return self._plain

    def has_seen(self, app: str, number: int) -> bool:
        """Whether a commit of this application has that number or a later one."""
        if app not in self._batches:
            self._batches[app] = self._table.transaction_version(app)
        last = self._batches[app]
        return last is not None and last >= number

    def append(self, files: Sequence[File], app: str | None, number: int) -> bool:
        """Add the files in one commit, with the batch's number.

        Args:
            files: below the table's folder.
            app: the application id of the transaction; None for none.
            number: of the batch.

        Returns:
            Whether it was done; False means that the table is no longer plain.

        Raises:
            OSError: the disk is full, or the log can't be written.
        """
        if newest_checkpoint(Folder(str(self._folder))) > self._version:
            # Others have gone on, and what they wrote may have been cleaned away: the
            # next version that we know of could be free, and lie in the past.
            self._open()
        entry = self._entry(files, app, number)
        staged = self._log / f"{_STAGED}{uuid.uuid4()}.tmp"
        staged.write_text(entry)
        try:
            while not self._put(staged):
                self._catch_up()
                if not self._plain:
                    return False
        finally:
            staged.unlink(missing_ok=True)
        if app is not None:
            self._batches[app] = number
        return True

    def _open(self) -> None:
        self._table = DeltaTable(str(self._folder))
        self._version = self._table.version()
        self._batches: dict[str, int | None] = {}
        writer = self._table.protocol().min_writer_version
        same = pa.schema(self._table.schema()).equals(self._schema)
        self._plain = writer <= _PLAIN_WRITER and same

    def _put(self, staged: Path) -> bool:
        """Make the entry the next version; False if that one is taken."""
        try:
            os.link(staged, self._log / f"{self._version + 1:020d}.json")
        except FileExistsError:
            return False
        self._version += 1
        return True

    def _catch_up(self) -> None:
        """Take note of the next version, which somebody else has made."""
        entry = (self._log / f"{self._version + 1:020d}.json").read_text()
        actions = [json.loads(line) for line in entry.splitlines()]
        if any("metaData" in action or "protocol" in action for action in actions):
            self._open()
            return
        self._version += 1
        for action in actions:
            if "txn" in action:
                self._batches[action["txn"]["appId"]] = action["txn"]["version"]

    @staticmethod
    def _entry(files: Sequence[File], app: str | None, number: int) -> str:
        now = int(time.time() * 1000)
        actions: list[dict[str, object]] = [
            {
                "commitInfo": {
                    "timestamp": now,
                    "operation": "WRITE",
                    "operationParameters": {"mode": "Append"},
                    "isBlindAppend": True,
                }
            }
        ]
        if app is not None:
            note = {"appId": app, "version": number, "lastUpdated": now}
            actions.append({"txn": note})
        actions += [
            {
                "add": {
                    "path": file.path,
                    "partitionValues": {},
                    "size": file.size,
                    "modificationTime": now,
                    "dataChange": True,
                    "stats": file.stats,
                }
            }
            for file in files
        ]
        return "\n".join(map(json.dumps, actions)) + "\n"
