-- A score that was corrected after its row was loaded must be found corrected.
select
    scores.account_id,
    scores.event_id,
    scores.revision,
    facts.revision as loaded_revision
from {{ ref('stg_scores') }} as scores
inner join {{ ref('fct_transactions') }} as facts
    on
        scores.account_id = facts.account_id
        and scores.event_id = facts.event_id
where
    not scores.revision <=> facts.revision
    or not scores.scored_at <=> facts.scored_at
    or not scores.is_velocity <=> facts.is_velocity
    or not scores.is_geo <=> facts.is_geo
    or not scores.is_amount <=> facts.is_amount
