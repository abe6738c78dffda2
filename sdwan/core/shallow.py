"""Finding the rate of a path that drops before it queues: a policer, or a buffer of a few datagrams.

Pure; owned by ``sdwan.core.capacity``, used in its SHALLOW state. In come readings, out comes the new
estimate.

There is no queue to see, so each step upward is paid in loss if it was one too many: one small step, then
a look at the datagrams it sent; it is taken back if it cost more than the weather does, and nothing moves
for a while."""

from __future__ import annotations

from sdwan.core.lossrule import LossRule
from sdwan.core.reading import Reading
from sdwan.core.sample import Sample

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
RATE = 0.985
"""Of what passed during the test that found the policer."""
STEP_FIRST, STEP_MAX = 0.03, 0.5
LOOK_NS, LOOK_DATAGRAMS = 60 * MILLISECOND_NS, 40
LOOK_SIGMAS = 2
REST_NS = 1000 * MILLISECOND_NS
"""A step a second: 1.2 % of loss on a policer of 50 Mbit/s, while it looks for more."""


class ShallowSteps:
    """One step at a time."""

    def __init__(self, *, now_ns: int) -> None:
        self._step = STEP_FIRST
        self._rest_until_ns = now_ns + REST_NS
        self._stepped: tuple[int, float] | None = None
        self._mark: Sample | None = None

    def next_bps(self, capacity_bps: float, reading: Reading, loss: LossRule) -> float:
        """Return the estimate: a step up, a step taken back, or as it was."""
        sample = reading.sample
        if self._stepped is None:
            if not reading.is_full or sample.now_ns <= self._rest_until_ns:
                return capacity_bps
            self._stepped, self._mark = (sample.now_ns, capacity_bps), None
            return capacity_bps * (1 + self._step)
        start_ns, before_bps = self._stepped
        if self._mark is None:
            self._mark = sample if sample.sent_ns > start_ns else None
            return capacity_bps
        datagrams = sample.sent - self._mark.sent
        if sample.sent_ns <= start_ns + LOOK_NS or datagrams < LOOK_DATAGRAMS:
            return capacity_bps
        cost = (sample.lost - self._mark.lost) / datagrams
        self._stepped = None
        loss.restart(sample)
        if cost <= loss.expected(datagrams, sigmas=LOOK_SIGMAS):
            self._step = min(2 * self._step, STEP_MAX)
            return capacity_bps
        self._step, self._rest_until_ns = STEP_FIRST, sample.now_ns + REST_NS
        return before_bps
