-- The mart gets the duplicates by subtraction. Here each record that is in
-- neither table is looked up: it must repeat an event, or be under way.
with

placed as (

    select
        topic,
        kafka_partition,
        kafka_offset
    from {{ ref('stg_transactions') }}
    union all
    select
        topic,
        kafka_partition,
        kafka_offset
    from {{ ref('stg_quarantine') }}

),

unplaced as (

    select
        {{ named_in('records.payload', 'account_id') }} as account_id,
        {{ named_in('records.payload', 'event_id') }} as event_id
    from {{ ref('stg_records') }} as records
    left anti join placed
        on
            records.topic = placed.topic
            and records.kafka_partition = placed.kafka_partition
            and records.kafka_offset = placed.kafka_offset

),

repeats as (

    select count(*) as repeats
    from unplaced
    left semi join {{ ref('stg_transactions') }} as transactions
        on
            unplaced.account_id = transactions.account_id
            and unplaced.event_id = transactions.event_id

)

select
    books.*,
    repeats.repeats
from {{ ref('mart_reconciliation') }} as books
cross join repeats
where
    books.duplicates != repeats.repeats
    or books.sent != (
        books.transactions
        + books.quarantined
        + books.duplicates
        + books.in_flight
    )
