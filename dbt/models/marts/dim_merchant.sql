{{ config(materialized='incremental', unique_key='merchant_key') }}

with

{{ touched_facts(ref('fct_transactions'), 'merchant_key') }},

-- As in dim_account: no text among the sums of many rows.
countries as (

    select
        merchant_key,
        country,
        count(*) as payments
    from transactions
    group by merchant_key, country

),

homes as (

    select
        merchant_key,
        min_by(country, struct(-payments, country)) as country
    from countries
    group by merchant_key

),

totals as (

    select
        merchant_key,
        merchant,
        min(ts) as first_seen,
        max(ts) as last_seen,
        count(*) as transactions,
        count(distinct account_id) as accounts,
        count_if(detectors_fired > 0) as alerted_transactions,
        max(loaded_at) as loaded_at
    from transactions
    group by merchant_key, merchant

),

final as (

    select
        totals.merchant_key,
        totals.merchant,
        homes.country,
        totals.first_seen,
        totals.last_seen,
        totals.transactions,
        totals.accounts,
        totals.alerted_transactions,
        totals.alerted_transactions / totals.transactions as alert_rate,
        totals.loaded_at
    from totals
    inner join homes on totals.merchant_key = homes.merchant_key

)

select * from final
