"""Move lib/ into packages: `git mv`, all imports, all mentions. Run it once, at the root
of a clean checkout whose lib/ is still flat:

    .venv/bin/python /work/wt/rooms-move.py

It changes files and the index and commits nothing. What it can't decide it prints.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

RUFF = [".venv/bin/ruff"]

# -- the map: old module below lib -> new module below lib --------------------------

MODULES = {
    "config": "settings",
    "errors": "errors",
    "lab": "notebook",
    "stop": "system.signals",
    "guard": "system.supervisor",
    "loopback": "system.loopback",
    "surroundings": "system.environment",
    "events": "events.card_event",
    "codes": "events.iso_codes",
    "logs": "events.log_masking",
    "detectors": "detectors.rules",
    "history": "detectors.engine",
    "vector_rules": "detectors.vectorised_rules",
    "segments": "detectors.ragged_arrays",
    "state_codec": "detectors.account_state",
    "catalog": "datagen.catalog",
    "cardlife": "datagen.purchases",
    "planted": "datagen.anomalies",
    "arrivals": "datagen.delivery_faults",
    "generator": "datagen.generator",
    "market": "datagen.market",
    "fixture": "datagen.fixture",
    "network": "setup.network",
    "java": "setup.java",
    "jars": "setup.jars",
    "archive": "setup.class_cache",
    "machine": "setup.machine",
    "sbom": "setup.sbom",
    "java_properties": "kafka.java_properties",
    "clients": "kafka.clients",
    "broker": "kafka.broker",
    "security": "kafka.security",
    "producer": "kafka.producer",
    "tables": "lake.tables",
    "lake": "lake.writer",
    "delta_append": "lake.append_log",
    "deltalog": "lake.delta_log",
    "datafiles": "lake.data_files",
    "maintenance": "lake.maintenance",
    "dashboard.follow": "lake.follower",
    "spark": "streaming.session",
    "daemon": "streaming.worker_preload",
    "workers": "streaming.worker_tuning",
    "parsing": "streaming.parsing",
    "scoring": "streaming.scoring",
    "state_map": "streaming.state_map",
    "expiry": "streaming.state_expiry",
    "processor": "streaming.processor",
    "checkpoint": "streaming.checkpoint",
    "preflight": "streaming.preflight",
    "recovery": "streaming.recovery",
    "query": "streaming.query",
    "rebuild": "streaming.rebuild",
    "stream": "streaming.runner",
    "progress": "streaming.progress",
    "heartbeat": "streaming.heartbeat",
    "registry": "marts.spark_catalog",
    "dbt_report": "marts.dbt_report",
    "warehouse": "marts.dbt_runner",
    "reconcile": "verify.reconciliation",
    "oracle": "verify.oracle",
    "truth": "verify.expected_lake",
    "policies": "verify.lateness_policy",
    "quality": "verify.evaluation",
    "faults": "faults.laboratory",
    "faults_child": "faults.pipeline_process",
    "wrong_ways": "faults.naive_sinks",
    "chaos": "faults.chaos",
    "charts": "charts.figures",
    "charts_detectors": "charts.detector_figures",
    "charts_faults": "charts.fault_figures",
    "charts_live": "charts.live_figures",
    "charts_marts": "charts.mart_figures",
    "inert": "dashboard.escaping",
    "browser": "dashboard.browser",
    "dashboard.ledger": "dashboard.row_counts",
    "dashboard.tally": "dashboard.aggregates",
    "dashboard.names": "dashboard.allowed_hosts",
    "cli": "cli.commands",
    "demo": "cli.demo",
    "traffic": "cli.traffic",
    "cluster": "cli.cluster",
    "doctor": "cli.doctor",
}

ELSEWHERE = {"thrift": "tests.integration.thrift_server"}
"""Modules of lib/ that only tests use."""

FOLDERS = {"data": "events/data", "conf": "setup/conf", "jre": "setup/jre"}
"""Folders of files beside modules, below lib/."""

TESTS = {
    "test_archive": "test_class_cache",
    "test_config": "test_settings",
    "test_daemon": "test_worker_preload",
    "test_workers": "test_worker_tuning",
    "test_inert": "test_escaping",
    "test_surroundings": "test_environment",
    "test_stop": "test_signals",
    "test_truth": "test_expected_lake",
    "test_quality": "test_evaluation",
    "test_warehouse": "test_dbt_runner",
    "test_history": "test_engine",
    "test_expiry": "test_state_expiry",
    "test_deltalog": "test_delta_log",
    "test_delta_append": "test_append_log",
    "test_datafiles": "test_data_files",
    "test_charts_marts": "test_mart_figures",
    "test_dashboard_names": "test_allowed_hosts",
    "test_detectors": "test_rules",
    "test_logs": "test_log_masking",
    "test_charts_detectors": "test_detector_figures",
    "test_lab": "test_notebook",
    "test_wrong_ways": "test_naive_sinks",
}

PACKAGES = {
    "system": """Processes, signals, ports and environment variables of this machine.

    May use: `lib.settings`, `lib.errors`, and no package that has to be installed.
    """,
    "events": """What a card event is: its fields, quarantine reasons, JSON form and masks.

    May use: the standard library. No Kafka, no Spark, no file but its own code lists.
    """,
    "detectors": """The fraud rules: to read one event at a time, and vectorised with state.

    May use: `events`, numpy. Pure: nothing here knows of Spark, Kafka or files.
    """,
    "datagen": """Synthetic events: population, injected fraud, delivery faults, labels.

    May use: `events`, `detectors`, numpy. The same seed makes the same bytes.
    """,
    "setup": """What has to be on the machine: Java, locked jars, class cache, checks.

    May use: `system`. `machine`, `java` and `network` need no package: they run before
    set-up.
    """,
    "kafka": """The embedded broker, Kafka clients, the idempotent producer, security.

    May use: `setup` (Java and jars) and `events` (an event's key); no Spark, no Delta.
    """,
    "lake": """The Delta tables: schemas, the idempotent writer, readers, compaction.

    May use: `settings`, `errors`; no Kafka, no running query.
    """,
    "streaming": """The Spark session and the one query: parse, score, checkpoint, recovery.

    May use: `lake`, `kafka`, `setup`, `detectors`, `events`.
    """,
    "marts": """The dbt project on the lake: catalog, run, report.

    May use: `streaming` for its Spark session, and `lake`.
    """,
    "verify": """Is the lake right: reconciliation, oracle, expected lake, evaluation.

    May use: `streaming`, `lake`, `kafka`, `detectors`. Nothing that runs uses it to decide.
    """,
    "faults": """The fault laboratory: processes that are killed on purpose, and counted.

    May use: `verify`, and all that it kills.
    """,
    "charts": """Plotly figures: pure functions of data frames.

    May use: `streaming.progress` for the names of stages; no Spark, no table.
    """,
    "dashboard": """The operator's page: a Streamlit app over a reader of Delta, without a JVM.

    May use: `charts`, `lake`, `kafka`, and of `streaming` its reports; it starts no Spark.
    """,
    "cli": """The commands, and what they start: the demo, the local cluster, the doctor.

    May use: every package.
    """,
}

PATCHES = [
    ("lib/kafka/broker.py", r"Path\(__file__\)\.resolve\(\)\.parent / \"conf\"",
     'Path(__file__).resolve().parents[1] / "setup" / "conf"'),
    ("lib/streaming/session.py", r"Path\(__file__\)\.resolve\(\)\.parent / \"conf\"",
     'Path(__file__).resolve().parents[1] / "setup" / "conf"'),
    ("lib/datagen/fixture.py", r"Path\(__file__\)\.resolve\(\)\.parent\.parent",
     "Path(__file__).resolve().parents[2]"),
    ("lib/system/supervisor.py", r"python guard\.py", "python supervisor.py"),
    ("tests/unit/test_events.py", r"card_event\.__file__\.rsplit\(\"/\", 2\)",
     'card_event.__file__.rsplit("/", 3)'),
    *[
        (name, r"record by record: (\[`lib/faults/\S+),\n(\S+) \*After\* a table means that of "
         r"the three that are\ncommitted at the same time only it was written,",
         "record by record:\n[`lib/faults/laboratory.py`](../lib/faults/laboratory.py),\n"
         "[`lib/verify/expected_lake.py`](../lib/verify/expected_lake.py).\n*After* a table "
         "means that of the three that are committed at the same time only it\nwas written,")
        for name in ("lib/faults/chaos.py", "docs/chaos.md")
    ],
    ("tests/integration/test_broker.py",
     r"\"from lib\.notebook import open_run\\nrun = open_run\('test'\)\\n",
     "\"from lib.notebook import open_run\\n\"\n            \"run = open_run('test')\\n"),
    ("tests/unit/test_docker.py", r'"lib" / "jars\.py"', '"lib" / "setup" / "jars.py"'),
    ("pyproject.toml", r'packages = \["lib", "lib\.dashboard"\]',
     'packages.find.include = ["lib", "lib.*"]'),
]
"""File, expression, replacement: what no general rule covers."""

SKIPPED = re.compile(
    r"\.(png|jsonl|csv|lock|html)$|^requirements\.txt$|^docs/sbom\.json$|^bench/results/"
    r"|^tests/data/|^LICENSE"
)
MARK = "lib\u2063"
"""Stands for a `lib` that has its new name already."""

ALL = {old: f"lib.{new}" for old, new in MODULES.items()} | ELSEWHERE


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def alternatives(names) -> str:
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True))


DOTTED = re.compile(rf"\blib\.({alternatives(ALL)})(?![\w])")
PATHS = re.compile(rf"\blib/({alternatives(o.replace('.', '/') for o in ALL)})\.py\b")
BESIDE = re.compile(rf"(?<!/var/)\blib/({alternatives(FOLDERS)})(?![\w.-])")
TEST = re.compile(rf"\b({alternatives(TESTS)})(?![\w])")


QUOTED = re.compile(r"(?<![\w`])(`{1,2})(\w+)\.(\w+)")
PUBLIC: dict[tuple[str, str], str] = {}
"""(a module's short name, a name that it defines) -> the module's new short name."""


def quoted(m) -> str:
    """`module.name` in a text, if the module defines it."""
    return f"{m[1]}{PUBLIC.get((m[2], m[3]), m[2])}.{m[3]}"


def mentions(text: str) -> str:
    """Every `lib.old`, `lib/old.py` and `test_old` by its new name."""

    def dotted(m):
        new = ALL[m[1]]
        return new.replace("lib.", MARK + ".", 1) if new.startswith("lib.") else new

    def path(m):
        new = ALL[m[1].replace("/", ".")].replace(".", "/") + ".py"
        return new.replace("lib/", MARK + "/", 1) if new.startswith("lib/") else new

    text = PATHS.sub(path, DOTTED.sub(dotted, text))
    text = BESIDE.sub(lambda m: f"{MARK}/{FOLDERS[m[1]]}", text)
    text = QUOTED.sub(quoted, text)
    return TEST.sub(lambda m: TESTS[m[1]], text)


# -- `from lib import module`, and the module's name in the code -----------------------


def leaf(old: str) -> str:
    return ALL[old].rpartition(".")[2]


def from_lib(node: ast.AST) -> str | None:
    """Of `from lib import …` and `from lib.dashboard import …`: what comes before a
    name in the map, "" or "dashboard."; None for anything else."""
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {"lib": "", "lib.dashboard": "dashboard."}.get(node.module)
    return None


class Scopes(ast.NodeVisitor):
    """Which names of a source are lib's modules, and where they are used."""

    def __init__(self, tree: ast.Module) -> None:
        self.stack: list[dict[str, set]] = []
        self.uses: list[tuple[ast.Name, str]] = []  # node, old module
        self.visible: list[tuple[ast.Name, set[str]]] = []
        self._enter(tree)

    def bindings(self, node) -> dict[str, set]:
        found: dict[str, set] = defaultdict(set)

        def add(n, top):
            if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                if not top:
                    found[n.name].add("other")
                    return
            if isinstance(n, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp,
                              ast.GeneratorExp)) and not top:
                return
            if (before := from_lib(n)) is not None:
                for a in n.names:
                    old = before + a.name
                    kind = old if not a.asname and old in ALL else "other"
                    found[a.asname or a.name].add(kind)
                return
            if isinstance(n, (ast.Import, ast.ImportFrom)):
                for a in n.names:
                    found[(a.asname or a.name).split(".")[0]].add("other")
                return
            if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load):
                found[n.id].add("other")
            if isinstance(n, ast.arg):
                found[n.arg].add("other")
            if isinstance(n, ast.ExceptHandler) and n.name:
                found[n.name].add("other")
            for c in ast.iter_child_nodes(n):
                add(c, False)

        add(node, True)
        return found

    def _enter(self, node) -> None:
        self.stack.append(self.bindings(node))
        for c in ast.iter_child_nodes(node):
            self.visit(c)
        self.stack.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _enter
    visit_Lambda = visit_ListComp = visit_SetComp = _enter
    visit_DictComp = visit_GeneratorExp = _enter

    def visit_Name(self, node: ast.Name) -> None:
        for scope in reversed(self.stack):
            if kinds := scope.get(node.id):
                modules = kinds - {"other"}
                if modules:
                    (old,) = modules
                    if "other" in kinds:
                        print(f"  AMBIGUOUS {node.id} at line {node.lineno}")
                    if isinstance(node.ctx, ast.Load):
                        self.uses.append((node, old))
                        names = {n for s in self.stack for n, k in s.items()
                                 if "other" in k}
                        self.visible.append((node, names))
                return


