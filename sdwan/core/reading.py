"""What a sample tells, once the path's own delay and jitter are taken off: the signals of capacity
discovery.

Pure; one ``Reader`` per path, owned by ``sdwan.core.capacity``. In come samples, out come ``Reading``s:
queue met, queue that stood through a whole window, rates, whether the path was full. ``docs/control.md``
defines each signal.

Processors are late by milliseconds, at either end, at any rate. Three things keep that from being read as
a queue: a standing queue is the *least* delay of every datagram of a window, and late processors still
let some datagrams through in time; the newest datagram's delay counts only together with the least one of
its report; and windows in which the path was idle for a tenth of the time say nothing of its capacity."""

from __future__ import annotations

from dataclasses import dataclass

from sdwan.core.delayfloor import DelayFloor
from sdwan.core.jitter import JitterFloor
from sdwan.core.lossrule import LossRule
from sdwan.core.sample import Sample
from sdwan.core.window import History, Window

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
SECOND_NS = 10**9
WINDOW_NS = 50 * MILLISECOND_NS
"""Two reports at the default interval: rates within it are good to a few percent."""
WINDOW_PER_JITTER = 8
"""Arrival times are off by the jitter; over eight of them, the rate is off by an eighth of it."""
WINDOW_DATAGRAMS = 12
DATAGRAM_BITS = 1500 * 8
GRAIN_NS = MILLISECOND_NS
"""A full datagram takes longer than the small probe that set the delay floor: below 12 Mbit/s that is no
queue."""
FULL_IDLE = 0.1
"""A path that was idle for a smaller share of a window was given all it is thought to carry."""
CROWDED_NS, CROWDED_IDLE = 20 * MILLISECOND_NS, 0.6
FALLING = 0.9
"""Delivered below this share of sent: a queue is building up."""
WEATHER_SIGMAS = 3
WEATHER_MOST = 0.5
"""Loss that is made up for when a rate is read from what arrived."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A path as of its newest reported datagram."""

    sample: Sample
    window: Window
    queue_ns: float
    """Met by that datagram."""
    queue_least_ns: float
    """Least one met since the report before."""
    standing_ns: float
    """Least one met by any datagram of the window."""
    carried_bps: float
    """Delivered, plus what the weather took: the capacity, if the path was never idle."""
    whole_bps: float
    """Delivered, plus all that was lost: the capacity, if none of the loss was ours."""
    grain_ns: float
    """What one full datagram takes: no prediction can be better."""
    feedback_ns: int
    """From sending to reporting, without the queue."""
    is_full: bool
    is_jittery: bool

    @property
    def is_crowded(self) -> bool:
        """We send somewhat less than the path is thought to carry, and a long queue stands all the same."""
        return self.standing_ns > CROWDED_NS and self.window.idle < CROWDED_IDLE

    @property
    def is_building(self) -> bool:
        """Clearly less arrived than was sent."""
        return self.window.delivered_bps < FALLING * self.window.sent_bps


class Reader:
    """Turns samples of one path into readings."""

    def __init__(self) -> None:
        self.history = History()
        self.floor = DelayFloor()
        self.jitter = JitterFloor()
        self._is_full = False

    def read(
        self, sample: Sample, *, capacity_bps: float, loss: LossRule, is_tracking: bool, is_held: bool
    ) -> Reading | None:
        """Take a sample; None if it cannot be true or if there is nothing to compare it with.

        ``is_tracking``: jitter may be learned. ``is_held``: the delay floor may only fall: somebody else
        keeps a queue standing, and must not be taken for distance.
        """
        if not self.history.take(sample):
            return None
        if not self.history.is_continued:
            self.floor.forget()
        floor_ns = self.floor.on_delay(
            sample.delay_min_ns, now_ns=sample.now_ns, is_full=self._is_full, is_held=is_held
        )
        queue_ns, least_ns = sample.delay_ns - floor_ns, sample.delay_min_ns - floor_ns
        self.jitter.on_queue(least_ns)
        window = self.history.window(self._window_ns(capacity_bps))
        if window is None:
            return None
        self._is_full = window.idle < FULL_IDLE
        self.jitter.learn(least_ns, window, capacity_bps=capacity_bps, is_tracking=is_tracking)
        grain_ns = DATAGRAM_BITS * SECOND_NS / capacity_bps
        jitter_ns = self.jitter.ns + max(grain_ns - GRAIN_NS, 0.0)
        met_ns = queue_ns if self._is_trusted(window) else least_ns
        return Reading(
            sample=sample,
            window=window,
            queue_ns=max(met_ns - jitter_ns, 0.0),
            queue_least_ns=max(least_ns - jitter_ns, 0.0),
            standing_ns=max(window.delay_least_ns - floor_ns - jitter_ns, 0.0),
            carried_bps=window.delivered_bps / (1 - min(_weather(window, loss), WEATHER_MOST)),
            whole_bps=window.delivered_bps / (1 - min(window.loss, WEATHER_MOST)),
            grain_ns=grain_ns,
            feedback_ns=max(sample.now_ns - sample.sent_ns - queue_ns, 0),
            is_full=self._is_full,
            is_jittery=self.jitter.is_jittery,
        )

    def forget(self) -> None:
        """Know nothing: the path leads elsewhere."""
        self.history.forget()
        self.floor.forget()
        self.jitter = JitterFloor()

    def _window_ns(self, capacity_bps: float) -> float:
        datagrams_ns = WINDOW_DATAGRAMS * DATAGRAM_BITS * SECOND_NS / capacity_bps
        return max(WINDOW_NS + WINDOW_PER_JITTER * self.jitter.ns, datagrams_ns)

    def _is_trusted(self, window: Window) -> bool:
        """Tell whether the newest datagram's delay is a queue: on a jittery path only while one builds up."""
        if not self.jitter.is_jittery:
            return True
        building = window.delivered_bps < FALLING * window.sent_bps
        return building and self.jitter.ns < 1.5 * MILLISECOND_NS


def _weather(window: Window, loss: LossRule) -> float:
    """Return what the weather took of a window: all that was lost, if that is no more than it may take."""
    if loss.weather and window.loss <= loss.expected(window.datagrams, sigmas=WEATHER_SIGMAS):
        return window.loss
    return loss.weather
