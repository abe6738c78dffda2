"""How the estimate of a path that shows no queue goes up: doubling steps, and trials where a queue hides.

Pure; owned by ``sdwan.core.capacity``, used in its TRACK state. In come readings, out comes the new
estimate.

A path that is used up while the target queue is not reached carries more than is thought: the step
doubles with each round, so that ten times the rate is found in seven. Where a small queue always stands,
it may be ours (the estimate is right) or jitter (it is not). A *trial* tells: a few percent more, for a
moment. If that much more arrived and nothing queued, what stood was jitter."""

from __future__ import annotations

from sdwan.core.reading import Reader, Reading

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
STEP_FIRST, STEP_MAX = 0.05, 1.0
"""A first step of 5 % costs less than 5 ms of queue before its report is back."""
AHEAD_MOST = 2
"""The estimate stays within twice of what was seen to arrive."""
STALEMATE_NS = 500 * MILLISECOND_NS
TRIAL_FIRST, TRIAL_MAX = 0.05, 0.25
TRIAL_NS, TRIAL_JITTERY_NS = 80 * MILLISECOND_NS, 150 * MILLISECOND_NS
TRIAL_GAINED = 0.6
"""Share of the trial's step that must have arrived."""
TRIAL_QUEUE_NS = 2 * MILLISECOND_NS
CALM_JITTER_NS, CALM_QUEUE_NS = MILLISECOND_NS, 6 * MILLISECOND_NS


class Growth:
    """Steps upward of one path's estimate."""

    def __init__(self) -> None:
        self._step = STEP_FIRST
        self._trial_step = TRIAL_FIRST
        self._grown_ns = 0
        self._trial: tuple[int, float, float] | None = None

    def reset(self) -> None:
        """Begin with small steps again: the estimate was just corrected."""
        self._step = STEP_FIRST

    def step(self, capacity_bps: float, reading: Reading) -> float:
        """Return the next estimate of a path that is used up without a queue."""
        grown_bps = min(capacity_bps * (1 + self._step), AHEAD_MOST * reading.carried_bps)
        self._step = min(self._step * 2, STEP_MAX)
        self._grown_ns = reading.sample.now_ns
        return max(capacity_bps, grown_bps)

    def is_stalemate(self, now_ns: int) -> bool:
        """Tell whether it is time to ask a standing queue what it is."""
        return now_ns - self._grown_ns > STALEMATE_NS

    def start_trial(self, capacity_bps: float, reading: Reading, reader: Reader) -> float:
        """Return the estimate for the time of a trial."""
        self._grown_ns = now_ns = reading.sample.now_ns
        self._trial = (now_ns, self._delivered_bps(reading, reader), reading.queue_least_ns)
        return capacity_bps * (1 + self._trial_step)

    def judge_trial(self, reading: Reading, reader: Reader) -> None:
        """Look at what a trial did; if its step was simply carried, call the standing queue jitter."""
        if self._trial is None:
            return
        start_ns, delivered_bps, queue_ns = self._trial
        calm = reader.jitter.ns < CALM_JITTER_NS and reading.queue_least_ns < CALM_QUEUE_NS
        if reading.sample.sent_ns <= start_ns + (TRIAL_NS if calm else TRIAL_JITTERY_NS):
            return
        self._trial = None
        is_long = reading.sample.sent_ns > start_ns + TRIAL_JITTERY_NS
        now_bps = self._delivered_bps(reading, reader) if is_long else reading.window.delivered_bps
        gained = now_bps > delivered_bps * (1 + TRIAL_GAINED * self._trial_step)
        if gained and reading.queue_least_ns < queue_ns + TRIAL_QUEUE_NS:
            reader.jitter.accept(reading.queue_least_ns)
            self._trial_step = min(2 * self._trial_step, TRIAL_MAX)
            self._grown_ns = 0
        else:
            self._trial_step = TRIAL_FIRST

    @staticmethod
    def _delivered_bps(reading: Reading, reader: Reader) -> float:
        window = reader.history.window(TRIAL_JITTERY_NS) or reading.window
        return window.delivered_bps
