"""Log files name no account in full."""

from __future__ import annotations

import logging
import sys

from lib.events.log_masking import MaskingFormatter


def test_messages_arguments_and_tracebacks_are_masked():
    try:
        raise ValueError("no place for ACCT_0000085")
    except ValueError:
        trouble = sys.exc_info()
    told = ("ACCT_0000084", "ACCT_70")
    record = logging.LogRecord("x", 30, "f", 1, "%s and %s", told, trouble)

    text = MaskingFormatter("%(message)s").format(record)
    assert text.startswith("ACCT_••84 and ACCT_••\n")
    assert text.endswith("ValueError: no place for ACCT_••85")
