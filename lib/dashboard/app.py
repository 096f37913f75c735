"""The operator's page. Streamlit runs this file anew for every look; it only draws."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from lib.charts import live_figures
from lib.dashboard import markup, view
from lib.dashboard.escaping import for_markdown
from lib.dashboard.health import NOT_ASKED, Health, age_text, clock_text
from lib.dashboard.reader import Live, Reader
from lib.detectors.rules import NAMES
from lib.events import iso_codes
from lib.events.card_event import mask_accounts
from lib.lake.follower import NoTable
from lib.settings import Settings

# How often each part is drawn anew; a chart costs more than a table.
FEED_SECONDS = 0.7
HEALTH_SECONDS = 2.0
CHART_SECONDS = 4.0
CHART_HEIGHT = 260


@st.cache_resource(show_spinner=False, hash_funcs={Settings: repr})
def shared_reader(settings: Settings) -> Reader:
    """The process's reader of this lake: one for all open pages."""
    return Reader(settings).start()


def main() -> None:
    """Draw the page that the address asks for."""
    st.set_page_config(page_title="Fraud signals", page_icon="💳", layout="wide")
    st.html(markup.STYLE)
    reader = shared_reader(Settings.from_env())
    token = st.query_params.get("account")
    if token:
        _account(reader, token)
    else:
        _overview(reader)


# -- overview ---------------------------------------------------------------------


def _overview(reader: Reader) -> None:
    st.title("Fraud signals, live")
    st.fragment(_status, run_every=1.0)(reader)
    filters, paused = _controls()

    def every(seconds: float) -> float | None:
        return None if paused else seconds

    left, right = st.columns([3, 2], gap="large")
    with left:
        st.fragment(_feed, run_every=every(FEED_SECONDS))(reader, filters, paused)
        _download(reader, filters, paused)
        st.fragment(_health, run_every=every(HEALTH_SECONDS))(reader)
    with right:
        st.fragment(_rates, run_every=every(HEALTH_SECONDS))(reader)
        st.fragment(_charts, run_every=every(CHART_SECONDS))(reader)


def _status(reader: Reader) -> None:
    if trouble := reader.health_trouble:
        st.html(markup.status("bad", f"can't tell how the stream is: {trouble}"))
        return
    st.html(markup.status(*stream_status(reader.health(), time.time())))


def stream_status(health: Health | None, now: float) -> tuple[str, str]:
    """How the stream is: (ok, bad or idle; the words)."""
    if health is None:
        return "idle", "looking at the stream …"
    if health.beat is None:
        return "idle", "no stream has run here yet: make demo starts one"
    if health.down_since is not None:
        since = f"since {clock_text(health.down_since)}"
        ago = age_text(max(0.0, now - health.down_since))
        why = f": {health.beat.detail}" if health.beat.detail else ""
        return "bad", f"stream is down {since} ({ago}){why}"
    if health.broker_trouble and health.broker_trouble != NOT_ASKED:
        trouble = f"the stream runs, but no broker answers: {health.broker_trouble}"
        return "bad", trouble
    return "ok", "stream is running"


def _controls() -> tuple[view.Filters, bool]:
    detectors, countries, account, pause = st.columns([3, 3, 2, 1])
    # In the address, so that a filtered page can be sent to a colleague.
    with detectors:
        chosen = st.multiselect(
            "Detectors", NAMES, key="detectors", bind="query-params"
        )
    with countries:
        wanted = st.multiselect(
            "Countries",
            sorted(iso_codes.countries()),
            key="countries",
            bind="query-params",
        )
    with account:
        ending = st.text_input(
            "Account ends in",
            key="ending",
            max_chars=2,
            placeholder="84",
            bind="query-params",
        )
    with pause:
        paused = st.toggle("Pause", key="paused", help="Stop the page, not the stream.")
    return view.Filters(tuple(chosen), tuple(wanted), ending.strip()), paused


def _feed(reader: Reader, filters: view.Filters, paused: bool) -> None:
    live = _frozen(reader, filters, paused)
    if live.trouble and not live.rows:
        st.info(
            "There are no scored transactions to show yet: `make demo` starts "
            "everything, `python -m lib stream` the stream alone. "
            f"({_told(live.trouble)})"
        )
        return
    if live.trouble:
        st.warning(f"The table can't be read just now: {_told(live.trouble)}")
    st.html(markup.feed(live.entries, f"Newest of {live.rows:,} transactions"))
    if not live.entries:
        st.caption("No transaction in memory passes the filters.")


def _told(trouble: str) -> str:
    """Untrusted text, escaped for Streamlit's Markdown."""
    return for_markdown(mask_accounts(trouble))


def _frozen(reader: Reader, filters: view.Filters, paused: bool) -> Live:
    """What the reader has now; while paused, what it had then."""
    kept = st.session_state.get("frozen")
    if paused and kept and kept[0] == filters:
        return kept[1]
    live = reader.live(filters)
    st.session_state["frozen"] = (filters, live)
    return live


def _download(reader: Reader, filters: view.Filters, paused: bool) -> None:
    frozen = _frozen(reader, filters, paused) if paused else None

    def table() -> str:  # made when it is asked for, and not with every look
        live = frozen or reader.live(filters)
        return view.feed_csv(live.entries)

    st.download_button(
        "Download these rows",
        table,
        "transactions.csv",
        "text/csv",
        on_click="ignore",
        help="CSV, accounts masked.",
    )


