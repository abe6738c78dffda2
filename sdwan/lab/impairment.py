"""What a link does to frames: one direction of an emulated link, as a pure model in virtual time.

A frame passes these stations, in this order::

    offer ─▶ blackhole, MTU hole ─▶ drop-tail buffer and rate ─▶ loss ─▶ delay, jitter, order, copies ─▶ due

Lost frames have used the rate, as they do on a radio link. Order is kept, whatever the jitter, except for
frames picked by ``reorder_ppm``. Time comes in as ``now_ns`` and chance as a callable, so a test replays
years in a blink and a seed repeats a run. Nothing happens between calls: what a queue did meanwhile is
worked out when somebody asks (``_serve``).

The only callers are the emulator (sdwan/lab/emulator.py), which gives it real frames and a real clock, and
the tests. Rates count whole Ethernet frames without FCS, as the kernel's TBF does.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, Generic, TypeVar

from sdwan.errors import LabError

Frame = TypeVar("Frame")

# Implementation constants --------------------------------------------------------------------------

SECOND_NS = 1_000_000_000
MILLION = 1_000_000
BUFFER_NS_DEFAULT = 50_000_000
"""Drop-tail buffer when neither time nor bytes are given: what a reasonable modem has."""
ETHERNET_BYTES = 14
FLYING_FRAMES_MAX = 32_768
"""Frames on the way at most (50 MB), so that a long delay on an unlimited link cannot eat the memory."""
LATENESS_BITS = 17
"""How late frames were asked for is counted in steps of 2^17 ns = 131 µs ..."""
LATENESS_STEPS = 64
"""... up to 8 ms; the last step holds all that were later."""


@dataclass(frozen=True, slots=True)
class Impairment:
    """Everything one direction does to frames; the default does nothing at all."""

    rate_bps: int = 0
    """0 = unlimited."""
    trace: tuple[tuple[int, int], ...] = ()
    """(duration_ns, rate_bps) pieces, repeated for ever; replaces ``rate_bps``. A rate of 0 is an outage."""
    buffer_ns: int = BUFFER_NS_DEFAULT
    """Drop-tail buffer, as the time it takes to drain at the present rate."""
    buffer_bytes: int = 0
    """... or in bytes; 0 = ``buffer_ns`` counts."""
    delay_ns: int = 0
    jitter_ns: int = 0
    """Up to this much more delay, evenly spread; order is kept."""
    loss_ppm: int = 0
    """Random loss, each frame alone."""
    burst_enter_ppm: int = 0
    """Gilbert-Elliott: chance per frame to go from the good state to the bad one; 0 = no bursts."""
    burst_leave_ppm: int = 200_000
    """... and back: the mean burst is 1e6 / this many frames."""
    burst_loss_ppm: int = MILLION
    """Loss in the bad state."""
    duplicate_ppm: int = 0
    reorder_ppm: int = 0
    """Share of frames held back by ``reorder_ns``, so that later ones overtake them."""
    reorder_ns: int = 5_000_000
    blackhole: bool = False
    """Swallow everything, also what is on its way; carrier stays."""
    mtu_bytes: int = 0
    """MTU hole: swallow IP packets larger than this, without a word; 0 = none."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_ppm") and not 0 <= value <= MILLION:
                raise LabError(f"{field.name} is {value}; a share is 0 to {MILLION} ppm")
            if field.name.endswith(("_ns", "_bps", "_bytes")) and value < 0:
                raise LabError(f"{field.name} is {value}; it cannot be negative")
        if self.burst_enter_ppm and not self.burst_leave_ppm:
            raise LabError("burst_leave_ppm is 0: the first burst would never end; give it a chance")
        if self.trace and not any(rate_bps > 0 and duration_ns > 0 for duration_ns, rate_bps in self.trace):
            raise LabError("the trace never carries anything; at least one piece needs a rate")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Impairment:
        """Build from plain data (JSON has no tuples); unknown names are refused."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise LabError(f"no such impairment: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        trace = tuple((int(duration), int(rate)) for duration, rate in values.get("trace", ()))
        return cls(**{**values, "trace": trace})


@dataclass(slots=True)
class PipeCounters:
    """Frames by fate; ``offered`` is their sum plus what is on the way (duplicates count as offered)."""

    offered: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    lost: int = 0
    buffer_full: int = 0
    swallowed: int = 0
    """By the blackhole or the MTU hole."""
    duplicated: int = 0
    reordered: int = 0


class RateSchedule:
    """How many bits a link carries between two moments: a constant rate, or a trace that repeats."""

    def __init__(self, impairment: Impairment, start_ns: int) -> None:
        pieces = impairment.trace or ((SECOND_NS, impairment.rate_bps),)
        self.unlimited = not impairment.trace and impairment.rate_bps == 0
        self._constant_bps = 0 if impairment.trace else impairment.rate_bps
        self._start_ns = start_ns
        self._rates_bps = [rate_bps for _, rate_bps in pieces]
        self._ends_ns = list(accumulate(duration_ns for duration_ns, _ in pieces))
        self._bits = list(accumulate(duration_ns * rate_bps / SECOND_NS for duration_ns, rate_bps in pieces))

    def rate_bps(self, now_ns: int) -> int:
        """Return the rate at one moment (0 = unlimited, or an outage of the trace)."""
        return self._rates_bps[bisect_right(self._ends_ns, (now_ns - self._start_ns) % self._ends_ns[-1])]

    def served_bits(self, now_ns: int) -> float:
        """Return the bits a busy link would have carried since the start."""
        if self._constant_bps:
            return (now_ns - self._start_ns) * self._constant_bps / SECOND_NS
        rounds, offset_ns = divmod(now_ns - self._start_ns, self._ends_ns[-1])
        piece = bisect_right(self._ends_ns, offset_ns)
        before_bits = self._bits[piece - 1] if piece else 0.0
        begin_ns = self._ends_ns[piece - 1] if piece else 0
        inside_bits = (offset_ns - begin_ns) * self._rates_bps[piece] / SECOND_NS
        return rounds * self._bits[-1] + before_bits + inside_bits

    def finish_ns(self, begin_ns: int, bits: float) -> int:
        """Return when ``bits`` begun at ``begin_ns`` are through."""
        if self._constant_bps:
            return begin_ns + round(bits * SECOND_NS / self._constant_bps)
        rounds, target_bits = divmod(self.served_bits(begin_ns) + bits, self._bits[-1])
        if not target_bits:  # through with the last bit of a round, not with the first of the next
            rounds, target_bits = rounds - 1, self._bits[-1]
        piece = bisect_left(self._bits, target_bits)
        missing_bits = self._bits[piece] - target_bits
        end_ns = self._ends_ns[piece] - missing_bits * SECOND_NS / self._rates_bps[piece]
        return max(begin_ns, self._start_ns + int(rounds) * self._ends_ns[-1] + round(end_ns))


class Pipe(Generic[Frame]):
    """One direction of a link: frames go in by ``offer`` and come out of ``due`` when their time is up."""

    def __init__(self, impairment: Impairment, chance: Callable[[], float], *, now_ns: int) -> None:
        """``chance`` gives an even random number in [0, 1)."""
        self.counters = PipeCounters()
        self._chance = chance
        self._in_burst = False
        self.lateness = [0] * LATENESS_STEPS
        """Frames by how much later than due they were asked for: is whoever calls ``due`` punctual?"""
        self._queue: deque[tuple[int, Frame, int]] = deque()  # (size, frame, since), head in service
        self._queued_bytes = 0
        self._head_finish_ns = 0
        self._flying: deque[tuple[int, int, Frame]] = deque()  # (arrival_ns, size, frame), in order
        self._held: list[tuple[int, int, int, Frame]] = []  # heap of frames held back
        self._serial = 0
        self._adopt(impairment, now_ns)

    @property
    def impairment(self) -> Impairment:
        """What the pipe does at present."""
        return self._impairment

    @property
    def in_transit(self) -> int:
        """Frames queued or on their way."""
        return len(self._queue) + len(self._flying) + len(self._held)

    @property
    def queued_bytes(self) -> int:
        """Bytes waiting for the rate, as of the last call of another method."""
        return self._queued_bytes

    def waiting_ns(self, now_ns: int) -> int:
        """Return how long the oldest waiting frame has waited: the delay of the buffer."""
        return now_ns - self._queue[0][2] if self._queue else 0

    def change(self, impairment: Impairment, *, now_ns: int) -> None:
        """Do something else from now on; the frame in service keeps its remaining bits, at the new rate."""
        self._serve(now_ns)
        remaining_bits = 0.0
        if self._queue and not self._schedule.unlimited:
            served = self._schedule.served_bits(self._head_finish_ns) - self._schedule.served_bits(now_ns)
            remaining_bits = max(0.0, served)
        self._adopt(impairment, now_ns)
        if impairment.blackhole:
            self._swallow_all()
        elif self._queue:
            unlimited = self._schedule.unlimited
            self._head_finish_ns = now_ns if unlimited else self._schedule.finish_ns(now_ns, remaining_bits)

    def offer(self, frame: Frame, size_bytes: int, *, now_ns: int) -> None:
        """Put one frame of ``size_bytes`` (Ethernet header included) into the pipe."""
        impairment = self._impairment
        self.counters.offered += 1
        if impairment.blackhole or 0 < impairment.mtu_bytes < size_bytes - ETHERNET_BYTES:
            self.counters.swallowed += 1
            return
        if self._schedule.unlimited:
            self._take_off(frame, size_bytes, now_ns)
            return
        self._serve(now_ns)
        if not self._queue:
            self._head_finish_ns = self._schedule.finish_ns(now_ns, size_bytes * 8)
        elif self._queued_bytes + size_bytes > self._buffer_bytes(now_ns):
            self.counters.buffer_full += 1
            return
        self._queue.append((size_bytes, frame, now_ns))
        self._queued_bytes += size_bytes

    def due(self, *, now_ns: int) -> list[Frame]:
        """Take out every frame whose time has come, in order of arrival."""
        self._serve(now_ns)
        arrived: list[Frame] = []
        while True:
            held_first = self._held and (not self._flying or self._held[0][0] < self._flying[0][0])
            if held_first and self._held[0][0] <= now_ns:
                arrival_ns, _, size_bytes, frame = heapq.heappop(self._held)
            elif not held_first and self._flying and self._flying[0][0] <= now_ns:
                arrival_ns, size_bytes, frame = self._flying.popleft()
            else:
                return arrived
            self.lateness[min((now_ns - arrival_ns) >> LATENESS_BITS, LATENESS_STEPS - 1)] += 1
            self.counters.delivered += 1
            self.counters.delivered_bytes += size_bytes
            arrived.append(frame)

    def next_due_ns(self) -> int | None:
        """Return a moment before which nothing can come out, or None while the pipe is empty."""
        moments = []
        if self._flying:
            moments.append(self._flying[0][0])
        elif self._queue:
            moments.append(self._head_finish_ns + self._impairment.delay_ns)
        if self._held:
            moments.append(self._held[0][0])
        return min(moments) if moments else None

    def _adopt(self, impairment: Impairment, now_ns: int) -> None:
        self._impairment = impairment
        self._schedule = RateSchedule(impairment, now_ns)

    def _buffer_bytes(self, now_ns: int) -> int:
        if self._impairment.buffer_bytes:
            return self._impairment.buffer_bytes
        rate_bps = self._schedule.rate_bps(now_ns) or max(r for _, r in self._impairment.trace)
        return self._impairment.buffer_ns * rate_bps // (8 * SECOND_NS)

    def _serve(self, now_ns: int) -> None:
        """Send on what the rate has let through by now."""
        while self._queue and self._head_finish_ns <= now_ns:
            size_bytes, frame, _ = self._queue.popleft()
            self._queued_bytes -= size_bytes
            finish_ns = self._head_finish_ns
            self._take_off(frame, size_bytes, finish_ns)
            if self._queue:
                unlimited = self._schedule.unlimited
                bits = self._queue[0][0] * 8
                self._head_finish_ns = finish_ns if unlimited else self._schedule.finish_ns(finish_ns, bits)

    def _take_off(self, frame: Frame, size_bytes: int, now_ns: int) -> None:
        """Let a frame that has left the queue meet its luck."""
        impairment = self._impairment
        if self._is_lost():
            self.counters.lost += 1
            return
        if len(self._flying) >= FLYING_FRAMES_MAX:
            self.counters.buffer_full += 1
            return
        arrival_ns = now_ns + impairment.delay_ns
        if impairment.jitter_ns:
            arrival_ns += int(self._chance() * impairment.jitter_ns)
        if impairment.reorder_ppm and self._chance() * MILLION < impairment.reorder_ppm:
            self.counters.reordered += 1
            self._serial += 1
            entry = (arrival_ns + impairment.reorder_ns, self._serial, size_bytes, frame)
            heapq.heappush(self._held, entry)
            return
        if self._flying and arrival_ns < self._flying[-1][0]:
            arrival_ns = self._flying[-1][0]
        self._flying.append((arrival_ns, size_bytes, frame))
        if impairment.duplicate_ppm and self._chance() * MILLION < impairment.duplicate_ppm:
            self.counters.offered += 1
            self.counters.duplicated += 1
            self._flying.append((arrival_ns, size_bytes, frame))

    def _is_lost(self) -> bool:
        impairment = self._impairment
        if impairment.burst_enter_ppm:
            turn = impairment.burst_leave_ppm if self._in_burst else impairment.burst_enter_ppm
            self._in_burst ^= self._chance() * MILLION < turn
            if self._in_burst and self._chance() * MILLION < impairment.burst_loss_ppm:
                return True
        return bool(impairment.loss_ppm) and self._chance() * MILLION < impairment.loss_ppm

    def _swallow_all(self) -> None:
        self.counters.swallowed += self.in_transit
        self._queue.clear()
        self._flying.clear()
        self._held.clear()
        self._queued_bytes = 0