IDENTIFIERS: dict[str, dict[str, str]] = {}
"""Of each file the names of modules in its code: old -> new."""


def identifiers(text: str, of: str) -> str:
    """The text with the names of modules as that file's code has them now."""
    for old, new in IDENTIFIERS.get(of, {}).items():
        text = re.sub(rf"(?<![\w.]){old}(?=\.[A-Za-z_])", new, text)
    return text


def modules_renamed(source: str, where: str) -> str:
    """The source with `from lib import …` and the modules' names in it rewritten."""
    tree = ast.parse(source)
    scopes = Scopes(tree)
    # A new name that something else has already: the import keeps the old one.
    kept = {
        old
        for (node, old), (_n, names) in zip(scopes.uses, scopes.visible, strict=True)
        if leaf(old) != old.rpartition(".")[2] and leaf(old) in names
    }
    for old in kept:
        print(f"  {where}: {leaf(old)} is taken, so it stays {old}")
    IDENTIFIERS[where] = {
        node.id: leaf(old) for node, old in scopes.uses
        if old not in kept and leaf(old) != node.id
    }
    lines = source.split("\n")
    edits = []  # (line, start, end line, end, text): characters, not bytes
    fstrings = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]

    def column(line: int, offset: int) -> int:
        return len(lines[line - 1].encode()[:offset].decode(errors="replace"))

    for node, old in scopes.uses:
        word = node.id
        new = word if old in kept else leaf(old)
        if new == word:
            continue
        start = column(node.lineno, node.col_offset)
        if lines[node.lineno - 1][start : start + len(word)] == word:
            edits.append((node.lineno, start, node.lineno, start + len(word), new))
            continue
        around = [f for f in fstrings if f.lineno <= node.lineno <= f.end_lineno]
        done = False
        for f in around:
            for number in range(f.lineno, f.end_lineno + 1):
                for m in re.finditer(rf"(?<![\w.]){word}(?=\.)", lines[number - 1]):
                    edit = (number, m.start(), number, m.end(), new)
                    if edit not in edits:
                        edits.append(edit)
                    done = True
        if not done:
            print(f"  {where}:{node.lineno}: {old} not found in an f-string")
    for node in ast.walk(tree):
        if (before := from_lib(node)) is not None:
            indent = " " * node.col_offset
            groups: dict[str, list[str]] = defaultdict(list)
            for a in node.names:
                old = before + a.name
                if old not in ALL:
                    entry = f"{a.name} as {a.asname}" if a.asname else a.name
                    groups[node.module].append(entry)
                    continue
                package, _, name = ALL[old].rpartition(".")
                alias = a.asname or (a.name if old in kept else None)
                entry = name if alias in (None, name) else f"{name} as {alias}"
                groups[package].append(entry)
            text = ("\n" + indent).join(
                f"from {re.sub('^lib(?=[.]|$)', MARK, package)} import {', '.join(names)}"
                for package, names in groups.items()
            )
            edits.append((node.lineno, node.col_offset, node.end_lineno,
                          column(node.end_lineno, node.end_col_offset), text))
    for a, b, c, d, text in sorted(set(edits), reverse=True):
        head, tail = lines[a - 1][:b], lines[c - 1][d:]
        lines[a - 1 : c] = (head + text + tail).split("\n")
    return "\n".join(in_strings(lines))


