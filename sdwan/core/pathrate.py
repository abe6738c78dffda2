"""What one path carries, from the receiver's reports: a simple first law.

Pure; one ``PathRate`` per path, asked by ``sdwan.core.schedule`` through ``sdwan.core.path``. In come
report rows, out go the delivered rate, the standing queue, the loss, and an estimate of the capacity:

  - If a queue stood through a whole window, the delivered rate *is* the capacity.
  - If more was delivered than was thought possible, the estimate was too low.
  - If the path was used up without a queue while another path was full, it grows, doubling its step:
    that is how the share of a fast path is found beside a slow one.
  - Otherwise the window was limited by the application and says nothing.

A rate the operator configured is the estimate at the start and its upper bound for ever. Loss without a
queue changes nothing: it may be the weather. Rates count whole Ethernet frames, as links do.
"""

from __future__ import annotations

from collections import deque

from sdwan.core.messages import PathReport
from sdwan.core.wire import widen

# Specification constants -------------------------------------------------------------------------

FRAME_OVERHEAD_BYTES = {False: 14 + 20 + 8, True: 14 + 40 + 8}
"""Ethernet, IP and UDP headers of a datagram, by "is IPv6"."""

_U32 = 0xFFFFFFFF

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
SECOND_NS = 10**9
WINDOW_NS = 100 * MILLISECOND_NS
"""Four reports at the default interval; arrival times in them are good to about a millisecond."""
PAUSE_NS = 250 * MILLISECOND_NS
"""Reports further apart do not belong to one window: nothing was sent in between."""
WINDOW_DATAGRAMS = 16
QUEUE_NS = 5 * MILLISECOND_NS
"""Delay above the floor that counts as a standing queue: more than a burst of ours makes by itself."""
FLOOR_NS = 10 * SECOND_NS
"""How long the smallest delay is remembered."""
BUCKET_NS = SECOND_NS
USED_UP = 0.85
GROWTH_FIRST, GROWTH_MAX = 0.05, 0.5
ADOPT, ADOPT_NEAR, NEAR = 0.5, 0.1, 0.2
"""How far a full window moves the estimate: two windows to believe a change. A difference below a fifth is
mostly the window's own noise (5 % measured), which must not make the shares tremble."""
LOSS_GAIN_LOG2 = 3
PPM = 1_000_000


