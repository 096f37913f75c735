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
        ingested_at,
        cast(value as string) as payload
    from source

)

select * from renamed
