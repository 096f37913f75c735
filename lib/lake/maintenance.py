"""Keeps a local lake's files, logs and reading times bounded while the stream runs.

Each micro-batch adds a file and a log entry to each table, some 400,000 a day. So every
so often a thread of the writer's merges the small files, writes a checkpoint of the log
and deletes what no reader needs any more, beside the batches: appends and a compaction
are no conflict to each other, and a merge waits for it. A compaction changes no row:
its actions carry ``dataChange: false``, and who follows the log passes over them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lib.lake.delta_log import Folder, newest_checkpoint

CHECKPOINT_COMMITS = 100
"""Commits between two checkpoints of a table's log. Delta's own default of 10 writes
the table's state anew once a second or two."""

COMPACT_BATCHES = 500
"""Micro-batches between two compactions: some minutes at full speed."""

VACUUM_COMPACTIONS = 10
"""Compactions between two deletions of files that no version names any more."""

TARGET_BYTES = 16 * 2**20
"""Size of a compacted file. Larger ones would be written again each time."""

RETENTION = {
    "delta.logRetentionDuration": "interval 1 hours",
    "delta.deletedFileRetentionDuration": "interval 1 hours",
}
"""How long the log's entries and replaced files stay: for a reader that lags, and for
`DESCRIBE HISTORY`. Each checkpoint of the log names the files that were replaced in
that time, so a day of them would cost half a second a hundred commits."""

_log = logging.getLogger(__name__)


class Maintenance:
    """Looks after some tables; call `after_batch` when their commits are done."""

    def __init__(
        self,
        tables: Mapping[str, AbstractContextManager],
        every: int = COMPACT_BATCHES,
    ) -> None:
        """Compaction and checkpoints of these tables, in a thread of its own.

        Args:
            tables: by path, each with what keeps merges away from it.
            every: micro-batches between two compactions.
        """
        self._tables, self._every = tables, every
        self._batches = self._compactions = 0
        self._pool = ThreadPoolExecutor(1, "maintenance")
        self._running: Future | None = None

    def after_batch(self) -> None:
        """Set about it if it is time to. That it fails stops nobody."""
        self._batches += 1
        compact = self._batches % self._every == 0
        # After the first one, too: short runs leave commits behind as well.
        checkpoint = self._batches == 1 or self._batches % CHECKPOINT_COMMITS == 0
        if not (compact or checkpoint):
            return
        if compact:
            self.finish()  # a slow disk: better late than never
        elif self._running and not self._running.done():
            return
        self._running = self._pool.submit(self._look_after, compact)

    def finish(self) -> None:
        """Wait for what is under way."""
        if self._running:
            self._running.result()

    def close(self) -> None:
        """Wait for what is under way; nothing is begun any more."""
        self._pool.shutdown()

    def _look_after(self, compact: bool) -> None:
        self._compactions += compact
        for uri, alone in self._tables.items():
            try:
                if compact:
                    self._compact(uri, alone)
                self._checkpoint(uri)
            except (DeltaError, OSError) as error:
                # The next batch will tell if the disk is full.
                _log.warning("%s was not looked after: %s", uri, error)

    def _compact(self, uri: str, alone: AbstractContextManager) -> None:
        with alone:
            table = DeltaTable(uri)
            table.optimize.compact(target_size=TARGET_BYTES, max_concurrent_tasks=1)
        if self._compactions % VACUUM_COMPACTIONS == 0:
            table.vacuum(dry_run=False)

    @staticmethod
    def _checkpoint(uri: str) -> None:
        """Write one if it is due, and delete the log's entries that are out of date."""
        before = newest_checkpoint(Folder(uri))
        table = DeltaTable(uri)
        if table.version() - before >= CHECKPOINT_COMMITS:
            table.create_checkpoint()
            table.cleanup_metadata()
