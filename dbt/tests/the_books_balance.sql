-- What the stream said of a record is what became of it, position by position:
-- but for its newest batch, which may be between bronze and silver.
with

placed as (

    select
        topic,
        kafka_partition,
        kafka_offset,
        'new' as found
    from {{ ref('stg_transactions') }}
    union all
    select
        topic,
        kafka_partition,
        kafka_offset,
        if(reason = 'conflicting_event_id', 'conflict', 'rejected') as found
    from {{ ref('stg_quarantine') }}

),

misplaced as (

    select count(*) as misplaced
    from {{ ref('stg_records') }} as records
    left join placed
        on
            records.topic = placed.topic
            and records.kafka_partition = placed.kafka_partition
            and records.kafka_offset = placed.kafka_offset
    where
        records.status != coalesce(placed.found, 'duplicate')
        and not (
            placed.found is null
            and records.batch = (
                select max(latest.batch)
                from {{ ref('stg_records') }} as latest
            )
        )

)

select
    books.*,
    misplaced.misplaced
from {{ ref('mart_reconciliation') }} as books
cross join misplaced
where
    misplaced.misplaced > 0
    or books.sent != (
        books.transactions
        + books.quarantined
        + books.duplicates
        + books.in_flight
    )
