with

source as (

    select * from {{ source('silver', 'transactions') }}

),

renamed as (

    select
        account_id,
        event_id,
        ts,
        merchant,
        country,
        amount,
        currency,
        kafka_timestamp,
        topic,
        partition as kafka_partition,
        offset as kafka_offset
    from source

)

select * from renamed
