"""Seeded card events with labelled anomalies: the data of every notebook."""

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.datagen import anomalies, delivery_faults, purchases
from lib.datagen.catalog import COUNTRIES
from lib.events.card_event import Event

END = datetime(2026, 6, 30, tzinfo=UTC)
"""Every story ends just before this moment, whatever the clock says."""

DEFAULT_SEED = 20260630
MAX_DAYS = 3_650
MAX_ACCOUNTS = 10**8  # account ids have eight digits
EVENTS_FILE, LABELS_FILE = "tx_events.jsonl", "labels.csv"
FRAUD_FILE = "fraud.csv"


class Label(NamedTuple):
    """One event's place in a planted anomaly; the columns of labels.csv, and of
    fraud.csv (whose patterns and roles `lib.datagen.market` names)."""

    anomaly_id: str  # such as velocity-0001, numbered by time within a pattern
    pattern: str  # velocity, geo or amount
    role: str  # alert: the rule fires on this event; part: it made the rule fire
    account_id: str
    event_id: str


class Story(NamedTuple):
    """Valid events by event time, with the labels of those in an anomaly."""

    events: list[Event]
    labels: list[Label]


@dataclass(frozen=True)
class Generated:
    """A file's lines in arrival order, and what is known about them.

    `events` counts the distinct valid events. Duplicates, conflicts and malformed
    lines come on top of them. Identities are (account_id, event_id).
    """

    lines: list[str]  # non-UTF-8 bytes as surrogate escapes
    labels: list[Label]
    events: int
    late: tuple[tuple[str, str], ...] = ()  # more than 5 minutes behind their account
    out_of_order: tuple[tuple[str, str], ...] = ()  # behind it, by less than 4 minutes
    duplicates: int = 0
    conflicts: int = 0
    malformed: Counter[str] = field(default_factory=Counter)  # lines by reason
    fraud: list[Label] | None = None  # what happened, in a scenario that knows it

    @property
    def labelled(self) -> int:
        """Number of distinct events on which a rule is to fire."""
        alerts = (label for label in self.labels if label.role == "alert")
        return len({(label.account_id, label.event_id) for label in alerts})


def generate(
    events: int,
    accounts: int,
    days: int = 40,
    seed: int = DEFAULT_SEED,
    *,
    anomaly_share: float = 0.05,
    duplicates: float = 0.0,
    out_of_order: float = 0.0,
    late: float = 0.0,
    malformed: float = 0.0,
    conflicts: float = 0.0,
) -> Generated:
    """`events` valid events of up to `accounts` accounts, ending at END.

    All shares are of `events`. anomaly_share: alerts planted, a third for each rule.
    duplicates: events sent again later, the same or written another way. conflicts:
    event ids used again later with another content. malformed: lines for quarantine,
    one reason after the other. out_of_order: events that arrive less than 4 minutes
    of event time late; late: more than 5 minutes, never one of an anomaly. The last
    two, like the anomalies, are fewer where lives have no room for them. Every
    account has an event if there are at least twice as many events as accounts.

    The same arguments give the same lines, and the shares after anomaly_share don't
    change the events themselves. Raises ValueError, in one line, on a bad argument.
    """
    check_counts(events=events, accounts=accounts, days=days, seed=seed)
    shares = delivery_faults.Shares(
        duplicates, out_of_order, late, malformed, conflicts
    )
    check_shares(anomaly_share=anomaly_share, **shares._asdict())
    rows, valid = _events(events, accounts, days, seed, anomaly_share)
    return deliver(rows, valid, seed, shares, labels_of(rows, valid))


def deliver(
    rows: np.ndarray,
    valid: list[Event],
    seed: int,
    shares: delivery_faults.Shares,
    labels: list[Label],
) -> Generated:
    """The lines of these events (rows and events by account and time), as they
    arrive."""
    # Its own stream: how events arrive doesn't change what happened.
    rng = np.random.default_rng([seed, 1])
    sent = delivery_faults.send(rng, rows, valid, shares)
    return Generated(
        lines=sent.lines,
        labels=labels,
        events=len(valid),
        late=_identities(valid, sent.late),
        out_of_order=_identities(valid, sent.out_of_order),
        duplicates=sent.duplicates,
        conflicts=sent.conflicts,
        malformed=Counter(sent.malformed),
    )


def story(
    events: int,
    accounts: int,
    days: int = 40,
    seed: int = DEFAULT_SEED,
    *,
    anomaly_share: float = 0.05,
) -> Story:
    """What `generate` tells, as events instead of lines."""
    check_counts(events=events, accounts=accounts, days=days, seed=seed)
    check_shares(anomaly_share=anomaly_share)
    rows, valid = _events(events, accounts, days, seed, anomaly_share)
    return Story(by_time(rows, valid, seed), labels_of(rows, valid))


def by_time(rows: np.ndarray, valid: list[Event], seed: int) -> list[Event]:
    """These events (rows and events by account and time) by event time alone."""
    rng = np.random.default_rng([seed, 1])
    order = delivery_faults.in_arrival_order(rng, rows["ts_ms"], np.zeros(len(rows)))
    return [valid[place] for place in order.tolist()]


