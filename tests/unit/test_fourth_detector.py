"""A detector is added by one new file and its name in one tuple.

A copy of lib/ has the file `tests/unit/new_country.py` among its detectors. A process
of its own imports that copy: what follows from the tuple follows at import.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.lake.tables import ANSWERS
from lib.settings import ROOT

TUPLE = "DETECTORS = (VELOCITY, GEO, AMOUNT)"
IMPORT = "from lib.detectors.new_country import NEW_COUNTRY\n"
PROGRAM = """
import json

import pyarrow.compute as pc

from lib.charts.figures import COLOURS, SYMBOLS
from lib.dashboard.aggregates import SUMMED_COLUMNS, Sums
from lib.dashboard.markup import STYLE
from lib.dashboard.masking import reason
from lib.dashboard.model import ROW_COLUMNS, Row
from lib.datagen.generator import generate
from lib.detectors.engine import Bucket
from lib.detectors.rules import NAMES, score_history
from lib.events.card_event import Event, account_key, parse
from lib.lake.tables import ANSWERS
from lib.streaming.scoring import input_table, judge
from lib.streaming.scoring import parse as parsed
from lib.verify.evaluation import flagged

made = generate(3_000, 30, seed=5, days=20)
lines = [line.encode() for line in made.lines]
events = [e for e in (parse(line, 2**62) for line in lines) if isinstance(e, Event)]
flags = flagged(events)
by_account = {}
for event in events:
    by_account.setdefault(event.account_id, []).append(event)
wrong = fired = 0
for account, own in by_account.items():
    rows = flags[flags["account_id"] == account].set_index("event_id")
    for event, answer in zip(own, score_history(own), strict=True):
        if answer.status == "new" and not answer.late:
            row = rows.loc[event.event_id]
            fired += answer.is_new_country
            wrong += answer.is_new_country != row["is_new_country"]
            wrong += answer.country_seen != row["country_seen"]

at = range(len(lines))
keys = [account_key(line) for line in lines]
times = [1_900_000_000_000_000] * len(lines)
records = input_table([keys, lines, [0] * len(lines), at, times])
judged = judge(parsed(records), {}, None).records
marked = judged.filter(judged["is_new_country"]).to_pylist()[0]
fills = {"kafka_timestamp": marked["kafka_timestamp"], "scored_at": marked["ts"]}
row = Row(**{name: fills.get(name, marked.get(name)) for name in ROW_COLUMNS})
sums = Sums()
sums.add(judged.filter(pc.is_valid(judged["late"])).select(SUMMED_COLUMNS))

print(json.dumps({
    "names": NAMES,
    "columns": ANSWERS.names,
    "wrong": int(wrong),
    "fired": int(fired),
    "judged": judged["is_new_country"].to_pylist().count(True),
    "summed": sums.alerts["new_country"],
    "reasons": [reason(row, d) for d in row.fired if d.name == "new_country"],
    "drawn": [COLOURS["new_country"], SYMBOLS["new_country"]],
    "badge": ".fs-new_country {" in STYLE,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("fourth")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lib", folder / "lib", ignore=ignore)
    rules = folder / "lib" / "detectors" / "rules.py"
    text = rules.read_text()
    assert text.count(TUPLE) == 1
    text = text.replace(TUPLE, TUPLE.replace("AMOUNT)", "AMOUNT, NEW_COUNTRY)"))
    text = text.replace(
        "from lib.detectors.thresholds", IMPORT + "from lib.detectors.thresholds"
    )
    rules.write_text(text)
    shutil.copy(Path(__file__).with_name("new_country.py"), rules.parent)
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not ran.returncode, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_its_columns_are_in_the_schema_behind_the_others(found: dict):
    *before, revision = ANSWERS.names

    assert found["columns"] == [*before, "is_new_country", "country_seen", revision]


def test_the_engine_answers_as_its_rule(found: dict):
    assert found["fired"] > 0
    assert found["wrong"] == 0


def test_the_stream_and_the_page_have_it(found: dict):
    assert found["judged"] == found["summed"] > 0
    assert found["reasons"][0].startswith("first payment in ")


def test_charts_and_badges_have_it(found: dict):
    assert found["drawn"] == ["#009E73", "square"]
    assert found["badge"]
