"""The reorder window: a packet waits for its predecessor in its own flow, and for nothing else.

Pure; one instance per peer, used by sdwan.edge.delivery. Every DATA datagram carries a flow bucket and that
bucket's sequence; it is in turn when the sequence is the expected one. Otherwise it waits until the hole
before it is closed, which is a matter of its traffic class and of sdwan.core.holes:

  it comes        the missing datagrams arrive (also late: what is fresh is always delivered);
  it cannot come  every counter between this packet and its predecessor is seen or given up. Classes that
                  are not repaired give up what is lost at once; those that live from copies wait for the
                  other path, but for no repair;
  too late        the packet has waited for its class's deadline.

There is no fixed delay: a packet in turn passes untouched. A bucket's sequence has 16 bits; the counter
tells which way it went, so order survives the loss of up to 65,535 packets of a bucket.

The first packet of a bucket is waited for as well if we have listened since the sender began: its buckets
begin at 0. Whoever joins later takes what comes first for the beginning.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Protocol

from sdwan.core.classes import READY, ClassSpec, Recovery
from sdwan.core.holes import HOLE_WAIT_NS_DEFAULT, REPAIR_WAIT_NS_DEFAULT, Holes
from sdwan.core.replay import ReplayWindow
from sdwan.core.wire import BUCKET_UNORDERED, META_CLASS_MASK
from sdwan.model import CLASSES

# Specification constants (docs/wire.md) -----------------------------------------------------------

BUCKETS = 256
_MASK = 0xFFFF

# Implementation constants -------------------------------------------------------------------------

HELD_BYTES_MAX = 32 << 20
"""Of all peers together: 30 ms of 8 Gbit/s, or 0.27 s (two round trips of repair) of one."""


class Item(Protocol):
    """Something that waits: where it stands in its bucket, what it weighs, and its class (bits 0-2)."""

    counter: int
    bucket: int
    bucket_sequence: int
    rows: int
    flags: int

    @property
    def size_bytes(self) -> int:
        """Memory it holds while it waits."""


class HeldBytes:
    """What all peers' waiting packets weigh together, against one bound."""

    __slots__ = ("limit", "total")

    def __init__(self, limit: int = HELD_BYTES_MAX) -> None:
        self.limit = limit
        self.total = 0


class _Bucket:
    """One flow bucket: what comes next, and who waits for it."""

    __slots__ = ("blocker", "expected", "floor", "top_counter", "top_sequence", "waiting")

    def __init__(self, floor: int) -> None:
        self.expected = 0
        """Sequence of the packet whose turn it is, counted on beyond 16 bits."""
        self.floor = floor
        """Counter of the newest datagram delivered: the hole, if any, is above it."""
        self.top_counter = -1
        self.top_sequence = 0
        self.waiting: list[tuple[int, int, int, Item]] = []
        """Heap of sequence, a number that makes the order total, arrival time, packet."""
        self.blocker = -1
        """A counter that was open when the first waiting packet was last looked at; -1: look again."""

    def widen(self, counter: int, sequence: int) -> int:
        """Return the whole sequence: ahead of the newest if its counter is, else behind."""
        top = self.top_sequence
        if counter < self.top_counter:
            return top - (top - sequence & _MASK)
        self.top_counter = counter
        self.top_sequence = wide = top + (sequence - top & _MASK)
        return wide


