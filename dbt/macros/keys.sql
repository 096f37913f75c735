{% macro surrogate_key(columns) -%}
    {#- The one place that says how the columns of a key become one string. -#}
    md5(concat_ws('|', {{ columns | join(', ') }}))
{%- endmacro %}


{% macro load_time() -%}
    {#- When this run of dbt began: the same in every row that the run writes. -#}
    cast('{{ run_started_at }}' as timestamp)
{%- endmacro %}


{% macro in_order_of(column) -%}
    {#- A hint: a full build's rows in this order, cut into so many files. -#}
    {%- if not is_incremental() -%}
    /*+ repartition_by_range({{ var('fact_files') }}, {{ column }}) */
    {%- endif -%}
{%- endmacro %}
