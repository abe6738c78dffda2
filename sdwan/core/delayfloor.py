"""The one-way delay of a path without any queue: what stays when everything that varies is taken away.

Pure; owned by ``sdwan.core.reading``. In come one-way delays with the unknown constant between two clocks
in them, out comes their floor: the least of the last ten seconds. A shorter route shows at once. A longer
one looks like a queue at first; a queue moves, though, and a route does not: a delay that lay still
for two whole seconds, on a path that we did not fill, is the new floor.

A path that is kept full shows its floor no more. ``is_stale`` says so in time for the sender to let its
queue run dry once before the floor is forgotten."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

MILLISECOND_NS = 10**6
SECOND_NS = 10**9

# Implementation constants ------------------------------------------------------------------------

MEMORY_NS = 10 * SECOND_NS
"""How long the least delay is remembered."""
BUCKET_NS = SECOND_NS
STILL_NS = 3 * MILLISECOND_NS
"""Least delays of reports that differ by less, for two buckets, lie still. CUBIC's queues swing by tens of
milliseconds in that time."""
STILL_SAMPLES = 10
"""Reports a bucket needs to say that anything lay still in it."""
RISE_NS = 12 * MILLISECOND_NS
"""A smaller rise is not worth an error, and harms nobody."""
STALE_NS = 5 * SECOND_NS
NEAR_NS = MILLISECOND_NS // 2
"""A delay this near the floor confirms it."""


@dataclass(slots=True)
class _Bucket:
    start_ns: int
    least_ns: int
    most_ns: int
    is_full: bool = False
    count: int = 1


class DelayFloor:
    """The least delay of the last ten seconds, in buckets of a second."""

    def __init__(self) -> None:
        self._buckets: deque[_Bucket] = deque()
        self._seen_ns = 0
        self._now_ns = 0
        self.ns: int | None = None
        """The floor; None before the first delay."""

    @property
    def is_stale(self) -> bool:
        """Nothing near the floor was seen for long."""
        return self._now_ns - self._seen_ns > STALE_NS

    def on_delay(self, delay_ns: int, *, now_ns: int, is_full: bool = False, is_held: bool = False) -> int:
        """Take the least delay of a report; return the floor.

        ``is_full``: the path is used up, so a delay that lies still may be our own queue. While the floor
        ``is_held``, it may only fall.
        """
        if is_held and self.ns is not None and delay_ns > self.ns:
            self._hold(now_ns)
            return self.ns
        buckets = self._buckets
        if not buckets or not 0 <= now_ns - buckets[-1].start_ns < BUCKET_NS:
            self._believe_what_lies_still()
            buckets.append(_Bucket(now_ns, delay_ns, delay_ns))
        else:
            bucket = buckets[-1]
            bucket.least_ns = min(bucket.least_ns, delay_ns)
            bucket.most_ns = max(bucket.most_ns, delay_ns)
            bucket.is_full |= is_full
            bucket.count += 1
        while len(buckets) > MEMORY_NS // BUCKET_NS or now_ns - buckets[0].start_ns > MEMORY_NS:
            buckets.popleft()
        self.ns = min(bucket.least_ns for bucket in buckets)
        self._now_ns = now_ns
        if delay_ns <= self.ns + NEAR_NS:
            self._seen_ns = now_ns
        return self.ns

    def set(self, delay_ns: int, *, now_ns: int) -> None:
        """Take a delay for the floor."""
        self._buckets = deque([_Bucket(now_ns, delay_ns, delay_ns)])
        self.ns = delay_ns

    def forget(self) -> None:
        """Know nothing: the path leads elsewhere."""
        self._buckets.clear()
        self.ns = None

    def _hold(self, now_ns: int) -> None:
        assert self.ns is not None
        self._now_ns = self._seen_ns = now_ns
        self.set(self.ns, now_ns=now_ns)

    def _believe_what_lies_still(self) -> None:
        newest = list(self._buckets)[-2:]
        if len(newest) < 2 or any(bucket.is_full or bucket.count < STILL_SAMPLES for bucket in newest):
            return
        least_ns = min(bucket.least_ns for bucket in newest)
        lay_still = max(bucket.most_ns for bucket in newest) - least_ns < STILL_NS
        if lay_still and self.ns is not None and least_ns - self.ns > RISE_NS:
            self._buckets.clear()
            self._buckets.extend(newest)
