"""What a link may carry in a month, and what is left of it.

Pure: bytes and the date come in, so a clock that lies is met here. One ``Quota`` per link that has one; edge
control feeds it the interface's counters, keeps its JSON in the state directory, and gives ``left_bytes`` to
the schedule, for which an exhausted link counts only when no other is usable.

The period begins on one day of the month, so it is known by the year and month it began in. A date before the
present period (a machine without a battery wakes up in 1970) gives nothing back: the count goes on.
"""

from __future__ import annotations

import json

from sdwan.errors import ConfigError

Date = tuple[int, int, int]
"""Year, month, day."""

COUNT_MAX = 1 << 63


class Quota:
    """The count of one link."""

    def __init__(self, limit_bytes: int, *, day: int = 1) -> None:
        self.limit_bytes = limit_bytes
        self.day = day
        """Day of the month, 1..28, on which the period begins."""
        self.used_bytes = 0
        self.period = (0, 0)
        """Year and month the period began in; (0, 0) before the first date."""

    @property
    def left_bytes(self) -> int:
        """What is left, never negative."""
        return max(self.limit_bytes - self.used_bytes, 0)

    @property
    def is_exhausted(self) -> bool:
        """Nothing is left."""
        return not self.left_bytes

    def configure(self, limit_bytes: int, *, day: int) -> None:
        """Take new limits; what was used stays used."""
        self.limit_bytes, self.day = limit_bytes, day

    def on_bytes(self, size_bytes: int, *, today: Date) -> bool:
        """Count what the link carried since the last call, both directions; tell if a new period began."""
        year, month, day = today
        before = (year, month - 1) if month > 1 else (year - 1, 12)
        period = (year, month) if day >= self.day else before
        is_new = period > self.period
        if is_new:
            self.period, self.used_bytes = period, 0
        self.used_bytes = min(self.used_bytes + max(size_bytes, 0), COUNT_MAX)
        return is_new

    def to_json(self) -> str:
        """Return what a restart must not forget; the limits come from the configuration."""
        return json.dumps({"period": self.period, "used_bytes": self.used_bytes})

    @classmethod
    def from_json(cls, text: str, limit_bytes: int, *, day: int = 1) -> Quota:
        """Go on counting where ``to_json`` left off.

        Raises:
            ConfigError: the text is not such a count; start anew with ``Quota`` then.
        """
        quota = cls(limit_bytes, day=day)
        try:
            data = json.loads(text)
            year, month = data["period"]
            used_bytes = data["used_bytes"]
            if not all(type(value) is int for value in (year, month, used_bytes)):
                raise ValueError("numbers are wanted")
            if not (0 <= month <= 12 and 0 <= used_bytes <= COUNT_MAX):
                raise ValueError("out of range")
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise ConfigError("quota", f"the count cannot be read: {error}", "text of to_json()") from None
        quota.period, quota.used_bytes = (year, month), used_bytes
        return quota
