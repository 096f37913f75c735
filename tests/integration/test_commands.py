"""The commands as a shell sees them: exit code, one JSON line, one clear line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from lib.cli.commands import NO_READER
from lib.settings import ROOT, Settings
from lib.streaming.query import QUERY
from tests.integration.conftest import GARBAGE, Chain
from tests.integration.helpers import (
    PYTHON,
    assert_trouble,
    environment,
    eventually,
    finished,
    launch,
    nothing_left_of,
    run,
    small_disk,
)
from tests.integration.records import line

GENERATE = ["generate", "--events", 300, "--accounts", 5, "--days", 10, "--seed", 7]
GENERATE += ["--malformed", 0.03, "--duplicates", 0.02, "--out"]


@pytest.fixture(scope="module", autouse=True)
def unanswered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.Popen]:
    """Commands that wait for a broker which never answers, while others work."""
    folder = tmp_path_factory.mktemp("unanswered")
    (folder / "one").write_bytes(line())
    # Bound and not listening: nobody else gets this port, and nobody answers there.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = environment(
            folder / "home", FRAUD_KAFKA=f"127.0.0.1:{taken.getsockname()[1]}"
        )
        started = {
            "produce": launch("produce", folder / "one", env=env),
            "stream": launch("stream", "--drain", env=env),
        }
        yield started
        for process in started.values():
            process.kill()
            process.communicate()


# -- what they do -----------------------------------------------------------------


def test_generate_writes_the_same_bytes_for_the_same_arguments(tmp_path: Path):
    first, second = tmp_path / "first", tmp_path / "second"

    ran = [run(*GENERATE, out, env=environment(tmp_path)) for out in (first, second)]

    assert [r.code for r in ran] == [0, 0]
    assert ran[0].result == ran[1].result
    assert ran[0].result["events"] == 300
    for name in ("tx_events.jsonl", "labels.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert (first / name).stat().st_size > 0


def test_generate_tells_a_scenario_with_what_happened_beside_it(tmp_path: Path):
    numbers = ["--events", 1000, "--accounts", 20, "--seed", 7, "--fraud", 0.05]
    words = ["generate", *numbers, "--scenario", "market", "--out", tmp_path / "out"]

    ran = run(*words, env=environment(tmp_path))

    assert ran.code == 0, ran.err
    assert (ran.result["events"], ran.result["fraud"]) == (1000, 50)
    told = (tmp_path / "out" / "fraud.csv").read_text().splitlines()
    assert sum(",fraud," in line for line in told) == 50


def test_produce_says_what_was_acknowledged(chain: Chain):
    for name, lines in (("one", 1), ("garbage", GARBAGE.count(b"\n"))):
        ran = chain.ran[name]
        assert ran.code == 0, ran.err
        result = ran.result
        assert (result["sent"], result["acked"]) == (lines, lines)
        assert result["seconds"] >= 0


def test_drain_says_what_it_took(chain: Chain):
    ran = chain.ran["drain"]

    assert ran.code == 0, ran.err
    assert ran.result["records"] == 1 + GARBAGE.count(b"\n")
    assert ran.result["seconds"] > 0


def test_reconcile_gives_every_count(chain: Chain):
    ran = chain.ran["reconcile"]

    assert ran.code == 0, ran.err
    result = ran.result
    assert result["balanced"] is True
    assert result["kafka"] == result["bronze"] == 1 + GARBAGE.count(b"\n")
    assert (result["transactions"], result["duplicates"]) == (1, 0)
    assert result["quarantine_reasons"] == {"malformed_json": 4, "missing_field": 1}


def test_progress_and_no_chatter_on_stderr(chain: Chain):
    for name, ran in chain.ran.items():
        said = [x for x in ran.err.replace("\r", "\n").splitlines() if x.strip()]
        # Progress bars, if anything: no log line of Spark, Ivy or Kafka.
        assert [x for x in said if " records " not in x] == [], name


def test_the_log_has_no_line_per_account(chain: Chain):
    """Spark would warn of each key that the state does not have yet."""
    log = (chain.home / "logs" / "spark.log").read_text()

    assert "doesn't contain" not in log


def test_broker_serves_until_ctrl_c(tmp_path: Path):
    home, other = tmp_path / "home", tmp_path / "other"
    (tmp_path / "one").write_bytes(line())
    broker = launch("broker", env=environment(home))
    printed = broker.stdout.readline()
    assert printed, broker.communicate()
    bootstrap = json.loads(printed)["bootstrap"]
    second = finished(launch("broker", env=environment(home)))
    # From another home, as if it were somebody's real cluster.
    remote = run(
        "produce", tmp_path / "one", env=environment(other, FRAUD_KAFKA=bootstrap)
    )
    broker.send_signal(signal.SIGINT)
    ended = finished(broker)

    assert_trouble(second, "already runs", bootstrap)
    assert remote.result["acked"] == 1
    assert (ended.code, ended.out) == (0, "")  # its one line has been read above
    nothing_left_of(home)


def test_a_second_writer_is_refused_and_the_first_goes_on(chain: Chain, tmp_path: Path):
    env = environment(chain.home)
    settings = Settings.from_env(env)
    more = tmp_path / "more"
    more.write_bytes(line(event_id="e-2") + b"\n" + line() + b"\n")

    def batches() -> int:
        commits = Path(settings.checkpoint(QUERY)) / "commits"
        return sum(path.name.isdigit() for path in commits.iterdir())

    def produce_and_see_it_arrive() -> None:
        before = batches()
        assert finished(launch("produce", more, env=env)).result["acked"] == 2
        eventually(
            lambda: batches() > before or first.poll() is not None,
            "the first stream takes the records",
            batches,
        )
        assert first.poll() is None, first.communicate()

    first = launch("stream", "--trigger", "200 milliseconds", env=env)
    try:
        produce_and_see_it_arrive()
        others = [finished(launch(name, env=env)) for name in ("stream", "rebuild")]
        produce_and_see_it_arrive()
    finally:
        first.send_signal(signal.SIGINT)
    ended = finished(first)

    for refused in others:
        assert_trouble(refused, "already runs", settings.checkpoints)
    assert ended.code == 0, ended.err
    assert ended.result["records"] == 4
    nothing_left_of(chain.home)


def test_demo_shows_cards_on_their_way_and_balanced_books(tmp_path: Path):
    ran = run(
        *["demo", "--events", 60, "--rate", 60, "--exit"], env=environment(tmp_path)
    )

    assert ran.code == 0, ran.err
    result = ran.result
    counts = [result[n] for n in ("sent", "acked", "kafka", "bronze", "transactions")]
    assert counts == [60] * 5
    assert result["balanced"] is True
    assert "<html" in Path(result["page"]).read_text()[:1000]
    assert "the books balance" in ran.err
    # The feed masks the accounts.
    assert "ACCT_••" in ran.err
    assert not re.search(r"ACCT_\d", ran.err)


# -- trouble ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["produce", "{tmp}/missing"], "missing"),
        (["produce", "{tmp}"], "JSON lines"),
        (["produce", "{tmp}/file", "--rate", "0"], "--rate"),
        (["produce", "{tmp}/file", "--rate", "inf"], "--rate"),
        (["produce", "{tmp}/file", "--rate", "fast"], "--rate"),
        (["stream", "--max-offsets", "-1"], "--max-offsets"),
        (["stream", "--max-offsets", "many"], "--max-offsets"),
        (["stream", "--trigger", "nonsense"], "nonsense"),
        ([*GENERATE[:2], "0", *GENERATE[3:], "{tmp}/out"], "--events"),
        ([*GENERATE, "{tmp}/file"], "file"),
        ([*GENERATE, "{tmp}/out", "--late", "1.5"], "--late"),
        ([*GENERATE, "{tmp}/out", "--fraud", "0.01"], "--scenario"),
        ([*GENERATE, "{tmp}/out", "--scenario", "bazaar"], "bazaar"),
        ([*GENERATE, "{tmp}/out", "--scenario", "market"], "1000"),
        (["generate", "--events", "10"], "required"),
        (["no-such-command"], "no-such-command"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_command_that_cannot_be_done(tmp_path: Path, arguments, word: str):
    (tmp_path / "file").write_bytes(line())
    home = tmp_path / "home"
    words = [str(text).replace("{tmp}", str(tmp_path)) for text in arguments]

    assert_trouble(run(*words, env=environment(home)), word)


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("FRAUD_HOME", "{tmp}/file", "FRAUD_HOME"),
        ("FRAUD_HOME", "{tmp}/file/home", "FRAUD_HOME"),
        ("FRAUD_KAFKA_PROPERTIES", "{tmp}/missing", "FRAUD_KAFKA_PROPERTIES"),
    ],
)
def test_a_setting_that_cannot_be_used(tmp_path: Path, variable, value, word):
    (tmp_path / "file").write_bytes(line())
    env = environment(
        tmp_path / "home", **{variable: value.replace("{tmp}", str(tmp_path))}
    )

    assert_trouble(run("produce", tmp_path / "file", env=env), word)
    assert (tmp_path / "file").read_bytes() == line()


def test_marts_on_a_java_that_does_not_start(tmp_path: Path):
    env = environment(tmp_path, JAVA_TOOL_OPTIONS="-XX:+NoSuchOption")

    assert_trouble(run("marts", env=env), "no Java", "does not start")


@pytest.mark.parametrize(
    "options", ["size=64m", "nr_inodes=1"], ids=["no room", "no room at all"]
)
def test_no_space_left(tmp_path: Path, options: str):
    (tmp_path / "file").write_bytes(line())
    home = tmp_path / "home"
    home.mkdir()
    prefix = small_disk(home, options)
    if not prefix:
        pytest.skip("this machine permits no mount: no small disk to fill")

    ran = run("produce", tmp_path / "file", env=environment(home), prefix=prefix)

    assert "no space" in ran.err.lower()
    assert_trouble(ran, "FRAUD_HOME")


SHORT = ["generate", "--events", 10, "--accounts", 2, "--seed", 7, "--out"]
SHELL = ["sh", "-c"]


def test_a_result_for_which_there_is_no_space(tmp_path: Path):
    to_a_full_disk = [*SHELL, 'exec "$@" > /dev/full', "sh"]

    ran = run(*SHORT, tmp_path, env=environment(tmp_path), prefix=to_a_full_disk)

    assert_trouble(ran, "standard output", "No space left", '"events": 10')


def test_help_for_which_there_is_no_space(tmp_path: Path):
    to_a_full_disk = [*SHELL, 'exec "$@" > /dev/full', "sh"]

    assert_trouble(run("--help", env=environment(tmp_path), prefix=to_a_full_disk))


def test_a_result_that_nobody_reads(tmp_path: Path):
    """As behind ``| head -1``, which ends when it has what it wants."""
    for words in ([*SHORT, tmp_path], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)

        done = subprocess.run(
            [PYTHON, "-m", "lib", *map(str, words)],
            env=environment(tmp_path),
            cwd=ROOT,
            stdout=writer,
            stderr=subprocess.PIPE,
        )
        os.close(writer)

        assert (done.returncode, done.stderr) == (NO_READER, b""), words


def test_a_closed_standard_output_is_refused_before_the_work(tmp_path: Path):
    closed = [*SHELL, 'exec "$@" >&-', "sh"]

    ran = run(*SHORT, tmp_path / "out", env=environment(tmp_path), prefix=closed)

    assert_trouble(ran, "standard output is closed")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["2>&-", "2> /dev/full", "<&-"])
def test_progress_that_nobody_sees_stops_no_command(
    settings: Settings, bootstrap: str, tmp_path: Path, lost: str
):
    (tmp_path / "one").write_bytes(line())
    given = {"FRAUD_KAFKA": bootstrap, "FRAUD_TOPIC": settings.topic}
    env = environment(tmp_path / "home", **given)
    without = [*SHELL, f'exec "$@" {lost}', "sh"]

    ran = run("produce", tmp_path / "one", env=env, prefix=without)

    assert (ran.code, ran.result["acked"]) == (0, 1)


@pytest.mark.parametrize("name", ["produce", "stream"])
def test_a_broker_that_does_not_answer(unanswered, name: str):
    ran = finished(unanswered[name])

    assert_trouble(ran, "no Kafka broker answers", "FRAUD_KAFKA")
