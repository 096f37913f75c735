"""A real single-node Kafka (KRaft) on loopback that lives and dies with its users."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from kafka.errors import KafkaError

from lib.errors import FraudError
from lib.kafka import clients
from lib.kafka.security import ADMIN, BrokerKeys, grant
from lib.settings import Settings
from lib.setup.class_cache import options
from lib.setup.jars import class_path
from lib.setup.java import find_java, log_options
from lib.system import supervisor
from lib.system.environment import jvm_locale
from lib.system.files import write_whole
from lib.system.loopback import free_ports, is_free

HEAP_MB = 256
READY_SECONDS = 60
STOP_SECONDS = supervisor.TERM_SECONDS + 10
PORT_ATTEMPTS = 3
POLL_SECONDS = 0.1
MIN_FREE_BYTES = 256 * 1024 * 1024
_META = "meta.properties"

SHARED_PROPERTIES = """\
process.roles=broker,controller
listeners=BROKER://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{broker}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
log.retention.ms=-1
log.message.timestamp.after.max.ms={ahead}
log.segment.bytes=134217728
message.max.bytes={largest}
replica.fetch.max.bytes={largest}
"""
"""What this broker and those of `lib.cli.cluster` have in common."""

_PROPERTIES = (
    SHARED_PROPERTIES
    + """\
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
# Relative to where the broker is started: a comma would separate two folders.
log.dirs=data
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
# After a crash the broker may register again only when its old session is over; the
# default of 9 s is for networks.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=400
"""
)


class Broker:
    """The embedded broker of one home: the one that runs, or one of our own.

    Every user of it, in any process, holds a shared lock on a file; a supervisor
    process ends the broker when the last lock is gone, be it by ``close`` or kill -9.

    Attributes:
        bootstrap: ``127.0.0.1:PORT`` once started.
        pid: process id of Kafka's JVM, for those who want to kill it.
        locks: the keys of a secured broker, else None.
    """

    def __init__(self, settings: Settings, *, secured: bool = False) -> None:
        """``secured`` makes it one with TLS, passwords and ACLs (lib.kafka.security),
        with a log of its own beside that of the open one."""
        self.settings = settings
        self.bootstrap = ""
        self.pid = 0
        self._dir = settings.home / ("broker-secured" if secured else "broker")
        self.locks: BrokerKeys | None = (
            BrokerKeys(self._dir / "keys") if secured else None
        )
        self._supervisor: subprocess.Popen | None = None
        self._users = None

    def start(self) -> Broker:
        """Use the running broker of this home or start one; returns when it answers.

        Raises:
            FraudError: it can't start (no space, no Java, a damaged data folder).
        """
        try:
            self._dir.mkdir(parents=True, exist_ok=True)
            deadline = time.monotonic() + READY_SECONDS
            while not (self._lead() or self._follow()):
                if time.monotonic() > deadline:
                    raise FraudError(
                        f"another command is starting a broker in {self._dir} and "
                        f"does not get ready: see {self._log}"
                    )
                time.sleep(POLL_SECONDS)
        except OSError as error:
            self.close()
            raise FraudError(_disk_trouble(error, self._dir)) from error
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop using it; the broker stops, too, if nobody else uses it."""
        self._leave(stop=False)

    def stop(self) -> None:
        """Stop the broker even if others use it (only its owner can)."""
        self._leave(stop=True)

    @property
    def owned(self) -> bool:
        """Whether this object started the broker, and did not find one running."""
        return self._supervisor is not None

    def alive(self) -> bool:
        """Whether Kafka's JVM runs."""
        return (
            self._supervisor.poll() is None
            if self._supervisor
            else psutil.pid_exists(self.pid)
        )

    def kill(self) -> None:
        """SIGKILL to Kafka's JVM, as a crash would; ``start`` brings it back."""
        os.kill(self.pid, signal.SIGKILL)
        if self._supervisor:
            self._supervisor.wait(STOP_SECONDS)
        self._leave(stop=False)

    # -- the two ways in --------------------------------------------------------

    def _lead(self) -> bool:
        """Start a broker if nobody has; False if somebody has."""
        lock = open(self._dir / "lock", "a")  # noqa: SIM115 - the supervisor inherits it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        with lock:
            self._state.unlink(missing_ok=True)
            self._join()
            free = shutil.disk_usage(self._dir).free
            if free < MIN_FREE_BYTES:
                raise FraudError(
                    f"no space left: {free // 2**20} MB free in {self._dir}, the "
                    f"broker wants {MIN_FREE_BYTES // 2**20} MB: free some or set "
                    "FRAUD_HOME to another disk"
                )
            self._launch(lock)
        return True

    def _follow(self) -> bool:
        """Attach to the broker that somebody started; False while it isn't ready."""
        if not self._join():
            return False  # its supervisor is ending it
        try:
            state = json.loads(self._state.read_text())
        except (FileNotFoundError, ValueError):
            self._quit()
            return False
        if not _accepts(state["bootstrap"]):
            self._quit()
            return False
        self.bootstrap, self.pid = state["bootstrap"], state["pid"]
        return True

    def _join(self) -> bool:
        # Open, and locked, for as long as we use the broker.
        self._users = open(self._dir / "users", "a")  # noqa: SIM115
        try:
            fcntl.flock(self._users, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._quit()
            return False
        return True

    def _quit(self) -> None:
        if self._users:
            self._users.close()
            self._users = None

    def _leave(self, *, stop: bool) -> None:
        self._quit()
        if self._supervisor is None:
            return
        if stop and self._supervisor.poll() is None:
            self._supervisor.stdin.write(b"stop")
        self._supervisor.stdin.close()
        deadline = time.monotonic() + STOP_SECONDS
        while self._supervisor.poll() is None and time.monotonic() < deadline:
            if not stop and _in_use(self._dir / "users"):
                break  # others still use it; the supervisor waits for them
            time.sleep(POLL_SECONDS)
        self._supervisor = None

    # -- starting one -----------------------------------------------------------

    def _launch(self, lock) -> None:
        ports = self._read_ports()
        for _ in range(PORT_ATTEMPTS):
            # The same ports as last time, if they are free: clients that wait for a
            # restarted broker know only its old address.
            ports = ports if ports and all(map(is_free, ports)) else free_ports(2)
            self._write("ports.json", json.dumps(ports))
            self._prepare(*ports)
            since = self._log.stat().st_size if self._log.exists() else 0
            self._spawn(lock)
            if self._ready(f"127.0.0.1:{ports[0]}"):
                return
            said = self._said_since(since)
            self._leave(stop=True)
            self._join()
            # Somebody else took a port between our look and Kafka's bind.
            if "Address already in use" not in said:
                raise FraudError(f"the broker does not start ({said}): see {self._log}")
            ports = None
        raise FraudError(
            f"the broker found its ports taken {PORT_ATTEMPTS} times: see {self._log}"
        )

    def _prepare(self, broker: int, controller: int) -> None:
        data = self._dir / "data"
        text = _PROPERTIES.format(
            broker=broker,
            controller=controller,
            largest=clients.MAX_RECORD_BYTES,
            ahead=clients.AHEAD_MS,
        )
        if self.locks:
            self._dir.chmod(0o700)  # server.properties holds the admin's password
            self.locks.make()
            text += self.locks.server_properties()
        config = self._write("server.properties", text)
        if is_formatted(data, self._dir / _META):
            return
        command = self._java("kafka.tools.StorageTool", "format")
        command += ["--config", str(config), f"--cluster-id={new_cluster_id()}"]
        command += ["--ignore-formatted"]
        command += self.locks.format_arguments() if self.locks else []
        done = subprocess.run(
            command,
            cwd=self._dir,
            env=os.environ | jvm_locale(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise FraudError(
                f"the broker's data folder {data} can't be prepared "
                f"({''.join(last)}): free some space, or set FRAUD_HOME to another disk"
            )

    def _keep_meta(self) -> None:
        """A copy of the small file without which Kafka can't open its log."""
        meta = self._dir / "data" / _META
        self._write(_META, meta.read_text())

    def _spawn(self, lock) -> None:
        users, config = self._dir / "users", self._dir / "server.properties"
        command = [
            sys.executable,
            "-S",
            supervisor.__file__,
            str(users),
            str(self._pid_file),
        ]
        command += self._java("kafka.Kafka", str(config))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                cwd=self._dir,
                env=os.environ | jvm_locale(),
                # The supervisor inherits the lock, so the home stays taken exactly as
                # long as the broker runs.
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )

    def _ready(self, bootstrap: str) -> bool:
        """Wait until the broker answers as a cluster of one; False if it ended."""
        deadline = time.monotonic() + READY_SECONDS
        while self._supervisor.poll() is None and time.monotonic() < deadline:
            if _accepts(bootstrap) and self._answers(bootstrap):
                self.bootstrap, self.pid = (
                    bootstrap,
                    int(self._pid_file.read_text()),
                )
                state = {"bootstrap": bootstrap, "pid": self.pid}
                self._write("broker.json", json.dumps(state))
                self._keep_meta()
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _answers(self, bootstrap: str) -> bool:
        """Whether it is a cluster of one, secured if it has to be."""
        client = clients.admin(self.settings_own, bootstrap)
        try:
            there = bool(client.describe_cluster()["brokers"])
        except KafkaError:
            there = False
        finally:
            client.close()
        if there and self.locks:
            self._open_the_topic(bootstrap)
        return there

    def _open_the_topic(self, bootstrap: str) -> None:
        """Create the topic, which no client may, and let each do its part."""
        clients.ensure_topic(self.settings_own, bootstrap)
        client = clients.admin(self.settings_own, bootstrap)
        try:
            grant(client, self.settings.topic)
        finally:
            client.close()

    def _java(self, main: str, *arguments: str) -> list[str]:
        return kafka_java(self.settings.log_dir / "broker-kafka.log", main, *arguments)

    @property
    def settings_own(self) -> Settings:
        """The settings with the broker's own client properties: none, since loopback
        wants no password, or the admin's if it is secured."""
        own = self.locks.client_file(ADMIN) if self.locks else None
        return replace(self.settings, kafka_properties=own)

    @property
    def _log(self) -> Path:
        return self.settings.log_dir / "broker.log"

    @property
    def _pid_file(self) -> Path:
        return self._dir / "pid"

    @property
    def _state(self) -> Path:
        return self._dir / "broker.json"

    def _said_since(self, position: int) -> str:
        """The error in what the broker wrote since ``position``, in one line."""
        with self._log.open(errors="replace") as file:
            file.seek(position)
            lines = [line.strip() for line in file if line.strip()]
        telling = [x for x in lines if "rror" in x or "xception" in x or "use" in x]
        return (telling or lines or ["it said nothing"])[-1][:300]

    def _read_ports(self) -> list[int] | None:
        try:
            return json.loads((self._dir / "ports.json").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _write(self, name: str, text: str) -> Path:
        return write_whole(self._dir / name, text)


@contextmanager
def bootstrap_servers(settings: Settings) -> Iterator[str]:
    """Bootstrap servers for as long as the block runs.

    FRAUD_KAFKA if it is set (and answers), else the embedded broker.

    Raises:
        FraudError: no broker answers.
    """
    if settings.kafka:
        clients.admin(settings, settings.kafka).close()
        yield settings.kafka
        return
    broker = Broker(settings).start()
    try:
        yield broker.bootstrap
    finally:
        broker.close()


def running_bootstrap(settings: Settings) -> str:
    """Address of the embedded broker that runs for this home; empty if none does.

    For those who only look: it neither starts the broker nor keeps it alive.
    """
    try:
        state = json.loads((settings.home / "broker" / "broker.json").read_text())
    except (OSError, ValueError):
        return ""
    return state["bootstrap"] if _accepts(state["bootstrap"]) else ""


def is_formatted(data: Path, kept: Path | None = None) -> bool:
    """Whether Kafka can open the data folder; False if it is still to be prepared.

    Args:
        data: the folder.
        kept: where a copy of its meta.properties may lie.

    Raises:
        FraudError: there are records in it, and the file that says whose they are is
            damaged. A new one would make a new and empty cluster.
    """
    meta = data / _META
    text = meta.read_text(errors="replace") if meta.exists() else ""
    if "cluster.id=" in text and "node.id=" in text:
        return True
    logs = (path.name for path in data.glob("*-[0-9]*"))
    if all(name.startswith("__") for name in logs):
        shutil.rmtree(data, ignore_errors=True)  # nobody has sent anything here
        return False
    copied = kept is not None and kept.exists()
    remedy = f"copy {kept} to it" if copied else "put it back from a backup"
    raise FraudError(
        f"{meta} is missing, empty or cut, and Kafka can't open the records beside it: "
        f"{remedy}; nothing was written"
    )


def new_cluster_id() -> str:
    """A random id in the form that Kafka gives its clusters."""
    return urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def kafka_java(log: Path, main: str, *arguments: str) -> list[str]:
    """The command line of one of Kafka's programs, which logs to the file."""
    java = find_java()
    return [
        str(java.executable),
        *options(java, "broker"),
        f"-Xmx{HEAP_MB}m",
        "-XX:+UseSerialGC",
        "-Djava.awt.headless=true",
        *log_options(log),
        "-cp",
        class_path("broker"),
        main,
        *arguments,
    ]


def _accepts(bootstrap: str) -> bool:
    host, _, port = bootstrap.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _in_use(users: Path) -> bool:
    """Whether anybody uses the broker; a supervisor that is ending it is no user."""
    with users.open("a") as file:
        if supervisor.last_user_gone(file):
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _disk_trouble(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left in {folder}: free some or set FRAUD_HOME elsewhere"
    return (
        f"can't write in {folder} ({error.strerror}): set FRAUD_HOME to a folder "
        "that you may write"
    )
