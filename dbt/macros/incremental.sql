{% macro loaded_since(relation) -%}
    {#- Rows of a fact that came or changed after `relation` was last brought up. -#}
    loaded_at > (
        select coalesce(max(loaded_at), timestamp '1970-01-01 00:00:00')
        from {{ relation }}
    )
{%- endmacro %}


{% macro touched_facts(facts, key) -%}
    {#- Two CTEs. An incremental run takes whatever the keys with news have in the
    fact (`touched`); a full one takes all. -#}
    {%- if is_incremental() -%}
    touched as (

        select distinct {{ key }}
        from {{ facts }}
        where {{ loaded_since(this) }}

    ),

    transactions as (

        select /*+ broadcast(touched) */ facts.*
        from {{ facts }} as facts
        left semi join touched on facts.{{ key }} = touched.{{ key }}

    )
    {%- else -%}
    transactions as (

        select * from {{ facts }}

    )
    {%- endif -%}
{%- endmacro %}
