"""Solutions of 01_produce: each goes into its exercise's cell."""

# %% country-key
where = events["country"].map(lambda country: partition_of(country.encode()))
answer = (where.groupby(events["account_id"]).nunique() > 1).sum()
# These accounts paid in countries that hash to different partitions. Most accounts of
# the geo rule are among them (count them): their order would be lost where it is needed
# most. And with few countries, few partitions would do most of the work.


# %% once
def once(values):
    """Of these records (JSON, as bytes) each event once, the first, in their order."""
    first = {}
    for value in values:
        event = json.loads(value)
        first.setdefault((event["account_id"], event["event_id"]), value)
    return list(first.values())
