"""The sender's memory: sealed datagrams kept for a while, to be sent again when they are missed.

Pure; one ``Kept`` per peer, all bounded by one ``KeptBytes``. A burst is kept as one copy of its bytes, and
found again by counter. What is sent again are the same sealed bytes: nothing is ever sealed twice. Asking is
the peer's right, but a lying peer must not turn small questions into much traffic, so

  each datagram  is sent again at most ``RESENDS_MAX`` times, with a pause between, and only while its
                 class's deadline lasts;
  all together   no more bytes are sent again than were sent in the last ``ALLOWANCE_NS``.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from sdwan.core.classes import READY, ClassSpec, Recovery
from sdwan.core.wire import CLASS_MASK, COUNTER_MODULUS, widen
from sdwan.model import CLASSES

# Specification constants (docs/wire.md) -----------------------------------------------------------

_CLASS_AT, _COUNTER_AT = 2, 12
_COUNTER = struct.Struct("!I")
_U32 = COUNTER_MODULUS - 1

# Implementation constants -------------------------------------------------------------------------

KEPT_BYTES_MAX = 32 << 20
"""Of all peers together: 0.27 s of a gigabit, 5 s of 50 Mbit/s."""
RESEND_NS_MIN = 2_000_000_000
"""Classes that live from resends alone are kept so long at least: a packet late is better than none."""
RESENDS_MAX = 3
ALLOWANCE_NS = 2_000_000_000
_SLICE_NS = 250_000_000
_COMPACT = 1024
"""Forgotten entries at the head of the index before it is cut."""


class KeptBytes:
    """What all peers' kept datagrams weigh together, against one bound; who keeps most gives way."""

    __slots__ = ("limit", "members", "total")

    def __init__(self, limit: int = KEPT_BYTES_MAX) -> None:
        self.limit = limit
        self.total = 0
        self.members: list[Kept] = []

    def fattest(self, asking: Kept) -> Kept:
        """Return who gives way: whoever asks, if half of everything is his."""
        if asking.size_bytes * 2 >= self.total:
            return asking
        return max(self.members, key=lambda kept: kept.size_bytes)


@dataclass(slots=True)
class Burst:
    """Datagrams ``first .. first + rows - 1``, ``stride`` bytes apart; the last is ``last_bytes`` long."""

    first: int
    rows: int
    stride: int
    last_bytes: int
    deadline_ns: int
    """Not worth sending after this moment."""
    data: bytes = field(repr=False)
    resends: bytearray | None = None
    """How often each was sent again; None = none was."""
    resent_ns: int = 0
    """When any of them was."""

    @property
    def traffic_class(self) -> int:
        """The class its header shows."""
        return self.data[_CLASS_AT] & CLASS_MASK

    def size_of(self, start: int, stop: int) -> int:
        """Bytes of rows ``start..stop-1``."""
        return (stop - start) * self.stride - (self.stride - self.last_bytes if stop == self.rows else 0)


Piece = tuple[Burst, int, int]
"""Rows ``start..stop-1`` of a burst."""


class Allowance:
    """How many bytes may be sent again: no more than were sent in the last ``ALLOWANCE_NS``."""

    __slots__ = ("_balance", "_slices")

    def __init__(self) -> None:
        self._slices: deque[list[int]] = deque()
        """Begin of a slice of time, and bytes sent less bytes sent again in it."""
        self._balance = 0

    def earn(self, size_bytes: int, now_ns: int) -> None:
        """Count bytes sent for the first time."""
        slices = self._slices
        if not slices or now_ns - slices[-1][0] >= _SLICE_NS:
            slices.append([now_ns, 0])
            while now_ns - slices[0][0] > ALLOWANCE_NS:
                self._balance -= slices.popleft()[1]
        slices[-1][1] += size_bytes
        self._balance += size_bytes

    def spend(self, size_bytes: int, now_ns: int) -> bool:
        """Count bytes to be sent again, or refuse."""
        self.earn(0, now_ns)
        if self._balance < size_bytes:
            return False
        self._slices[-1][1] -= size_bytes
        self._balance -= size_bytes
        return True


