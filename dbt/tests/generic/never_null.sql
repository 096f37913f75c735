{% test never_null(model, columns) %}

{#- All of a table's mandatory columns in one scan. -#}
select {{ columns | join(', ') }}
from {{ model }}
where {% for column in columns -%}
    {{ column }} is null
    {%- if not loop.last %} or {% endif -%}
{%- endfor %}

{% endtest %}
