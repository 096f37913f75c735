"""An S3-compatible store of one folder, S3Proxy, as a container's only process.

One process, one disk: an object is there as a whole or not at all, and a conditional
put is kept. It has no copies, no versions and no users but one; where a disk may fail,
take a cloud's store or one of several machines.
"""

from __future__ import annotations

import os
from pathlib import Path

CONFIG = Path("/tmp/s3proxy.properties")
LOG = Path(__file__).resolve().parent / "store-log.xml"
FOLDER = Path("/data/s3")
BUCKET = "fraud"
SECRETS = Path("/run/secrets")


def properties(user: str, password: str) -> str:
    """The store's settings: where it listens, who may ask, where objects lie."""
    return (
        "s3proxy.endpoint=http://0.0.0.0:9000\n"
        "s3proxy.authorization=aws-v2-or-v4\n"
        f"s3proxy.identity={user}\n"
        f"s3proxy.credential={password}\n"
        "jclouds.provider=filesystem-nio2\n"
        f"jclouds.filesystem.basedir={FOLDER}\n"
    )


def main() -> None:
    """Make the bucket, which is a folder, then become the store."""
    from locked import java

    (FOLDER / BUCKET).mkdir(parents=True, exist_ok=True)
    CONFIG.touch(mode=0o600)
    user, password = (
        (SECRETS / name).read_text() for name in ("s3_user", "s3_password")
    )
    CONFIG.write_text(properties(user, password))
    logging = f"-Dlogback.configurationFile={LOG}"
    command = java("store", "256m", logging, "org.gaul.s3proxy.Main")
    os.execv(command[0], [*command, "--properties", str(CONFIG)])


if __name__ == "__main__":
    main()
