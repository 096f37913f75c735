-- Silver, the fact and the accounts give the same sum in every currency.
with

silver as (

    select
        currency,
        sum(amount) as total
    from {{ ref('stg_transactions') }}
    group by currency

),

facts as (

    select
        currency,
        sum(amount) as total,
        sum(amount_cents) as cents
    from {{ ref('fct_transactions') }}
    group by currency

),

accounts as (

    select sum(amount_total) as total
    from {{ ref('dim_account') }}

),

everything as (

    select sum(total) as total
    from silver

)

select
    coalesce(silver.currency, facts.currency) as currency,
    silver.total as silver_total,
    facts.total as fact_total
from silver
full outer join facts on silver.currency = facts.currency
where
    not silver.total <=> facts.total
    or facts.cents != facts.total * 100
union all
select
    'all' as currency,
    everything.total as silver_total,
    accounts.total as fact_total
from everything
cross join accounts
where not everything.total <=> accounts.total
