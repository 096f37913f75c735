"""What the page shows, ready to be drawn: masked, formatted, filtered. No Streamlit."""

from __future__ import annotations

import csv
import heapq
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from lib.dashboard.accounts import TOP_ACCOUNTS, History
from lib.dashboard.aggregates import SLOT_SECONDS
from lib.dashboard.escaping import for_html, for_spreadsheet
from lib.dashboard.masking import Tokens, code, reason
from lib.dashboard.model import Row
from lib.detectors.rules import NAMES
from lib.events.card_event import mask_account, mask_accounts

FEED_ROWS = 40
MOST_COUNTRIES = 12


@dataclass(frozen=True)
class Filters:
    """What of the feed is wanted; empty means everything.

    Attributes:
        detectors: rows on which one of these fires.
        countries: rows of these countries.
        ending: rows of accounts whose masked id ends in this.
    """

    detectors: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    ending: str = ""

    def keep(self, row: Row) -> bool:
        """Whether the row is wanted."""
        if self.detectors and not set(self.detectors) & set(row.detectors):
            return False
        if self.countries and row.country not in self.countries:
            return False
        return mask_account(row.account_id).endswith(self.ending)


@dataclass(frozen=True)
class Badge:
    """An alert on a row: the detector, its label and why it fired."""

    detector: str
    label: str
    why: str


@dataclass(frozen=True)
class Entry:
    """A row of the feed, fit for a browser.

    Attributes:
        event: the event's token.
        clock: when its record reached Kafka, time of day, UTC.
        event_time: when it happened, UTC.
        account: the masked account.
        token: the account's token.
        visible_ms: when the row's commit made it visible; None if unknown.
        latency_ms: from Kafka to that commit; None if unknown.
    """

    event: str
    clock: str
    event_time: str
    account: str
    token: str
    merchant: str
    country: str
    amount: str
    badges: tuple[Badge, ...]
    late: bool
    revised: bool
    visible_ms: int | None
    latency_ms: float | None


def feed(rows: list[Row], alerts: list[Row], filters: Filters, tokens: Tokens):
    """The newest FEED_ROWS entries that the filters let through.

    Args:
        rows: the newest rows, newest first.
        alerts: the newest rows with an alert; they reach further back.
        filters: what is wanted.
        tokens: makes the tokens.
    """
    chosen = alerts if filters.detectors else rows
    found = []
    for row in chosen:
        if filters.keep(row):
            found.append(entry(row, tokens))
            if len(found) == FEED_ROWS:
                break
    return found


def entry(row: Row, tokens: Tokens) -> Entry:
    """One row of the feed."""
    badges = tuple(Badge(d.name, d.label, reason(row, d)) for d in row.fired)
    latency = None
    if row.visible_ms is not None:
        latency = row.visible_ms - _epoch_ms(row.kafka_timestamp)
    return Entry(
        event=tokens.event(row.account_id, row.event_id),
        clock=f"{row.kafka_timestamp:%H:%M:%S}",
        event_time=f"{row.ts:%Y-%m-%d %H:%M:%S}",
        account=mask_account(row.account_id),
        token=tokens.account(row.account_id),
        merchant=mask_accounts(row.merchant),
        country=mask_accounts(row.country),
        amount=f"{row.amount:,} {mask_accounts(row.currency)}",
        badges=badges,
        late=row.late,
        revised=row.revision > 0,
        visible_ms=row.visible_ms,
        latency_ms=latency,
    )


CSV_COLUMNS = (
    "kafka_time",
    "event_time",
    "account",
    "merchant",
    "country",
    "amount",
    "signals",
    "reasons",
    "late",
    "revised",
)


