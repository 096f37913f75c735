"""The commands: progress on stderr, the result as one JSON line on stdout."""

from __future__ import annotations

import argparse
import errno
import io
import json
import logging
import os
import re
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lib.errors import FraudError
from lib.events.card_event import mask_accounts
from lib.events.log_masking import MaskingFormatter
from lib.settings import Settings
from lib.system.desktop import open_in_browser
from lib.system.environment import leave_out, on_this_machine, own_packages_first
from lib.system.signals import INTERRUPTED, Stop

_INTERVAL = re.compile(
    r"(\d+ *(microsecond|millisecond|second|minute|hour|day|week)s? *)+", re.IGNORECASE
)
NO_READER = 141  # 128 + SIGPIPE, what a shell reports for a writer to a closed pipe


def main(stop: Stop, argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        _check_streams()
        arguments = _parser().parse_args(argv)
        own_packages_first()
        # `doctor` is for a machine on which nothing else does: it lists what it finds.
        looks_only = arguments.run is _doctor
        settings = Settings.from_env(check=not looks_only)
        arguments.left_out = leave_out(on_this_machine(settings))
        if not looks_only:
            _log_to_file(settings)
        code, result = arguments.run(arguments, settings, stop)
        if result is not None:
            _print(result)
        return code
    except _NoReaderError:
        return NO_READER
    except SystemExit as ended:  # argparse has said why
        return int(ended.code or 0)
    except Exception as error:
        text = None if stop.broken else _explained(error)
        if text is None:
            raise
        _say(f"error: {text}")
        return 1


class _NoReaderError(Exception):
    """Nobody reads standard output any more, as behind ``| head -1``."""


# -- commands -------------------------------------------------------------------
# Each returns (exit code, result). Imports stay inside: `generate` needs no JVM, and
# `--help` answers at once.


def _generate(arguments, _settings: Settings, stop: Stop):
    from lib.datagen import generator, market

    shares = ("duplicates", "out_of_order", "late", "malformed", "conflicts")
    options = {name: getattr(arguments, name) for name in shares}
    tell = market.generate if arguments.scenario else generator.generate
    if arguments.fraud is not None:
        if not arguments.scenario:
            raise FraudError(f"--fraud needs a scenario: add --scenario {market.NAME}")
        options["fraud"] = arguments.fraud
    numbers = arguments.events, arguments.accounts, arguments.days, arguments.seed
    try:
        made = tell(*numbers, **options)
    except ValueError as error:
        raise FraudError(str(error)) from error
    generator.write(made, arguments.out)
    result = {"events": made.events, "labelled": made.labelled}
    if made.fraud is not None:
        result["fraud"] = sum(label.role == "fraud" for label in made.fraud)
    return 0, result


def _broker(arguments, settings: Settings, stop: Stop):
    from lib.kafka.broker import Broker

    if settings.kafka:
        raise FraudError(
            f"FRAUD_KAFKA is set to {settings.kafka}: unset it to run the embedded "
            "broker"
        )
    broker = Broker(settings, secured=arguments.secured).start()
    try:
        if not broker.owned:
            raise FraudError(
                f"a broker already runs for {settings.home} at {broker.bootstrap}: "
                "use it, or set FRAUD_HOME to another folder"
            )
        # Printed when ready, not at the end: others wait for this line, and from it on
        # Ctrl-C is how the command ends.
        keys = {"keys": str(broker.locks.folder)} if broker.locks else {}
        with stop.watched():
            _print({"bootstrap": broker.bootstrap, **keys})
            _say("ready; Ctrl-C stops it")
            while broker.alive():
                if stop.wait(0.2):
                    return 0, None
        raise FraudError(f"the broker ended by itself: see {settings.log_dir}")
    finally:
        broker.stop()


def _cluster(_arguments, settings: Settings, stop: Stop):
    from lib.cli.cluster import Cluster

    cluster = Cluster(settings).start()
    try:
        with stop.watched():
            _print(cluster.environment)
            _say("ready; in another shell:")
            for name, value in cluster.environment.items():
                _say(f"  export {name}={value}")
            _say("Ctrl-C stops all of it")
            while not stop.wait(0.2):
                if ended := cluster.failed():
                    _say(f"{', '.join(ended)} ended; the others go on")
                    stop.wait()
        return 0, None
    finally:
        cluster.stop()


def _produce(arguments, settings: Settings, stop: Stop):
    from lib.kafka.broker import bootstrap_servers
    from lib.kafka.producer import replay

    path = Path(arguments.file)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise FraudError(
            f"can't read {path}: name a file of JSON lines, e.g. "
            "fixtures/tx_events.jsonl"
        )
    with (
        bootstrap_servers(settings) as bootstrap,
        _Bar("records") as bar,
        stop.watched(),
    ):
        sent = replay(
            settings,
            bootstrap,
            path,
            rate=arguments.rate,
            stop=stop,
            on_acked=bar.to,
        )
    result = {
        "sent": sent.sent,
        "acked": sent.acked,
        "seconds": round(sent.seconds, 3),
    }
    return (INTERRUPTED if stop.is_set() else 0), result


def _stream(arguments, settings: Settings, stop: Stop):
    from lib.kafka.broker import bootstrap_servers
    from lib.streaming.runner import pipeline

    _demand_free(settings)
    with (
        bootstrap_servers(settings) as bootstrap,
        _spark(settings, stop, short_lived=False) as spark,
        _Bar("records") as bar,
    ):
        begun = time.monotonic()
        with (
            pipeline(
                spark,
                settings,
                bootstrap,
                drain=arguments.drain,
                trigger=arguments.trigger,
                max_offsets=arguments.max_offsets,
                on_records=bar.to,
            ) as running,
            stop.watched(),
        ):
            running.wait(stop)
        seconds = time.monotonic() - begun
    result = {"records": running.records, "seconds": round(seconds, 3)}
    # Ctrl-C is how a stream without --drain ends; a drain that was cut short did
    # not do what it says.
    cut_short = arguments.drain and stop.is_set()
    return (INTERRUPTED if cut_short else 0), result


def _reconcile(_arguments, settings: Settings, stop: Stop):
    from lib.kafka.broker import bootstrap_servers
    from lib.verify.reconciliation import reconcile

    with (
        bootstrap_servers(settings) as bootstrap,
        _spark(settings, stop, short_lived=True) as spark,
    ):
        books = reconcile(spark, settings, bootstrap)
    for difference in books.differences:
        _say(f"error: {difference}")
    return (0 if books.balanced else 1), books.as_dict()


def _marts(arguments, settings: Settings, stop: Stop):
    from lib.marts import dbt_runner

    dbt_runner.preload()
    with _spark(settings, stop, short_lived=True) as spark:
        if arguments.docs:
            return 0, {"docs": str(dbt_runner.docs(spark, settings))}
        marts = dbt_runner.build(spark, settings, full_refresh=arguments.full_refresh)
    for failure in marts.failures:
        _say(f"error: {failure}")
    return int(bool(marts.failures)), marts.as_dict()


def _dashboard(arguments, settings: Settings, stop: Stop):
    from lib.dashboard.serve import Dashboard

    with Dashboard(settings, arguments.port) as dashboard, stop.watched():
        # Printed once it answers, not at the end: others wait for this line.
        _print({"url": dashboard.url})
        _say("ready; Ctrl-C stops it")
        while dashboard.alive():
            if stop.wait(0.2):
                return 0, None
    raise FraudError(f"the dashboard ended by itself: see {settings.log_dir}")


def _rebuild(_arguments, settings: Settings, stop: Stop):
    from lib.streaming.rebuild import rebuild

    _demand_free(settings)
    with _spark(settings, stop, short_lived=False) as spark:
        return 0, rebuild(spark, settings)


def _demo(arguments, settings: Settings, stop: Stop):
    from lib.dashboard.serve import Dashboard
    from lib.kafka.broker import bootstrap_servers

    _demand_free(settings)
    _say("starting the dashboard, the broker and Spark …")
    dashboard = Dashboard(settings, arguments.port, or_any_port=True)
    with ExitStack() as started:
        # The page first: it is there before there is anything to see, and says so.
        dashboard.launch()
        started.callback(dashboard.stop)
        from lib.cli.demo import demo  # seconds of imports, while the page starts
        from lib.cli.traffic import Plan

        bootstrap = started.enter_context(bootstrap_servers(settings))
        dashboard.wait()
        _say(f"dashboard: {dashboard.url}")
        if not arguments.exit:
            open_in_browser(dashboard.url)
        # The first rows come a quarter sooner, and a demo's rates need no peak.
        with _spark(settings, stop, short_lived=True) as spark:
            plan = Plan(arguments.rate, arguments.events, ends=arguments.exit)
            result = demo(spark, settings, bootstrap, stop, plan=plan, say=_say)
        result["dashboard"] = dashboard.url
    # Ctrl-C is how a demo without --exit ends.
    cut_short = arguments.exit and stop.is_set()
    return (INTERRUPTED if cut_short else int(not result["balanced"])), result


def _doctor(arguments, settings: Settings, stop: Stop):
    from lib.cli.doctor import checks, verdict

    found = checks(settings, arguments.left_out)
    for check in found:
        for line in check.lines():
            _say(line)
    _say(verdict(found))
    result = {"checks": [check.as_dict() for check in found]}
    return (0 if all(check.ok for check in found) else 1), result


# -- plumbing -------------------------------------------------------------------


def _demand_free(settings: Settings) -> None:
    """Refuse in a second, and not after all else has started for nothing.

    Raises:
        FraudError: another process holds the checkpoints.
    """
    from lib.streaming.checkpoint import exclusive

    with exclusive(settings):
        pass


@contextmanager
def _spark(settings: Settings, stop: Stop, *, short_lived: bool):
    """A Spark session that ends with the block, and whose JVM ends with a signal."""
    from lib.streaming.session import handed_over, jvm_has_died, spark_session

    with handed_over(stop.children.append):
        spark = spark_session(settings, short_lived=short_lived)
    try:
        yield spark
    except Exception as error:
        if stop.broken or not jvm_has_died(spark, error):
            raise
        raise FraudError(
            f"Spark's JVM has died (see {settings.log_dir / 'spark-jvm.log'}): nothing "
            "is lost, run the command again; if it was out of memory, give a stream "
            "smaller batches with --max-offsets"
        ) from error
    finally:
        if not stop.broken:
            with suppress(OSError):  # of a JVM that is gone
                spark.stop()


class _Bar:
    """A progress bar on stderr that is told a total, not a step."""

    def __init__(self, unit: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit=f" {unit}", file=sys.stderr, mininterval=0.5)

    def to(self, done: int) -> None:
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()


class _Stderr(io.TextIOWrapper):
    """Standard error that may have no reader, or no space: what is lost then is
    progress, and no reason for a batch to fail."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _check_streams() -> None:
    """Make sure that there is a place for the result, before it is worked for."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            # Or the next file that is opened would have its number, and be written to.
            os.open(os.devnull, os.O_RDWR)
    # Its buffer and not the object, which would close it when it is no longer used.
    buffer = sys.stderr.buffer if sys.stderr else io.BufferedWriter(io.FileIO(2, "w"))
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    sys.stderr = _Stderr(buffer, encoding, "backslashreplace", line_buffering=True)
    if sys.stdout is None:
        raise FraudError(
            "standard output is closed, and the result goes there: open it, or send "
            "it to /dev/null"
        )


def _print(result: dict[str, object]) -> None:
    line = json.dumps(result, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a folder's name, which JSON can say in ASCII
        line = json.dumps(result)
    try:
        _write(line + "\n")
    except OSError as error:
        raise FraudError(
            f"standard output does not take the result ({error.strerror}), which is "
            f"{line}"
        ) from error


def _write(text: str) -> None:
    """To standard output, at once.

    Raises:
        OSError: it does not take it.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Or Python would try to write what is left in its buffer when it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if isinstance(error, BrokenPipeError):
            raise _NoReaderError from error
        raise


def _say(text: str) -> None:
    sys.stderr.write(mask_accounts(text) + "\n")  # a cause may quote a record
    sys.stderr.flush()


def _log_to_file(settings: Settings) -> None:
    try:
        settings.log_dir.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(settings.log_dir / "commands.log", delay=True)
    except OSError as error:
        raise FraudError(
            f"can't write in {settings.home} ({error.strerror}): set FRAUD_HOME to a "
            "folder that you may write"
        ) from error
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(MaskingFormatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # A line per Py4J call would fill the disk.
    logging.getLogger("py4j").setLevel(logging.WARNING)


def _explained(error: Exception) -> str | None:
    """One line for the person at the keyboard; None for what nobody has foreseen."""
    if isinstance(error, FraudError):
        return str(error)
    if isinstance(error, OSError):
        return _os_error(error)
    # Spark's own, told by name: importing it takes longer than most commands.
    if type(error).__module__.startswith(("pyspark.", "py4j.")):
        from lib.streaming.session import cause_of

        return f"{cause_of(error)} (see {Settings.from_env().log_dir / 'spark.log'})"
    return None


def _os_error(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space left on the disk: free some, then run the command again"
    place = f" {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{place}: correct it and run the command again"


def _positive(kind):
    def convert(text: str):
        number = kind(text)
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
        return number

    convert.__name__ = "positive number"
    return convert


def _interval(text: str) -> str:
    """Parse a trigger interval before a JVM and a query are started for it."""
    if not _INTERVAL.fullmatch(text.strip()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no interval: say '500 milliseconds' or '1 minute 30 seconds'"
        )
    return text


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 65535")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


class _Parser(argparse.ArgumentParser):
    """argparse's own takes it for a success if nobody gets the text of --help."""

    def _print_message(self, message: str, file=None) -> None:
        (_write if file is sys.stdout else sys.stderr.write)(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m lib", description="Real-time fraud signals, one step a command."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    generate = command("generate", _generate, "write synthetic events and labels")
    generate.add_argument("--events", type=_positive(int), required=True)
    generate.add_argument("--accounts", type=_positive(int), required=True)
    generate.add_argument("--days", type=_positive(int), default=40)
    generate.add_argument("--seed", type=int, required=True)
    generate.add_argument("--out", type=Path, required=True, metavar="DIR")
    for share, text in (
        ("duplicates", "events sent twice"),
        ("out-of-order", "events displaced by less than 4 minutes"),
        ("late", "events more than 5 minutes behind their account"),
        ("malformed", "records that break a rule"),
        ("conflicts", "records that reuse an event_id with other fields"),
    ):
        generate.add_argument(
            f"--{share}", type=_share, default=0.0, metavar="SHARE", help=text
        )
    generate.add_argument(
        "--scenario",
        choices=("market",),
        help="thefts and honest payments that look like them; fraud.csv says which",
    )
    generate.add_argument(
        "--fraud", type=_share, metavar="SHARE", help="payments made by thieves"
    )

    broker = command("broker", _broker, "run the embedded Kafka broker until Ctrl-C")
    broker.add_argument(
        "--secured",
        action="store_true",
        help="with TLS, a password per principal, and ACLs; its keys are for "
        "FRAUD_KAFKA_PROPERTIES",
    )

    command("cluster", _cluster, "run three brokers and a Spark cluster until Ctrl-C")

    produce = command("produce", _produce, "send each line of a file to the topic")
    produce.add_argument("file", metavar="FILE")
    produce.add_argument(
        "--rate", type=_positive(float), metavar="EV_S", help="records per second"
    )

    stream = command("stream", _stream, "run the stream until Ctrl-C")
    stream.add_argument(
        "--drain", action="store_true", help="take what the topic holds now, then end"
    )
    stream.add_argument(
        "--trigger",
        type=_interval,
        default="0 seconds",
        metavar="INTERVAL",
        help="begin a micro-batch this often; as soon as there is data, if not given",
    )
    stream.add_argument("--max-offsets", type=_positive(int), metavar="N")

    command("reconcile", _reconcile, "check that every record is accounted for")
    command("rebuild", _rebuild, "make silver and scored anew from bronze alone")

    marts = command("marts", _marts, "build and test the marts with dbt")
    marts.add_argument(
        "--full-refresh", action="store_true", help="build every mart anew"
    )
    marts.add_argument(
        "--docs", action="store_true", help="write the documentation instead"
    )

    dashboard = command("dashboard", _dashboard, "the operator's page until Ctrl-C")
    dashboard.add_argument("--port", type=_port, metavar="P", help="0: any free one")

    demo = command("demo", _demo, "broker, stream, dashboard and live traffic in one")
    demo.add_argument(
        "--rate",
        type=_positive(float),
        metavar="EV_S",
        help="events per second; 2 for the fixture and 20 after it, if not given",
    )
    demo.add_argument("--events", type=_positive(int), metavar="N")
    demo.add_argument("--port", type=_port, metavar="P", help="of the dashboard")
    demo.add_argument(
        "--exit", action="store_true", help="end when the replay is in the lake"
    )

    command("doctor", _doctor, "say what this machine lacks")
    return parser
