{{ config(severity='warn') }}

-- Amounts are in the account's own currency, or its total means nothing.
select
    account_id,
    count(distinct currency) as currencies
from {{ ref('fct_transactions') }}
group by account_id
having count(distinct currency) > 1
