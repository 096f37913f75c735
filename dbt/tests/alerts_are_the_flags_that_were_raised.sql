-- Per detector: the flags in silver, of events that are loaded, are as many as
-- the alerts in the fact, in the accounts and in the days.
with

scores as (

    select scores.*
    from {{ ref('stg_scores') }} as scores
    left semi join {{ ref('stg_transactions') }} as transactions
        on
            scores.account_id = transactions.account_id
            and scores.event_id = transactions.event_id

),

counts as (

    select
        'silver' as place,
        count_if(is_velocity) as velocity,
        count_if(is_geo) as geo,
        count_if(is_amount) as amount
    from scores
    union all
    select
        'fct_alerts' as place,
        count_if(detector = 'velocity') as velocity,
        count_if(detector = 'geo') as geo,
        count_if(detector = 'amount') as amount
    from {{ ref('fct_alerts') }}
    union all
    select
        'dim_account' as place,
        coalesce(sum(velocity_alerts), 0) as velocity,
        coalesce(sum(geo_alerts), 0) as geo,
        coalesce(sum(amount_alerts), 0) as amount
    from {{ ref('dim_account') }}
    union all
    select
        'agg_detector_daily' as place,
        coalesce(sum(case when detector = 'velocity' then alerts end), 0)
            as velocity,
        coalesce(sum(case when detector = 'geo' then alerts end), 0) as geo,
        coalesce(sum(case when detector = 'amount' then alerts end), 0)
            as amount
    from {{ ref('agg_detector_daily') }}

)

select counts.*
from counts
inner join counts as silver
    on
        silver.place = 'silver'
        and (
            counts.velocity != silver.velocity
            or counts.geo != silver.geo
            or counts.amount != silver.amount
        )
