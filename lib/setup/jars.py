"""The jars of Kafka and Delta: locked by name, version and SHA-256, fetched once.

Ivy, which PySpark ships, does the downloading, so no Maven is needed.

    python -m lib.setup.jars fetch         fetch what is missing, check every hash
    python -m lib.setup.jars fetch --s3    the jars for s3a:// as well
    python -m lib.setup.jars fetch --store and of an S3-compatible store
    python -m lib.setup.jars lock          resolve the roots again and rewrite jars.lock
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tqdm import tqdm

from lib.errors import FraudError
from lib.settings import ROOT
from lib.setup.java import find_java
from lib.setup.network import argument_file, jvm_options
from lib.system.environment import jvm_locale, spark_home
from lib.system.signals import run

LOCK_FILE = ROOT / "jars.lock"
JAR_DIR = ROOT / ".jars"

ROOTS = {
    "spark": (
        "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
        "io.delta:delta-spark_4.2_2.13:4.4.0",
        # Hadoop's local file system forks a process per file operation where its
        # native library is missing; this one asks the JVM instead.
        "com.globalmentor:hadoop-bare-naked-local-fs:0.1.0",
    ),
    "broker": (
        "org.apache.kafka:kafka_2.13:4.3.1",
        # Kafka logs through SLF4J 1.7; without a binding it says nothing at all.
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
    ),
    "s3": (
        "org.apache.hadoop:hadoop-aws:3.5.0",
        # A checkpoint manager that writes instead of renaming; Spark 4.2's own release
        # of this jar is not there yet, and the interface is the same.
        "org.apache.spark:spark-hadoop-cloud_2.13:4.1.1",
        # Of the prefetching reader that is not used here, but loaded.
        "software.amazon.s3.analyticsaccelerator:analyticsaccelerator-s3:1.3.1",
        "software.amazon.awssdk:s3:2.40.2",
        "software.amazon.awssdk:s3-transfer-manager:2.40.2",
        "software.amazon.awssdk:sts:2.40.2",
        "software.amazon.awssdk:apache-client:2.40.2",
    ),
    "store": (
        # S3's protocol in front of a folder. Its clients of other clouds' stores are
        # left out; what remains is what its server loads.
        "org.gaul:s3proxy:4.1.0",
        "args4j:args4j:2.37",
        "ch.qos.logback:logback-classic:1.6.3",
        "com.google.guava:guava:33.7.1-jre",
        "jakarta.servlet:jakarta.servlet-api:6.0.0",
        "software.amazon.awssdk:s3:2.54.2",
        "tools.jackson.dataformat:jackson-dataformat-xml:3.2.2",
    ),
}
"""What each class path needs, as group:artifact:version; the rest follows."""

OPTIONAL = ("s3", "store")
"""Class paths that are fetched on request only."""

_WITHOUT_DEPENDENCIES = (
    "org.apache.hadoop",
    "org.apache.spark:spark-hadoop-cloud",
    "org.gaul:s3proxy",
)
"""Hadoop's S3 client asks for the whole AWS SDK in one file of 600 MB and uses four
modules of it, which are named above; the rest of both is in PySpark. The store asks for
the clients of each cloud that it can stand in front of."""

_BESIDE_PYSPARK = ("spark", "s3")
"""Class paths that PySpark's own jars are on, too."""

_FILE_PATTERN = "[organisation]__[artifact]__[revision].[ext]"


@dataclass(frozen=True)
class Jar:
    """One locked jar. ``use`` is the class path it belongs to, ``size`` in bytes."""

    use: str
    sha256: str
    size: int
    coordinate: str

    @property
    def path(self) -> Path:
        """Where the jar lies after ``fetch``."""
        return JAR_DIR / (self.coordinate.replace(":", "__") + ".jar")

    def intact(self, path: Path | None = None) -> bool:
        """Whether the file (``path``, else where it belongs) is the locked one."""
        path = path or self.path
        return (
            path.is_file()
            and path.stat().st_size == self.size
            and sha256_of(path) == self.sha256
        )


