"""What the stateful operator gives of a batch, without Spark, as a writer takes it."""

from __future__ import annotations

import pyarrow as pa

NOTHING = pa.table({"kind": pa.array([], "string"), "payload": pa.array([], "binary")})


class Output:
    """A batch's packets: nothing, unless some are named."""

    def __init__(self, *packets: tuple[str, bytes]) -> None:
        kinds, payloads = zip(*packets, strict=True) if packets else ((), ())
        self._rows = pa.table([list(kinds), list(payloads)], schema=NOTHING.schema)

    def toArrow(self) -> pa.Table:
        """The packets, one a row."""
        return self._rows
