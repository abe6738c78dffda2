"""Playout delay: a class that asks for it is delivered evenly, so long after it was sent.

Pure; one instance per peer that has such a class, used by sdwan.edge.delivery behind the reorder window. A
packet is due at its send stamp + the least delay of late + the class's ``playout_ns``. The stamps are the
sending kernel's and not authenticated: a wrong one can bring a packet forward to now or back by the playout
delay, never beyond. What was sent again carries the stamp of the resend; it is due no later than the packet
behind it. What waits counts among the held bytes of all peers; too much, and the oldest goes at once.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from sdwan.core.classes import ClassSpec
from sdwan.core.reorder import HeldBytes, Item
from sdwan.core.wire import META_CLASS_MASK
from sdwan.model import CLASSES

# Implementation constants -------------------------------------------------------------------------

BASE_NS = 10_000_000_000
"""The least delay is that of so long: paths change, and two clocks part by 0.5 ms in it (50 ppm)."""
_SLICE_NS = 1_000_000_000
_RECENT = 64
"""Due times remembered, for what comes after its successor."""
_U32 = (1 << 32) - 1
_HALF = 1 << 31


class Playout:
    """When packets of one peer are due, and those that wait for it."""

    def __init__(self, classes: Sequence[ClassSpec], held_bytes: HeldBytes) -> None:
        self.held_now = 0
        self._held_bytes = held_bytes
        self._heap: list[tuple[int, int, Item]] = []
        self._number = 0
        self._reference_us: int | None = None
        self._slices: deque[tuple[int, int]] = deque()
        """Begin of a slice of time, and the least delay in it relative to the first ever, µs."""
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)
        self._last_due_ns: dict[int, int] = {}
        self._delay_us: int | None = None
        self._now_ns = 0
        self.set_classes(classes)

    def set_classes(self, classes: Sequence[ClassSpec]) -> None:
        """Set what each class asks for; numbers without a class are treated like class 0."""
        padded = [classes[n] if n < len(classes) else classes[0] for n in range(CLASSES)]
        self._playout_ns = [spec.playout_ns for spec in padded]

    @staticmethod
    def is_wanted(classes: Sequence[ClassSpec]) -> bool:
        """Tell whether any class asks for a playout delay."""
        return any(spec.playout_ns for spec in classes)

    def note(self, send_time_us: int | None, now_ns: int) -> None:
        """Note the send stamp of the datagram that is being taken; None: it has none."""
        self._now_ns = now_ns
        self._delay_us = None if send_time_us is None else (now_ns // 1000 - send_time_us) & _U32

    def due_ns(self, flags: int, counter: int) -> int:
        """Return when a packet of the datagram just noted is due; 0 = its class does not wait."""
        playout_ns = self._playout_ns[flags & META_CLASS_MASK]
        if not playout_ns:
            return 0
        late_us = self._late_us(self._delay_us) if self._delay_us is not None else 0
        due_ns = max(self._now_ns + playout_ns - late_us * 1000, self._now_ns)
        behind = [known for known in self._recent if known[0] > counter]
        if behind:
            return min(due_ns, min(behind)[1])
        self._recent.append((counter, due_ns))
        return due_ns

    def _late_us(self, delay_us: int) -> int:
        """Return how much longer than the least this delay is; it may be a new least."""
        if self._reference_us is None:
            self._reference_us = delay_us
        delay_us = (delay_us - self._reference_us) & _U32
        if delay_us >= _HALF:
            delay_us -= 1 << 32
        slices = self._slices
        if not slices or self._now_ns - slices[-1][0] >= _SLICE_NS:
            slices.append((self._now_ns, delay_us))
            while self._now_ns - slices[0][0] > BASE_NS:
                slices.popleft()
        elif delay_us < slices[-1][1]:
            slices[-1] = (slices[-1][0], delay_us)
        return delay_us - min(least_us for _, least_us in slices)

    def hold(self, item: Item, due_ns: int) -> None:
        """Let a packet wait for its time; those of one flow bucket keep the order of these calls."""
        due_ns = max(due_ns, self._last_due_ns.get(item.bucket, 0))
        self._last_due_ns[item.bucket] = due_ns
        self._number += 1
        heapq.heappush(self._heap, (due_ns, self._number, item))
        self.held_now += 1
        self._held_bytes.total += item.size_bytes

    def take_due(self, now_ns: int) -> list[Item]:
        """Return what is due, in that order; and more, if too much waits."""
        out: list[Item] = []
        while self._heap and (self._heap[0][0] <= now_ns or self._held_bytes.total > self._held_bytes.limit):
            _, _, item = heapq.heappop(self._heap)
            self.held_now -= 1
            self._held_bytes.total -= item.size_bytes
            out.append(item)
        return out

    def drop_all(self) -> None:
        """Forget everything that waits."""
        self._held_bytes.total -= sum(item.size_bytes for _, _, item in self._heap)
        self._heap.clear()
        self.held_now = 0
