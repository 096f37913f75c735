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
        kafka_offset
    from records
    where
        status != 'duplicate'
        and batch = (
            select max(latest.batch)
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

under_way as (

    select count(*) as in_flight
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

sent as (

    select
        count(*) as sent,
        count_if(status = 'duplicate') as duplicates
    from records

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
        sent.duplicates,
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