def read_lock(lock_file: Path = LOCK_FILE) -> list[Jar]:
    """The locked jars, in file order."""
    rows = [line.split() for line in lock_file.read_text().splitlines()]
    return [
        Jar(use, sha256, int(size), coordinate)
        for use, sha256, size, coordinate in (r for r in rows if r and r[0] != "#")
    ]


def class_path(use: str) -> str:
    """Class path of ``"spark"``, ``"broker"``, ``"store"``; beside Spark's, ``"s3"``.

    Raises:
        FraudError: a jar of it is missing or has another size than locked.
    """
    jars = [jar for jar in read_lock() if jar.use == use]
    how = f"python -m lib.setup.jars fetch --{use}" if use in OPTIONAL else "make setup"
    for jar in jars:
        if not jar.path.is_file() or jar.path.stat().st_size != jar.size:
            raise FraudError(
                f"the jar {jar.coordinate} is missing or cut short: run `{how}`"
            )
    return os.pathsep.join(str(jar.path) for jar in jars)


def fetch(
    jar_dir: Path = JAR_DIR,
    lock_file: Path = LOCK_FILE,
    optional: Collection[str] = (),
) -> int:
    """Bring the locked jars into ``jar_dir``; returns how many were fetched now.

    Those of the class paths in OPTIONAL only if they are named.

    A jar that is there with the right hash is kept; the network is asked for the
    others only.

    Raises:
        FraudError: a hash differs, or Ivy could not get a jar.
    """
    jar_dir.mkdir(parents=True, exist_ok=True)
    uses = [use for use in ROOTS if use not in OPTIONAL or use in optional]
    locked = [jar for jar in read_lock(lock_file) if jar.use in uses]
    unique = {jar.coordinate: jar for jar in locked}.values()
    wanted = [jar for jar in unique if not jar.intact(jar_dir / jar.path.name)]
    if not wanted:
        return 0
    # Beside the final place, so that the rename below stays in one file system.
    with tempfile.TemporaryDirectory(dir=jar_dir) as incoming:
        # One run a class path: within a run Ivy keeps one version of a module.
        for use in uses:
            sizes = {jar.coordinate: jar.size for jar in wanted if jar.use == use}
            if sizes:
                _retrieve(sizes, Path(incoming), transitive=False, sizes=sizes)
        for jar in wanted:
            arrived = Path(incoming) / jar.path.name
            if not arrived.is_file():
                raise FraudError(
                    f"{jar.coordinate} was not served: check the network (or the "
                    "proxy) and run `make setup` again"
                )
            if not jar.intact(arrived):
                raise FraudError(
                    f"{jar.coordinate} is not the file that jars.lock names (SHA-256 "
                    f"{sha256_of(arrived)}, locked {jar.sha256}): delete it from Ivy's "
                    "cache in ~/.ivy2 and run `make setup` again; if it differs "
                    "again, do not use it"
                )
            arrived.replace(jar_dir / jar.path.name)
    return len(wanted)


def lock() -> list[Jar]:
    """Resolve ROOTS with all they depend on and write the lock file.

    What PySpark ships already is left out of Spark's class path: two versions of one
    class on it would be a lottery.
    """
    shipped = {_artifact_of(p.name) for p in pyspark_jars()}
    locked = []
    for use, roots in ROOTS.items():
        with tempfile.TemporaryDirectory() as folder:
            _retrieve(roots, Path(folder), transitive=True)
            for path in sorted(Path(folder).iterdir()):
                group, artifact, version = path.stem.split("__")
                if use in _BESIDE_PYSPARK and artifact in shipped:
                    continue
                coordinate = f"{group}:{artifact}:{version}"
                locked.append(
                    Jar(use, sha256_of(path), path.stat().st_size, coordinate)
                )
    header = "# use sha256 bytes group:artifact:version (written by `make lock`)\n"
    rows = (f"{j.use} {j.sha256} {j.size} {j.coordinate}\n" for j in locked)
    LOCK_FILE.write_text(header + "".join(rows))
    return locked


def pyspark_jars() -> list[Path]:
    """The jars that come inside the package pyspark, by name."""
    return sorted((spark_home() / "jars").glob("*.jar"))


