"""The page in a real browser, over a real stream: one story, told in order."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest
import websocket
from deltalake import DeltaTable

from lib.dashboard.browser import Browser, find_browser
from lib.dashboard.serve import Dashboard
from lib.kafka.broker import Broker
from lib.kafka.producer import replay
from lib.settings import ROOT, Settings
from tests.integration.helpers import (
    ODD_NAME,
    PATIENCE_SECONDS,
    another_installation,
    assert_trouble,
    environment,
    finished,
    launch,
    nothing_left_of,
)
from tests.unit.scored_lake import append, event, settings_of

FIXTURE = ROOT / "fixtures" / "tx_events.jsonl"
SCREENS = ROOT / "artifacts" / "screens"
FIRST, RATE = 400, 80
REPORTED_SECONDS = 10
"""So soon the page says that the stream is gone."""

FULL_ID = re.compile(r"ACCT_\d")
PAGE = "document.documentElement.outerHTML"
METRIC = """(() => {
  for (const metric of document.querySelectorAll('[data-testid="stMetric"]'))
    if (metric.innerText.startsWith(%s))
      return metric.querySelector('[data-testid="stMetricValue"]').innerText;
})()"""


@dataclass
class Stage:
    """What the story needs, and what it has seen."""

    settings: Settings
    bootstrap: str
    url: str
    browser: Browser
    folder: Path
    streams: list[subprocess.Popen] = field(default_factory=list)

    def stream(self) -> None:
        env = environment(self.settings.home)
        self.streams.append(launch("stream", env=env))

    def produce(self, lines: list[str]) -> None:
        file = self.folder / "lines"
        file.write_text("\n".join(lines) + "\n")
        replay(self.settings, self.bootstrap, file, rate=RATE)

    def until_shown(self, label: str, wanted: int) -> None:
        self.until(METRIC % json.dumps(label) + f" === '{wanted:,}'")

    def until_text(self, text: str, timeout: float = PATIENCE_SECONDS) -> None:
        self.until(f"document.body.innerText.includes({json.dumps(text)})", timeout)

    def until(self, script: str, timeout: float = PATIENCE_SECONDS) -> None:
        try:
            self.browser.until(script, timeout)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.browser.text()[:3000]}") from None

    def picture(self, name: str) -> None:
        self.browser.picture(SCREENS / f"{name}.png")

    def scored(self) -> list[dict]:
        table = DeltaTable(self.settings.table("silver/scored"))
        return table.to_pyarrow_table().to_pylist()

    def numbers_equal_the_table(self, transactions: int) -> None:
        self.until_shown("Transactions", transactions)
        rows = self.scored()
        flags = ("is_velocity", "is_geo", "is_amount")
        assert len(rows) == transactions
        hit = sum(any(row[flag] for flag in flags) for row in rows)
        self.until_shown("With an alert", hit)


def browser_or_skip() -> None:
    """GitHub's machines have one, and there it must not go missing unseen."""
    if find_browser() is None:
        if os.environ.get("GITHUB_ACTIONS") == "true":
            pytest.fail("required on GitHub: a Chromium or Chrome")
        pytest.skip("no Chromium or Chrome is here")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    browser_or_skip()
    folder = tmp_path_factory.mktemp("operator")
    home = folder / "home"
    settings = Settings.from_env({"FRAUD_HOME": str(home)})
    broker = Broker(settings).start()
    page = launch("dashboard", "--port", 0, env=environment(home))
    try:
        url = json.loads(page.stdout.readline())["url"]
        with Browser(1500, 1100) as browser:
            browser.open(url)
            told = Stage(settings, broker.bootstrap, url, browser, folder)
            yield told
            for stream in told.streams:
                stream.kill()
                stream.communicate()
    finally:
        page.send_signal(signal.SIGINT)
        assert finished(page).code == 0
        broker.stop()
    nothing_left_of(home)


def test_an_operators_day(stage: Stage):
    browser = stage.browser
    lines = FIXTURE.read_text().splitlines()

    # Before anything runs the page says so.
    stage.until_text("no stream has run here yet")
    stage.until_text("no scored transactions")
    stage.picture("1_nothing_yet")

    # A live stream: badges, and the table's numbers.
    stage.stream()
    stage.produce(lines[:FIRST])
    stage.numbers_equal_the_table(FIRST)
    stage.until_text("stream is running")
    patterns = {row["is_velocity"] for row in stage.scored()}
    assert patterns == {True, False}
    stage.until_text("Books: balanced")
    stage.picture("2_live")
    assert not FULL_ID.search(browser.ask(PAGE))

    # A stream that is killed is reported, and found again.
    stage.streams[-1].kill()
    stage.until_text("stream is down since", REPORTED_SECONDS)
    stage.picture("3_stream_killed")
    stage.stream()
    stage.until_text("stream is running")
    stage.produce(lines[FIRST:])
    stage.numbers_equal_the_table(len(lines))
    for label in ("FRAUD: VELOCITY", "FRAUD: GEO ANOMALY", "FRAUD: AMOUNT OUTLIER"):
        badge_filter(stage, label)
    stage.picture("4_alerts_of_one_kind")

    # An account's page, reached by a click, names its records but not the account.
    browser.ask("document.querySelector('tr[data-event] a').click()")
    stage.until_text("the band in which an amount is no outlier")
    stage.until_text("partition ")
    stage.picture("5_account")
    assert not FULL_ID.search(browser.ask(PAGE))
    assert not FULL_ID.search(browser.ask("location.href"))

    assert browser.complaints == []


