"""Log files are read by people: no line of one names an account in full."""

from __future__ import annotations

import logging

from lib.events.card_event import mask_accounts


class MaskingFormatter(logging.Formatter):
    """Masks whatever is logged, by whatever library, tracebacks included.

    The JVMs' own files are masked by ``conf/log4j2.properties``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, masked."""
        return mask_accounts(super().format(record))
