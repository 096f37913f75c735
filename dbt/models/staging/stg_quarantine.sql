with

source as (

    select * from {{ source('silver', 'quarantine') }}

),

renamed as (

    select
        topic,
        partition as kafka_partition,
        offset as kafka_offset,
        kafka_timestamp,
        reason,
        detail,
        cast(value as string) as payload
    from source

)

select * from renamed
