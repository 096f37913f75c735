"""The streaming query: Kafka → bronze, silver/transactions, quarantine and scored.

One micro-batch: records are routed by account to the stateful operator
(`lib.streaming.processor`), which parses, deduplicates and scores them, and
`foreachBatch` commits its rows, one commit a table, each with the batch id
(`lib.lake.writer`).

Bronze is committed first, the others after it and at the same time. So a reader may
see records in bronze that silver does not have yet, for as long as a commit takes, and
never the other way round. It is what recovery rests on: bronze says what was taken in
(`lib.streaming.recovery`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.streaming import StreamingQuery

from lib.errors import FraudError
from lib.kafka.clients import spark_options
from lib.lake.maintenance import Maintenance
from lib.lake.tables import (
    BRONZE,
    CONTENT,
    IDENTITY,
    QUARANTINE,
    SCHEMAS,
    SCORED,
    TRANSACTIONS,
    UNSURE,
    spark_rows,
    table_rows,
)
from lib.lake.writer import (
    CORRECTION,
    Batch,
    DataFile,
    LocalLake,
    SparkLake,
    open_lake,
    with_corrections,
)
from lib.settings import Settings
from lib.streaming import preflight, recovery
from lib.streaming.checkpoint import Checkpoint, unfinished_rebuild
from lib.streaming.processor import (
    CORRECTIONS,
    LARGE,
    OUTPUT,
    ROWS,
    AccountProcessor,
    Target,
    from_ipc,
)
from lib.streaming.scoring import CORRECTION as CORRECTION_SCHEMA
from lib.streaming.scoring import JUDGED, settle
from lib.streaming.state_map import GROUPS

QUERY = "pipeline"

FETCH_WAIT_MS = "1"
"""How long a broker may hold back a fetch that finds nothing new. A task of Spark's
Kafka source asks for a partition's first and last offset behind the fetch of the
records that may come next, on the same connection, where the broker answers in order:
with the client's default of 500 ms a task waits up to half a second. Source: thread
dumps, and Spark's InternalKafkaConsumer.getAvailableOffsetRange."""

_ACCOUNT = T.StructType([T.StructField("account_id", T.StringType())])
_ANY_JSON = {
    "maxNumLen": str(2**31 - 1),
    "maxStringLen": str(2**31 - 1),
    "maxNestingDepth": "1000",
}
"""Options of `from_json`: its own limits are those of no contract of ours."""

OnBatch = Callable[[int, int], None]


# -- the source ----------------------------------------------------------------------


def source_options(settings: Settings, bootstrap: str) -> dict[str, str]:
    """Options of Spark's Kafka source, whose tasks then wait for no long poll."""
    return {
        "kafka.fetch.max.wait.ms": FETCH_WAIT_MS,
        **spark_options(settings, bootstrap),
    }


def read_topic(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    starting: str = "earliest",
    max_offsets: int | None = None,
) -> DataFrame:
    """The topic as a stream: key, value, topic, partition, offset, kafka_timestamp.

    Args:
        spark: the session.
        settings: topic and client properties.
        bootstrap: bootstrap servers.
        starting: ``earliest`` or offsets as JSON; a checkpoint overrides it.
        max_offsets: records per micro-batch at most; None for no limit.
    """
    options = {
        **source_options(settings, bootstrap),
        "startingOffsets": starting,
        "failOnDataLoss": "true",
    }
    if max_offsets:
        options["maxOffsetsPerTrigger"] = str(max_offsets)
    return records(spark.readStream.format("kafka").options(**options).load())


def records(kafka: DataFrame) -> DataFrame:
    """Spark's Kafka columns under the names that bronze gives them."""
    return kafka.select(
        "key",
        "value",
        "topic",
        "partition",
        "offset",
        F.col("timestamp").alias("kafka_timestamp"),
    )


# -- the operator --------------------------------------------------------------------


def shuffle_key() -> Column:
    """Expression: the key by which an account's records are shuffled to one task.

    The record's own; of one without a key the account_id in its value. A record whose
    key is not its account_id is rejected, wherever it is.
    """
    value = F.col("value").cast("string")
    account = F.from_json(value, _ACCOUNT, _ANY_JSON)["account_id"].cast("binary")
    return F.coalesce(F.col("key"), account, F.lit(b""))


def slots(spark: SparkSession, count: int) -> list[int]:
    """One number for each of `count` state partitions, so that each gets one key.

    Spark puts a key into the partition ``hash(key) mod count``.
    """
    of = spark.sparkContext._jvm.org.apache.spark.sql.catalyst.expressions
    of = of.Murmur3HashFunction
    kind = spark.sparkContext._jvm.org.apache.spark.sql.types.DataTypes.IntegerType
    found: dict[int, int] = {}
    number = 0
    while len(found) < count:
        place = of.hash(number, kind, 42) % count
        found.setdefault(place, number)
        number += 1
    return [found[place] for place in range(count)]