def _artifact_of(file_name: str) -> str:
    """``kafka-clients-3.9.1.jar`` → ``kafka-clients``."""
    return re.sub(r"-\d.*$", "", file_name)


def _retrieve(
    coordinates: Iterable[str],
    target: Path,
    *,
    transitive: bool,
    sizes: dict[str, int] | None = None,
) -> None:
    """Run Ivy for the coordinates; files land in ``target`` by _FILE_PATTERN."""
    with tempfile.TemporaryDirectory() as folder:
        _run_ivy(coordinates, target, Path(folder), transitive, sizes)


def _run_ivy(
    coordinates: Iterable[str],
    target: Path,
    scratch: Path,
    transitive: bool,
    sizes: dict[str, int] | None,
) -> None:
    ivy = next(p for p in pyspark_jars() if p.name.startswith("ivy-"))
    conf = "default->default(compile),runtime" if transitive else "default->master"
    dependencies = "".join(
        f"<dependency org={quoteattr(g)} name={quoteattr(a)} rev={quoteattr(v)} "
        f"conf={quoteattr(conf)} transitive='{str(deep).lower()}'/>"
        for g, a, v, deep in (
            (*c.split(":"), transitive and not c.startswith(_WITHOUT_DEPENDENCIES))
            for c in coordinates
        )
    )
    module = scratch / "ivy.xml"
    module.write_text(
        '<ivy-module version="2.0"><info organisation="fraud" module="jars"/>'
        '<configurations><conf name="default"/></configurations>'
        f"<dependencies>{dependencies}</dependencies></ivy-module>"
    )
    network = argument_file(scratch, jvm_options(scratch))
    command = [find_java().executable, network, "-cp", ivy, "org.apache.ivy.Main"]
    command += ["-ivy", module, "-confs", "default", "-types", "jar", "bundle"]
    # Relative, because a bracket in the folder's name would belong to the pattern.
    command += ["-retrieve", _FILE_PATTERN]
    tail = deque(maxlen=200)
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=target,
        env=os.environ | jvm_locale(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with (
        _not_outlived(process),
        tqdm(
            total=sum(sizes.values()) if sizes else None,
            desc=f"{len(sizes) if sizes else 'resolving'} jars",
            unit="B",
            unit_scale=True,
            file=sys.stderr,
        ) as bar,
    ):
        for line in process.stdout:
            tail.append(line.rstrip())
            # "[SUCCESSFUL ] group#artifact;version!artifact.jar (87ms)"
            done = re.search(r"SUCCESSFUL \] (.+)#(.+);(.+)!", line)
            if done and sizes:
                bar.update(sizes.get(":".join(done.groups()), 0))
        if process.wait() == 0 and sizes:
            bar.update(bar.total - bar.n)  # the rest came out of Ivy's cache
    if process.returncode:
        if any("PKIX" in line for line in tail):
            raise FraudError(
                "the jars come with a certificate that Java does not trust, as on "
                "networks that read along: set SSL_CERT_FILE to a file with your "
                "network's certificates (PEM) and run `make setup` again"
            )
        signs = ("not found", "UNRESOLVED", "UnknownHost", "refused")
        cause = next((t.strip() for t in tail if any(s in t for s in signs)), "")
        raise FraudError(
            f"Ivy could not fetch the jars ({cause or 'no answer from the network'}): "
            "check the network (or the proxy) and run `make setup` again"
        )


@contextmanager
def _not_outlived(process: subprocess.Popen) -> Iterator[None]:
    """Ends the process if the block is left by an exception, Ctrl-C say."""
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise


def sha256_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str]) -> int:
    """Entry of ``python -m lib.setup.jars``; returns the exit code."""
    try:
        optional = [word.removeprefix("--") for word in arguments[1:]]
        if arguments[:1] == ["fetch"] and set(optional) <= set(OPTIONAL):
            fetch(optional=optional)
        elif arguments == ["lock"]:
            lock()
        else:
            raise FraudError(
                "usage: python -m lib.setup.jars fetch [--s3] [--store] | lock"
            )
    except FraudError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run(lambda _stop: main(sys.argv[1:]))
