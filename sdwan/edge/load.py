"""Is this site under a flood of handshakes? Then strangers first prove their address with a cookie.

Pure arithmetic on the shell's side of the Handshaker: a bucket of handshakes that refills with time.
"""

from __future__ import annotations

# Implementation constants --------------------------------------------------------------------------

PER_SECOND = 50
"""Handshakes a second without cookies: one costs about 0.3 ms here, so this is 2 % of a core."""
BURST = 100
"""A hub restarts, and a hundred edges come back at once."""
HOLD_NS = 1_000_000_000
"""Load is believed this long after the bucket was last empty."""


class Load:
    """The handshakes of the last seconds."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at_ns = 0
        self._until_ns = 0

    def on_arrival(self, now_ns: int) -> bool:
        """Count one handshake datagram; tell whether the site is under load."""
        self._tokens = min(self._tokens + (now_ns - self._at_ns) * PER_SECOND / 1e9, BURST)
        self._at_ns = now_ns
        if self._tokens < 1:
            self._until_ns = now_ns + HOLD_NS
        else:
            self._tokens -= 1
        return now_ns < self._until_ns
