{{ config(materialized='incremental', unique_key=['event_date', 'detector']) }}

with

{{ touched_facts(ref('fct_transactions'), 'event_date') }},

-- Few rows, whatever the day: what an event can say is counted before each
-- detector gets a row of its own.
verdicts as (

    select
        event_date,
        is_scored and not is_late as is_judged,
        is_velocity,
        is_geo,
        is_amount,
        count(*) as transactions,
        max(loaded_at) as loaded_at
    from transactions
    group by
        event_date,
        is_scored and not is_late,
        is_velocity,
        is_geo,
        is_amount

),

-- One row a day for each detector, also on the days on which it was silent.
answers as (

    select
        event_date,
        is_judged,
        transactions,
        loaded_at,
        {{ each_detector() }}
    from verdicts

),

counted as (

    select
        event_date,
        detector,
        sum(case when is_judged then transactions else 0 end) as transactions,
        sum(case when has_fired then transactions else 0 end) as alerts,
        max(loaded_at) as loaded_at
    from answers
    group by event_date, detector

),

fired as (

    select
        event_date,
        account_id,
        {{ each_detector() }}
    from transactions
    where is_velocity or is_geo or is_amount

),

alerted as (

    select
        event_date,
        detector,
        count(distinct account_id) as accounts
    from fired
    where has_fired
    group by event_date, detector

),

final as (

    select
        counted.event_date,
        counted.detector,
        counted.transactions,
        counted.alerts,
        coalesce(
            try_divide(counted.alerts, counted.transactions), 0
        ) as alert_rate,
        coalesce(alerted.accounts, 0) as accounts,
        counted.loaded_at
    from counted
    left join alerted
        on
            counted.event_date = alerted.event_date
            and counted.detector = alerted.detector

)

select * from final
