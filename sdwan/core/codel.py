"""CoDel: when a queue has stood too long, and how often to say so (RFC 8289).

Pure; one ``CoDel`` per flow queue, asked by sdwan.core.fairqueue for every segment at the head of the queue:
may it go, or must it be dropped (or marked) so that its sender slows down? A queue that empties now and then
is a good one, whatever its length; one whose shortest delay stays above the target for a whole interval is
not, and loses one segment, then another after interval/√2, interval/√3, ... until the delay is below again.
"""

from __future__ import annotations

from math import isqrt

# Specification constants (RFC 8289 section 4.2 and 5) -------------------------------------------------

INTERVAL_NS = 100_000_000
"""A round trip of the wider Internet: as long as a sender needs to react."""

_REMEMBERED_INTERVALS = 16
"""A queue that misbehaves again within so many intervals is met with nearly the frequency it had."""

# Implementation constants -----------------------------------------------------------------------------

_COUNT_MAX = 1 << 16
"""Drops that still shorten the step: 256 in an interval. A flow that ignores them meets the queue's end."""


def step_ns(count: int) -> int:
    """Return the time from drop number ``count`` to the next: the interval over the square root."""
    return (INTERVAL_NS << 10) // isqrt(count << 20)


class CoDel:
    """The state of one flow queue."""

    __slots__ = ("_above_since_ns", "_count", "_drop_next_ns", "_former_count", "_is_dropping")

    def __init__(self) -> None:
        self._above_since_ns = 0
        """When the delay has been above the target for an interval; 0 = it is below."""
        self._is_dropping = False
        self._drop_next_ns = 0
        self._count = 0
        self._former_count = 0

    def must_drop(self, sojourn_ns: int, *, is_short: bool, target_ns: int, now_ns: int) -> bool:
        """Tell whether the segment at the head must go.

        ``sojourn_ns`` is how long it has waited; ``is_short`` that no more than one datagram waits, which is
        never too much. Ask again for the segment behind a dropped one.
        """
        is_above = self._is_above(sojourn_ns, is_short, target_ns, now_ns)
        if not self._is_dropping:
            if is_above:
                self._begin(now_ns)
            return is_above
        if not is_above:
            self._is_dropping = False
            return False
        if now_ns < self._drop_next_ns:
            return False
        self._count = min(self._count + 1, _COUNT_MAX)
        self._drop_next_ns += step_ns(self._count)
        return True

    @property
    def has_history(self) -> bool:
        """Tell whether it ever had to drop: then it is worth remembering."""
        return self._count > 0

    def ran_empty(self) -> None:
        """Note that the queue has nothing left: that is what good queues do."""
        self._above_since_ns = 0

    def _is_above(self, sojourn_ns: int, is_short: bool, target_ns: int, now_ns: int) -> bool:
        if sojourn_ns < target_ns or is_short:
            self._above_since_ns = 0
            return False
        if not self._above_since_ns:
            self._above_since_ns = now_ns + INTERVAL_NS
            return False
        return now_ns >= self._above_since_ns

    def _begin(self, now_ns: int) -> None:
        since = self._count - self._former_count
        recently = now_ns - self._drop_next_ns < _REMEMBERED_INTERVALS * INTERVAL_NS
        self._count = since if since > 1 and recently else 1
        self._former_count = self._count
        self._is_dropping = True
        self._drop_next_ns = now_ns + step_ns(self._count)
