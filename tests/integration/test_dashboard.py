"""The page in a real browser, over a real stream: one story, told in order."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from deltalake import DeltaTable

from lib.broker import Broker
from lib.browser import Browser, find_browser
from lib.config import ROOT, Settings
from lib.producer import replay
from tests.integration.helpers import (
    PATIENCE_SECONDS,
    assert_trouble,
    environment,
    finished,
    launch,
    nothing_left_of,
)

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


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if find_browser() is None:
        # GitHub's machines have one, and there it must not go missing unseen.
        if os.environ.get("GITHUB_ACTIONS") == "true":
            pytest.fail("required on GitHub: a Chromium or Chrome")
        pytest.skip("no Chromium or Chrome is here")
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


def test_the_page_ends_with_the_command(tmp_path: Path):
    command = launch("dashboard", "--port", 0, env=environment(tmp_path / "home"))
    url = json.loads(command.stdout.readline())["url"]
    assert url.startswith("http://127.0.0.1:")
    command.kill()  # not even a kill leaves the server behind
    command.communicate()

    nothing_left_of(tmp_path / "home")
