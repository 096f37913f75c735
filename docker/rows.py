"""Prints silver/scored, one row a line and sorted, without what differs between two
runs of the same events: when they ran, and how records fell into micro-batches."""

from __future__ import annotations

import json
import os
import sys
from configparser import ConfigParser

from deltalake import DeltaTable

OF_THE_RUN = ("kafka_timestamp", "scored_at", "revision")


def lake() -> tuple[str, dict[str, str]]:
    """Where the lake is, and how it is reached."""
    uri = os.environ.get("FRAUD_LAKE") or os.environ["FRAUD_HOME"] + "/lake"
    if not uri.startswith("s3a:"):
        return uri, {}
    keys = ConfigParser()
    keys.read(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    return uri.replace("s3a:", "s3:"), {
        "AWS_ENDPOINT_URL": "http://s3:9000",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": keys["default"]["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": keys["default"]["aws_secret_access_key"],
    }


def main() -> None:
    """Print the rows."""
    uri, options = lake()
    table = DeltaTable(f"{uri}/silver/scored", storage_options=options)
    rows = table.to_pyarrow_table().drop_columns(OF_THE_RUN).to_pylist()
    for line in sorted(json.dumps(row, default=str) for row in rows):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