class DelayFloor:
    """The smallest delay of the last ten seconds, in buckets of a second."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, int]] = deque()

    def on_delay(self, delay_us: int, *, now_ns: int) -> int:
        """Take a delay (unwrapped, any offset); return the floor."""
        buckets = self._buckets
        if not buckets or now_ns - buckets[-1][0] > BUCKET_NS:
            buckets.append((now_ns, delay_us))
        elif delay_us < buckets[-1][1]:
            buckets[-1] = (buckets[-1][0], delay_us)
        while now_ns - buckets[0][0] > FLOOR_NS:
            buckets.popleft()
        return self.us or 0

    @property
    def us(self) -> int | None:
        """The floor; None before the first delay."""
        return min((delay for _, delay in self._buckets), default=None)


class PathRate:
    """What the peer receives on one path."""

    def __init__(self, *, ipv6: bool, configured_bps: int | None = None) -> None:
        self.configured_bps = configured_bps
        self.capacity_bps = configured_bps
        """Estimate; None while nothing is known."""
        self.delivered_bps = 0
        """Of the last whole window."""
        self.delivered_ns = 0
        """When that window ended."""
        self.queue_ns = 0
        """Met by the newest reported datagram."""
        self.is_full = False
        """A queue stood through the last window."""
        self.loss_ppm: int | None = None
        self.delay_us: int | None = None
        """Receiver's clock minus ours, unwrapped: differences between paths of a peer are exact."""
        self.floor = DelayFloor()
        self._frame_bytes = FRAME_OVERHEAD_BYTES[ipv6]
        self._start: tuple[PathReport, int] | None = None
        self._newest: tuple[PathReport, int] | None = None
        self._queue_least_ns = 0
        self._growth = GROWTH_FIRST

    def configure(self, configured_bps: int | None) -> None:
        """Take the rate the two operators named (the smaller one), or None."""
        if configured_bps == self.configured_bps:
            return
        self.configured_bps = configured_bps
        self.capacity_bps = configured_bps

    def on_report(self, row: PathReport, *, now_ns: int) -> bool:
        """Take one row; tell whether it completed a window."""
        arrived_ns = now_ns - row.age_us * 1000
        newest = self._newest
        if newest is not None and (
            row.opened == newest[0].opened or (row.opened - newest[0].opened) & _U32 > _U32 >> 1
        ):
            if row.opened != newest[0].opened:
                self._start = self._newest = None  # the peer counts anew
            return False
        self._on_delay(row.delay_us, now_ns)
        if newest is None or self._start is None or arrived_ns - newest[1] > PAUSE_NS:
            self._begin(row, arrived_ns)
            return False
        self._newest = (row, arrived_ns)
        self._queue_least_ns = min(self._queue_least_ns, self.queue_ns)
        start, start_ns = self._start
        datagrams = (row.opened - start.opened) & _U32
        elapsed_ns = arrived_ns - start_ns
        if elapsed_ns < WINDOW_NS or datagrams < WINDOW_DATAGRAMS:
            return False
        size_bytes = ((row.opened_bytes - start.opened_bytes) & _U32) + datagrams * self._frame_bytes
        self._on_window(size_bytes * 8 * SECOND_NS // elapsed_ns, now_ns)
        self._on_loss(datagrams, (row.lost - start.lost) & _U32)
        self._begin(row, arrived_ns)
        return True

    def grow(self) -> None:
        """Raise the estimate: the path was used up without a queue while another one was full."""
        if self.capacity_bps is None:
            self.capacity_bps = self.delivered_bps
        if self.is_full or self.delivered_bps < USED_UP * self.capacity_bps:
            return
        self.capacity_bps = self._bounded(int(self.capacity_bps * (1 + self._growth)))
        self._growth = min(self._growth * 2, GROWTH_MAX)

    # How ------------------------------------------------------------------------------------------

    def _begin(self, row: PathReport, arrived_ns: int) -> None:
        self._start = self._newest = (row, arrived_ns)
        self._queue_least_ns = self.queue_ns

    def _on_delay(self, delay_us: int, now_ns: int) -> None:
        # Unwrapped around 2^33, so that a small step back never goes below zero.
        self.delay_us = widen(delay_us, 1 << 33 if self.delay_us is None else self.delay_us)
        self.queue_ns = (self.delay_us - self.floor.on_delay(self.delay_us, now_ns=now_ns)) * 1000

    def _on_window(self, delivered_bps: int, now_ns: int) -> None:
        self.delivered_bps, self.delivered_ns = delivered_bps, now_ns
        self.is_full = self._queue_least_ns > QUEUE_NS
        known_bps = self.capacity_bps
        if self.is_full:
            self._growth = GROWTH_FIRST
            known_bps = delivered_bps if known_bps is None else known_bps
            step_bps = delivered_bps - known_bps
            gain = ADOPT_NEAR if abs(step_bps) < NEAR * known_bps else ADOPT
            self.capacity_bps = self._bounded(int(known_bps + gain * step_bps))
        elif known_bps is not None and delivered_bps > known_bps:
            self.capacity_bps = self._bounded(delivered_bps)

    def _on_loss(self, datagrams: int, lost: int) -> None:
        if lost > _U32 >> 1:
            lost = 0  # late ones were counted back: fewer are missing now than at the start
        sample_ppm = lost * PPM // (lost + datagrams)
        known_ppm = sample_ppm if self.loss_ppm is None else self.loss_ppm
        self.loss_ppm = known_ppm + ((sample_ppm - known_ppm) >> LOSS_GAIN_LOG2)

    def _bounded(self, rate_bps: int) -> int:
        rate_bps = max(rate_bps, 1)
        return min(rate_bps, self.configured_bps) if self.configured_bps else rate_bps
