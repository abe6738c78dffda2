"""Somebody else fills the path's queue: how that is noticed, and how to get a fair share beside them.

Pure; owned by ``sdwan.core.capacity``. ``RivalWatch`` takes readings and tells when a rival is there;
``Competitor`` is then the estimate, for as long as the rival stays.

Noticing: a datagram was sent when we predicted a short queue, and met a long one. That happens once or
twice when a link slows down, and again and again when the queue is not ours. The comparison is with the
prediction *at sending*; "the queue should be gone by now" would fire at every step down.

Competing: whoever keeps the queue short beside a TCP that fills it starves. So we do as it does: a window
that grows by CUBIC's curve (RFC 9438) and shrinks by its factor on loss. Every few seconds a question:
almost nothing is sent until our own part of the queue must be gone. If the whole queue went, we were
alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sdwan.core.reading import Reading
from sdwan.core.sample import Sample

SECOND_NS = 10**9

# Specification constants (RFC 9438 §4) -----------------------------------------------------------

CUBIC_C = 0.4
CUBIC_BETA = 0.7
RENO_GAIN = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
DATAGRAM_BITS = 1500 * 8
LONG_NS = 12 * MILLISECOND_NS
"""Three times the target queue."""
STRIKES, STRIKE_NS = 4, 5 * MILLISECOND_NS
"""Four rounds in which the queue was 12 ms longer than predicted, or nine in which it was 5 ms."""
STANDING_NS, STANDING_MAX_NS = 8 * MILLISECOND_NS, 1500 * MILLISECOND_NS
"""A queue of twice the target is gone by then, were it ours: beside a small rival our rate would fall
without end."""
ALARMS, ALARMS_NS = 3, 1300 * MILLISECOND_NS
"""On a cellular trace, false alarms come seconds apart; beside a TCP that begins, each half second."""
BEST_DECAY = 0.9995
"""Per sample: half is forgotten in 35 s of reports."""
AHEAD_MOST = 1.5
"""The estimate stays within this of what arrives."""
STARTING_AHEAD = 2.0
"""... while it doubles."""
LOSS_MARGIN, LOSS_LEAST, LOSS_DATAGRAMS = 0.005, 2, 20
ROUND_LEAST_NS = 20 * MILLISECOND_NS
CLEAR_NS = 500 * MILLISECOND_NS
"""Without a long queue for so long, the rival is gone."""
ALONE = 2
"""Questions in a row whose answer is "the queue was ours"; a rival that just cut its window sounds so
once."""
ASK_FIRST_NS, ASK_MAX_NS = SECOND_NS, 4 * SECOND_NS
ASK_RATE = 0.3
ASK_PATIENCE = 1.5
"""The link may be slower by then than it was when the question began."""
ASK_MOST_NS = 3 * SECOND_NS
SAME_LEFT, SAME_NS = 3, 2 * MILLISECOND_NS
"""Questions in a row that leave the same: over 6 s, a CUBIC's queue moves by more (plateaus of 3 s were
seen)."""


class RivalWatch:
    """Counts datagrams that met a queue which is not ours."""

    def __init__(self, *, best_bps: float) -> None:
        """Begin with the rate the path is thought to carry: a rival may have been there first."""
        self._strikes = 0.0
        self._after_ns = 0
        self._standing_since_ns = 0
        self._alarms: deque[int] = deque(maxlen=ALARMS)
        self.best_bps = best_bps
        """The best estimate of late at which nobody else was noticed."""

    def on_reading(self, reading: Reading, *, capacity_bps: float) -> bool:
        """Take a reading; tell whether there may be a rival."""
        now_ns = reading.sample.now_ns
        queue_ns = min(reading.queue_ns, reading.queue_least_ns)
        self.best_bps *= BEST_DECAY
        if queue_ns < STANDING_NS or not reading.is_full:
            self._standing_since_ns = now_ns
        self._count(reading, queue_ns, capacity_bps)
        if self._strikes < STRIKES and now_ns - self._standing_since_ns < STANDING_MAX_NS:
            return False
        self._alarms.append(now_ns)
        return True

    def _count(self, reading: Reading, queue_ns: float, capacity_bps: float) -> None:
        unexplained_ns = queue_ns - reading.sample.backlog_ns
        is_ours = not reading.is_full and not reading.is_crowded
        if unexplained_ns < STRIKE_NS / 2 or is_ours:
            self._strikes = 0
            if queue_ns < STANDING_NS:
                self.best_bps = max(self.best_bps, capacity_bps)
            return
        grain_ns = DATAGRAM_BITS * SECOND_NS / max(self.best_bps, capacity_bps)
        if reading.sample.sent_ns > self._after_ns and unexplained_ns > STRIKE_NS + 2 * grain_ns:
            self._strikes += min(unexplained_ns / LONG_NS, 1.0)
            self._after_ns = reading.sample.now_ns

    @property
    def is_sure(self) -> bool:
        """Alarms came in such a row that they cannot all be errors: the rival is still small."""
        alarms = self._alarms
        return len(alarms) == ALARMS and alarms[-1] - alarms[0] < ALARMS_NS

    def reset(self, *, now_ns: int) -> None:
        """Begin to count anew."""
        self._strikes = 0
        self._standing_since_ns = now_ns


@dataclass(slots=True)
class _Question:
    """Whose queue is this? Asked by sending almost nothing."""

    end_ns: int
    rate_bps: float


class Questions:
    """Asks now and then whether the queue is a rival's, ours, or no queue at all.

    What is left of the queue when ours must be gone is a rival's, and moves; or it is distance, and does
    not: the way got longer.
    """

    def __init__(self, now_ns: int, *, is_sure: bool) -> None:
        self._rest_ns = ASK_FIRST_NS
        self._next_ns = now_ns
        self._asked = ALONE if is_sure else 0
        self._question: _Question | None = None
        self._left: deque[int] = deque(maxlen=SAME_LEFT)
        self._alone = 0

    @property
    def is_alone(self) -> bool:
        """The queue went with ours: the first time, or each of the last times."""
        return self._alone >= min(self._asked, ALONE) > 0

    @property
    def rate_bps(self) -> float | None:
        """What may be sent while a question is open."""
        return self._question.rate_bps if self._question is not None else None

    @property
    def distance_ns(self) -> int | None:
        """The delay that several questions in a row left, clock offset included; None if they differ."""
        left = self._left
        is_same = len(left) == SAME_LEFT and max(left) - min(left) < SAME_NS
        return min(left) if is_same else None

    def on_reading(self, reading: Reading, *, share_bps: float) -> None:
        """Open or close a question; ``share_bps`` is what would be sent otherwise."""
        now_ns = reading.sample.now_ns
        if self._question is None and now_ns >= self._next_ns:
            drain_ns = ASK_PATIENCE * reading.queue_ns / (1 - ASK_RATE) + reading.feedback_ns + ROUND_LEAST_NS
            rate_bps = ASK_RATE * (min(share_bps, reading.carried_bps) if reading.is_full else share_bps)
            self._question = _Question(now_ns + int(min(drain_ns, ASK_MOST_NS)), rate_bps)
        elif self._question is not None and (now_ns >= self._question.end_ns or reading.queue_ns < LONG_NS):
            self._question = None
            self._asked += 1
            self._left.append(reading.sample.delay_min_ns)
            self._alone = self._alone + 1 if reading.queue_ns < LONG_NS else 0
            self._rest_ns = ASK_FIRST_NS if self._alone else min(2 * self._rest_ns, ASK_MAX_NS)
            self._next_ns = now_ns + self._rest_ns


class Competitor:
    """One TCP flow's share of a path, as CUBIC would take it."""

    def __init__(self, reading: Reading, *, rate_bps: float, is_sure: bool) -> None:
        """Begin at ``rate_bps``. Unless the rival ``is_sure``, the first answer decides whether there is
        one."""
        now_ns = reading.sample.now_ns
        self._window = rate_bps * self._round_ns(reading) / SECOND_NS / DATAGRAM_BITS
        self._most = self._reno = self._window
        self._epoch_ns = self._cut_ns = self._grown_ns = now_ns
        self._inflection_s = 0.0
        self._mark = reading.sample
        self._long_ns = now_ns
        self._questions = Questions(now_ns, is_sure=is_sure)
        self._is_starting = True
        """Nothing was lost yet: the window doubles each round, as any TCP's does in the beginning."""
        self.is_over = False
        """The rival is gone, or never was."""

    @property
    def distance_ns(self) -> int | None:
        """The delay that turned out to be the way's own; None while it may be a queue."""
        return self._questions.distance_ns

    def next_bps(self, reading: Reading, *, weather: float) -> float:
        """Return the estimate."""
        round_ns = self._round_ns(reading)
        is_asking = self._questions.rate_bps is not None
        if reading.queue_ns >= LONG_NS:
            self._long_ns = reading.sample.now_ns
        is_clear = reading.sample.now_ns - self._long_ns > CLEAR_NS
        self.is_over = is_clear or self._questions.is_alone or self.distance_ns is not None
        self._on_loss(reading.sample, round_ns, weather)
        share_bps = self._window * DATAGRAM_BITS * SECOND_NS / round_ns
        self._questions.on_reading(reading, share_bps=share_bps)
        rounds = (reading.sample.now_ns - self._grown_ns) / round_ns
        self._grown_ns = reading.sample.now_ns
        if self._questions.rate_bps is not None:
            return self._questions.rate_bps
        if not reading.is_full:
            return share_bps
        self._grow(reading.sample.now_ns, round_ns, rounds)
        ahead = STARTING_AHEAD if self._is_starting else AHEAD_MOST
        return min(share_bps, ahead * reading.carried_bps) if not is_asking else share_bps

    def _round_ns(self, reading: Reading) -> float:
        return max(reading.feedback_ns + reading.queue_ns, ROUND_LEAST_NS)

    def _on_loss(self, sample: Sample, round_ns: float, weather: float) -> None:
        datagrams, lost = sample.sent - self._mark.sent, sample.lost - self._mark.lost
        if datagrams < LOSS_DATAGRAMS:
            return
        self._mark = sample
        if lost < LOSS_LEAST or lost / datagrams <= weather + LOSS_MARGIN:
            return
        if sample.now_ns - self._cut_ns <= round_ns:
            return
        self._is_starting = False
        self._most = self._window
        self._window *= CUBIC_BETA
        self._reno = self._window
        self._inflection_s = ((self._most - self._window) / CUBIC_C) ** (1 / 3)
        self._epoch_ns = self._cut_ns = sample.now_ns

    def _grow(self, now_ns: int, round_ns: float, rounds: float) -> None:
        if self._is_starting:
            self._window = self._most = self._reno = self._window * 2**rounds
            self._epoch_ns = now_ns
            return
        self._reno += RENO_GAIN * rounds
        since_s = (now_ns - self._epoch_ns + round_ns) / SECOND_NS
        cubic = CUBIC_C * (since_s - self._inflection_s) ** 3 + self._most
        self._window = max(self._window, min(max(cubic, self._reno), 1.5 * self._window))
