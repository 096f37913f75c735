with

records as (

    select * from {{ ref('stg_records') }}

),

quarantine as (

    select * from {{ ref('stg_quarantine') }}

),

facts as (

    select * from {{ ref('fct_transactions') }}

),

scores as (

    select * from {{ ref('stg_scores') }}

),

-- The stream writes bronze before silver. Its newest batch may be between the
-- two: a record of it that is nowhere yet, and repeats nothing, is under way.
newest as (

    select
        topic,
        kafka_partition,
        kafka_offset,
        {{ named_in('payload', 'account_id') }} as account_id,
        {{ named_in('payload', 'event_id') }} as event_id
    from records
    where
        ingested_at = (
            select max(latest.ingested_at)
            from records as latest
        )

),

placed as (

    select /*+ broadcast(newest) */
        facts.topic,
        facts.kafka_partition,
        facts.kafka_offset
    from facts
    left semi join newest
        on
            facts.topic = newest.topic
            and facts.kafka_partition = newest.kafka_partition
            and facts.kafka_offset = newest.kafka_offset

),

unplaced as (

    select newest.*
    from newest
    left anti join placed
        on
            newest.topic = placed.topic
            and newest.kafka_partition = placed.kafka_partition
            and newest.kafka_offset = placed.kafka_offset
    left anti join quarantine
        on
            newest.topic = quarantine.topic
            and newest.kafka_partition = quarantine.kafka_partition
            and newest.kafka_offset = quarantine.kafka_offset

),

known as (

    select /*+ broadcast(unplaced) */
        facts.account_id,
        facts.event_id
    from facts
    left semi join unplaced
        on
            facts.account_id = unplaced.account_id
            and facts.event_id = unplaced.event_id

),

under_way as (

    select count(*) as in_flight
    from unplaced
    left anti join known
        on
            unplaced.account_id = known.account_id
            and unplaced.event_id = known.event_id

),

sent as (

    select count(*) as sent from records

),

refused as (

    select count(*) as quarantined from quarantine

),

accepted as (

    select
        count(*) as transactions,
        count_if(is_scored) as scored,
        count_if(not is_scored) as awaiting_score,
        count_if(is_late) as late,
        count_if(revision > 0) as revised
    from facts

),

answered as (

    select count(*) as scores from scores

),

final as (

    select
        sent.sent,
        accepted.transactions,
        refused.quarantined,
        sent.sent
        - accepted.transactions
        - refused.quarantined
        - under_way.in_flight as duplicates,
        under_way.in_flight,
        accepted.scored,
        accepted.awaiting_score,
        answered.scores - accepted.scored as scored_ahead,
        accepted.late,
        accepted.revised,
        {{ load_time() }} as checked_at
    from sent
    cross join accepted
    cross join refused
    cross join under_way
    cross join answered

)

select * from final