class Kept:
    """What one peer was sent lately; ``pause_ns`` is the least time between two resends of a datagram."""

    def __init__(self, budget: KeptBytes, classes: Sequence[ClassSpec] = READY) -> None:
        self.pause_ns = 75_000_000
        self.size_bytes = 0
        self.evicted = 0
        """Datagrams forgotten early because the memory was full."""
        self.missed = 0
        """Datagrams asked for that were not kept (any more)."""
        self._budget = budget
        budget.members.append(self)
        self._allowance = Allowance()
        self._firsts: list[int] = []
        self._bursts: list[Burst] = []
        self._head = 0
        self.set_classes(classes)

    def set_classes(self, classes: Sequence[ClassSpec]) -> None:
        """Set which classes are kept, and for how long; numbers without a class are like class 0."""
        padded = [classes[n] if n < len(classes) else classes[0] for n in range(CLASSES)]
        self._keep_ns = [_keep_ns_of(spec) for spec in padded]

    # keep -------------------------------------------------------------------------------------

    def keep(self, payload: memoryview, rows: int, stride: int, next_counter: int, now_ns: int) -> None:
        """Keep a copy of ``rows`` sealed datagrams just sent; ``next_counter`` is the peer's (64 bit)."""
        keep_ns = self._keep_ns[payload[_CLASS_AT] & CLASS_MASK]
        if not keep_ns:
            return
        (first,) = _COUNTER.unpack_from(payload, _COUNTER_AT)
        at = (rows - 1) * stride
        if rows > 1 and (_COUNTER.unpack_from(payload, at + _COUNTER_AT)[0] - first) & _U32 != rows - 1:
            for start in range(0, len(payload), stride):  # not numbered in a row: each for itself
                self.keep(payload[start : start + stride], 1, stride, next_counter, now_ns)
            return
        wide = next_counter - rows
        if wide & _U32 != first:
            wide = widen(first, next_counter)
        size = len(payload)
        self._allowance.earn(size, now_ns)
        if self._bursts and self._bursts[self._head].deadline_ns <= now_ns:
            self.forget_old(now_ns)
        while self._budget.total and self._budget.total + size > self._budget.limit:
            self._budget.fattest(self).evict_first()
        self._insert(Burst(wide, rows, stride, size - at, now_ns + keep_ns, bytes(payload)))

    def evict_first(self) -> None:
        """Forget the oldest burst before its time."""
        self.evicted += self._bursts[self._head].rows
        self._forget_first()

    def _insert(self, burst: Burst) -> None:
        firsts = self._firsts
        if not firsts or firsts[-1] < burst.first:
            firsts.append(burst.first)
            self._bursts.append(burst)
        else:  # a container that was filled earlier may leave later
            at = max(bisect_right(firsts, burst.first), self._head)
            firsts.insert(at, burst.first)
            self._bursts.insert(at, burst)
        self.size_bytes += len(burst.data)
        self._budget.total += len(burst.data)

    def forget_old(self, now_ns: int) -> None:
        """Forget what is not worth sending any more."""
        while self._head < len(self._bursts) and self._bursts[self._head].deadline_ns <= now_ns:
            self._forget_first()

    def _forget_first(self) -> None:
        size = len(self._bursts[self._head].data)
        self.size_bytes -= size
        self._budget.total -= size
        self._bursts[self._head] = _NOTHING
        self._head += 1
        if self._head == len(self._bursts) or self._head >= _COMPACT:
            del self._bursts[: self._head], self._firsts[: self._head]
            self._head = 0

    def forget_all(self) -> None:
        """Give the memory back: the peer is gone, or another process that cannot open any of it."""
        while self._bursts:
            self._forget_first()

    def close(self) -> None:
        """Give the memory back for good: the peer is removed."""
        self.forget_all()
        self._budget.members.remove(self)

    # find -------------------------------------------------------------------------------------

    def take(self, first: int, count: int, next_counter: int, now_ns: int) -> list[Piece]:
        """Return what of ``count`` counters from ``first`` on (low 32 bits) goes again; count it as gone."""
        wide = widen(first & _U32, next_counter)
        end = min(wide + count, next_counter)
        at = max(bisect_right(self._firsts, wide, self._head) - 1, self._head)
        pieces: list[Piece] = []
        found = 0
        while at < len(self._bursts) and self._bursts[at].first < end:
            burst = self._bursts[at]
            start, stop = max(wide - burst.first, 0), min(end - burst.first, burst.rows)
            found += max(stop - start, 0)
            pieces += self._due(burst, start, stop, now_ns)
            at += 1
        self.missed += max(end - wide, 0) - found
        return pieces

    def _due(self, burst: Burst, start: int, stop: int, now_ns: int) -> list[Piece]:
        """Return the runs of rows that may be sent again now."""
        if start >= stop or burst.deadline_ns <= now_ns:
            return []
        if burst.resends is None:
            burst.resends = bytearray(burst.rows)
        most = 1 if now_ns - burst.resent_ns < self.pause_ns else RESENDS_MAX
        pieces: list[Piece] = []
        for row in range(start, stop):
            size = burst.size_of(row, row + 1)
            if burst.resends[row] >= most or not self._allowance.spend(size, now_ns):
                continue
            burst.resends[row] += 1
            if pieces and pieces[-1][2] == row:
                pieces[-1] = (burst, pieces[-1][1], row + 1)
            else:
                pieces.append((burst, row, row + 1))
        if pieces:
            burst.resent_ns = now_ns
        return pieces


def _keep_ns_of(spec: ClassSpec) -> int:
    if spec.recovery is Recovery.NONE:
        return 0
    return max(spec.deadline_ns, RESEND_NS_MIN) if spec.recovery is Recovery.RESEND else spec.deadline_ns


_NOTHING = Burst(-1, 0, 1, 0, 0, b"")
