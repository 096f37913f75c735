"""Tables of the page as HTML: real tables, which a screen reader can read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lib.dashboard.escaping import LABEL_LENGTH, for_html, for_label
from lib.dashboard.masking import CODE_LENGTH
from lib.dashboard.view import Entry
from lib.detectors.rules import DETECTORS, NAMES
from lib.events.card_event import mask_accounts

AMOUNT_LENGTH = 24
"""Characters: 1,000,000,000.00 and a currency have 20."""

DAY_MS = 86_400_000
WHY_LENGTH = 80
STATUS_LENGTH = 400
TOOLTIP_LENGTH = 500

_BADGES = "\n".join(
    f".fs-{each.name} {{ background: {each.colour}; color: {each.ink}; }}"
    for each in DETECTORS
)
STYLE = f"""
<style>
.fs-table {{ width: 100%; border-collapse: collapse; font-size: 1rem; }}
.fs-table caption {{ text-align: left; font-weight: 600; padding: 0 0 .4rem; }}
.fs-table th, .fs-table td {{ text-align: left; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid rgba(128,128,128,.3); vertical-align: top; }}
.fs-table .fs-fixed {{ white-space: nowrap; }}
.fs-table .fs-name {{ min-width: 9rem; }}
.fs-text {{ unicode-bidi: isolate; overflow-wrap: anywhere; }}
.fs-table .fs-number {{ text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }}
.fs-table th[scope="row"] {{ min-width: 6rem; }}
.fs-table a {{ color: inherit; }}
.fs-scroll {{ max-height: 36rem; overflow-y: auto; }}
.fs-scroll thead th {{ position: sticky; top: 0;
  background: var(--st-background-color, Canvas); }}
.fs-badge {{ display: inline-block; padding: .05rem .45rem; border-radius: .3rem;
  font-weight: 700; font-size: .85rem; white-space: nowrap; }}
{_BADGES}
.fs-mark {{ display: inline-block; padding: .05rem .45rem; border-radius: .3rem;
  border: 1px solid currentColor; font-size: .85rem; }}
.fs-why {{ opacity: .85; font-size: .9rem; padding-right: .6rem; }}
.fs-status {{ display: inline-block; max-width: 100%; overflow-wrap: anywhere;
  padding: .3rem .8rem; border-radius: .4rem;
  font-weight: 700; font-size: 1.1rem; }}
