"""Everything under docs/ that is made from a run.

    python -m docs.figures [--rate EV_S] [--only demo walkthrough images]
                           [--notebooks NAME ...] [--executed FOLDER]

- ``docs/demo.html``: the fixture sent through the running pipeline, played back;
- ``docs/images/dashboard.png``: the page during that run;
- ``docs/walkthrough/``: each notebook executed, as Markdown with PNG charts;
- ``docs/images/*.png``: figures of the bench's results.

It needs a Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import papermill

from bench.machine import machine
from docs.figures import replay, walkthrough
from docs.figures.pictures import Painter
from lib.charts import figures, latency_figures
from lib.cli.traffic import FIXTURE, FIXTURE_RATE
from lib.dashboard.browser import Browser
from lib.dashboard.serve import Dashboard
from lib.kafka.broker import Broker
from lib.kafka.producer import replay as send
from lib.settings import ROOT, Settings
from lib.streaming.runner import pipeline
from lib.streaming.session import spark_session
from lib.system.signals import run

DOCS = ROOT / "docs"
PARTS = ("demo", "walkthrough", "images")


def main() -> None:
    """Make the parts that are asked for."""
    parser = argparse.ArgumentParser(description="what docs/ shows of real runs")
    parser.add_argument("--rate", type=float, default=FIXTURE_RATE)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--notebooks", nargs="*", help="names; all if not given")
    parser.add_argument(
        "--executed",
        type=Path,
        help="notebooks that were run already (`make test` leaves them in executed/)",
    )
    arguments = parser.parse_args()
    if "demo" in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            record(Settings.from_env({"FRAUD_HOME": folder}), arguments.rate)
    if "walkthrough" in arguments.only:
        walk(arguments.notebooks, arguments.executed)
    if "images" in arguments.only:
        images()


def record(settings: Settings, rate: float) -> None:
    """Run the pipeline on the fixture, look at the page, and write the replay."""
    broker = Broker(settings).start()
    try:
        spark = spark_session(settings)
        events = len(FIXTURE.read_text().splitlines())
        with (
            pipeline(spark, settings, broker.bootstrap) as running,
            Dashboard(settings, 0) as dashboard,
            Browser(1500, 1250) as browser,
        ):
            browser.open(dashboard.url)
            send(settings, broker.bootstrap, FIXTURE, rate=rate)
            running.raise_failure()
            shown = f"document.body.innerText.includes('Newest of {events:,} ')"
            browser.until(shown, 120)
            browser.until("document.body.innerText.includes('Books: balanced')", 60)
            browser.picture(DOCS / "images" / "dashboard.png")
        spark.stop()
    finally:
        broker.stop()
    page = replay.page(replay.recorded(settings), rate, machine())
    (DOCS / "demo.html").write_text(page)


def walk(names: list[str] | None, ran: Path | None) -> None:
    """Write notebooks as Markdown; executes them unless ``ran`` holds their runs."""
    found = sorted((ROOT / "notebooks").glob("*.ipynb"))
    chosen = [path for path in found if not names or path.stem in names]
    with tempfile.TemporaryDirectory() as folder, Painter() as painter:
        for path in chosen:
            executed = (ran or Path(folder)) / path.name
            if ran is None:
                papermill.execute_notebook(
                    path, executed, cwd=folder, progress_bar=False
                )
            walkthrough.write(executed, DOCS / "walkthrough", painter.draw)
    files = sorted((DOCS / "walkthrough").glob("*.md"))
    made = [file.stem for file in files if file.stem != "README"]
    (DOCS / "walkthrough" / "README.md").write_text(walkthrough.index(made))
    # `make lint` wants the code in it as all other code.
    command = [sys.executable, "-m", "ruff", "format", "--quiet", DOCS / "walkthrough"]
    subprocess.run(command, check=True)


def images() -> None:
    """Figures of results that the bench left behind."""
    drawn = {"dashboard_memory": memory_of_the_page(), "peers": latency_of_peers()}
    with Painter() as painter:
        for name, figure in drawn.items():
            file = DOCS / "images" / f"{name}.png"
            painter.draw(json.loads(figure.to_json()), file)


def memory_of_the_page():
    """The figure of `bench.dashboard`'s long run."""
    told = _result("dashboard")["replayed_hours"]
    samples = pd.DataFrame(told["mb"]).rename(columns={"hour": "x", "mb": "y"})
    grown = samples["y"].iloc[-1] - samples["y"].iloc[0]
    title = f"The page's memory over {told['events']:,} events: {grown:+.0f} MB"
    return figures.cumulative(
        {"resident memory": samples}, title, "hours of 20 events per second", "MB"
    )


def latency_of_peers():
    """The figure of `bench.peers`: what Spark costs in latency beside other ways."""
    found = _result("peers")
    rate = found["settings"]["rate"]
    title = f"Kafka's timestamp to what a reader can see, at {rate:g} events/s"
    return latency_figures.latency_ranges(found["latency_ms"], title)


def _result(name: str) -> dict:
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())


if __name__ == "__main__":
    run(lambda _stop: main())
