"""Loss of one path and how it clusters, from cumulative counts.

Pure; one ``LossMeter`` per path, fed from reports (or the receiver's own counts), read by
sdwan.core.recovery. Single losses are not visible in reports, but their scatter is: independent losses
scatter like a binomial, bursts more. The *dispersion* (variance over that of a binomial) of a Gilbert channel
tends to (1 + c) / (1 - c), c being the correlation of neighbours, which gives the mean burst.
"""

from __future__ import annotations

# Implementation constants -------------------------------------------------------------------------

WINDOW_DATAGRAMS = 40
"""Longer than the bursts that matter, short enough that a second at 10 Mbit/s has twenty of them."""
GAIN = 1 / 32
"""Of one window: the memory is about 1300 datagrams, 1.3 s at 12 Mbit/s."""
BURST_MAX = 32.0
LOSS_LEAST = 1e-4
"""Below this there is nothing to tell clusters from."""
COUNT_MAX = 1 << 24
"""More in one step is a counter that began anew, or a lie."""
PPM = 1_000_000


class LossMeter:
    """Smoothed loss and mean burst of one path."""

    def __init__(self) -> None:
        self.refused = 0
        """Steps that cannot be."""
        self._last: tuple[int, int] | None = None
        self._arrived = self._missing = 0
        self._weight = 0.0
        self._loss = 0.0
        self._dispersion = 1.0

    @property
    def is_known(self) -> bool:
        """Enough was counted to tell."""
        return self._weight > 0

    @property
    def loss_ppm(self) -> int:
        """Recent mean loss."""
        return round(self._loss * PPM)

    @property
    def burst(self) -> float:
        """Mean number lost in a row; of independent losses 1 / (1 - loss)."""
        least = 1.0 / (1.0 - min(self._loss, 0.9))
        return min(max(least * (self._dispersion + 1.0) / 2.0, least), BURST_MAX)

    def on_counts(self, received: int, lost: int) -> None:
        """Take the path's cumulative counts of received and lost datagrams."""
        last, self._last = self._last, (received, lost)
        if last is None:
            return
        arrived, missing = received - last[0], lost - last[1]
        if not (0 <= arrived <= COUNT_MAX and abs(missing) <= COUNT_MAX):
            self.refused += 1
            self._arrived = self._missing = 0
            return
        self._arrived += arrived
        self._missing += missing  # may fall: late ones are counted back
        if self._arrived + self._missing >= WINDOW_DATAGRAMS:
            self._on_window(self._arrived + self._missing, max(self._missing, 0))
            self._arrived = self._missing = 0

    def _on_window(self, count: int, missing: int) -> None:
        self._weight += (1.0 - self._weight) * GAIN
        gain = GAIN / self._weight  # a plain mean at first
        expected = self._loss
        self._loss += gain * (min(missing / count, 1.0) - expected)
        if expected > LOSS_LEAST:
            scatter = (missing - count * expected) ** 2 / (count * expected * (1.0 - min(expected, 0.9)))
            self._dispersion += gain * (min(scatter, 2 * BURST_MAX) - self._dispersion)
        elif self._loss <= LOSS_LEAST:
            self._dispersion = 1.0
