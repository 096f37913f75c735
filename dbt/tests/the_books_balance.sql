-- The mart counts. Here each record is looked up by its place in Kafka: it must
-- be in the table where the stream's verdict puts it, and in no other. Only the
-- newest batch may be missing: the stream writes bronze before silver.
with

records as (

    select
        topic,
        kafka_partition,
        kafka_offset,
        batch,
        case
            when status = 'new' then 'transactions'
            when status in ('conflict', 'rejected') then 'quarantine'
        end as belongs_in
    from {{ ref('stg_records') }}

),

placed as (

    select
        topic,
        kafka_partition,
        kafka_offset,
        'transactions' as place
    from {{ ref('stg_transactions') }}
    union all
    select
        topic,
        kafka_partition,
        kafka_offset,
        'quarantine' as place
    from {{ ref('stg_quarantine') }}

),

newest as (

    select max(batch) as batch from records

),

-- A record, a silver row, or both.
found as (

    select
        records.belongs_in,
        placed.place,
        records.belongs_in is not null
        and placed.place is null
        and records.batch = newest.batch as is_under_way
    from records
    full outer join placed
        on
            records.topic = placed.topic
            and records.kafka_partition = placed.kafka_partition
            and records.kafka_offset = placed.kafka_offset
    cross join newest

),

counted as (

    select
        count_if(is_under_way) as under_way,
        count_if(
            not belongs_in <=> place
            and not is_under_way
        ) as astray
    from found

)

select
    books.*,
    counted.astray,
    counted.under_way
from {{ ref('mart_reconciliation') }} as books
cross join counted
where
    counted.astray != 0
    or books.in_flight != counted.under_way
    or books.sent != (
        books.transactions
        + books.quarantined
        + books.duplicates
        + books.in_flight
    )
