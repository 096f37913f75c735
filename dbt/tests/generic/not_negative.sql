{% test not_negative(model, columns) %}

select {{ columns | join(', ') }}
from {{ model }}
where {% for column in columns -%}
    coalesce({{ column }}, -1) < 0
    {%- if not loop.last %} or {% endif -%}
{%- endfor %}

{% endtest %}