def operator(
    raw: DataFrame, target: Target, keys: int, initial: DataFrame | None = None
) -> DataFrame:
    """Raw records (see `read_topic`) → the operator's output
    (`lib.streaming.processor.OUTPUT`).

    Args:
        raw: the stream.
        target: where the rows go.
        keys: how many keys the state has; a checkpoint keeps the number.
        initial: accounts that a new checkpoint knows, columns ``account_id`` and
            ``value``.
    """
    spark = raw.sparkSession
    numbers = slots(spark, keys)
    choices = F.array(*map(F.lit, numbers))

    def slot(account: Column) -> Column:
        place = F.pmod(F.xxhash64(account), F.lit(len(numbers)))
        chosen = F.element_at(choices, (place + 1).cast("int"))
        # Never null, but by the session's rules of SQL (ANSI's or not) Spark takes it
        # for possible, and then the state's key would have another type.
        return F.coalesce(chosen, F.lit(numbers[0])).alias("slot")

    rows = raw.select(
        slot(shuffle_key()),
        "key",
        "value",
        "partition",
        "offset",
        F.unix_micros("kafka_timestamp").alias("kafka_us"),
    )
    known = None
    if initial is not None:
        known = initial.select(
            slot(F.col("account_id").cast("binary")), "account_id", "value"
        ).groupBy("slot")
    return rows.groupBy("slot").transformWithStateInPandas(
        AccountProcessor(target), OUTPUT, "append", "none", initialState=known
    )


# -- the sink ------------------------------------------------------------------------


def local_writer(
    lake: LocalLake, app: str, target: Target, on_batch: OnBatch, at_end: ExitStack
) -> Callable[[DataFrame, int], None]:
    """The foreachBatch function for a lake on a local disk: Arrow, without a Spark job.

    Args:
        lake: where the tables lie.
        app: the checkpoint's application id, one per life of the checkpoint.
        target: as the operator has it.
        on_batch: called after each batch with its id and its number of records.
        at_end: to be closed when no batch is under way any more: it waits for whoever
            still works on the tables.
    """
    pool = at_end.enter_context(ThreadPoolExecutor(3, "commit"))
    maintenance = at_end.enter_context(closing(Maintenance(lake.alone)))

    def write(output: DataFrame, batch_id: int) -> None:
        rows, corrections, files = _unpack(output.toArrow())
        rows = settle(rows, lambda accounts: _stored(lake, accounts))
        now = datetime.now(UTC)
        made = table_rows(rows, target.topic, target.first_batch + batch_id, now)
        transaction = Batch(app, batch_id)
        lake.append(BRONZE, made[BRONZE], transaction, files[BRONZE])
        if len(corrections):
            scored = pa.concat_tables([made[SCORED], lake.files(SCORED, files[SCORED])])
            merged = with_corrections(scored, corrections, now)
            commits = [pool.submit(lake.merge, SCORED, merged, transaction)]
        else:
            commits = [
                pool.submit(
                    lake.append, SCORED, made[SCORED], transaction, files[SCORED]
                )
            ]
        commits += [
            pool.submit(lake.append, name, made[name], transaction, files[name])
            for name in (TRANSACTIONS, QUARANTINE)
        ]
        wait(commits)  # a failure ends the query: none may be under way then
        for commit in commits:
            commit.result()
        maintenance.after_batch()
        count = len(made[BRONZE]) + sum(file.rows for file in files[BRONZE])
        on_batch(batch_id, count)

    return write


def spark_writer(
    lake: SparkLake, app: str, target: Target, on_batch: OnBatch
) -> Callable[[DataFrame, int], None]:
    """The foreachBatch function for any other lake: executors write the tables.

    Arguments as `local_writer`, but that nobody works on beside the batches.
    """

    def write(output: DataFrame, batch_id: int) -> None:
        rows = output.mapInArrow(_explode, _EXPLODED).persist()
        try:
            counts = dict(rows.groupBy("status").count().collect())
            _commit(rows, counts, batch_id)
        finally:
            rows.unpersist()
        on_batch(batch_id, sum(counts.values()) - counts.get(CORRECTION, 0))

    def _commit(rows: DataFrame, counts: dict[str, int], batch_id: int) -> None:
        spark, transaction = rows.sparkSession, Batch(app, batch_id)
        judged = rows.where(F.col("status") != CORRECTION)
        if counts.get(UNSURE):
            # Few, and only the driver can ask the table.
            unsure = judged.where(F.col("status") == UNSURE).toArrow()
            settled = settle(
                unsure.select(JUDGED.names).cast(JUDGED),
                lambda accounts: _stored_by_spark(lake, accounts),
            )
            judged = judged.where(F.col("status") != UNSURE).unionByName(
                spark.createDataFrame(settled)
            )
        stamped = judged.withColumns(
            {
                "topic": F.lit(target.topic),
                "batch": F.lit(target.first_batch + batch_id).cast("bigint"),
                "ingested_at": F.current_timestamp(),
                "scored_at": F.current_timestamp(),
            }
        )
        for name in (BRONZE, QUARANTINE, TRANSACTIONS):
            lake.append(name, spark_rows(stamped, name), transaction)
        scored = spark_rows(stamped, SCORED)
        if not counts.get(CORRECTION):
            lake.append(SCORED, scored, transaction)
            return
        corrections = (
            rows.where(F.col("status") == CORRECTION)
            .withColumn("scored_at", F.current_timestamp())
            .withColumn(CORRECTION, F.lit(True))
        )
        corrections = corrections.select(*SCHEMAS[SCORED].names, CORRECTION)
        first = scored.withColumn(CORRECTION, F.lit(False))
        lake.merge(SCORED, first.unionByName(corrections), transaction)

    return write


