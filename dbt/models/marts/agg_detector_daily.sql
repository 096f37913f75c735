{{ config(materialized='incremental', unique_key=['event_date', 'detector']) }}

with

{% if is_incremental() %}

touched as (

    select distinct event_date
    from {{ ref('fct_transactions') }}
    where {{ loaded_since(this) }}

),

{% endif %}

transactions as (

    {% if is_incremental() %}
    select /*+ broadcast(touched) */ facts.*
    from {{ ref('fct_transactions') }} as facts
    left semi join touched on facts.event_date = touched.event_date
    {% else %}
    select * from {{ ref('fct_transactions') }}
    {% endif %}

),

-- One row a day for each detector, also on the days on which it was silent.
answers as (

    select
        event_date,
        account_id,
        is_scored and not is_late as is_judged,
        loaded_at,
        explode(
            map(
                'velocity', is_velocity,
                'geo', is_geo,
                'amount', is_amount
            )
        ) as (detector, has_fired)
    from transactions

),

counted as (

    select
        event_date,
        detector,
        count_if(is_judged) as transactions,
        count_if(has_fired) as alerts,
        count(distinct case when has_fired then account_id end) as accounts,
        max(loaded_at) as loaded_at
    from answers
    group by event_date, detector

),

final as (

    select
        event_date,
        detector,
        transactions,
        alerts,
        coalesce(try_divide(alerts, transactions), 0) as alert_rate,
        accounts,
        loaded_at
    from counted

)

select * from final
