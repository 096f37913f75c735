with

records as (

    select * from {{ ref('stg_records') }}

),

quarantine as (

    select * from {{ ref('stg_quarantine') }}

),

facts as (

    select * from {{ ref('fct_transactions') }}

),

scores as (

    select * from {{ ref('stg_scores') }}

),

sent as (

    select
        count(*) as sent,
        count_if(status = 'duplicate') as duplicates
    from records

),

refused as (

    select count(*) as quarantined from quarantine

),

accepted as (

    select
        count(*) as transactions,
        count_if(is_scored) as scored,
        count_if(not is_scored) as awaiting_score,
        count_if(is_late) as late,
        count_if(revision > 0) as revised
    from facts

),

answered as (

    select count(*) as scores from scores

),

final as (

    select
        sent.sent,
        accepted.transactions,
        refused.quarantined,
        sent.duplicates,
        -- The stream writes bronze before silver.
        sent.sent
        - accepted.transactions
        - refused.quarantined
        - sent.duplicates as in_flight,
        accepted.scored,
        accepted.awaiting_score,
        answered.scores - accepted.scored as scored_ahead,
        accepted.late,
        accepted.revised,
        {{ load_time() }} as checked_at
    from sent
    cross join accepted
    cross join refused
    cross join answered

)

select * from final
