"""What one path carries, discovered from what arrives: no bandwidth is typed in.

Pure; one ``Estimator`` per path, owned by ``sdwan.core.path``. In come samples (``sdwan.core.sample``),
one per report; out go an estimate of the capacity, the queue to be allowed on the path, and a correction
of the kernel's virtual queue. docs/control.md explains the law and shows what it does.

One idea carries it: if every datagram of a window met a queue, the path was never idle, so what arrived
*is* its capacity. Everything else is about getting there and about not being fooled:

  STARTUP   doubles each round, until the path answers with queue or loss.
  TRACK     keeps a queue of 4 ms: corrects by what arrives while it stands, grows while it does not.
  TEST      sends less than what arrived, for a moment, to learn whose loss it is.
  SHALLOW   a path that drops before it queues: one small step at a time, taken back if it cost anything.
  COMPETE   somebody else fills the queue: takes the share that one TCP flow would.

A period limited by the application changes nothing. Samples are never trusted: those that cannot be true
are ``refused``, and nothing a peer says raises the estimate above twice of what was sent."""

from __future__ import annotations

from enum import Enum

from sdwan.core import shallow
from sdwan.core.growth import AHEAD_MOST, Growth
from sdwan.core.lossrule import TEST_RATE, Cause, LossRule, Verdict
from sdwan.core.observer import until_ns
from sdwan.core.reading import Reader, Reading
from sdwan.core.rival import Competitor, RivalWatch
from sdwan.core.sample import Sample
from sdwan.core.shallow import ShallowSteps

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
START_BPS = 10_000_000
"""With less, an inner TCP's slow start is over before the estimate has grown (measured in simulation)."""
LEAST_BPS = 100_000
MOST_BPS = 100_000_000_000
TARGET_NS = 4 * MILLISECOND_NS
"""Keeps a path busy from one correction to the next; leaves room under a probe's 15 ms."""
SHALLOW_TARGET_NS = 1 * MILLISECOND_NS
COMPETE_TARGET_NS = 5 * MILLISECOND_NS
LONG_NS = 3 * TARGET_NS
STANDING_NS = 1 * MILLISECOND_NS
"""Least queue of a whole window that says: never idle."""
DEEP_NS = 3 * MILLISECOND_NS
DEEP_MEMORY_NS = 3000 * MILLISECOND_NS
"""A queue that stood this long without loss, of late: the buffer is not shallow."""
LONG_REPORTS = 5
"""So many in a row with a long queue, on a path that seems idle, say that its estimate is too high."""
STARTUP_STEP = 2.0
DOUBT = 8
"""A path may well be so much slower than its first estimate."""
STARTUP_LOSS = 0.2
"""What a policer takes at a quarter above its rate; weather is seldom so bad."""
DOWN_GAIN, UP_GAIN, TOUCH_GAIN = 0.7, 0.3, 0.25
"""At most two reports to believe a fall, four to follow a creep."""
JITTERY_LOSS = 0.97
"""On a jittery path "queue" lowers the estimate only if less arrives than is sent: else observer and estimate
talk each other down to half the rate."""
HEARSAY = 2
"""Times what we sent: the most that a peer's word may raise the estimate to."""
SENT_DECAY = 0.998
"""Per sample: the best sent rate halves in 9 s of reports."""
TEST_WINDOW_NS = 200 * MILLISECOND_NS
DRY_RATE = 0.85
DRY_MAX_NS, DRY_AGAIN_NS = 1000 * MILLISECOND_NS, 5000 * MILLISECOND_NS
"""How a full path's queue runs dry to show its delay floor: at this share of the rate, a round trip
longer than that takes, and not again for a while. Costs a tenth of a percent."""


class State(Enum):
    """What the estimator is doing."""

    STARTUP = "startup"
    TRACK = "track"
    TEST = "test"
    SHALLOW = "shallow"
    COMPETE = "compete"


