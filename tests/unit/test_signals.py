"""What a signal does to a program: the first ends it in order, a second one at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from lib.system.signals import INTERRUPTED, SIGNALS

PATIENCE_SECONDS = 60

PROGRAM = """
import subprocess, sys, time
from lib.system.signals import run

def say(text):
    print(text, flush=True)

def program(stop):
{body}

run(program)
"""


@contextmanager
def started(body: str) -> Iterator[subprocess.Popen[str]]:
    """A program with this main function, which has said its first word."""
    text = "\n".join(f"    {line}" for line in body.strip().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=text)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        process.first = process.stdout.readline().strip()
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    """Exit code, lines on stdout, lines on stderr."""
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out.splitlines(), err.splitlines()


@pytest.mark.parametrize("number", SIGNALS)
def test_it_is_raised_where_nobody_looks(number: int):
    body = """
try:
    say("ready")
    time.sleep(600)
finally:
    say("let go")
"""
    with started(body) as process:
        process.send_signal(number)
        assert ended(process) == (INTERRUPTED, ["let go"], ["stopped"])


def test_what_becomes_of_it_on_its_way_is_no_error():
    body = """
try:
    say("ready")
    time.sleep(600)
except BaseException:
    raise ValueError("a library says so")
"""
    with started(body) as process:
        process.send_signal(signal.SIGINT)
        assert ended(process) == (INTERRUPTED, [], ["stopped"])


def test_a_library_that_swallows_it_does_not_make_a_success():
    body = """
try:
    say("ready")
    time.sleep(600)
except BaseException:
    return 0
"""
    with started(body) as process:
        process.send_signal(signal.SIGINT)
        assert ended(process) == (INTERRUPTED, [], ["stopped"])


def test_a_loop_that_looks_ends_in_its_own_way():
    body = """
with stop.watched():
    say("ready")
    stop.wait()
say("done")
return 7
"""
    with started(body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (7, ["done"], [])


def test_behind_such_a_loop_it_is_raised_again():
    body = """
with stop.watched():
    pass
say("ready")
time.sleep(600)
"""
    with started(body) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (INTERRUPTED, [], ["stopped"])


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_one_ends_it_at_once(second: int):
    body = """
try:
    say("ready")
    time.sleep(600)
finally:
    say("letting go")
    time.sleep(600)
"""
    with started(body) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "letting go\n"
        process.send_signal(second)
        assert ended(process) == (-second, [], [])


@pytest.mark.parametrize("deaf", [False, True])
def test_its_children_have_ended_before_it_is_raised(deaf: bool):
    ignoring = "trap '' TERM INT; " if deaf else ""
    body = f"""
script = "{ignoring}sleep 601 & echo $$; wait"
child = subprocess.Popen(
    ["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
)
stop.children.append(child)
child.stdout.readline()
try:
    say(child.pid)
    child.wait()
finally:
    say(child.poll() is not None)
"""
    with started(body) as process:
        (sleep,) = psutil.Process(int(process.first)).children()
        process.send_signal(signal.SIGINT)
        assert ended(process) == (INTERRUPTED, ["True"], ["stopped"])
        sleep.wait(PATIENCE_SECONDS)  # with all that they had started


def test_a_large_child_that_must_be_killed_has_ended_too():
    body = """
deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
large = "room = b'x' * (500 << 20); print('up', flush=True); signal.pause()"
child = subprocess.Popen(
    [sys.executable, "-c", deaf + large],
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
)
stop.children.append(child)
child.stdout.readline()
try:
    say("ready")
    time.sleep(600)
finally:
    say(child.poll() is not None)
"""
    with started(body) as process:
        process.send_signal(signal.SIGINT)
        assert ended(process) == (INTERRUPTED, ["True"], ["stopped"])


def test_a_child_that_the_signal_reached_too_is_no_error():
    """As `timeout` and a service manager send it: to every process."""
    body = """
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
stop.children.append(child)
with stop.watched():
    say(child.pid)
    stop.wait()
    child.wait()
    raise ValueError("the child does not answer")
"""
    with started(body) as process:
        os.kill(int(process.first), signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (INTERRUPTED, [], ["stopped"])


def test_an_error_is_an_error():
    with started('raise ValueError("unforeseen")') as process:
        code, _out, err = ended(process)
    assert (code, err[-1]) == (1, "ValueError: unforeseen")
