{{
    config(
        materialized='incremental',
        unique_key=['account_id', 'event_id'],
    )
}}

{% set since %}
(
    select
        coalesce(max(newest.scored_at), timestamp '1970-01-01 00:00:00')
        - interval '{{ var('look_back_minutes') }}' minute
    from loaded as newest
)
{% endset %}

with

transactions as (

    select * from {{ ref('stg_transactions') }}

),

scores as (

    select * from {{ ref('stg_scores') }}

),

{% if is_incremental() %}

loaded as (

    select
        account_id,
        event_id,
        scored_at,
        topic,
        kafka_partition,
        kafka_offset
    from {{ this }}

),

-- Silver grows in Kafka's order, so what is new lies behind the last offset
-- that was loaded. Event time says nothing about it: a late event is both old
-- and new.
ends as (

    select
        topic,
        kafka_partition,
        max(kafka_offset) as last_offset
    from loaded
    group by topic, kafka_partition

),

arrived as (

    select /*+ broadcast(ends) */
        transactions.account_id,
        transactions.event_id
    from transactions
    left join ends
        on
            transactions.topic = ends.topic
            and transactions.kafka_partition = ends.kafka_partition
    where transactions.kafka_offset > coalesce(ends.last_offset, -1)

),

-- A first score and a correction both carry the time of their batch. The
-- look-back is for clocks that were set back; what it finds unchanged is not
-- written again.
recent as (

    select
        account_id,
        event_id,
        scored_at
    from loaded
    where scored_at >= {{ since }}

),

rescored as (

    select
        scores.account_id,
        scores.event_id
    from scores
    left anti join recent
        on
            scores.account_id = recent.account_id
            and scores.event_id = recent.event_id
            and scores.scored_at = recent.scored_at
    where scores.scored_at >= {{ since }}

),

due as (

    select * from arrived
    union distinct
    select * from rescored

),

due_transactions as (

    select /*+ broadcast(due) */ transactions.*
    from transactions
    left semi join due
        on
            transactions.account_id = due.account_id
            and transactions.event_id = due.event_id

),

due_scores as (

    select /*+ broadcast(due) */ scores.*
    from scores
    left semi join due
        on
            scores.account_id = due.account_id
            and scores.event_id = due.event_id

),

{% else %}

due_transactions as (

    select * from transactions

),

due_scores as (

    select * from scores

),

{% endif %}

joined as (

    select
        {{ surrogate_key(['t.account_id', 't.event_id']) }} as transaction_key,
        t.account_id,
        t.event_id,
        t.ts,
        cast(t.ts as date) as event_date,
        cast(date_format(t.ts, 'yyyyMMdd') as int) as date_key,
        cast(
            hour(t.ts) * 3600 + minute(t.ts) * 60 + second(t.ts) as int
        ) as second_of_day,
        {{ surrogate_key(['t.merchant']) }} as merchant_key,
        t.merchant,
        t.country,
        t.currency,
        t.amount,
        cast(t.amount * 100 as bigint) as amount_cents,
        s.account_id is not null as is_scored,
        coalesce(s.is_late, false) as is_late,
        coalesce(s.is_velocity, false) as is_velocity,
        coalesce(s.is_geo, false) as is_geo,
        coalesce(s.is_amount, false) as is_amount,
        s.velocity_count,
        s.prev_country,
        s.gap_seconds,
        s.amount_z,
        s.baseline_n,
        s.baseline_mean,
        s.baseline_stddev,
        s.revision,
        t.kafka_timestamp,
        date_trunc('minute', t.kafka_timestamp) as arrival_minute,
        t.topic,
        t.kafka_partition,
        t.kafka_offset,
        s.scored_at
    from due_transactions as t
    left join due_scores as s
        on
            t.account_id = s.account_id
            and t.event_id = s.event_id

),

-- A full build puts events in the order of time: a file then holds a span of
-- it. What is corrected is of the last minutes, and a merge writes only the
-- files anew that it meets.
final as (

    select {{ in_order_of('ts') }}
        *,
        cast(is_velocity as int)
        + cast(is_geo as int)
        + cast(is_amount as int) as detectors_fired,
        {{ load_time() }} as loaded_at
    from joined

)

select * from final
