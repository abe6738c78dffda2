"""How the estimate of a path that shows no queue goes up: doubling steps, and trials where a queue hides.

Pure; owned by ``sdwan.core.capacity``, used in its TRACK state. In come readings, out comes the new
estimate.

A path that is used up while the target queue is not reached carries more than is thought: the step
doubles with each round, so that ten times the rate is found in seven. Where a small queue always stands,
it may be ours (the estimate is right) or jitter (it is not). A *trial* tells: a few percent more, for a
moment. If that much more arrived and nothing queued, what stood was jitter."""

from __future__ import annotations

from sdwan.core.reading import Reader, Reading
from sdwan.core.window import Window

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
STEP_FIRST, STEP_MAX = 0.05, 1.0
"""A first step of 5 % costs less than 5 ms of queue before its report is back."""
AHEAD_MOST = 2
"""The estimate stays within twice of what was seen to arrive."""
KNOWN_DECAY = 0.95
"""Per sample: a rate that the path no longer has is forgotten in a second."""
CAREFUL = 0.98
"""Steps do not jump across the last rate known for certain."""
STALEMATE_NS, STALEMATE_JITTERY_NS = 3000 * MILLISECOND_NS, 500 * MILLISECOND_NS
"""On a steady path a standing queue is one, nearly always."""
TRIAL_FIRST, TRIAL_MAX = 0.05, 0.25
TRIAL_NS, TRIAL_JITTERY_NS = 80 * MILLISECOND_NS, 150 * MILLISECOND_NS
TRIAL_GAINED = 0.6
"""Share of the trial's step that must have arrived."""
TRIAL_QUEUE_NS = 2 * MILLISECOND_NS
LOSS_MOST = 0.5
CALM_JITTER_NS, CALM_QUEUE_NS = MILLISECOND_NS, 6 * MILLISECOND_NS


class Growth:
    """Steps upward of one path's estimate."""

    def __init__(self) -> None:
        self._step = STEP_FIRST
        self._trial_step = TRIAL_FIRST
        self._grown_ns = 0
        self._known_bps = 0.0
        self._is_winning = False
        self._trial: tuple[int, float, float] | None = None

    def on_known(self, carried_bps: float) -> None:
        """Take the rate of a path whose queue stood: begin with small steps again, and be careful above
        it."""
        self._step = STEP_FIRST
        self._known_bps = max(carried_bps, KNOWN_DECAY * self._known_bps)

    def step(self, capacity_bps: float, reading: Reading) -> float:
        """Return the next estimate of a path that is used up without a queue."""
        grown_bps = min(capacity_bps * (1 + self._step), AHEAD_MOST * reading.carried_bps)
        self._step = min(self._step * 2, STEP_MAX)
        if capacity_bps < CAREFUL * self._known_bps < grown_bps:
            grown_bps, self._step = self._known_bps, STEP_FIRST
        self._grown_ns = reading.sample.now_ns
        return max(capacity_bps, grown_bps)

    def is_stalemate(self, reading: Reading) -> bool:
        """Tell whether it is time to ask a standing queue what it is."""
        patience_ns = STALEMATE_JITTERY_NS if reading.is_jittery or self._is_winning else STALEMATE_NS
        return reading.sample.now_ns - self._grown_ns > patience_ns

    def start_trial(self, capacity_bps: float, reading: Reading, reader: Reader) -> float:
        """Return the estimate for the time of a trial."""
        self._grown_ns = now_ns = reading.sample.now_ns
        self._trial = (now_ns, _whole_bps(_trial_window(reading, reader)), reading.queue_least_ns)
        return capacity_bps * (1 + self._trial_step)

    def judge_trial(self, reading: Reading, reader: Reader) -> None:
        """Look at what a trial did; if its step was simply carried, call the standing queue jitter."""
        if self._trial is None:
            return
        start_ns, whole_bps, queue_ns = self._trial
        calm = reader.jitter.ns < CALM_JITTER_NS and reading.queue_least_ns < CALM_QUEUE_NS
        if reading.sample.sent_ns <= start_ns + (TRIAL_NS if calm else TRIAL_JITTERY_NS):
            return
        self._trial = None
        is_long = reading.sample.sent_ns > start_ns + TRIAL_JITTERY_NS
        window = _trial_window(reading, reader) if is_long else reading.window
        gained = _whole_bps(window) > whole_bps * (1 + TRIAL_GAINED * self._trial_step)
        if gained and reading.queue_least_ns < queue_ns + TRIAL_QUEUE_NS:
            # One success may be chance, rates being good to a few percent: it counts half.
            reader.jitter.accept(reading.queue_least_ns * (1.0 if self._is_winning else 0.5))
            self._trial_step = min(2 * self._trial_step, TRIAL_MAX)
            self._is_winning, self._grown_ns = True, 0
        else:
            self._is_winning, self._trial_step = False, TRIAL_FIRST


def _trial_window(reading: Reading, reader: Reader) -> Window:
    return reader.history.window(TRIAL_JITTERY_NS) or reading.window


def _whole_bps(window: Window) -> float:
    """Return what arrived and what was lost: otherwise a burst of loss before a trial would look like
    its gain."""
    return window.delivered_bps / (1 - min(window.loss, LOSS_MOST))
