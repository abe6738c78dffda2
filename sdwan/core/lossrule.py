"""Whose loss is it: the weather's, or ours for sending too fast?

Pure; owned by ``sdwan.core.capacity``. In come samples, out come *excess* (more loss than the weather
explains), the wish for a test, and the verdict of one.

The test sends clearly less than what was delivered. Loss that stays is weather, and is made up for from
then on. Loss that goes was made by a policer or a tiny buffer. Nothing but a test raises the weather: a
baseline that learns upward by itself would follow a policer's loss without end.

Loss comes in runs. A hundred losses in ten runs say no more than ten single ones, so each threshold, and the
length of the test, grows with the *dispersion* of the losses.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from sdwan.core.sample import Sample

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
SECOND_NS = 10**9
WINDOW_DATAGRAMS, WINDOW_NS = 60, 50 * MILLISECOND_NS
"""60 datagrams tell 2 % of loss from 8 % at three sigma."""
SIGMAS, LEAST_VARIANCE, MARGIN = 3, 0.002, 0.008
WINDOWS, EXCESSES = 4, 3
"""So many of the last windows must be in excess before a test is worth its cost."""
WEATHER_FALL = 0.1
DISPERSION_DATAGRAMS, DISPERSION_LOSS = 10, 0.0005
DISPERSION_GAIN, DISPERSION_MAX = 1 / 32, 16.0
RECENT_GAIN = 1 / 8
TEST_RATE = 0.85
"""Of what was *delivered*: below a share of what is sent, a policer might still drop."""
TEST_SETTLE_NS = 10 * MILLISECOND_NS
TEST_LOST = 8
"""Losses the test must have room to see, were the loss to stay."""
TEST_LOST_LEAST = 3
"""With room for fewer, none proves nothing."""
TEST_MAX_NS = SECOND_NS
TEST_REST_NS, TEST_REST_MAX_NS = SECOND_NS, 16 * SECOND_NS
"""After a verdict of weather, no test for so long, doubling."""
NEGLIGIBLE = 0.01


class Cause(Enum):
    """What makes datagrams disappear."""

    WEATHER = "weather"
    OURS = "ours"
    UNKNOWN = "unknown"
    """Too little was sent during the test."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a test found."""

    cause: Cause
    loss: float
    """Share lost below the delivered rate."""


class Dispersion:
    """How much loss comes in runs: its variance from report to report, over that of single losses."""

    def __init__(self) -> None:
        self.value = 1.0
        self._loss = 0.0
        self._mark: Sample | None = None

    def on_sample(self, sample: Sample) -> None:
        """Take a sample."""
        mark, self._mark = self._mark, sample
        datagrams = sample.sent - mark.sent if mark is not None else 0
        if mark is None or datagrams < DISPERSION_DATAGRAMS:
            return
        loss = _loss(mark, sample)
        if self._loss > DISPERSION_LOSS:
            expected = datagrams * self._loss
            square = min((loss * datagrams - expected) ** 2 / expected, DISPERSION_MAX**2)
            self.value += DISPERSION_GAIN * (square - self.value)
            self.value = min(max(self.value, 1.0), DISPERSION_MAX)
        self._loss += DISPERSION_GAIN * (loss - self._loss)


class LossRule:
    """The loss of one path."""

    def __init__(self) -> None:
        self.weather = 0.0
        """Share of loss that a test showed not to depend on our rate."""
        self.recent = 0.0
        """Share lost lately, smoothed."""
        self.is_excess = False
        """The last whole window lost more than the weather explains."""
        self._dispersion = Dispersion()
        self._mark: Sample | None = None
        self._windows: deque[tuple[float, bool]] = deque(maxlen=WINDOWS)
        self._test_start_ns: int | None = None
        self._test_loss = 0.0
        self._rest_until_ns = 0
        self._rest_ns = TEST_REST_NS

    def on_sample(self, sample: Sample) -> None:
        """Take a sample outside a test."""
        self._dispersion.on_sample(sample)
        mark = self._mark
        if mark is None or sample.sent < mark.sent:
            self._mark = sample
            return
        datagrams = sample.sent - mark.sent
        if datagrams < WINDOW_DATAGRAMS or sample.now_ns - mark.now_ns < WINDOW_NS:
            return
        loss = _loss(mark, sample)
        self._mark = sample
        self.is_excess = loss > self.expected(datagrams, sigmas=SIGMAS)
        self._windows.append((loss, self.is_excess))
        self.recent += RECENT_GAIN * (loss - self.recent)
        if loss < self.weather:
            self.weather += WEATHER_FALL / self._dispersion.value * (loss - self.weather)

    def expected(self, datagrams: int, *, sigmas: float) -> float:
        """Return the share of so many datagrams that the weather may take."""
        variance = max(self.weather * self._dispersion.value, LEAST_VARIANCE)
        return self.weather + MARGIN + sigmas * (variance / datagrams) ** 0.5

    def wants_test(self, now_ns: int) -> bool:
        """Tell whether loss has been in excess for long enough to ask whose it is."""
        return sum(excess for _, excess in self._windows) >= EXCESSES and now_ns >= self._rest_until_ns

    def start_test(self, now_ns: int) -> None:
        """Begin: from now on the path is given ``TEST_RATE`` of what it delivered."""
        self._test_start_ns = now_ns
        self._test_loss = sum(loss for loss, _ in self._windows) / max(len(self._windows), 1)

    def on_test(self, sample: Sample) -> Verdict | None:
        """Take a sample of the test; return the verdict once there is one, and forget the test."""
        start_ns = self._test_start_ns
        if start_ns is None or self._mark is None or sample.sent_ns < start_ns + TEST_SETTLE_NS:
            self._mark = sample
            return None
        datagrams = sample.sent - self._mark.sent
        expected = datagrams * self._test_loss
        enough = datagrams >= WINDOW_DATAGRAMS and expected >= TEST_LOST * self._dispersion.value
        if not enough and sample.now_ns - start_ns < TEST_MAX_NS:
            return None
        loss = _loss(self._mark, sample)
        cause = Cause.WEATHER if loss > self._test_loss / 2 else Cause.OURS
        if expected < TEST_LOST_LEAST:
            cause = Cause.UNKNOWN
        self._mark = sample
        self._end_test(cause, loss, sample.now_ns)
        return Verdict(cause, loss)

    def restart(self, sample: Sample | None = None) -> None:
        """Begin a new window, with ``sample`` if there is one."""
        self._mark = sample
        self._windows.clear()
        self.is_excess = False
        self._test_start_ns = None

    def _end_test(self, cause: Cause, loss: float, now_ns: int) -> None:
        self._test_start_ns = None
        self._windows.clear()
        self.is_excess = False
        if cause is Cause.OURS:
            self.weather = min(loss, self.weather) if loss < NEGLIGIBLE else loss
            self._rest_ns = TEST_REST_NS
            return
        if cause is Cause.WEATHER:
            self.weather = loss
        self._rest_until_ns = now_ns + self._rest_ns
        self._rest_ns = min(2 * self._rest_ns, TEST_REST_MAX_NS)


def _loss(first: Sample, last: Sample) -> float:
    datagrams = last.sent - first.sent
    return min(max(last.lost - first.lost, 0), datagrams) / datagrams if datagrams > 0 else 0.0
