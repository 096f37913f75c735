"""What may reach a browser: masked accounts, tokens for ids, reasons in words."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict

from lib.dashboard.escaping import for_label
from lib.dashboard.model import Row
from lib.detectors.detector import Detector
from lib.events.card_event import mask_accounts

REMEMBERED = 5_000
"""Accounts whose tokens lead back: far more than one page ever shows."""

CODE_LENGTH = 12


class Tokens:
    """Names for accounts and events that say nothing, and lead back only here.

    A token is an HMAC under a key that this process made and nobody else knows, so
    that an id can't be found by hashing all the ids there could be.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._accounts: OrderedDict[str, str] = OrderedDict()

    def account(self, account_id: str) -> str:
        """The account's token; ``account_of`` leads back."""
        token = self._token(account_id)
        self._accounts[token] = account_id
        self._accounts.move_to_end(token)
        if len(self._accounts) > REMEMBERED:
            self._accounts.popitem(last=False)
        return token

    def account_of(self, token: str) -> str | None:
        """The account behind a token of this process; None if there is none."""
        return self._accounts.get(token)

    def event(self, account_id: str, event_id: str) -> str:
        """The event's token."""
        return self._token(f"{account_id}\0{event_id}")

    def _token(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:16]


def code(text: str) -> str:
    """A country's or a currency's code; in somebody else's table it may be any text."""
    return for_label(mask_accounts(text), CODE_LENGTH)


class _Safe:
    """A row whose texts are masked and short enough for a page."""

    def __init__(self, row: Row) -> None:
        self._row = row

    def __getattr__(self, name: str) -> object:
        value = getattr(self._row, name)
        return code(value) if isinstance(value, str) else value


def reason(row: Row, detector: Detector) -> str:
    """Why the detector fires on the row, in words."""
    return detector.reason(_Safe(row))