def in_strings(lines: list[str]) -> list[str]:
    """`from lib import x` in programs that stand in strings, and x. behind it."""
    text = "\n".join(lines)
    pattern = re.compile(r"\bfrom lib import (\w+)(?=[;\n\"'])")
    for old in {m for m in pattern.findall(text) if m in ALL}:
        package, _, name = ALL[old].rpartition(".")
        package = re.sub("^lib(?=[.]|$)", MARK, package)
        text = re.sub(rf"\bfrom lib import {old}\b", f"from {package} import {name}", text)
        if name != old:
            text = re.sub(rf"(?<![\w.]){old}(?=\.[A-Za-z_])", name, text)
    return text.split("\n")


def notebook_renamed(path: Path) -> None:
    raw = path.read_text()
    book = json.loads(raw)
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    sources = ["".join(c["source"]) for c in code]
    joint = "\n\x0c# CELL\n"

    def masked(source: str) -> str:
        return re.sub(r"^(?=[%!])", "#MAGIC ", source, flags=re.MULTILINE)

    whole = modules_renamed(joint.join(map(masked, sources)), str(path))
    parts = whole.split(joint)
    assert len(parts) == len(code), path
    for cell, source in zip(code, parts, strict=True):
        text = mentions(re.sub(r"^#MAGIC ", "", source, flags=re.MULTILINE))
        cell["source"] = text.replace(MARK, "lib").splitlines(keepends=True)
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            text = mentions("".join(cell["source"])).replace(MARK, "lib")
            cell["source"] = text.splitlines(keepends=True)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")


