"""Ctrl-C and SIGTERM: the first ends a program in order, a second one at once."""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # each import is a moment in which nobody takes a signal
    from subprocess import Popen

INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM)
CHILD_SECONDS = 3
"""How long a child may take to end after SIGTERM, before SIGKILL."""
POLL_SECONDS = 0.02


class Stop(threading.Event):
    """Set by the first signal.

    A loop that looks at it says so (`watched`) and ends in its own way. Anywhere else
    the signal is raised in the main thread, as KeyboardInterrupt, and each block lets
    go of what it holds. A second signal ends the process at once, as kill -9 would,
    and every start copes with what that leaves behind.

    Attributes:
        raised: whether the signal was raised.
        children: processes that the main thread may be waiting for, each the leader
            of a group: they end before the signal is raised, so that no `finally`
            waits for them again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.raised = False
        self.children: list[Popen] = []
        self._watched = False

    def listen(self) -> Stop:
        """Take the signals from now on. In the main thread only."""
        for number in SIGNALS:
            signal.signal(number, self._handle)
        return self

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The block looks at the event by itself: nothing is raised in it."""
        self._watched = True
        try:
            yield
        finally:
            self._watched = False

    @property
    def broken(self) -> bool:
        """Whether an exception is but a consequence of the signal: it was raised, or
        it reached a child as well, as `timeout` and a service manager have it."""
        lost = any(child.poll() is not None for child in self.children)
        return self.raised or (self.is_set() and lost)

    def _handle(self, _number: int, _frame: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # In a thread: the main one may be in the middle of `wait`, with the lock held.
        _thread.start_new_thread(self.set, ())
        if self._watched:
            return
        self.raised = True
        for child in self.children:
            _end(child)
        raise KeyboardInterrupt


def _end(leader: Popen) -> None:
    with suppress(OSError):  # they have ended
        os.killpg(leader.pid, signal.SIGTERM)
        deadline = time.monotonic() + CHILD_SECONDS
        # Not by its own `poll`: the signal may have come in the middle of that, with
        # a lock held.
        while not (ended := os.waitpid(leader.pid, os.WNOHANG)[0]):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        os.killpg(leader.pid, signal.SIGKILL)
        if not ended:  # it takes the system a while to take back its memory
            os.waitpid(leader.pid, 0)


def run(program: Callable[[Stop], int | None]) -> NoReturn:
    """Run a program's main function and end the process with its exit code; 130 if a
    signal was raised in it."""
    stop = Stop().listen()
    try:
        code = program(stop)
    except BaseException:
        if not stop.broken:
            raise
        import logging

        logging.getLogger(__name__).info("ended by a signal", exc_info=True)
    # What is left is to end.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if not stop.broken:
        sys.exit(code)
    with suppress(OSError, AttributeError):
        sys.stderr.write("stopped\n")
        sys.stderr.flush()
    # As Python ends, but without waiting for threads that still import something.
    atexit._run_exitfuncs()
    os._exit(INTERRUPTED)