def write(generated: Generated, out_dir: str | os.PathLike) -> tuple[Path, Path]:
    """Write tx_events.jsonl and labels.csv into out_dir, each all or nothing, and
    fraud.csv if it is known what happened.

    Makes out_dir if need be. Returns the first two paths.
    """
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if generated.fraud is not None:
        _replace(folder / FRAUD_FILE, labels_csv(generated.fraud))
    text = "".join(f"{line}\n" for line in generated.lines)
    events = _replace(folder / EVENTS_FILE, text)
    return events, _replace(folder / LABELS_FILE, labels_csv(generated.labels))


def labels_csv(labels: list[Label]) -> str:
    """The content of labels.csv or fraud.csv."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Label._fields)
    table.writerows(labels)
    return text.getvalue()


def _replace(path: Path, text: str) -> Path:
    """Write a file under another name first: readers see the old or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(text.encode("utf-8", "surrogateescape"))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def check_counts(**counts: int) -> None:
    """Raise ValueError, in one line, on the first number that is out of range."""
    most = {"days": MAX_DAYS, "accounts": MAX_ACCOUNTS}
    for name, count in counts.items():
        least = 0 if name == "seed" else 1
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            message = f"{name} must be a whole number of at least {least}"
            raise ValueError(f"{message}, not {count!r}")
        if count > most.get(name, count):
            raise ValueError(f"{name} must be at most {most[name]}, not {count}")


def check_shares(**shares: float) -> None:
    """Raise ValueError, in one line, on the first that is no share."""
    for name, share in shares.items():
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if not number or math.isnan(share) or not 0 <= share <= 1:
            raise ValueError(f"{name} must be a share from 0 to 1, not {share!r}")


def population(
    rng: np.random.Generator, events: int, accounts: int, days: int
) -> tuple[list[str], np.ndarray]:
    """The ids of the accounts that pay, and their holders (PERSON)."""
    active = min(accounts, events)
    numbers = np.sort(rng.choice(accounts, active, replace=False)) + 1
    # A factor prime to 10 maps eight digits one to one.
    ids = [f"ACCT_{n * 61_803_397 % MAX_ACCOUNTS:08d}" for n in numbers.tolist()]
    return ids, purchases.people(rng, active, days)


def as_events(
    rows: np.ndarray, ids: list[str], persons: np.ndarray, days: int
) -> list[Event]:
    """The rows as events, in the same order."""
    digits = anomalies.id_digits(len(rows))
    currencies = [COUNTRIES[home].currency for home in persons["home"].tolist()]
    accounts_of = rows["account"].tolist()
    start_us = int((END - timedelta(days=days)).timestamp()) * 1_000_000
    columns = (
        [f"e-{number:0{digits}d}" for number in rows["id"].tolist()],
        [ids[account] for account in accounts_of],
        (start_us + rows["ts_ms"] * 1_000).tolist(),
        [anomalies.MERCHANTS[merchant] for merchant in rows["merchant"].tolist()],
        [COUNTRIES[country].code for country in rows["country"].tolist()],
        rows["cents"].tolist(),
        [currencies[account] for account in accounts_of],
    )
    return [Event(*fields) for fields in zip(*columns, strict=True)]


def labels_of(
    rows: np.ndarray,
    events: list[Event],
    patterns: Sequence[str] = anomalies.PATTERNS,
    roles: Sequence[str] = anomalies.ROLES,
) -> list[Label]:
    """Labels by event time, anomalies numbered as they begin.

    `patterns` and `roles` name the numbers in the rows.
    """
    places = np.flatnonzero(rows["pattern"])
    places = places[np.argsort(rows["ts_ms"][places], kind="stable")]
    numbers: dict[tuple[str, int], str] = {}
    begun: Counter[str] = Counter()
    labels = []
    for place in places.tolist():
        pattern = patterns[rows["pattern"][place]]
        key = (pattern, int(rows["anomaly"][place]))
        if key not in numbers:
            begun[pattern] += 1
            numbers[key] = f"{pattern}-{begun[pattern]:04d}"
        role, event = roles[rows["role"][place]], events[place]
        identity = event.account_id, event.event_id
        labels.append(Label(numbers[key], pattern, role, *identity))
    return labels


def _events(
    events: int, accounts: int, days: int, seed: int, anomaly_share: float
) -> tuple[np.ndarray, list[Event]]:
    """The story as rows and as events, both by account and time."""
    rng = np.random.default_rng([seed, 0])
    ids, persons = population(rng, events, accounts, days)
    rows = purchases.life(rng, persons, events, days)
    rows = anomalies.plant(rng, rows, persons, round(events * anomaly_share), days)
    return rows, as_events(rows, ids, persons, days)


def _identities(events: list[Event], places: np.ndarray) -> tuple[tuple[str, str], ...]:
    chosen = (events[place] for place in places.tolist())
    return tuple((event.account_id, event.event_id) for event in chosen)