def cells(path: Path) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"]]


EVIDENCE = re.compile(
    r"(\[\d\d, cell \S+\]\(\.\./(notebooks/\w+\.ipynb)#cell-id=(\S+)\): `)([^`]+)`"
)


def evidence(m) -> str:
    """A line of a cell that a document quotes."""
    if not Path(m[2]).exists():
        return m[0]
    quoted = identifiers(m[4], m[2])
    cell = {c["id"]: "".join(c["source"])
            for c in json.loads(Path(m[2]).read_text())["cells"]}.get(m[3], "")
    if quoted.replace("\\|", "|") not in cell:
        print(f"  QUOTED, and not in cell {m[3]} of {m[2]}: {quoted}")
    return f"{m[1]}{quoted}`"


# -- lines that have become too long -----------------------------------------------------


def rewrap() -> None:
    """Paragraphs of comments and docstrings with a line beyond 88 columns, anew."""
    for _ in range(50):
        found = subprocess.run(
            [*RUFF, "check", "--select", "E501", "--output-format", "json", *CODE],
            capture_output=True, text=True,
        ).stdout
        todo = {}
        for x in json.loads(found):
            if x["filename"].endswith(".py"):
                todo.setdefault(x["filename"], x["location"]["row"])
        changed = False
        for name, row in todo.items():
            changed |= rewrap_at(Path(name), row - 1)
        if not changed:
            return


