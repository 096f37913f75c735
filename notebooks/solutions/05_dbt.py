"""Solutions of 05_dbt: each goes into its exercise's cell."""

# %% filter
my_filter = "scored_at > (select max(scored_at) from gold.fct_transactions)"
# The clock of the scores must never go back. The project's model has a look-back for
# that, and takes what arrived by Kafka's offset.

# %% data-test
my_test = """
select * from {accounts}
where alerts <> velocity_alerts + geo_alerts + amount_alerts
"""


# %% band
def band_at(versions, when):
    """The risk band of the account's versions at that time; None before the first."""
    begun = versions["dbt_valid_from"] <= when
    over = versions["dbt_valid_to"] <= when  # never true of NaT
    valid = versions[begun & ~over]
    return None if valid.empty else valid["risk_band"].iloc[0]
