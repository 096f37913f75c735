{{ config(materialized='incremental', unique_key='account_id') }}

with

{{ touched_facts(ref('fct_transactions'), 'account_id') }},

-- Many rows are summed up into numbers and times only: a text among the sums
-- makes Spark sort them all instead of hashing. The texts come from the few
-- rows that are left.
parts as (

    select
        account_id,
        country,
        currency,
        min(ts) as first_seen,
        max(ts) as last_seen,
        count(*) as transactions,
        sum(amount) as amount_total,
        count_if(is_late) as late_transactions,
        count_if(is_velocity) as velocity_alerts,
        count_if(is_geo) as geo_alerts,
        count_if(is_amount) as amount_alerts,
        max(case when detectors_fired > 0 then ts end) as last_alert_at,
        max(loaded_at) as loaded_at
    from transactions
    group by account_id, country, currency

),

-- Home is where most payments are made; the earlier country wins a tie.
countries as (

    select
        account_id,
        country,
        sum(transactions) as payments,
        min(first_seen) as first_ts
    from parts
    group by account_id, country

),

homes as (

    select
        account_id,
        max_by(
            country, struct(payments, -unix_micros(first_ts), country)
        ) as home_country,
        count(*) as countries
    from countries
    group by account_id

),

totals as (

    select
        account_id,
        min(first_seen) as first_seen,
        max(last_seen) as last_seen,
        max_by(currency, last_seen) as currency,
        sum(transactions) as transactions,
        sum(amount_total) as amount_total,
        sum(late_transactions) as late_transactions,
        sum(velocity_alerts) as velocity_alerts,
        sum(geo_alerts) as geo_alerts,
        sum(amount_alerts) as amount_alerts,
        max(last_alert_at) as last_alert_at,
        max(loaded_at) as loaded_at
    from parts
    group by account_id

),

banded as (

    select
        *,
        velocity_alerts + geo_alerts + amount_alerts as alerts,
        cast(velocity_alerts > 0 as int)
        + cast(geo_alerts > 0 as int)
        + cast(amount_alerts > 0 as int) as detectors_fired
    from totals

),

final as (

    select
        banded.account_id,
        banded.first_seen,
        banded.last_seen,
        homes.home_country,
        homes.countries,
        banded.currency,
        banded.transactions,
        cast(banded.amount_total as decimal(22, 2)) as amount_total,
        banded.late_transactions,
        banded.velocity_alerts,
        banded.geo_alerts,
        banded.amount_alerts,
        banded.alerts,
        banded.last_alert_at,
        case
            when
                banded.detectors_fired > 1
                or banded.alerts >= {{ var('high_risk_alerts') }}
                then 'high'
            when banded.alerts > 0 then 'medium'
            else 'low'
        end as risk_band,
        banded.loaded_at
    from banded
    inner join homes on banded.account_id = homes.account_id

)

select * from final
