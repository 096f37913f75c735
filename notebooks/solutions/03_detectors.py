"""Solutions of 03_detectors: each goes into its exercise's cell."""


# %% trailing
def in_a_minute(times):
    """For each payment, how many lie in (its time − 60 s, its time], up to itself."""
    return [
        sum(earlier > time - MINUTE for earlier in times[: place + 1])
        for place, time in enumerate(times)
    ]


# %% z
def z_of(cents, earlier):
    """The rule's z of an amount, by the account's earlier amounts; None without one."""
    if len(earlier) < 10 or len(set(earlier)) == 1:
        return None
    return float((cents - np.mean(earlier)) / np.std(earlier, ddof=1))


# %% threshold
def threshold_for(score, most):
    """The smallest of the |score| that no more than `most` of them exceed."""
    return score.abs().nlargest(most + 1).min()
