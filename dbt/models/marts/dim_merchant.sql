{{ config(materialized='incremental', unique_key='merchant_key') }}

with

{% if is_incremental() %}

touched as (

    select distinct merchant_key
    from {{ ref('fct_transactions') }}
    where {{ loaded_since(this) }}

),

{% endif %}

transactions as (

    {% if is_incremental() %}
    select /*+ broadcast(touched) */ facts.*
    from {{ ref('fct_transactions') }} as facts
    left semi join touched on facts.merchant_key = touched.merchant_key
    {% else %}
    select * from {{ ref('fct_transactions') }}
    {% endif %}

),

final as (

    select
        merchant_key,
        min(merchant) as merchant,
        mode(country, true) as country,
        min(ts) as first_seen,
        max(ts) as last_seen,
        count(*) as transactions,
        count(distinct account_id) as accounts,
        count_if(detectors_fired > 0) as alerted_transactions,
        count_if(detectors_fired > 0) / count(*) as alert_rate,
        max(loaded_at) as loaded_at
    from transactions
    group by merchant_key

)

select * from final