def badge_filter(stage: Stage, label: str) -> None:
    """Choose one detector: its badges are all there is to see."""
    detector = label.split()[1].lower()
    stage.browser.open(f"{stage.url}/?detectors={detector}")
    stage.until(
        f"""(() => {{
          const rows = [...document.querySelectorAll('tr[data-event]')];
          return rows.length && rows.every(
            row => row.innerText.includes({json.dumps(label)}));
        }})()"""
    )


def test_a_port_that_is_taken(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = finished(launch("dashboard", "--port", port, env=environment(tmp_path)))

    assert_trouble(ran, str(port), "--port")


def status_of(url: str, headers: dict[str, str]) -> int:
    """What the server answers to a GET with these headers."""
    asked = urllib.request.Request(url, headers=headers)
    try:
        with _DIRECT.open(asked, timeout=PATIENCE_SECONDS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def status_of_websocket(url: str, host: str, origin: str) -> int:
    """What the server answers to a browser that wants to hear from the page."""
    place = urllib.parse.urlsplit(url)
    try:
        opened = websocket.create_connection(
            f"{url}/_stcore/stream".replace("http", "ws", 1),
            host=host,
            origin=origin,
            # One of our own: it would ask whatever http_proxy names.
            socket=socket.create_connection(
                (place.hostname, place.port), timeout=PATIENCE_SECONDS
            ),
            timeout=PATIENCE_SECONDS,
        )
    except websocket.WebSocketBadStatusException as error:
        return error.status_code
    opened.close()
    return opened.status


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
SEEN_BY_HTTP = ("/", "/_stcore/health", "/_stcore/host-config", "/_stcore/metrics")


def test_the_page_answers_to_its_own_names_and_ends_with_the_command(tmp_path: Path):
    home = tmp_path / ODD_NAME
    env = environment(home, **another_installation(tmp_path))
    command = launch("dashboard", "--port", 0, env=env)
    url = json.loads(command.stdout.readline())["url"]
    port = url.removeprefix("http://127.0.0.1:")
    own = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]
    strange = ["evil.example", f"evil.example:{port}", "localhost:1"]

    for host in own:
        origin = f"http://{host}"
        for path in SEEN_BY_HTTP:
            assert status_of(url + path, {"Host": host}) == 200, (host, path)
        assert status_of(url, {"Host": host, "Origin": origin}) == 200
        assert status_of_websocket(url, host, origin) == 101
    for host in strange:  # what a rebound name sends: its own, in both headers
        origin = f"http://{host}"
        for path in SEEN_BY_HTTP:
            assert status_of(url + path, {"Host": host}) == 403, (host, path)
        assert status_of(url, {"Host": own[0], "Origin": origin}) == 403
        assert status_of_websocket(url, host, origin) == 403
        assert status_of_websocket(url, own[0], origin) == 403
        assert status_of_websocket(url, host, f"http://{own[0]}") == 403

    command.kill()  # not even a kill leaves the server behind
    command.communicate()
    nothing_left_of(home)


WIDE = "W" * 50_000
"""A merchant without a space, as long as a record may well be."""

OUT_OF_SIGHT = """(() => {
  const box = document.querySelector('.fs-scroll'), edge = box.getBoundingClientRect();
  const cells = [...box.querySelectorAll('tbody td')];
  return cells.filter(c => c.getBoundingClientRect().right > edge.right + 1).length;
})()"""


def test_one_merchant_leaves_the_other_columns_in_sight(tmp_path: Path):
    browser_or_skip()
    settings = settings_of(tmp_path)
    names = [
        "Starbucks",
        "M" * 300,
        WIDE,
        "\u202eabc\u200b",
        "a\n" * 90,
        "e\u0301" * 300,
    ]
    alert = {"is_velocity": True, "velocity_count": 10**15, "is_amount": True}
    alert |= {"z": 1e300, "baseline_n": 10, "amount": Decimal("1000000000.00")}
    odd = {"currency": "LONG" * 99, "country": "LAND" * 99, "account": 7}
    rows = [event(at, merchant=name, **alert) for at, name in enumerate(names)]
    rows.append(event(99, **odd, **alert))
    append(settings, rows, 0)

    with Dashboard(settings, 0) as page, Browser(1500, 1100) as browser:
        browser.open(page.url)
        shown = f"document.querySelectorAll('tr[data-event]').length === {len(rows)}"
        browser.until(shown, PATIENCE_SECONDS)
        # The rows are there before the page has its styles and fonts.
        browser.until(f"{OUT_OF_SIGHT} === 0", PATIENCE_SECONDS)
        assert "\u202e" not in browser.text()
        browser.ask("document.querySelector('tr[data-event] a').click()")
        browser.until("document.body.innerText.includes('no outlier')")
        browser.until(f"{OUT_OF_SIGHT} === 0", PATIENCE_SECONDS)
        assert browser.complaints == []
