with

history as (

    select
        account_id,
        dbt_valid_from,
        dbt_valid_to,
        lead(dbt_valid_from) over (
            partition by account_id
            order by dbt_valid_from
        ) as next_from
    from {{ ref('dim_account_history') }}

),

open_rows as (

    select
        account_id,
        count_if(dbt_valid_to is null) as open_rows
    from history
    group by account_id

)

select
    account_id,
    'a period does not end where the next begins' as difference
from history
where not dbt_valid_to <=> next_from
union all
select
    accounts.account_id,
    'not exactly one row that is valid now' as difference
from {{ ref('dim_account') }} as accounts
left join open_rows on accounts.account_id = open_rows.account_id
where coalesce(open_rows.open_rows, 0) != 1
