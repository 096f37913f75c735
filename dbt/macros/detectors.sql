{% macro each_detector() -%}
    {#- A row for each detector, with the flag that says whether it fired. -#}
    explode(
        map('velocity', is_velocity, 'geo', is_geo, 'amount', is_amount)
    ) as (detector, has_fired)
{%- endmacro %}
