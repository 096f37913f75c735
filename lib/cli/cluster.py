"""A small real cluster on this machine: three brokers, a Spark master, two workers.

Each is a process of its own and talks to the others over sockets, as on six machines;
only the machine is one. The same commands run on it by settings alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from kafka.errors import KafkaError

from lib.errors import FraudError
from lib.kafka import clients
from lib.kafka.broker import (
    SHARED_PROPERTIES,
    is_formatted,
    kafka_java,
    new_cluster_id,
)
from lib.settings import Settings
from lib.setup.java import find_java, java_env
from lib.system import supervisor
from lib.system.environment import jvm_locale, leave_out, spark_home
from lib.system.loopback import free_ports, open_url

BROKERS, WORKERS = 3, 2
WORKER_CORES, WORKER_MEMORY = 1, "768m"
"""What a worker offers: one executor of 512 MB heap and what Spark adds to it."""
DAEMON_MEMORY = "256m"
READY_SECONDS = 90
POLL_SECONDS = 0.1

_PROPERTIES = (
    SHARED_PROPERTIES
    + """\
node.id={node}
controller.quorum.voters={voters}
log.dirs=data-{node}
# A record is acknowledged when two of three have it: one may die and nothing is lost,
# and nobody waits for it.
default.replication.factor=3
min.insync.replicas=2
unclean.leader.election.enable=false
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
broker.session.timeout.ms=6000
"""
)


class Daemon:
    """One process of the cluster; a supervisor ends it with its owner, also on kill -9.

    Attributes:
        name: e.g. ``worker-1``.
        log: what it wrote to stdout and stderr.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.out"
        self._pid_file = folder / f"{name}.pid"
        self._users = folder / f"{name}.users"
        self._supervisor: subprocess.Popen | None = None

    def start(self, command: list[str], env: dict[str, str] | None = None) -> Daemon:
        """Start the command under a supervisor; does not wait until it is ready."""
        self._pid_file.unlink(missing_ok=True)
        words = [sys.executable, "-S", supervisor.__file__, self._users, self._pid_file]
        with self.log.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [*map(str, words), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
                env={**os.environ, **jvm_locale(), **(env or {})},
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """Process id of the daemon itself."""
        return int(self._pid_file.read_text())

    def alive(self) -> bool:
        """Whether it runs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def kill(self) -> None:
        """Send SIGKILL to it and its children, as if its machine had failed."""
        os.killpg(self.pid, signal.SIGKILL)
        self._supervisor.wait(supervisor.TERM_SECONDS)

    def end(self) -> None:
        """Tell it to end; ``wait`` waits for it."""
        if self._supervisor and not self._supervisor.stdin.closed:
            self._supervisor.stdin.close()

    def wait(self) -> None:
        """Wait until it has ended."""
        if self._supervisor:
            self._supervisor.wait(supervisor.TERM_SECONDS + 10)


class Cluster:
    """The cluster of one home.

    Attributes:
        bootstrap: ``host:port`` of the three brokers, separated by commas.
        master: ``spark://127.0.0.1:PORT``.
        brokers, workers: their daemons, to be looked at or killed.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.bootstrap = self.master = ""
        self.brokers: list[Daemon] = []
        self.workers: list[Daemon] = []
        self._spark_master: Daemon | None = None
        self._folder = settings.home / "cluster"
        self._lock = None

    def start(self) -> Cluster:
        """Start everything; returns when all brokers and workers are members.

        Raises:
            FraudError: another cluster runs in this home, or a process ended.
        """
        leave_out(alone=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.settings.log_dir.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FraudError(
                f"a cluster already runs in {self._folder}: use it, or set FRAUD_HOME "
                "to another folder"
            ) from None
        try:
            self._start_spark()
            self._start_brokers()
            self._wait_for_members()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop every process; the brokers' logs stay for the next start."""
        for daemon in self._all:
            daemon.end()
        for daemon in self._all:
            daemon.wait()
        if self._lock:
            self._lock.close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make any command run on it."""
        return {"FRAUD_KAFKA": self.bootstrap, "FRAUD_SPARK_MASTER": self.master}

    def failed(self) -> list[str]:
        """Names of the processes that have ended."""
        return [daemon.name for daemon in self._all if not daemon.alive()]

    @property
    def _all(self) -> list[Daemon]:
        first = [self._spark_master] if self._spark_master else []
        return [*self.workers, *first, *self.brokers]

    # -- Spark --------------------------------------------------------------------

    def _start_spark(self) -> None:
        port, self._ui_port = free_ports(2)
        self.master = f"spark://127.0.0.1:{port}"
        self._spark_master = self._spark_daemon(
            "master",
            "org.apache.spark.deploy.master.Master",
            *["--host", "127.0.0.1", "--port", str(port)],
            *["--webui-port", str(self._ui_port)],
        )
        self.workers = [
            self._spark_daemon(
                f"worker-{number}",
                "org.apache.spark.deploy.worker.Worker",
                *["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"],
                *["--cores", str(WORKER_CORES), "--memory", WORKER_MEMORY],
                *["--work-dir", str(self._folder / f"work-{number}"), self.master],
            )
            for number in range(1, WORKERS + 1)
        ]

    def _spark_daemon(self, name: str, main: str, *arguments: str) -> Daemon:
        daemon = Daemon(name, self._folder)
        command, env = spark_daemon(daemon.log, main, *arguments)
        # The address of the web pages, too, which else are open to the network.
        return daemon.start(command, env | {"SPARK_LOCAL_IP": "127.0.0.1"})

    def _workers_alive(self) -> int:
        url = f"http://127.0.0.1:{self._ui_port}/json/"
        try:
            with open_url(url, timeout=5) as answer:
                return json.load(answer)["aliveworkers"]
        except (OSError, ValueError):
            return 0

    # -- Kafka --------------------------------------------------------------------

    def _start_brokers(self) -> None:
        ports = free_ports(2 * BROKERS)
        own, quorum = ports[:BROKERS], ports[BROKERS:]
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in own)
        voters = ",".join(f"{n}@127.0.0.1:{p}" for n, p in enumerate(quorum, 1))
        configs = []
        for node, (broker, controller) in enumerate(zip(own, quorum, strict=True), 1):
            text = _PROPERTIES.format(
                node=node,
                voters=voters,
                broker=broker,
                controller=controller,
                largest=clients.MAX_RECORD_BYTES,
                ahead=clients.AHEAD_MS,
            )
            configs.append(self._folder / f"broker-{node}.properties")
            configs[-1].write_text(text)
        self._format(configs)
        self.brokers = [
            Daemon(f"broker-{node}", self._folder).start(
                kafka_java(self._kafka_log(node), "kafka.Kafka", str(config))
            )
            for node, config in enumerate(configs, 1)
        ]

    def _format(self, configs: list[Path]) -> None:
        """Prepare the data folders that are new, all at once."""
        cluster_id = self._folder / "cluster-id"
        if not cluster_id.exists():
            cluster_id.write_text(new_cluster_id())
        running = {}
        for node, config in enumerate(configs, 1):
            command = kafka_java(self._kafka_log(node), "kafka.tools.StorageTool")
            command += ["format", "--config", str(config), "--ignore-formatted"]
            command += [f"--cluster-id={cluster_id.read_text()}"]
            if not is_formatted(self._folder / f"data-{node}"):
                running[config] = subprocess.Popen(
                    command,
                    cwd=self._folder,
                    env=os.environ | jvm_locale(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
        try:
            for config, process in running.items():
                said, _ = process.communicate()
                if process.returncode:
                    raise FraudError(
                        f"the broker of {config} can't be prepared: {said}"
                    )
        finally:  # left by Ctrl-C, say
            for process in running.values():
                process.kill()

    def _kafka_log(self, node: int) -> Path:
        return self.settings.log_dir / f"cluster-broker-{node}.log"

    def _brokers_alive(self) -> int:
        client = None
        try:
            client = clients.admin(self.settings, self.bootstrap)
            return len(client.describe_cluster()["brokers"])
        except (FraudError, KafkaError):
            return 0
        finally:
            if client:
                client.close()

    def _wait_for_members(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        looks = [(self._workers_alive, WORKERS), (self._brokers_alive, BROKERS)]
        for look, wanted in looks:
            while (found := look()) < wanted:
                ended = self.failed()
                if ended or time.monotonic() > deadline:
                    what = f"{', '.join(ended)} ended" if ended else f"{found} joined"
                    raise FraudError(
                        f"the cluster does not get ready ({what}): see {self._folder}"
                    )
                time.sleep(POLL_SECONDS)


def spark_daemon(
    log: Path, main: str, *arguments: str
) -> tuple[list[str], dict[str, str]]:
    """Command and variables of a Spark master or worker with the Java in use.

    Args:
        log: what its JVM says outside of Spark's own log.
        main: its class, e.g. ``org.apache.spark.deploy.master.Master``.
        arguments: the class's own.
    """
    variables = java_env(find_java(), log) | {
        "SPARK_HOME": str(spark_home()),
        "SPARK_DAEMON_MEMORY": DAEMON_MEMORY,
        # Jobs come from drivers, not over HTTP.
        "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
        "PYSPARK_PYTHON": sys.executable,
    }
    script = spark_home() / "bin" / "spark-class"
    return ["bash", str(script), main, *arguments], variables


def main(arguments: list[str]) -> int:
    """Entry of ``python -m lib.cli.cluster CLASS ARGUMENTS``: become that Spark daemon,
    as one machine of a real cluster (or one container) does."""
    log = Settings.from_env().log_dir / "spark-daemon.log"
    leave_out(alone=False)
    command, variables = spark_daemon(log, *arguments)
    os.environ.update(variables)
    os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