.fs-ok {{ background: #00664b; color: #fff; }}
.fs-bad {{ background: #a84300; color: #fff; }}
.fs-idle {{ background: #555; color: #fff; }}
.stMainBlockContainer {{ padding-top: 2.5rem; }}
[data-stale="true"] {{ opacity: 1 !important; transition: none !important; }}
</style>
"""


def status(kind: str, text: str) -> str:
    """The line that says how the stream is; ``kind`` is ok, bad or idle."""
    mark = {"ok": "●", "bad": "▲", "idle": "○"}[kind]
    return (
        f'<div class="fs-status fs-{kind}" role="status" aria-live="polite">'
        f'<span aria-hidden="true">{mark}</span> {shown(text, STATUS_LENGTH)}</div>'
    )


def shown(text: str, most: int = LABEL_LENGTH) -> str:
    """A text from anywhere as HTML: in one line, of bounded length, accounts masked.

    What was cut off is in the tooltip, as far as it is of a length to be read there.
    """
    text = mask_accounts(text)
    full = for_label(text, TOOLTIP_LENGTH)
    tooltip = f' title="{for_html(full)}"' if len(text) > most else ""
    return f'<bdi class="fs-text"{tooltip}>{for_html(for_label(text, most))}</bdi>'


def feed(entries: Sequence[Entry], caption: str) -> str:
    """The feed of transactions, newest first."""
    head = ("Kafka time (UTC)", "Account", "Merchant", "Country", "Amount", "Signals")
    rows = "".join(_feed_row(entry) for entry in entries)
    return (
        '<div class="fs-scroll" tabindex="0" role="region" aria-label="transactions">'
        f"{_table(caption, head, rows, numbers=(4,))}</div>"
    )


def _feed_row(entry: Entry) -> str:
    visible = entry.visible_ms if entry.visible_ms is not None else ""
    return (
        f'<tr data-event="{entry.event}" data-visible="{visible}">'
        f'<td class="fs-fixed">{entry.clock}</td>'
        f'<td class="fs-fixed">{account_link(entry.account, entry.token)}</td>'
        f'<td class="fs-name">{shown(entry.merchant)}</td>'
        f"<td>{shown(entry.country, CODE_LENGTH)}</td>"
        f'<td class="fs-number">{shown(entry.amount, AMOUNT_LENGTH)}</td>'
        f"<td>{signals(entry)}</td></tr>"
    )


def account_link(account: str, token: str) -> str:
    """A masked account that leads to its page."""
    return f'<a href="?account={token}" target="_self">{for_html(account)}</a>'


def signals(entry: Entry) -> str:
    """Badges with their reasons, and what else is to be said of the row."""
    parts = [
        f'<span class="fs-badge fs-{badge.detector}">{badge.label}</span> '
        f'<span class="fs-why">{shown(badge.why, WHY_LENGTH)}</span>'
        for badge in entry.badges
    ]
    if entry.late:
        parts.append('<span class="fs-mark">late, not scored</span>')
    if entry.revised:
        parts.append('<span class="fs-mark">revised</span>')
    return " ".join(parts)


def history(entries: Sequence[Entry], places: Sequence[str], caption: str) -> str:
    """An account's events with their places in Kafka."""
    head = ("Event time (UTC)", "Merchant", "Country", "Amount", "Signals", "Kafka")
    rows = "".join(
        f'<tr><td class="fs-fixed">{entry.event_time}</td>'
        f'<td class="fs-name">{shown(entry.merchant)}</td>'
        f"<td>{shown(entry.country, CODE_LENGTH)}</td>"
        f'<td class="fs-number">{shown(entry.amount, AMOUNT_LENGTH)}</td>'
        f"<td>{signals(entry)}</td><td>{shown(place)}</td></tr>"
        for entry, place in zip(entries, places, strict=True)
    )
    return (
        '<div class="fs-scroll" tabindex="0" role="region" aria-label="history">'
        f"{_table(caption, head, rows, numbers=(3,))}</div>"
    )


def latency(last: Sequence[float | None], run: Sequence[float | None], measured: int):
    """Percentiles from Kafka to Delta."""
    lines = [
        ("last 60 s", *map(_ms, last)),
        (f"all {measured:,} measured", *map(_ms, run)),
    ]
    return plain(
        "Latency, Kafka record to Delta commit", ("", "p50", "p95", "p99"), lines
    )


def plain(caption: str, head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A small table of numbers; the first column names the rows."""
    rows = "".join(
        f'<tr><th scope="row">{_cell(line[0])}</th>'
        + "".join(f'<td class="fs-number">{_cell(value)}</td>' for value in line[1:])
        + "</tr>"
        for line in lines
    )
    return _table(caption, head, rows, numbers=range(1, len(head)))


def accounts(rows: Iterable[Mapping[str, object]], caption: str) -> str:
    """Accounts at risk: the masked account leads to its page."""
    rows = list(rows)
    banded = any("risk_band" in row for row in rows)
    head = ["Account", "Alerts", *(name.capitalize() for name in NAMES)]
    lines = [
        [
            Raw(account_link(str(row["account"]), str(row["token"]))),
            *(row[name] for name in ("alerts", *NAMES)),
            *([row["risk_band"]] if banded else []),
        ]
        for row in rows
    ]
    return plain(caption, [*head, *(["Risk"] if banded else [])], lines)


class Raw(str):
    """HTML that is meant as such."""


def _cell(value: object) -> str:
    if isinstance(value, Raw):
        return value
    return f"{value:,}" if isinstance(value, int) else shown(str(value))


def _table(caption: str, head: Sequence[str], rows: str, numbers=()) -> str:
    cells = "".join(
        f'<th scope="col"{" class=fs-number" if at in numbers else ""}>'
        f"{for_html(for_label(text))}</th>"
        for at, text in enumerate(head)
    )
    return (
        f'<table class="fs-table"><caption>{shown(caption, STATUS_LENGTH)}</caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _ms(value: float | None) -> str:
    """Milliseconds; of a day and more, as of records whose clock was wrong, days."""
    if value is None:
        return "–"
    return f"{value:,.0f} ms" if abs(value) < DAY_MS else f"{value / DAY_MS:,.0f} d"