def _rates(reader: Reader) -> None:
    live = reader.live(view.Filters())
    now = f"{live.rates[-1][1]:.1f}" if live.rates else "–"
    one, two, three = st.columns(3)
    one.metric("Events per second", now, help="Scored and visible, rolling 60 s.")
    two.metric("Transactions", f"{live.rows:,}")
    three.metric("With an alert", f"{live.flagged:,}")
    st.html(
        markup.latency(
            live.latency.last_minute, live.latency.whole_run, live.latency.measured
        )
    )
    frame = pd.DataFrame(live.rates, columns=["second", "rate"])
    title = f"{now} events per second reach the table (rolling 60 s)"
    _chart(live_figures.rolling_throughput(frame, title), "throughput")


def _charts(reader: Reader) -> None:
    alerts = reader.alerts()
    counts = ", ".join(f"{alerts.totals[d]:,} {d}" for d in NAMES)
    _chart(
        live_figures.alerts_over_time(alerts.over_time, f"Alerts: {counts}"), "alerts"
    )
    if len(alerts.countries):
        first = alerts.countries.iloc[0]
        title = f"{first['country']} has the most alerts: {first['alerts']:,}"
        _chart(live_figures.countries(alerts.countries, title), "countries")
    st.html(_accounts_table(reader, alerts.accounts))


def _accounts_table(reader: Reader, counted: list[dict]) -> str:
    gold = reader.gold()
    if gold:
        age = age_text(max(0.0, time.time() - gold.built_ms / 1000))
        rows = view.gold_accounts(gold.accounts, reader.tokens)
        return markup.accounts(rows, f"Accounts at risk, from the marts of {age} ago")
    caption = "Accounts with the most alerts (no marts yet: counted by this page)"
    return markup.accounts(counted, caption)


def _health(reader: Reader) -> None:
    health, judged = reader.health(), reader.books()
    if health is None or judged is None:
        return
    st.header("Health")
    one, other = st.columns(2, gap="large")
    with one:
        st.html(_lag_table(health))
        if health.broker_trouble:
            st.caption(f"Broker: {_told(health.broker_trouble)}")
        st.html(_query_table(health))
    with other:
        st.html(_books_table(*judged))
        lines = list(reader.quarantine().items())
        if lines:
            st.html(markup.plain("Quarantined, by reason", ("", "records"), lines))
    st.caption(f"The last look at the lake took {reader.refresh_ms:.0f} ms.")


def _lag_table(health: Health) -> str:
    names = list(health.queries)
    lags = {name: health.lag(name) for name in names}
    lines = [
        (f"partition {part}", end, *(_lag(lags[name], part) for name in names))
        for part, end in sorted(health.ends.items())
    ]
    total = ("all", sum(health.ends.values()))
    lines.append((*total, *(_lag(lags[name]) for name in names)))
    head = ("", "next offset", *(f"lag of {name}" for name in names))
    return markup.plain("Kafka lag, from Spark's own offsets", head, lines)


def _lag(lag: dict[int, int] | None, part: int | None = None) -> int | str:
    """One partition's lag, or all of it; a dash for a query that reads no topic."""
    if lag is None:
        return "–"
    return sum(lag.values()) if part is None else lag.get(part, 0)


def _query_table(health: Health) -> str:
    queries = health.queries.values()
    lines = [
        ("last batch", *(f"{q.batch_id:,}" for q in queries)),
        ("its duration", *(f"{q.batch_ms:,} ms" for q in queries)),
        ("watermark delay", *(_delay(q.watermark_delay_s) for q in queries)),
        ("state rows", *(f"{q.state_rows:,}" for q in queries)),
        ("state memory", *(f"{q.state_bytes / 1024:,.0f} KiB" for q in queries)),
    ]
    return markup.plain("Queries", ("", *(q.name for q in queries)), lines)


def _delay(seconds: float | None) -> str:
    return "–" if seconds is None else age_text(max(0.0, seconds))


def _books_table(books, verdict: str) -> str:
    lines = [
        ("offsets committed", "–" if books.committed is None else books.committed),
        ("bronze", books.bronze),
        ("transactions", books.transactions),
        ("quarantine", books.quarantine),
        ("duplicates", books.duplicates),
        ("scored", books.scored),
        ("under way", "–" if books.behind is None else books.behind),
    ]
    table = markup.plain(f"Books: {verdict}", ("", "records"), lines)
    if verdict == "not balanced":
        return table + markup.status("bad", "; ".join(books.differences))
    if verdict == "to be reconciled":
        return table + markup.status("idle", _empty(books.empty_offsets))
    return table


def _empty(offsets: int) -> str:
    return (
        f"{offsets:,} offsets without a row in bronze: ends of transactions and "
        "aborted records have one too; python -m lib reconcile tells if one is missing"
    )


# -- account ----------------------------------------------------------------------


def _account(reader: Reader, token: str) -> None:
    st.html('<a href="?" target="_self">← all transactions</a>')
    try:
        page = reader.account(token)
    except NoTable as error:
        st.warning(f"The account's history can't be read just now: {_told(str(error))}")
        return
    if page is None:
        st.info("This link is from an earlier run of the dashboard: choose it anew.")
        return
    st.title(f"Account {page.account}")
    flagged = [entry for entry in page.entries if entry.badges]
    caption = (
        f"{page.total:,} transactions, the newest {len(page.entries):,} shown, "
        f"{len(flagged):,} of them with an alert"
    )
    title = f"{len(flagged):,} alerts, and the band in which an amount is no outlier"
    _chart(live_figures.account_history(page.points, title), "history", height=420)
    st.html(markup.history(page.entries, page.places, caption))


def _chart(figure, key: str, height: int = CHART_HEIGHT) -> None:
    figure.update_layout(height=height, paper_bgcolor="rgba(0,0,0,0)")
    figure.update_layout(plot_bgcolor="rgba(0,0,0,0)", uirevision=key)
    st.plotly_chart(
        figure,
        key=f"chart-{key}",
        theme="streamlit",
        alt=figure.layout.title.text,
        config={"displayModeBar": False},
    )


if __name__ == "__main__":
    main()
