with

source as (

    select * from {{ source('silver', 'scored') }}

),

renamed as (

    select
        account_id,
        event_id,
        ts,
        late as is_late,
        is_velocity,
        velocity_count,
        is_geo,
        prev_country,
        gap_seconds,
        is_amount,
        z as amount_z,
        baseline_n,
        baseline_mean,
        baseline_stddev,
        revision,
        scored_at
    from source

)

select * from renamed
