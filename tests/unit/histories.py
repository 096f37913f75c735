"""Card histories for the tests, by hand or at random, and the engine on them."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import strategies as st

from lib.detectors.account_state import fingerprints
from lib.detectors.deduplication import CONFLICT_CODE, DUPLICATE_CODE, NEW_CODE
from lib.detectors.engine import Arrivals, Bucket
from lib.detectors.rules import Answer
from lib.detectors.thresholds import DAY, MINUTE, SECOND, THRESHOLDS, Thresholds
from lib.detectors.vectorised_rules import Answers
from lib.events.card_event import Event

STATUS = {NEW_CODE: "new", DUPLICATE_CODE: "duplicate", CONFLICT_CODE: "conflict"}
START = 1_750_000_000 * SECOND  # µs, in June 2025

# On both sides of every bound in the rules.
_GAPS = [
    0,
    1,
    SECOND,
    7 * SECOND,
    60 * SECOND - 1,
    60 * SECOND,
    3600 * SECOND - 1,
    3600 * SECOND,
    DAY,
    9 * DAY,
    30 * DAY,
    30 * DAY + 1,
]
_DELAYS = [1, 7 * SECOND, 60 * SECOND, 5 * MINUTE - 1, 5 * MINUTE, 5 * MINUTE + 1, DAY]
_CENTS = [1, 100, 101, 1299, 428_000, 10**11, 10**11 - 1]
_CHANGES = [
    {"merchant": "Elsewhere"},
    {"currency": "JPY"},
    {"country": "BR"},
    {"amount_cents": 7},
]

_new = st.fixed_dictionaries(
    {
        "account": st.sampled_from([0, 0, 0, 1, 2]),  # account 0 is hot
        "gap": st.sampled_from([0, 0, SECOND, 7 * SECOND, MINUTE, *_GAPS]),
        "times": st.sampled_from([1, 1, 1, 2, 8, 11]),
        "delay": st.sampled_from([0] * len(_DELAYS) + _DELAYS),
        "prefix": st.text(
            st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=2
        ),
        "country": st.sampled_from(["FR", "FR", "GB", "US"]),
        "cents": st.sampled_from(_CENTS),
        "spread": st.sampled_from([0, 1, 500]),
    }
)
_again = st.fixed_dictionaries(
    {
        "which": st.integers(0, 1000),
        "change": st.one_of(st.none(), st.sampled_from(_CHANGES)),
        "shift": st.sampled_from([0, 0, 0, 1, -MINUTE]),
    }
)


def event(number: int = 0, ts_us: int = START, **fields: object) -> Event:
    """A plain event; `number` makes its id, other fields as given."""
    plain = Event(f"e{number:04d}", "ACCT_1", ts_us, "Café 東京", "FR", 1200, "EUR")
    return plain._replace(**fields)


@st.composite
def records(draw: st.DrawFn, accounts: int = 3, max_steps: int = 25) -> list[Event]:
    """Records of up to 3 accounts in Kafka order.

    Disorder within and beyond the bound, many events in one instant, bursts,
    duplicates, conflicts, amounts from one cent to a billion, silent months.
    """
    clocks = [START, START + DAY, -(10**16)]  # the third account begins in 1653
    sent: list[Event] = []
    at_least = draw(st.sampled_from([0, max_steps // 4, max_steps // 2]))
    step = st.one_of(_new, _new, _new, _again)
    steps = draw(st.lists(step, min_size=at_least, max_size=max_steps))
    for step in steps:
        if "which" in step:
            if sent:
                first = sent[step["which"] % len(sent)]
                changed = first._replace(**step["change"] or {})
                sent.append(changed._replace(ts_us=changed.ts_us + step["shift"]))
            continue
        account = step["account"] % accounts
        for _ in range(step["times"]):
            number = len(sent)
            clocks[account] += step["gap"]
            sent.append(
                Event(
                    # descending, so that the order of ids is not that of arrival
                    event_id=f"{step['prefix']}{9999 - number}",
                    account_id=f"ACCT_{account}",
                    ts_us=clocks[account] - step["delay"],
                    merchant=f"Café {number % 3} 東京",
                    country=step["country"],
                    amount_cents=max(1, step["cents"] - number % 7 * step["spread"]),
                    currency="EUR",
                )
            )
    return sent


def arrivals(events: list[Event]) -> Arrivals:
    return Arrivals(
        event_id=[e.event_id for e in events],
        account_id=[e.account_id for e in events],
        ts_us=np.array([e.ts_us for e in events], np.int64),
        amount_cents=np.array([e.amount_cents for e in events], np.int64),
        country=[e.country for e in events],
        fingerprint=fingerprints(
            [e.merchant for e in events], [e.currency for e in events]
        ),
    )


def answer_at(answers: Answers, row: int, status: int = NEW_CODE) -> Answer:
    """One row as the readable code writes it: Python values, None for null."""
    values = {f.name: getattr(answers, f.name)[row] for f in fields(answers)}
    for name, value in values.items():
        if isinstance(value, np.generic):
            null = value != value or (name in ("velocity_count", "baseline_n"))
            values[name] = None if null and not value >= 0 else value.item()
    return Answer(status=STATUS[status], **values)


def engine_scores(events: list[Event], rules: Thresholds = THRESHOLDS) -> list[Answer]:
    """`score_history` by the engine, in one batch."""
    scored = Bucket.of({}, rules).score(arrivals(events))
    return [
        answer_at(scored.answers, row, status)
        for row, status in enumerate(scored.status.tolist())
    ]