STOPS = re.compile(r'^\s*$|"""|^\s*(- |\* |\||[\w*]+:( |$))')
ARGUMENT = re.compile(r"\s+\w+: ")


def rewrap_at(path: Path, row: int) -> bool:
    lines = path.read_text().split("\n")
    line = lines[row]
    prefix = re.match(r"\s*(# )?", line)[0]
    comment = prefix.endswith("# ")
    opens = line.lstrip().startswith('"""')
    if not comment and not opens and not in_docstring(path, row + 1):
        return False
    if opens and line.count('"""') == 2:
        rest = textwrap.wrap(line.strip()[3:-3], 85 - len(prefix), initial_indent='"""')
        rest[-1] += '"""'
        lines[row : row + 1] = [prefix + x for x in rest]
        path.write_text("\n".join(lines))
        return True
    end = row + 1
    more = prefix + "    " if ARGUMENT.match(line) and not comment else prefix
    while end < len(lines):
        nxt = lines[end]
        if STOPS.search(nxt) or re.match(r"\s*(# )?", nxt)[0] != more:
            break
        end += 1
    closing = ""
    if end < len(lines) and '"""' in lines[end] and lines[end].strip() != '"""' and (
        re.match(r"\s*", lines[end])[0] == prefix
    ):
        closing, end = '"""', end + 1
    text = " ".join(x.strip().removeprefix("# ") for x in lines[row:end])
    text = text.removesuffix('"""')
    new = textwrap.wrap(
        text, 88, initial_indent=prefix, subsequent_indent=more,
        break_long_words=False, break_on_hyphens=False,
    )
    new[-1] += closing
    if new == lines[row:end]:
        return False
    lines[row:end] = new
    path.write_text("\n".join(lines))
    return True


def in_docstring(path: Path, line: int) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                if node.lineno <= line <= node.end_lineno:
                    return True
    return False


# -- all of it --------------------------------------------------------------------------

CODE = ["lib", "tests", "bench", "docs", "notebooks", "conftest.py"]


