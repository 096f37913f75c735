"""Solutions of 02_stream: each goes into its exercise's cell."""


# %% repair
def repair(value: bytes) -> bytes:
    """The record with country GB if it had UK; any other one as it is."""
    try:
        event = json.loads(value)
    except ValueError:
        return value
    if not isinstance(event, dict) or event.get("country") != "UK":
        return value
    return json.dumps(event | {"country": "GB"}).encode()


# %% rewrite
def rewrite(line: str) -> str:
    """The same event in other bytes."""
    fields = json.loads(line)
    return json.dumps(dict(reversed(fields.items())), separators=(" , ", " : "))


# %% watermarks
def used(batches, delay):
    """For each batch, a list of times, the watermark that it uses; None at first."""
    found, newest = [], None
    for batch in batches:
        found.append(None if newest is None else newest - delay)
        newest = max(batch if newest is None else [*batch, newest], default=None)
    return found
