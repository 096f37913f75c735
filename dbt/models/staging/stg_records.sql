with

source as (

    select * from {{ source('bronze', 'tx_events') }}

),

renamed as (

    select
        topic,
        partition as kafka_partition,
        offset as kafka_offset,
        kafka_timestamp,
        batch,
        status,
        ingested_at
    from source

)

select * from renamed
