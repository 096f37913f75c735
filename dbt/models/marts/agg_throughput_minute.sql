{{ config(materialized='incremental', unique_key='arrival_minute') }}

with

{% if is_incremental() %}

touched as (

    select distinct arrival_minute
    from {{ ref('fct_transactions') }}
    where {{ loaded_since(this) }}

),

{% endif %}

transactions as (

    {% if is_incremental() %}
    select /*+ broadcast(touched) */ facts.*
    from {{ ref('fct_transactions') }} as facts
    left semi join touched
        on facts.arrival_minute = touched.arrival_minute
    {% else %}
    select * from {{ ref('fct_transactions') }}
    {% endif %}

),

final as (

    select
        arrival_minute,
        count(*) as transactions,
        count(*) / 60 as transactions_per_second,
        count(distinct account_id) as accounts,
        count_if(is_late) as late_transactions,
        count_if(detectors_fired > 0) as alerted_transactions,
        max(loaded_at) as loaded_at
    from transactions
    group by arrival_minute

)

select * from final
