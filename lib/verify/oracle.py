"""The batch answer: the rules of the detectors as window functions in Spark SQL.

Written apart from `lib.detectors.rules` and `lib.streaming.scoring`, over
silver/transactions at rest, so that stream and oracle agree only if both are right. It
knows the arrival order (the place in Kafka), because lateness and revisions are judged
by it; for the rest it sees all of an account's events at once.
"""

from __future__ import annotations

from dataclasses import asdict

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lib.detectors.thresholds import SECOND, THRESHOLDS, Thresholds
from lib.lake.tables import ANSWERS, IDENTITY, SCORED, TRANSACTIONS
from lib.settings import Settings
from lib.streaming.session import read_table

_SQL = """
WITH arrived AS (
  SELECT
    account_id,
    event_id,
    country,
    unix_micros(ts) AS us,
    CAST(amount * 100 AS DECIMAL(13, 0)) AS cents,
    row_number() OVER kafka AS arrival,
    max(unix_micros(ts)) OVER (
      PARTITION BY account_id ORDER BY topic, partition, offset
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS newest
  FROM {transactions}
  WINDOW kafka AS (PARTITION BY account_id ORDER BY topic, partition, offset)
),

judged AS (
  SELECT *, coalesce(us < newest - {lateness_us}, FALSE) AS late FROM arrived
),

punctual AS (SELECT * FROM judged WHERE NOT late),

-- Velocity and geography. The frame of a range holds all events of the row's own
-- instant; those that stand behind the row in the order are taken out again.
neighbours AS (
  SELECT
    account_id,
    event_id,
    count(*) OVER (
      PARTITION BY account_id ORDER BY us
      RANGE BETWEEN {minute_us} PRECEDING AND CURRENT ROW
    )
    - count(*) OVER (PARTITION BY account_id, us)
    + row_number() OVER (PARTITION BY account_id, us ORDER BY event_id)
      AS velocity_count,
    lag(country) OVER story AS country_before,
    us - lag(us) OVER story AS gap
  FROM punctual
  WINDOW story AS (PARTITION BY account_id ORDER BY us, event_id)
),

-- Amounts. An event enters the baseline just after its ts and leaves it just after
-- ts + 30 days. Running sums of entries and exits cost n log n; a frame of 30 days
-- would be added up anew for every row.
moves AS (
  SELECT account_id, us, cents, 1 AS step FROM punctual
  UNION ALL
  SELECT account_id, us + {amount_window_us}, cents, -1 FROM punctual
),

sums AS (
  SELECT DISTINCT
    account_id,
    us,
    coalesce(sum(step) OVER past, 0) AS n,
    coalesce(sum(step * cents) OVER past, 0) AS s1,
    coalesce(sum(step * (cents * cents)) OVER past, 0) AS s2
  FROM moves
  WINDOW past AS (
    PARTITION BY account_id ORDER BY us
    RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
  )
),

-- Whole numbers up to here: each expression in double() is exact before it.
baselines AS (
  SELECT
    account_id,
    us,
    n,
    s1,
    CASE WHEN n >= 2 THEN
      sqrt(double(n * s2 - s1 * s1) / double(n * (n - 1)))
    END AS sd_cents
  FROM sums
),

-- Revisions: how many came later and yet stand before. Only who is not ahead of all
-- that came before it can have overtaken anyone.
overtakings AS (
  SELECT passed.account_id, passed.event_id, count(*) AS revision
  FROM punctual AS passed
  INNER JOIN (SELECT * FROM punctual WHERE us <= newest) AS straggler
    ON passed.account_id = straggler.account_id
    AND passed.arrival < straggler.arrival
    AND (passed.us, passed.event_id) > (straggler.us, straggler.event_id)
  GROUP BY passed.account_id, passed.event_id
),

answered AS (
  SELECT
    j.account_id,
    j.event_id,
    j.late,
    v.velocity_count,
    v.velocity_count > {velocity_count} AS is_velocity,
    v.gap <= {previous_us} AS near,
    v.country_before,
    j.country,
    v.gap,
    b.n AS baseline_n,
    IF(b.n >= 1, double(b.s1) / double(b.n) / 100, NULL) AS baseline_mean,
    b.sd_cents / 100 AS baseline_stddev,
    IF(
      b.n >= {amount_min_n} AND b.sd_cents > 0,
      double(b.n * j.cents - b.s1) / double(b.n) / b.sd_cents,
      NULL
    ) AS z,
    coalesce(o.revision, 0) AS revision
  FROM judged AS j
  LEFT JOIN neighbours AS v USING (account_id, event_id)
  LEFT JOIN baselines AS b
    ON NOT j.late AND j.account_id = b.account_id AND j.us = b.us
  LEFT JOIN overtakings AS o
    ON j.account_id = o.account_id AND j.event_id = o.event_id
)

SELECT
  account_id,
  event_id,
  late,
  coalesce(is_velocity, FALSE) AS is_velocity,
  velocity_count,
  coalesce(country_before <> country AND gap < {geo_gap_us}, FALSE) AS is_geo,
  IF(near, country_before, NULL) AS prev_country,
  IF(near, gap / {second_us}D, NULL) AS gap_seconds,
  coalesce(abs(z) > {amount_z}D, FALSE) AS is_amount,
  z,
  baseline_n,
  baseline_mean,
  baseline_stddev,
  revision
FROM answered
"""


