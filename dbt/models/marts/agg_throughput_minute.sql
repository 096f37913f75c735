{{ config(materialized='incremental', unique_key='arrival_minute') }}

with

{{ touched_facts(ref('fct_transactions'), 'arrival_minute') }},

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
