"""Solutions of 06_dashboard: each goes into its exercise's cell."""


# %% rows-at
def rows_at(version, commits):
    """The table's rows at a version."""
    rows = {}
    for commit in commits:
        if commit.version <= version:
            rows |= {file.path: file.rows for file in commit.added}
            for file in commit.removed:
                del rows[file.path]
    return sum(rows.values())


# %% within
def within(latencies, limit_ms):
    """The share of the latencies (ms) that are at most the limit, from 0 to 1."""
    return (latencies <= limit_ms).mean()