def _stored(lake: LocalLake, accounts: list[str]) -> Iterator[pa.Table]:
    columns = [*IDENTITY, *CONTENT, "partition", "offset"]
    mine = pa.array(accounts, pa.string())
    for rows in lake.read(TRANSACTIONS, columns):
        yield rows.filter(pc.is_in(rows["account_id"], mine))


def _stored_by_spark(lake: SparkLake, accounts: list[str]) -> Iterator[pa.Table]:
    rows = lake.read(TRANSACTIONS).where(F.col("account_id").isin(accounts))
    yield rows.select(*IDENTITY, *CONTENT, "partition", "offset").toArrow()


def _unpack(
    output: pa.Table,
) -> tuple[pa.Table, pa.Table, dict[str, list[DataFile]]]:
    """Judged rows in Kafka order, corrections, and files by table."""
    rows, corrections = [JUDGED.empty_table()], [CORRECTION_SCHEMA.empty_table()]
    files: dict[str, list[DataFile]] = {name: [] for name in SCHEMAS}
    for kind, payload in zip(output["kind"], output["payload"], strict=True):
        if kind.as_py() == ROWS:
            rows.append(from_ipc(payload.as_buffer()))
        elif kind.as_py() == CORRECTIONS:
            corrections.append(from_ipc(payload.as_buffer()))
        else:
            file = DataFile.from_json(payload.as_py().decode())
            files[kind.as_py()].append(file)
    judged = pa.concat_tables(rows)
    judged = judged.sort_by([("partition", "ascending"), ("offset", "ascending")])
    return judged, pa.concat_tables(corrections), files


_EXPLODED = from_arrow_schema(JUDGED)


def _explode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The operator's output as rows; of a correction ``status`` says that it is one."""
    for batch in batches:
        rows, corrections, _files = _unpack(pa.Table.from_batches([batch]))
        again = pa.repeat(pa.scalar(CORRECTION), len(corrections))
        corrections = corrections.append_column("status", again)
        names = corrections.column_names
        wide = [
            corrections[f.name] if f.name in names else pa.nulls(len(again), f.type)
            for f in JUDGED
        ]
        yield from pa.concat_tables([rows, pa.table(wide, schema=JUDGED)]).to_batches()


# -- start ---------------------------------------------------------------------------


def start(
    spark: SparkSession,
    settings: Settings,
    bootstrap: str,
    *,
    trigger: dict[str, object],
    at_end: ExitStack,
    max_offsets: int | None = None,
    on_batch: OnBatch = lambda _id, _records: None,
) -> StreamingQuery:
    """Start the query.

    Args:
        spark: the session.
        settings: topic, lake and checkpoints.
        bootstrap: bootstrap servers.
        trigger: arguments of ``DataStreamWriter.trigger``.
        at_end: to be closed when the query has stopped, see `local_writer`.
        max_offsets: records per micro-batch at most.
        on_batch: called after each batch with its id and its number of records.

    Raises:
        FraudError: a rebuild was broken off, or what is there does not belong together
            (`lib.streaming.preflight`, `lib.streaming.recovery`).
    """
    if unfinished_rebuild(spark, settings).is_set():
        raise FraudError(
            f"a rebuild of {settings.lake} was broken off, so silver is not whole: run "
            "`python -m lib rebuild` again"
        )
    lake = open_lake(spark, settings)
    checkpoint = Checkpoint(spark, settings.checkpoint(QUERY))
    preflight.check(spark, settings, bootstrap, lake, checkpoint)
    for name in SCHEMAS:
        lake.create(name)  # so that readers never find none
    recovery.drop_plan(lake, checkpoint)
    beginning = recovery.beginning(spark, settings, bootstrap, lake, checkpoint)
    app = checkpoint.application_id(QUERY)
    folder = str(lake.root) if isinstance(lake, LocalLake) else None
    target = Target(settings.topic, beginning.first_batch, folder, LARGE, GROUPS)
    stream = read_topic(
        spark,
        settings,
        bootstrap,
        starting=beginning.offsets,
        max_offsets=max_offsets,
    )
    if isinstance(lake, LocalLake):
        write = local_writer(lake, app, target, on_batch, at_end)
    else:
        write = spark_writer(lake, app, target, on_batch)
    return (
        operator(stream, target, beginning.slots, beginning.accounts)
        .writeStream.queryName(QUERY)
        .foreachBatch(write)
        .outputMode("append")
        .option("checkpointLocation", checkpoint.uri)
        .trigger(**trigger)
        .start()
    )
