"""The locked Kafka broker as a container's only process.

python broker.py           become the broker
python broker.py health    exit 0 if it answers

Its settings are variables: KAFKA_NODE_ID becomes node.id in server.properties. It
listens beyond the loopback, which the embedded broker of a laptop never does: here the
network is the containers' own.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

CONFIG = Path("/tmp/server.properties")
LOG = Path(__file__).resolve().parent / "broker-log.properties"
NOT_SETTINGS = ("KAFKA_HEAP", "KAFKA_CLUSTER_ID")
API_VERSIONS = 18


def properties(variables: Mapping[str, str]) -> str:
    """server.properties: each variable KAFKA_A_B as ``a.b``."""
    lines = []
    for name, value in sorted(variables.items()):
        if name.startswith("KAFKA_") and name not in NOT_SETTINGS:
            key = name.removeprefix("KAFKA_").lower().replace("_", ".")
            lines.append(f"{key}={value}\n")
    return "".join(lines)


def main() -> None:
    """Prepare the data folder if it is new, then become the broker."""
    from locked import java

    CONFIG.write_text(properties(os.environ))
    heap = os.environ["KAFKA_HEAP"]
    logging = f"-Dlog4j2.configurationFile={LOG.as_uri()}"
    prepare = ["kafka.tools.StorageTool", "format", "--ignore-formatted"]
    prepare += ["--cluster-id", os.environ["KAFKA_CLUSTER_ID"]]
    prepare += ["--config", str(CONFIG)]
    subprocess.run(java("broker", heap, logging, *prepare), check=True)
    command = java("broker", heap, logging, "kafka.Kafka", str(CONFIG))
    os.execv(command[0], command)


def answers(host: str, port: int) -> bool:
    """Whether a broker says which requests it knows, as to any client's first one.

    By hand: a client's library takes half a second of CPU to load, every few seconds.
    """
    header = struct.pack(
        ">hhih", API_VERSIONS, 0, 1, -1
    )  # version, id, no client's name
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(struct.pack(">i", len(header)) + header)
            answer = connection.makefile("rb").read(10)
        _, correlation, error = struct.unpack(">iih", answer)
    except (OSError, struct.error):
        return False
    return (correlation, error) == (1, 0)


if __name__ == "__main__":
    if sys.argv[1:] == ["health"]:
        sys.exit(not answers(socket.gethostname(), 9092))
    main()
