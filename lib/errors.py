"""The one exception that carries a message meant for the person at the keyboard."""

from __future__ import annotations


class FraudError(Exception):
    """Something a reader can put right; the text says what and how, in one line."""
