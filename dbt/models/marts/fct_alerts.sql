with

transactions as (

    select * from {{ ref('fct_transactions') }}
    where detectors_fired > 0

),

-- Built anew each time, for it is small: so an alert that a correction took
-- back is gone.
verdicts as (

    select
        *,
        {{ each_detector() }}
    from transactions

),

final as (

    select
        {{ surrogate_key(['account_id', 'detector', 'event_id']) }}
            as alert_key,
        transaction_key,
        account_id,
        event_id,
        detector,
        ts,
        event_date,
        merchant,
        country,
        amount,
        currency,
        case when detector = 'velocity' then velocity_count end
            as velocity_count,
        case when detector = 'geo' then prev_country end as prev_country,
        case when detector = 'geo' then gap_seconds end as gap_seconds,
        case when detector = 'amount' then amount_z end as amount_z,
        revision,
        scored_at
    from verdicts
    where has_fired

)

select * from final