def oracle(transactions: DataFrame, rules: Thresholds = THRESHOLDS) -> DataFrame:
    """What the rules say of every transaction, by one batch query.

    Args:
        transactions: silver/transactions, or rows of its columns: each event once.
        rules: the thresholds.

    Returns:
        one row per transaction: account_id, event_id and the answer columns of
        silver/scored (`lib.lake.tables.ANSWERS`).
    """
    numbers = {name: str(value) for name, value in asdict(rules).items()}
    numbers |= {"minute_us": str(rules.velocity_window_us - 1)}
    numbers |= {"second_us": str(SECOND)}
    text = _SQL
    for name, value in numbers.items():
        text = text.replace(f"{{{name}}}", value)
    return transactions.sparkSession.sql(text, transactions=transactions)


def differences(scored: DataFrame, expected: DataFrame) -> DataFrame:
    """The events in which two sets of answers differ, to the last bit.

    Returns:
        account_id, event_id, ``wrong`` (array of the columns that differ, or
        ``["missing"]``, ``["surplus"]``), and both answers as ``scored``, ``expected``.
        An event that occurs twice is wrong twice: ``["doubled"]``.
    """
    ours = _answers(scored).withColumnRenamed("answer", "scored")
    theirs = _answers(expected).withColumnRenamed("answer", "expected")
    both = ours.join(theirs.drop("times"), on=list(IDENTITY), how="full_outer")
    differing = [
        F.when(~F.col(f"scored.{c}").eqNullSafe(F.col(f"expected.{c}")), F.lit(c))
        for c in ANSWERS.names
    ]
    wrong = (
        F.when(F.col("scored").isNull(), F.array(F.lit("missing")))
        .when(F.col("expected").isNull(), F.array(F.lit("surplus")))
        .when(F.col("times") > 1, F.array(F.lit("doubled")))
        .otherwise(F.array_compact(F.array(*differing)))
    )
    return both.withColumn("wrong", wrong).where("size(wrong) > 0").drop("times")


def _answers(rows: DataFrame) -> DataFrame:
    answer = F.struct(*ANSWERS.names)
    return rows.groupBy(*IDENTITY).agg(
        F.first(answer).alias("answer"), F.count("*").alias("times")
    )


def check(spark: SparkSession, settings: Settings) -> DataFrame:
    """`differences` between the lake's silver/scored and the oracle over its silver.

    Raises:
        FraudError: there is no such table yet.
    """
    scored = read_table(spark, settings, SCORED)
    return differences(scored, oracle(read_table(spark, settings, TRANSACTIONS)))
