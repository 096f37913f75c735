"""Keeps a child process from outliving its owner, whatever becomes of the owner.

    python supervisor.py USERS_LOCK PID_FILE COMMAND…

The owner holds the other end of this process's standard input. The kernel closes it
when the owner ends, also after kill -9, and the supervisor then ends the child, unless
another process still holds a shared lock on USERS_LOCK: then it waits for the last
of them. The child's process id is written to PID_FILE. The word "stop" on standard
input ends the child at once.

Standard library only, and run by path, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import subprocess
import sys
import time

POLL_SECONDS = 0.2
TERM_SECONDS = 20
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """In the child before exec, on Linux: SIGKILL if the supervisor is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def last_user_gone(users) -> bool:
    """True once nobody else holds a lock on the file; then this process does."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end(child: subprocess.Popen) -> int:
    """SIGTERM, and SIGKILL for a child that does not react in TERM_SECONDS."""
    child.terminate()
    # A child that the failure laboratory has stopped can't react to SIGTERM.
    child.send_signal(signal.SIGCONT)
    try:
        return child.wait(TERM_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def main() -> int:
    """Run the command until the owner, and every other user, is gone."""
    # Ctrl-C in the owner's terminal is the owner's business: it may still need the
    # child to finish what it does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = os.getppid()
    with open(sys.argv[1], "a") as users:
        child = subprocess.Popen(
            sys.argv[3:],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        with open(sys.argv[2], "w") as pid_file:
            pid_file.write(str(child.pid))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(end(child)))
        orphaned = False
        while child.poll() is None:
            if orphaned:
                if last_user_gone(users):
                    return end(child)
                time.sleep(POLL_SECONDS)
                continue
            readable, _, _ = select.select([0], [], [], POLL_SECONDS)
            said = os.read(0, 64) if readable else None
            if said and b"stop" in said:
                return end(child)
            orphaned = said == b"" or os.getppid() != owner
        return child.returncode


if __name__ == "__main__":
    sys.exit(main())
