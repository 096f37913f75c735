"""The notebooks' exercises as the tests see them: stub, check, solution, wrong answers;
and a notebook in which every exercise is solved and every wrong answer is refused."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import nbformat
from nbformat import NotebookNode

from docs.figures.walkthrough import CHECK, solutions
from lib.settings import ROOT

STUB = "exercise-"
"""How the id of a cell begins that the reader fills; the exercise's name follows."""

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [name for name in NAMES if name[:2].isdigit()]
"""Those with exercises: the appendix only asks."""


@dataclass(frozen=True)
class Exercise:
    """One exercise of a notebook; codes as they stand in cells.

    Attributes:
        wrong: what is wrong with an answer → the answer.
    """

    notebook: str
    name: str
    stub: str
    check: str
    solution: str
    wrong: dict[str, str]


@cache
def cells(notebook: str) -> list[NotebookNode]:
    return nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells


def code(notebook: str, prefix: str) -> dict[str, str]:
    """Name → source of the code cells whose id begins so."""
    return {
        cell.id.removeprefix(prefix): cell.source
        for cell in cells(notebook)
        if cell.cell_type == "code" and cell.id.startswith(prefix)
    }


def exercises(notebook: str) -> list[Exercise]:
    """A notebook's exercises; what one lacks is an empty text."""
    checks, solved = code(notebook, CHECK), solutions(notebook)
    return [
        Exercise(
            notebook,
            name,
            stub,
            checks.get(name, ""),
            solved.get(name, ""),
            WRONG[notebook].get(name, {}),
        )
        for name, stub in code(notebook, STUB).items()
    ]


REFUSED = """\
_names = dict(globals())
exec({answer!r}, _names)
try:
    exec({check!r}, _names)
except AssertionError as error:
    print("refused:", error)
else:
    raise AssertionError({passed!r})
"""


def solved(notebook: NotebookNode, name: str) -> NotebookNode:
    """A copy whose stubs hold the solutions. Behind each check its wrong answers have
    cells of their own, which fail if the check lets one pass."""
    notebook = deepcopy(notebook)
    by_name = {exercise.name: exercise for exercise in exercises(name)}
    made = []
    for cell in notebook.cells:
        made.append(cell)
        exercise = by_name.get(cell.id.removeprefix(STUB).removeprefix(CHECK))
        if exercise and cell.id.startswith(STUB):
            cell.source = exercise.solution
        if exercise and cell.id.startswith(CHECK):
            made += [_refused(exercise, why) for why in exercise.wrong]
    notebook.cells = made
    return notebook


def _refused(exercise: Exercise, why: str) -> NotebookNode:
    passed = f"the check of {exercise.name} lets an answer pass that {why}"
    answer = exercise.wrong[why]
    source = REFUSED.format(answer=answer, check=exercise.check, passed=passed)
    return nbformat.v4.new_code_cell(source)


