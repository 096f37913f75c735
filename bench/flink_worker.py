"""The rules of `lib.detectors.rules` on PyFlink: one job, a program of its own.

`bench.peers` starts it with the interpreter of an environment that has apache-flink.
Kafka → Kafka, exactly once by transactions that Flink commits with its checkpoints,
with each account's history as keyed state (`bench.plain_rules`). Python runs within
Flink's own process (thread mode), which costs less than a process beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from pyflink.common import Configuration, Types, WatermarkStrategy
from pyflink.common.serialization import SimpleStringSchema
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.connectors.base import DeliveryGuarantee
from pyflink.datastream.connectors.kafka import (
    KafkaOffsetsInitializer,
    KafkaRecordSerializationSchema,
    KafkaSink,
    KafkaSource,
)
from pyflink.datastream.functions import KeyedProcessFunction
from pyflink.datastream.state import ValueStateDescriptor

from bench.plain_rules import score


class Account:
    """An account's binary in Flink's keyed state."""

    def __init__(self, state) -> None:
        self._state = state

    def get_bytes(self, _key: str) -> bytes | None:
        """What was stored, or None."""
        return self._state.value()

    def set_bytes(self, _key: str, value: bytes) -> None:
        """Store it."""
        self._state.update(value)


class Rules(KeyedProcessFunction):
    """The answers to one record, as JSON with the account's full name."""

    def open(self, context) -> None:
        """Take the state."""
        described = ValueStateDescriptor("history", Types.PICKLED_BYTE_ARRAY())
        self._account = Account(context.get_state(described))

    def process_element(self, value: str, context):
        """One record's."""
        key = context.get_current_key()
        record = value.encode()
        for answer in score(
            record, key.encode(), context.timestamp(), None, self._account
        ):
            yield json.dumps({"account_id": key, **answer})


def main() -> None:
    """Run the job until it is ended."""
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "topic", "out", "state", "connector"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--commit-seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    settings = {
        "pipeline.jars": Path(arguments.connector).resolve().as_uri(),
        "parallelism.default": str(os.cpu_count()),
        "python.executable": sys.executable,
        "python.execution-mode": "thread",
        "python.fn-execution.bundle.time": "10",  # ms that records may wait for others
        "execution.checkpointing.interval": f"{1000 * arguments.commit_seconds:.0f} ms",
        "execution.checkpointing.dir": Path(arguments.state).resolve().as_uri(),
    }
    # The Python within Flink's process does not know of this one's environment.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    configuration = Configuration()
    for name, value in settings.items():
        configuration.set_string(name, value)
    job = StreamExecutionEnvironment.get_execution_environment(configuration)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(arguments.bootstrap)
        .set_topics(arguments.topic)
        .set_group_id("flink")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    to_topic = (
        KafkaRecordSerializationSchema.builder()
        .set_topic(arguments.out)
        .set_value_serialization_schema(SimpleStringSchema())
        .build()
    )
    sink = (
        KafkaSink.builder()
        .set_bootstrap_servers(arguments.bootstrap)
        .set_record_serializer(to_topic)
        .set_delivery_guarantee(DeliveryGuarantee.EXACTLY_ONCE)
        .set_transactional_id_prefix("flink")
        .set_property("transaction.timeout.ms", "600000")
        .build()
    )
    records = job.from_source(source, WatermarkStrategy.no_watermarks(), "records")
    by_account = records.key_by(
        lambda value: json.loads(value)["account_id"], key_type=Types.STRING()
    )
    by_account.process(Rules(), output_type=Types.STRING()).sink_to(sink)
    job.execute("rules")


if __name__ == "__main__":
    main()