def feed_csv(entries: Iterable[Entry]) -> str:
    """The entries as CSV: masked as on the page, and no cell of it is a formula."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_COLUMNS)
    for one in entries:
        signals = "; ".join(badge.label for badge in one.badges)
        reasons = "; ".join(badge.why for badge in one.badges)
        cells = (one.clock, one.event_time, one.account, one.merchant, one.country)
        cells += (one.amount, signals, reasons, str(one.late), str(one.revised))
        table.writerow(map(for_spreadsheet, cells))
    return text.getvalue()


def alerts_over_time(slots: Counter) -> pd.DataFrame:
    """Alerts per detector over time, in slots wide enough to be few.

    Args:
        slots: (slot, detector) → alerts, see ``aggregates.Sums``.

    Returns:
        columns ``at`` (UTC, start of the slot), ``detector``, ``alerts``,
        ``seconds`` (the slot's width).
    """
    columns = ["at", "detector", "alerts", "seconds"]
    counts = {key: n for key, n in slots.items() if n > 0}
    if not counts:
        return pd.DataFrame(columns=columns)
    first, last = (f(slot for slot, _ in counts) for f in (min, max))
    span = (last - first + 1) * SLOT_SECONDS
    width = next((w for w in (10, 60, 300, 600) if span / w <= 60), 1800)
    wide: Counter = Counter()
    for (slot, detector), n in counts.items():
        wide[slot * SLOT_SECONDS // width * width, detector] += n
    rows = [
        (pd.Timestamp(at, unit="s"), detector, n, width)
        for (at, detector), n in sorted(wide.items())
    ]
    return pd.DataFrame(rows, columns=columns)


def by_country(countries: Counter, flagged: Counter) -> pd.DataFrame:
    """Transactions and alerts of the MOST_COUNTRIES countries with the most alerts.

    Returns:
        columns ``country``, ``transactions``, ``alerts``, most alerts first.
    """
    rows = [
        (_axis_code(country), countries[country], alerts)
        for country, alerts in flagged.items()
        if alerts > 0
    ]
    frame = pd.DataFrame(rows, columns=["country", "transactions", "alerts"])
    order = ["alerts", "transactions", "country"]
    return frame.sort_values(order, ascending=[False, False, True]).head(MOST_COUNTRIES)


def _axis_code(text: str) -> str:
    """A code at an axis, whose labels Plotly takes for HTML."""
    return for_html(code(text))


def top_accounts(accounts: dict[str, list[int]], tokens: Tokens) -> list[dict]:
    """The TOP_ACCOUNTS accounts with the most alerts, as the stream has it now."""
    totals = ((-sum(alerts), name) for name, alerts in accounts.items())
    most = [(-total, name) for total, name in heapq.nsmallest(TOP_ACCOUNTS, totals)]
    return [
        {
            "account": mask_account(name),
            "token": tokens.account(name),
            "alerts": total,
            **dict(zip(NAMES, accounts[name], strict=True)),
        }
        for total, name in most
        if total > 0
    ]


def gold_accounts(rows: Iterable[dict], tokens: Tokens) -> list[dict]:
    """dbt's accounts at risk, masked (see ``accounts.at_risk``)."""
    return [
        {
            "account": mask_account(row["account_id"]),
            "token": tokens.account(row["account_id"]),
            "alerts": row["alerts"],
            **{d: row[f"{d}_alerts"] for d in NAMES},
            "risk_band": row["risk_band"],
        }
        for row in rows
    ]


@dataclass(frozen=True)
class AccountPage:
    """An account's page, fit for a browser.

    Attributes:
        account: the masked account.
        total: its events in the table.
        entries: the newest of them, newest first.
        places: ``partition 2, offset 1041`` of each entry, or empty.
        points: columns ``ts``, ``amount``, ``currency``, ``mean``, ``low``, ``high``
            (the band in which no outlier is), ``pattern`` (``normal`` or a detector).
    """

    account: str
    total: int
    entries: list[Entry]
    places: list[str]
    points: pd.DataFrame = field(repr=False)


def account_page(found: History, tokens: Tokens, z_limit: float) -> AccountPage | None:
    """The page of the account whose history that is; None if it has no events."""
    if not found.rows:
        return None
    places = [found.places.get(row.event_id) for row in found.rows]
    return AccountPage(
        account=mask_account(found.rows[0].account_id),
        total=found.total,
        entries=[entry(row, tokens) for row in found.rows],
        places=[f"partition {p[0]}, offset {p[1]:,}" if p else "" for p in places],
        points=pd.DataFrame([_point(row, z_limit) for row in reversed(found.rows)]),
    )


def _point(row: Row, z_limit: float) -> dict[str, object]:
    mean, spread = row.baseline_mean, row.baseline_stddev
    known = row.z is not None and spread is not None
    return {
        "ts": row.ts,
        "amount": float(row.amount),
        "currency": _axis_code(row.currency),
        "mean": mean if known else None,
        "low": max(0.0, mean - z_limit * spread) if known else None,
        "high": mean + z_limit * spread if known else None,
        "pattern": row.detectors[0] if row.detectors else "normal",
    }


def _epoch_ms(moment) -> float:
    return pd.Timestamp(moment, tz="UTC").timestamp() * 1000