class Reorder:
    """Order of one peer's DATA. ``window`` is its replay window, shared with whoever opens."""

    def __init__(
        self,
        window: ReplayWindow,
        held_bytes: HeldBytes,
        hole_wait_ns: int = HOLE_WAIT_NS_DEFAULT,
        repair_wait_ns: int = REPAIR_WAIT_NS_DEFAULT,
        classes: Sequence[ClassSpec] = READY,
    ) -> None:
        self.window = window
        self.holes = Holes(window)
        self.held_now = 0
        self.held = 0
        self.overflows = 0
        self._held_bytes = held_bytes
        self._buckets: dict[int, _Bucket] = {}
        self._waiting: dict[int, _Bucket] = {}
        self._classes = classes
        self.set_waits(hole_wait_ns, repair_wait_ns)

    def set_waits(self, hole_wait_ns: int, repair_wait_ns: int) -> None:
        """Set how long a hole may be unproven, and how long a repair takes."""
        self.holes.hole_wait_ns, self.holes.repair_wait_ns = hole_wait_ns, repair_wait_ns
        self.set_classes(self._classes)

    def set_classes(self, classes: Sequence[ClassSpec]) -> None:
        """Set what each class waits for; numbers without a class are treated like class 0."""
        self._classes = classes
        padded = [classes[n] if n < len(classes) else classes[0] for n in range(CLASSES)]
        self._patience = [self._patience_of(spec) for spec in padded]

    def _patience_of(self, spec: ClassSpec) -> tuple[bool, int]:
        """Return whether lost counters are waited for too, and for how long at most."""
        if spec.recovery is Recovery.NONE:
            return False, spec.deadline_ns
        if spec.recovery is Recovery.DUPLICATE:
            return True, min(spec.deadline_ns, self.holes.hole_wait_ns)
        return True, spec.deadline_ns

    # in turn or not ---------------------------------------------------------------------------

    def in_turn(self, bucket: int, counter: int, sequence: int, rows: int) -> bool:
        """Tell whether these datagrams may be delivered now; if so, expect their successor.

        Late ones (fresh, but their place was given up) are delivered at once.
        """
        if bucket == BUCKET_UNORDERED:
            return True
        state = self._buckets.get(bucket) or self._begin(bucket, sequence)
        wide = state.widen(counter, sequence)
        if wide > state.expected:
            return False
        if wide + rows > state.expected:
            state.expected = wide + rows
            state.floor = max(counter, state.floor)
        return True

    def _begin(self, bucket: int, sequence: int) -> _Bucket:
        state = self._buckets[bucket] = _Bucket(self.holes.floor)
        if self.holes.floor >= 0:
            state.expected = state.top_sequence = sequence
        return state

    def hold(self, item: Item) -> list[Item]:
        """Let ``item``, just found not to be in turn, wait; return whatever must go to make room."""
        state = self._buckets[item.bucket]
        wide = state.widen(item.counter, item.bucket_sequence)
        heapq.heappush(state.waiting, (wide, self.held, self.holes.now_ns, item))
        if state.waiting[0][3] is item:
            state.blocker = -1
        self._waiting[item.bucket] = state
        self.held_now += 1
        self.held += 1
        self._held_bytes.total += item.size_bytes
        out: list[Item] = []
        while self._held_bytes.total > self._held_bytes.limit and self.held_now:
            self.overflows += 1
            out += self._skip_hole(min(self._waiting, key=lambda b: self._waiting[b].waiting[0][3].counter))
        return out

    def followers(self, bucket: int) -> list[Item]:
        """Return the waiting packets of ``bucket`` whose turn has come, in order."""
        state = self._waiting.get(bucket)
        if state is None:
            return []
        out: list[Item] = []
        waiting = state.waiting
        while waiting and waiting[0][0] <= state.expected:
            wide, _, _, item = heapq.heappop(waiting)
            state.expected = max(state.expected, wide + item.rows)
            state.floor = max(state.floor, item.counter)
            self.held_now -= 1
            self._held_bytes.total -= item.size_bytes
            out.append(item)
        if out:
            state.blocker = -1
        if not waiting:
            del self._waiting[bucket]
        return out

    # holes ------------------------------------------------------------------------------------

    def close_holes(self, now_ns: int) -> list[Item]:
        """Return, in order per bucket, the packets that have nothing to wait for any more.

        A bucket costs one look at the counter that blocks it, however many packets wait in it.
        """
        self.holes.review(now_ns)
        out: list[Item] = []
        for bucket, state in list(self._waiting.items()):
            while state.waiting and not self._is_blocked(state, now_ns):
                out += self._skip_hole(bucket)
        return out

    def _is_blocked(self, state: _Bucket, now_ns: int) -> bool:
        _, _, came_ns, item = state.waiting[0]
        named_too, patience_ns = self._patience[item.flags & META_CLASS_MASK]
        if now_ns - came_ns >= patience_ns:
            return False
        if state.blocker >= 0 and self.window.is_open(state.blocker, named_too=named_too):
            return True
        state.blocker = self.window.first_open(state.floor + 1, item.counter - 1, named_too=named_too)
        return state.blocker >= 0

    def _skip_hole(self, bucket: int) -> list[Item]:
        state = self._waiting[bucket]
        state.expected = max(state.expected, state.waiting[0][0])
        return self.followers(bucket)

    def drop_all(self) -> None:
        """Forget everything that waits (the peer is gone or has begun anew)."""
        for state in self._waiting.values():
            for _, _, _, item in state.waiting:
                self.held_now -= 1
                self._held_bytes.total -= item.size_bytes
            state.waiting.clear()
        self._waiting.clear()
