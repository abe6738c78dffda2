"""How long a packet may wait for a missing predecessor whose loss nothing proves.

Pure; one ``HoleWait`` per peer. A predecessor that took a slower path is late by as much as the paths'
delays differ, and by their jitter; what has not come by then is taken for lost. Delays of different paths
are compared on the receiving kernel's clock, so the differences are exact without synchronised clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdwan.core.report import Inbound

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
MARGIN_US = 10_000
"""The law of docs/architecture.md: difference of the delays, 10 ms, three times the jitter."""
JITTERS = 3
WAIT_MAX_US = 1_000_000
"""Beside a satellite of 600 ms; later than this, an inner TCP has sent again by itself."""
RECENT_NS = 60_000 * MILLISECOND_NS
"""A path's delay is believed this long; two clocks part by 3 ms in it (50 ppm)."""
DECAY_LOG2 = 5
"""A peak decays by 1/32 a call: halved in half a second of reports at 25 ms."""
CHANGE = 0.2

_U32 = 1 << 32


class HoleWait:
    """The wait for one peer, in microseconds."""

    def __init__(self) -> None:
        self.wait_us = MARGIN_US
        self._peak_us = MARGIN_US

    def on_inbound(self, inbound: Sequence[Inbound], *, now_ns: int) -> bool:
        """Take the delays of all paths; tell whether the wait changed by enough to be told on."""
        recent = [row for row in inbound if now_ns - row.kernel_last_ns < RECENT_NS]
        if not recent:
            return False
        differences = [_signed(row.delay_us - recent[0].delay_us) for row in recent]
        spread_us = max(differences) - min(differences)
        wait_us = spread_us + MARGIN_US + JITTERS * max(row.jitter_us for row in recent)
        self._peak_us -= (self._peak_us - wait_us) >> DECAY_LOG2 if wait_us < self._peak_us else 0
        self._peak_us = min(max(self._peak_us, wait_us), WAIT_MAX_US)
        if abs(self._peak_us - self.wait_us) <= CHANGE * self.wait_us:
            return False
        self.wait_us = self._peak_us
        return True


def _signed(difference: int) -> int:
    difference %= _U32
    return difference - _U32 if difference >= _U32 >> 1 else difference
