"""Keeps a local lake's files, logs and reading times bounded while the stream runs.

Each micro-batch adds a file and a log entry to each table, some 260,000 a day. So every
so often the writer itself merges the small files between two batches, when nobody else
commits, and deletes what no reader needs any more. A compaction changes no row: its
actions carry ``dataChange: false``, and who follows the log passes over them.
"""

from __future__ import annotations

import logging

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

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

    def __init__(self, uris: list[str], every: int = COMPACT_BATCHES) -> None:
        """Tables by path; compacted every so many batches."""
        self._uris, self._every = uris, every
        self._batches = self._compactions = 0

    def after_batch(self) -> None:
        """Compact, and clean up, if it is time to. That it fails stops nobody."""
        self._batches += 1
        if self._batches % self._every:
            return
        self._compactions += 1
        for uri in self._uris:
            try:
                table = DeltaTable(uri)
                table.optimize.compact(target_size=TARGET_BYTES, max_concurrent_tasks=1)
                if self._compactions % VACUUM_COMPACTIONS == 0:
                    table.vacuum(dry_run=False)
            except (DeltaError, OSError) as error:
                # The next batch will tell if the disk is full.
                _log.warning("%s was not compacted: %s", uri, error)
