with

expected as (

    select count(*) as transactions
    from {{ ref('fct_transactions') }}

),

counted as (

    select
        'dim_account' as place,
        sum(transactions) as transactions
    from {{ ref('dim_account') }}
    union all
    select
        'dim_merchant' as place,
        sum(transactions) as transactions
    from {{ ref('dim_merchant') }}
    union all
    select
        'agg_throughput_minute' as place,
        sum(transactions) as transactions
    from {{ ref('agg_throughput_minute') }}

)

select
    counted.place,
    counted.transactions,
    expected.transactions as expected
from counted
cross join expected
where coalesce(counted.transactions, 0) != expected.transactions
