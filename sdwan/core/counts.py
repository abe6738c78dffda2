"""The counters of a path's reports, made whole: 32 bits on the wire become numbers that never wrap.

Pure. A report row and the ``Point`` it names become a ``Sample`` for the capacity estimator. A peer that
begins to count anew (another process opens now) makes no sample: whatever was compared with the old counts
would be nonsense.
"""

from __future__ import annotations

from sdwan.core.messages import PathReport
from sdwan.core.sample import Sample
from sdwan.core.sent import Point
from sdwan.core.wire import widen

# Specification constants -------------------------------------------------------------------------

FRAME_OVERHEAD_BYTES = {False: 14 + 20 + 8, True: 14 + 40 + 8}
"""Ethernet, IP and UDP headers of a datagram, by "is IPv6": reports count UDP payload, links carry frames."""

_DELAY_FIRST_US = 1 << 33
"""Delays are unwrapped around here, so that a small step back never goes below zero."""


class Counts:
    """What the reports of one path have counted so far."""

    def __init__(self, *, ipv6: bool) -> None:
        self._frame_bytes = FRAME_OVERHEAD_BYTES[ipv6]
        self._opened = self._opened_bytes = self._lost = 0
        self._delay_us = _DELAY_FIRST_US
        self._is_first = True

    def sample(self, row: PathReport, point: Point, *, total_bytes: int, now_ns: int) -> Sample | None:
        """Return what a row says; None when it begins a new count."""
        opened = widen(row.opened, self._opened)
        begins_anew = self._is_first or opened < self._opened
        if begins_anew:
            self._opened, self._opened_bytes, self._lost = row.opened, row.opened_bytes, row.lost
            self._delay_us = widen(row.delay_us, _DELAY_FIRST_US)
            self._is_first = False
            return None
        self._opened = opened
        self._opened_bytes = widen(row.opened_bytes, self._opened_bytes)
        self._lost = widen(row.lost, self._lost)
        self._delay_us = widen(row.delay_us, self._delay_us)
        least_us = min(widen(row.delay_min_us, self._delay_us), self._delay_us)
        return Sample(
            now_ns=now_ns,
            sent_ns=point.time_ns,
            delay_ns=self._delay_us * 1000,
            delay_min_ns=least_us * 1000,
            jitter_ns=row.jitter_us * 1000,
            received=self._opened,
            received_bytes=self._opened_bytes + self._opened * self._frame_bytes,
            lost=self._lost,
            sent=point.sequence + 1,
            sent_bytes=point.sent_bytes,
            idle_ns=point.idle_ns,
            backlog_ns=point.backlog_ns,
            sent_total_bytes=total_bytes,
        )