class Estimator:
    """The capacity of one path in the sending direction."""

    def __init__(self, *, start_bps: int | None = None, cap_bps: int | None = None) -> None:
        """Begin at ``start_bps`` (remembered, or configured); never go above ``cap_bps``."""
        self.state = State.STARTUP
        self.is_known = False
        """Something was measured: the estimate is more than its start."""
        self.delivered_bps = 0
        """What arrived in the newest window."""
        self.queue_ns = 0
        """Met by the newest reported datagram."""
        self.until_ns: int | None = None
        """When the path will have sent all it was given; None = the kernel's own count stands."""
        self._cap_bps = cap_bps
        self._rate = self._bounded(float(start_bps or START_BPS))
        self._reader = Reader()
        self._competitor: Competitor | None
        self._shallow: ShallowSteps | None
        self._dry_until_ns: int | None
        self._dry_again_ns = 0
        self._most_sent_bps = 0.0
        self._begin()

    # what is known ----------------------------------------------------------------------------

    @property
    def capacity_bps(self) -> int:
        """The estimate, in bits of whole frames; a little less while the queue is to run dry."""
        return int(self._rate if self._dry_until_ns is None else DRY_RATE * self._rate)

    @property
    def base_delay_ns(self) -> int | None:
        """One-way delay without a queue, clock offset included; None before the first sample."""
        return self._reader.floor.ns

    @property
    def loss_ppm(self) -> int:
        """Loss of late, smoothed."""
        return int(self._loss.recent * 1_000_000)

    @property
    def weather_ppm(self) -> int:
        """Loss that was shown not to depend on our rate."""
        return int(self._loss.weather * 1_000_000)

    @property
    def refused(self) -> int:
        """Samples that could not be true."""
        return self._reader.history.refused

    @property
    def queue_target_ns(self) -> int:
        """The virtual queue up to which the path is eligible for more."""
        if self.state is State.COMPETE:
            return COMPETE_TARGET_NS
        return SHALLOW_TARGET_NS if self._shallow is not None else TARGET_NS

    # what happens -----------------------------------------------------------------------------

    def configure(self, cap_bps: int | None) -> None:
        """Take the operators' upper bound; None = none."""
        self._cap_bps = cap_bps
        self._rate = self._bounded(self._rate)

    def on_pause(self, now_ns: int) -> None:
        """Nothing was sent for long: windows across the pause would mean nothing."""
        self._reader.history.forget()
        self._loss.restart()
        self._rival.reset(now_ns=now_ns)
        self._dry_until_ns = self.until_ns = None
        if self._shallow is not None:
            self._shallow = ShallowSteps(now_ns=now_ns)
        if self.state is State.TEST:
            self._rate = self._bounded(self._untested_bps)
        if self.state in (State.TEST, State.COMPETE):
            self._change(State.TRACK if self._shallow is None else State.SHALLOW, now_ns)

    def on_moved(self) -> None:
        """The path leads elsewhere: begin again, with the capacity as start."""
        self._reader.forget()
        self.state = State.STARTUP
        self.until_ns = None
        self.queue_ns = self.delivered_bps = 0
        self._begin()

    def on_sample(self, sample: Sample) -> None:
        """Take what a report says."""
        reading = self._reader.read(
            sample,
            capacity_bps=self._rate,
            loss=self._loss,
            is_tracking=self.state is State.TRACK,
            is_held=self.state is State.COMPETE,
        )
        if not self._reader.history.is_continued:
            self.on_pause(sample.now_ns)
        if reading is None:
            self.until_ns = None
            return
        self.delivered_bps = int(reading.window.delivered_bps)
        self.queue_ns = int(reading.queue_ns)
        if reading.standing_ns > DEEP_NS and not self._loss.is_excess:
            self._deep_ns = sample.now_ns
        self._most_sent_bps = max(self._most_sent_bps * SENT_DECAY, reading.window.sent_bps)
        if self.state is not State.TEST:
            self._loss.on_sample(sample)
        before_bps = self._rate
        _STEPS[self.state](self, reading)
        self._rate = self._bounded(
            max(min(self._rate, HEARSAY * self._most_sent_bps), min(self._rate, before_bps))
        )
        self.is_known |= self._rate != before_bps
        self._run_dry(reading)
        self.until_ns = None
        if self.state is not State.COMPETE:
            self.until_ns = until_ns(reading, self.capacity_bps, target_ns=self.queue_target_ns)

    # the states -------------------------------------------------------------------------------

    def _startup(self, reading: Reading) -> None:
        lossy = reading.is_full and self._loss.is_excess and reading.window.loss > STARTUP_LOSS
        if self._is_long(reading) or lossy:
            self._rate = reading.carried_bps
            self._growth.on_known(self._rate)
            self._change(State.TRACK, reading.sample.now_ns)
        elif self._is_settled(reading) and reading.is_full:
            self._rate = max(self._rate, STARTUP_STEP * min(reading.carried_bps, self._rate))
            self._changed_ns = reading.sample.now_ns

    def _track(self, reading: Reading) -> None:
        if self._is_long(reading):
            self._correct(reading)
        elif self._dry_until_ns is not None:
            return
        elif reading.queue_ns < LONG_NS:
            self._follow(reading)
        if self._rival.on_reading(reading, capacity_bps=self._rate):
            self._compete_with(reading)
        elif self._loss.wants_test(reading.sample.now_ns) and reading.is_full and reading.queue_ns < LONG_NS:
            self._test_loss(reading)

    def _test(self, reading: Reading) -> None:
        verdict = self._loss.on_test(reading.sample)
        if verdict is not None:
            self._conclude(verdict, reading)

    def _shallow_steps(self, reading: Reading) -> None:
        assert self._shallow is not None
        if self._is_long(reading):
            self._correct(reading)
        elif self._is_deep(reading):
            self._shallow = None
            self._change(State.TRACK, reading.sample.now_ns)
            return
        else:
            self._rate = self._shallow.next_bps(self._rate, reading, self._loss)
        if self._loss.wants_test(reading.sample.now_ns) and reading.is_full and reading.queue_ns < LONG_NS:
            self._test_loss(reading)

    def _compete(self, reading: Reading) -> None:
        assert self._competitor is not None
        self._rate = self._competitor.next_bps(reading, weather=self._loss.weather)
        if self._competitor.is_over:
            if self._competitor.distance_ns is not None:
                self._reader.floor.set(self._competitor.distance_ns, now_ns=reading.sample.now_ns)
            self._rate = max(self._rate, reading.carried_bps)
            self._competitor = None
            self._growth.on_known(self._rate)
            self._change(State.TRACK, reading.sample.now_ns)

    # their parts ------------------------------------------------------------------------------

    def _is_settled(self, reading: Reading) -> bool:
        """The newest reported datagram was sent after the last change of our rate."""
        return reading.sample.sent_ns > self._changed_ns

    def _is_deep(self, reading: Reading) -> bool:
        return reading.sample.now_ns - self._deep_ns < DEEP_MEMORY_NS

    def _is_long(self, reading: Reading) -> bool:
        """Tell whether the queue is long for certain: it stood throughout, or builds up for two reports."""
        if reading.queue_ns <= LONG_NS or not (reading.standing_ns > STANDING_NS or reading.is_building):
            self._long = 0
            return False
        self._long += 1
        return reading.standing_ns > STANDING_NS or self._long > 1

    def _correct(self, reading: Reading) -> None:
        gap_bps = reading.carried_bps - self._rate
        if gap_bps < 0 and not reading.is_full and not self._is_believed_too_fast(reading):
            return  # the queue is not ours: the application sends less than the path could take
        self._rate += (DOWN_GAIN if gap_bps < 0 else UP_GAIN) * gap_bps
        self._growth.on_known(reading.carried_bps)

    def _is_believed_too_fast(self, reading: Reading) -> bool:
        """Tell whether a path seems idle only because its estimate is too high, by at most a step of growth.

        Then a queue stands all the time, though by our own count there is none.
        """
        near = reading.window.sent_bps > self._rate / AHEAD_MOST
        return near and self._long >= LONG_REPORTS and reading.standing_ns > DEEP_NS

    def _follow(self, reading: Reading) -> None:
        now_ns, rate, carried_bps = reading.sample.now_ns, self._rate, reading.carried_bps
        believable = (
            carried_bps > rate
            or not reading.is_jittery
            or reading.window.delivered_bps < JITTERY_LOSS * reading.window.sent_bps
        ) and not carried_bps < rate < reading.whole_bps
        if reading.standing_ns > STANDING_NS and (reading.is_full or carried_bps > rate) and believable:
            self._rate += TOUCH_GAIN * (carried_bps - rate)
            self._growth.on_known(max(carried_bps, self._rate))
        if reading.is_full and self._is_settled(reading) and not self._loss.is_excess:
            if reading.queue_least_ns < TARGET_NS / 2:
                self._rate = self._growth.step(self._rate, reading)
                self._changed_ns = now_ns
            elif self._growth.is_stalemate(reading):
                self._rate = self._growth.start_trial(self._rate, reading, self._reader)
                self._changed_ns = now_ns
        self._growth.judge_trial(reading, self._reader)

    def _test_loss(self, reading: Reading) -> None:
        window = self._reader.history.window(TEST_WINDOW_NS) or reading.window
        self._tested_bps = window.delivered_bps
        self._untested_bps = min(self._rate, window.sent_bps)
        self._rate = TEST_RATE * window.delivered_bps
        self._loss.start_test(reading.sample.now_ns)
        self._change(State.TEST, reading.sample.now_ns)

    def _conclude(self, verdict: Verdict, reading: Reading) -> None:
        now_ns = reading.sample.now_ns
        self._growth.on_known(self._tested_bps)
        if verdict.cause is Cause.OURS and not self._is_deep(reading):
            self._rate = shallow.RATE * self._tested_bps / (1 - min(verdict.loss, 0.5))
            self._shallow = ShallowSteps(now_ns=now_ns)
            self._change(State.SHALLOW, now_ns)
            return
        self._rate = self._untested_bps
        if verdict.cause is not Cause.UNKNOWN:
            self._shallow = None
        self._change(State.SHALLOW if self._shallow is not None else State.TRACK, now_ns)

    def _compete_with(self, reading: Reading) -> None:
        share_bps = max(reading.window.delivered_bps, self._rival.best_bps / 2)
        self._competitor = Competitor(reading, rate_bps=share_bps, is_sure=self._rival.is_sure)
        self._change(State.COMPETE, reading.sample.now_ns)

    def _run_dry(self, reading: Reading) -> None:
        """Let the queue of a path that has been full for long run dry, so that its delay floor is seen."""
        now_ns = reading.sample.now_ns
        if self._dry_until_ns is None:
            wanted = self._reader.floor.is_stale and self.state in (State.TRACK, State.SHALLOW)
            if wanted and now_ns >= self._dry_again_ns:
                drain_ns = (reading.queue_ns + TARGET_NS) / (1 - DRY_RATE)
                self._dry_until_ns = now_ns + reading.feedback_ns + int(min(drain_ns, DRY_MAX_NS))
        elif now_ns >= self._dry_until_ns or not self._reader.floor.is_stale:
            self._dry_until_ns, self._dry_again_ns = None, now_ns + DRY_AGAIN_NS

    def _change(self, state: State, now_ns: int) -> None:
        self.state = state
        self._changed_ns = now_ns
        self._rival.reset(now_ns=now_ns)
        self._long = 0

    def _begin(self) -> None:
        self._loss = LossRule()
        self._growth = Growth()
        self._rival = RivalWatch(best_bps=self._rate / DOUBT)
        self._competitor = None
        self._shallow = None
        self._changed_ns = 0
        self._long = 0
        self._deep_ns = -DEEP_MEMORY_NS
        self._most_sent_bps = 0.0
        self._tested_bps = self._untested_bps = self._rate
        self._dry_until_ns = None

    def _bounded(self, rate_bps: float) -> float:
        return min(max(rate_bps, LEAST_BPS), self._cap_bps or MOST_BPS)


_STEPS = {
    State.STARTUP: Estimator._startup,
    State.TRACK: Estimator._track,
    State.TEST: Estimator._test,
    State.SHALLOW: Estimator._shallow_steps,
    State.COMPETE: Estimator._compete,
}
