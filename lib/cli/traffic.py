"""The demo's traffic: the fixture first, then events of new cards until stopped."""

from __future__ import annotations

import fcntl
import threading
from dataclasses import dataclass

from lib.datagen.generator import generate
from lib.events.card_event import parse, to_json
from lib.kafka.clients import end_offsets
from lib.kafka.producer import Sent, replay
from lib.settings import ROOT, Settings

FIXTURE = ROOT / "fixtures" / "tx_events.jsonl"
FIXTURE_RATE = 2.0
"""Events per second of the fixture, as on the project's page."""

GENERATED_RATE = 20.0
CHUNK = 6_000
"""Generated events of one file: five minutes at GENERATED_RATE."""

EVENTS_PER_ACCOUNT = 25
_STEP = 1009
"""Between the ids of one account in two files: more than the fixture changed its ids
by (their last two digits), and less than lies between two accounts of a file."""

_LONG_AFTER_US = 2**62


@dataclass(frozen=True)
class Plan:
    """How much is sent, and how fast.

    Attributes:
        rate: events per second; None for FIXTURE_RATE and then GENERATED_RATE.
        events: how many in all; None for no limit.
        ends: without a limit, end behind the fixture.
    """

    rate: float | None
    events: int | None
    ends: bool


class Traffic:
    """Sends in a thread of its own, so that nobody slows its open loop.

    A home that holds records already gets no fixture: it would be nothing but
    duplicates.
    """

    def __init__(self, settings: Settings, bootstrap: str, plan: Plan) -> None:
        self._settings, self._bootstrap, self._plan = settings, bootstrap, plan
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._error: BaseException | None = None
        self._sent: list[Sent] = []
        self._held = sum(end_offsets(settings, bootstrap).values())

    def start(self) -> Traffic:
        """Begin."""
        self._thread.start()
        return self

    def done(self) -> bool:
        """Whether all is sent.

        Raises:
            FraudError: it could not be sent.
        """
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def end(self) -> None:
        """Send no more."""
        self._stop.set()
        self._thread.join()

    def stop(self) -> Sent:
        """Send no more; what was sent until now.

        Raises:
            FraudError: not all of it could be sent.
        """
        self.end()
        if self._error is not None:
            raise self._error
        return Sent(
            sent=sum(part.sent for part in self._sent),
            acked=sum(part.acked for part in self._sent),
            seconds=sum(part.seconds for part in self._sent),
        )

    def _run(self) -> None:
        try:
            self._send_all()
        except BaseException as error:  # handed to the one who waits
            self._error = error

    def _send_all(self) -> None:
        plan = self._plan
        left = plan.events
        if not self._held:
            lines = FIXTURE.read_text().splitlines()[:left]
            self._send(lines, plan.rate or FIXTURE_RATE)
            left = None if left is None else left - len(lines)
        elif plan.ends and left is None:
            left = len(FIXTURE.read_text().splitlines())
        if left is None and plan.ends:
            return
        while not self._stop.is_set() and left != 0:
            count = CHUNK if left is None else min(left, CHUNK)
            self._send(new_cards(count, self._next()), plan.rate or GENERATED_RATE)
            left = None if left is None else left - count

    def _next(self) -> int:
        """1, 2, … over all runs of this home, whatever their topics: no two files have
        a card in common."""
        folder = self._settings.home / "demo"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "files").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another demo may be asking, too
            file.seek(0)
            number = int(file.read() or 0) + 1
            file.truncate(0)
            file.write(str(number))
        return number

    def _send(self, lines: list[str], rate: float) -> None:
        # Of this pipeline alone: it is read while it is sent.
        file = self._settings.own_dir / "demo" / "tx_events.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
        self._sent.append(
            replay(self._settings, self._bootstrap, file, rate=rate, stop=self._stop)
        )


def new_cards(count: int, number: int) -> list[str]:
    """Lines of events of accounts that no file with another number has.

    The generator gives its accounts the same ids each time, and tells each time a
    story that ends at the same moment: told twice of one account, all of the second
    one would be late.

    Args:
        count: how many events.
        number: the file's number, from 1.
    """
    made = generate(count, max(1, count // EVENTS_PER_ACCOUNT), seed=number)
    moved = []
    for line in made.lines:
        event = parse(line.encode(), _LONG_AFTER_US)
        digits = int(event.account_id.removeprefix("ACCT_"))
        account_id = f"ACCT_{(digits + number * _STEP) % 10**8:08d}"
        moved.append(to_json(event._replace(account_id=account_id)))
    return moved