def main() -> None:
    if Path("lib/settings.py").exists():
        sys.exit("lib/ has its packages already")
    tracked = run("git", "ls-files").split("\n")[:-1]
    flat = {
        p[4:-3].replace("/", ".") for p in tracked
        if re.fullmatch(r"lib/(dashboard/)?\w+\.py", p)
    }
    stay = {f"dashboard.{n}" for n in
            "accounts app health markup masking model page reader serve view".split()}
    for name in sorted(flat - set(ALL) - stay - {"__init__", "__main__",
                                                 "dashboard.__init__"}):
        print(f"  NOT IN THE MAP: lib.{name}")
    for name in sorted(set(ALL) - flat):  # of a branch that is not merged
        del ALL[name]

    for old in ALL:
        for node in ast.parse(Path(f"lib/{old.replace('.', '/')}.py").read_text()).body:
            names = [getattr(node, "name", None)]
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                names += [n.id for n in ast.walk(target) if isinstance(n, ast.Name)
                          ] if target is not None else []
            for name in names:
                PUBLIC[old.rpartition(".")[2], name] = leaf(old)

    old_cells = {p: cells(Path(p)) for p in tracked if p.endswith(".ipynb")}

    for name in sorted(set(PACKAGES) - {"dashboard"}):
        Path("lib", name).mkdir(exist_ok=True)
    moves = [(f"lib/{o.replace('.', '/')}.py", ALL[o].replace(".", "/") + ".py")
             for o in ALL]
    moves += [(f"lib/{old}", f"lib/{new}") for old, new in FOLDERS.items()]
    for path in tracked:
        if re.fullmatch(r"tests/\w+/test_\w+\.py", path):
            stem = Path(path).stem
            if stem in TESTS:
                moves.append((path, str(Path(path).with_stem(TESTS[stem]))))
    for old, new in moves:
        if old != new:
            run("git", "mv", old, new)
    for name, text in PACKAGES.items():
        head, _, tail = text.partition("\n\n")
        file = Path("lib", name, "__init__.py")
        rest = file.read_text() if file.exists() else ""
        code = rest[rest.index('"""', 3) + 3 :] if rest.startswith('"""') else rest
        file.write_text(f'"""{head}\n\n{textwrap.dedent(tail).strip()}\n"""\n{code.lstrip(chr(10)) and chr(10) + code.lstrip(chr(10))}')
    run("git", "add", "lib")

    for path in map(Path, run("git", "ls-files").split("\n")[:-1]):
        if SKIPPED.search(str(path)) or path.is_symlink():
            continue
        if path.suffix == ".ipynb":
            notebook_renamed(path)
            continue
        try:
            before = path.read_text()
        except UnicodeDecodeError:
            continue
        text = before
        if path.suffix == ".py":
            text = modules_renamed(text, str(path))
        text = mentions(text).replace(MARK, "lib")
        if text != before:
            path.write_text(text)
    for name, pattern, new in PATCHES:
        path = Path(name)
        text, count = re.subn(pattern, lambda _m, new=new: new, path.read_text())
        if not count:
            print(f"  NOT FOUND in {name}: {pattern}")
        path.write_text(text)

    subprocess.run([*RUFF, "check", "-q", "--select", "I", "--fix", *CODE])
    subprocess.run([*RUFF, "format", "-q", *CODE])
    rewrap()
    subprocess.run([*RUFF, "format", "-q", *CODE])

    # The walkthrough shows the cells, the questions quote lines of them.
    for name, before in old_cells.items():
        shown = Path("docs/walkthrough", Path(name).stem + ".md")
        text = shown.read_text() if shown.exists() else ""
        for old, new in zip(before, cells(Path(name)), strict=True):
            if old == new:
                continue
            again = mentions(old).replace(MARK, "lib")  # as the text pass left it
            for was in (old, again):
                if was in text:
                    text = text.replace(was, new)
                    break
            else:
                if text:
                    print(f"  {shown}: a changed cell is not in it:\n{old[:80]}")
        if text:
            shown.write_text(text)
    for path in Path("notebooks/solutions").glob("*.py"):
        text = path.read_text()
        path.write_text(identifiers(text, f"notebooks/{path.stem}.ipynb"))
    for path in Path("docs").glob("*.md"):
        text = path.read_text()
        path.write_text(EVIDENCE.sub(evidence, text))
    run("git", "add", "--all", "lib", "tests", "bench", "docs", "notebooks")
    run("git", "add", "--update")


if __name__ == "__main__":
    main()
