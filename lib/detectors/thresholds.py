"""Every number in the rules, and the units of their times."""

from __future__ import annotations

from dataclasses import dataclass

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND


@dataclass(frozen=True)
class Thresholds:
    """Every number in the rules; times in microseconds.

    `previous_us` is how far back the event just before an event is still named, and
    `retention_us` how long an account's events are remembered behind its newest, and
    a silent account behind the watermark. Together they leave `arrival_us`, how far
    behind the watermark an account may first be seen: within it, nothing that was
    forgotten could have changed an answer.

    Raises:
        ValueError: if state kept for `retention_us` could not answer the rules.
    """

    lateness_us: int = 5 * MINUTE
    velocity_window_us: int = 60 * SECOND
    velocity_count: int = 8
    geo_gap_us: int = 3600 * SECOND
    amount_window_us: int = 30 * DAY
    amount_min_n: int = 10
    amount_z: float = 3.5
    previous_us: int = 45 * DAY
    retention_us: int = 91 * DAY

    def __post_init__(self) -> None:
        """Refuse a memory shorter than the rules need."""
        if self.arrival_us <= 0:
            raise ValueError("retention_us must exceed the look-back plus lateness")

    @property
    def lookback_us(self) -> int:
        """How far before an event any rule looks: what is older is not there."""
        return max(self.amount_window_us, self.previous_us, self.velocity_window_us)

    @property
    def arrival_us(self) -> int:
        """How far behind the watermark an unknown account's event is still scored."""
        return self.retention_us - self.lookback_us - self.lateness_us


THRESHOLDS = Thresholds()
