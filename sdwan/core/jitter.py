"""What of a path's delay is neither distance nor queue: the radio's turns, a busy processor at either end.

Pure; owned by ``sdwan.core.reading``. In comes the least queue of each report, out come the floor of the
jitter (to be taken off every queue) and whether the newest datagram's delay can be trusted at all.

The floor is learned only while the path is certainly not full, at less than half of what it has carried,
or by a trial (``sdwan.core.growth``) that showed a standing "queue" to be none. Learned while the path is
full, it would take the true queue for jitter."""

from __future__ import annotations

from sdwan.core.window import Window

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
CHANGE_GAIN = 1 / 16
JITTERY_NS = 2.0 * MILLISECOND_NS
"""Mean change of the least queue from report to report: a steady link of 50 Mbit/s shows 1.2 in simulation,
and up to 2 between busy processes."""
FLOOR_MAX_NS = 15 * MILLISECOND_NS
RISE_GAIN, FALL_GAIN = 0.05, 0.03
IDLE_LEAST = 0.3
USED_MOST = 0.5
"""Share of the path's rate below which it is certainly not full."""
DECAY = 0.9995
"""Per sample: what was taken for jitter is half forgotten in 35 s of reports."""
BEST_DECAY = 0.9998
"""Per sample: the best rate halves in 90 s of reports."""


class JitterFloor:
    """The jitter of one path."""

    def __init__(self) -> None:
        self.ns = 0.0
        self.is_jittery = False
        self._change_ns = 0.0
        self._queue_ns: int | None = None
        self._best_bps = 0.0

    def on_queue(self, queue_least_ns: int) -> None:
        """Take the least queue since the report before."""
        if self._queue_ns is not None:
            self._change_ns += (abs(queue_least_ns - self._queue_ns) - self._change_ns) * CHANGE_GAIN
        self._queue_ns = queue_least_ns
        self.is_jittery = self._change_ns > JITTERY_NS

    def learn(self, queue_least_ns: int, window: Window, *, capacity_bps: float, is_tracking: bool) -> None:
        """Move the floor towards what is seen, up only while the path is certainly not full."""
        self.ns *= DECAY
        if queue_least_ns < self.ns:
            self.ns += FALL_GAIN * (queue_least_ns - self.ns)
            return
        self._best_bps = max(self._best_bps * BEST_DECAY, window.delivered_bps)
        unused = window.sent_bps < USED_MOST * min(capacity_bps, self._best_bps)
        if is_tracking and unused and window.idle > IDLE_LEAST:
            self.ns += RISE_GAIN * (min(queue_least_ns, FLOOR_MAX_NS) - self.ns)

    def accept(self, queue_least_ns: float) -> None:
        """Take a standing queue for jitter: a trial showed that it does not answer to our rate."""
        self.ns = min(max(self.ns, queue_least_ns), float(FLOOR_MAX_NS))
