{% macro keep_in_memory() -%}
    {#- What was just built is read by other models and by tests: Delta would plan each
    of those scans by a Spark job of its own. The first reader fills the memory. -#}
    {%- if var('in_memory') -%}
    cache lazy table {{ this }}
    {%- endif -%}
{%- endmacro %}
