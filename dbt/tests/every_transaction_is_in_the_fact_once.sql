-- Both ways: an event of silver that the fact lacks, and one that it made up.
with

silver as (

    select
        account_id,
        event_id
    from {{ ref('stg_transactions') }}

),

facts as (

    select
        account_id,
        event_id
    from {{ ref('fct_transactions') }}

),

missing as (

    select * from silver
    except all
    select * from facts

),

surplus as (

    select * from facts
    except all
    select * from silver

)

select
    'missing' as difference,
    *
from missing
union all
select
    'surplus' as difference,
    *
from surplus