WRONG: dict[str, dict[str, dict[str, str]]] = {
    "01_produce": {
        "country-key": {
            "believes the colleague": "answer = 0",
            "counts countries, not partitions": (
                'lands = events.groupby("account_id")["country"].nunique()\n'
                "answer = (lands > 1).sum()"
            ),
        },
        "once": {
            "takes the event_id for unique": """
def once(values):
    seen = {}
    for value in values:
        seen.setdefault(json.loads(value)["event_id"], value)
    return list(seen.values())
""",
            "compares bytes": """
def once(values):
    return list(dict.fromkeys(values))
""",
            "keeps the last": """
def once(values):
    events = [json.loads(value) for value in values]
    names = [(event["account_id"], event["event_id"]) for event in events]
    return list(dict(zip(names, values)).values())
""",
        },
    },
    "02_stream": {
        "repair": {
            "changes the merchant, too": """
def repair(value):
    return value.replace(b'"UK"', b'"GB"')
""",
            "knows one way to write JSON": """
def repair(value):
    return value.replace(b'"country": "UK"', b'"country": "GB"')
""",
            "knows one way to write JSON without spaces": """
def repair(value):
    return value.replace(b'"country":"UK"', b'"country":"GB"')
""",
            "takes a merchant for the country": """
def repair(value):
    try:
        event = json.loads(value)
    except ValueError:
        return value
    if b'"UK"' not in value:
        return value
    return json.dumps(event | {"country": "GB"}).encode()
""",
            "mends what is cut off": """
import re
def repair(value):
    return re.sub(rb'("country": ?)"UK"', rb'\\1"GB"', value)
""",
            "writes every event anew": """
def repair(value):
    try:
        event = json.loads(value)
    except ValueError:
        return value
    if isinstance(event, dict) and event["country"] == "UK":
        event["country"] = "GB"
    return json.dumps(event, indent=1).encode()
""",
        },
        "rewrite": {
            "changes nothing": """
def rewrite(line):
    return line
""",
            "makes another event": """
def rewrite(line):
    return json.dumps(json.loads(line) | {"amount": 0.01})
""",
            "is several records": """
def rewrite(line):
    return json.dumps(json.loads(line), indent=2)
""",
            "is no JSON": """
def rewrite(line):
    return line[:-1]
""",
        },
        "watermarks": {
            "takes in the batch itself": """
def used(batches, delay):
    found, newest = [], None
    for batch in batches:
        newest = max([*batch, *([] if newest is None else [newest])], default=None)
        found.append(None if newest is None else newest - delay)
    return found
""",
            "goes back": """
def used(batches, delay):
    found, last = [], None
    for batch in batches:
        found.append(None if last is None else last - delay)
        last = max(batch, default=last)
    return found
""",
        },
    },
    "03_detectors": {
        "trailing": {
            "takes minutes of the clock": """
def in_a_minute(times):
    minutes = [time // MINUTE for time in times]
    return [minutes[: n + 1].count(minute) for n, minute in enumerate(minutes)]
""",
            "closes the beginning": """
def in_a_minute(times):
    return [
        sum(time - MINUTE <= other for other in times[: n + 1])
        for n, time in enumerate(times)
    ]
""",
            "counts all of an instant": """
def in_a_minute(times):
    return [sum(t - MINUTE < other <= t for other in times) for t in times]
""",
        },
        "z": {
            "takes the population's deviation": """
def z_of(cents, earlier):
    if len(earlier) < 10 or len(set(earlier)) == 1:
        return None
    return float((cents - np.mean(earlier)) / np.std(earlier))
""",
            "has the amount itself in it": """
def z_of(cents, earlier):
    if len(earlier) < 10 or len(set(earlier)) == 1:
        return None
    inside = [*earlier, cents]
    return float((cents - np.mean(inside)) / np.std(inside, ddof=1))
""",
            "needs no ten": """
def z_of(cents, earlier):
    if len(set(earlier)) == 1:
        return None
    return float((cents - np.mean(earlier)) / np.std(earlier, ddof=1))
""",
            "knows no sign": """
def z_of(cents, earlier):
    if len(earlier) < 10 or len(set(earlier)) == 1:
        return None
    return float(abs(cents - np.mean(earlier)) / np.std(earlier, ddof=1))
""",
        },
        "threshold": {
            "forgets small amounts": """
def threshold_for(score, most):
    return score.nlargest(most + 1).min()
""",
            "leaves one alert unused": """
def threshold_for(score, most):
    return score.abs().nlargest(most).min()
""",
            "takes a share of all payments": """
def threshold_for(score, most):
    return score.abs().quantile(1 - most / len(score))
""",
        },
    },
    "04_exactly_once_failures": {
        "sixth": {
            "doubles": "sixth = naive_sinks.plain_append",
            "loses": "sixth = naive_sinks.offset_first",
            "notes the batch": "sixth = naive_sinks.append_with_batch_id",
            "merges": "sixth = naive_sinks.merge_on_key",
        },
        "application-id": {
            "is a constant": """
def application_id(checkpoint):
    return "payments"
""",
            "is the checkpoint's place": """
def application_id(checkpoint):
    return str(checkpoint)
""",
            "is the folder's time, which its first file changes": """
def application_id(checkpoint):
    return f"{checkpoint.name}-{checkpoint.stat().st_mtime_ns}"
""",
            "is new at every start": """
import itertools
numbers = itertools.count()
def application_id(checkpoint):
    return str(next(numbers))
""",
        },
    },
    "05_dbt": {
        "filter": {
            "goes by event time": (
                'my_filter = "ts > (select max(ts) from gold.fct_transactions)"'
            ),
            "misses corrections": (
                'my_filter = "kafka_timestamp > '
                '(select max(kafka_timestamp) from gold.fct_transactions)"'
            ),
            "brings everything": 'my_filter = "true"',
        },
        "data-test": {
            "complains about alerts": (
                'my_test = "select * from {accounts} where alerts > 0"'
            ),
            "finds nothing": 'my_test = "select * from {accounts} where false"',
            "counts": (
                'my_test = "select count(*) from {accounts} where alerts <> '
                'velocity_alerts + geo_alerts + amount_alerts"'
            ),
        },
        "band": {
            "has two versions at the turn": """
def band_at(versions, when):
    begun = versions["dbt_valid_from"] <= when
    valid = versions[begun & ~(versions["dbt_valid_to"] < when)]
    return None if valid.empty else valid["risk_band"].iloc[0]
""",
            "forgets the present version": """
def band_at(versions, when):
    begun = versions["dbt_valid_from"] <= when
    valid = versions[begun & (versions["dbt_valid_to"] > when)]
    return None if valid.empty else valid["risk_band"].iloc[0]
""",
            "asks only for the beginning": """
def band_at(versions, when):
    begun = versions[versions["dbt_valid_from"] <= when]
    return None if begun.empty else begun["risk_band"].iloc[-1]
""",
            "knows an answer before the first": """
def band_at(versions, when):
    begun = versions[versions["dbt_valid_from"] <= when]
    return (versions if begun.empty else begun.tail(1))["risk_band"].iloc[0]
""",
        },
    },
    "06_dashboard": {
        "rows-at": {
            "forgets what was removed": """
def rows_at(version, commits):
    known = [commit for commit in commits if commit.version <= version]
    return sum(file.rows for commit in known for file in commit.added)
""",
            "takes the newest version": """
def rows_at(version, commits):
    rows = {file.path: file.rows for commit in commits for file in commit.added}
    gone = {file.path for commit in commits for file in commit.removed}
    return sum(rows[path] for path in rows if path not in gone)
""",
        },
        "within": {
            "is less than the limit": """
def within(latencies, limit_ms):
    return (latencies < limit_ms).mean()
""",
            "counts instead of sharing": """
def within(latencies, limit_ms):
    return (latencies <= limit_ms).sum()
""",
        },
    },
}
"""Notebook → exercise → what is wrong with an answer → the answer. Each has to be one
that somebody could write in earnest."""
