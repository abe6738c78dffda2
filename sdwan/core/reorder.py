"""The reorder window: a packet waits for its predecessor in its own flow, and for nothing else.

Pure; one instance per peer. Every DATA datagram carries a flow bucket and that bucket's sequence; it
is in turn when the sequence is the expected one. Otherwise it waits, until the hole before it is
closed by one of three things:

  arrival   the missing datagrams come (also late: what is fresh is always delivered);
  proof     links keep order, so when a path's link sequence jumps by g between two datagrams and at
            most g DATA counters between theirs are unknown, those are lost: *named at once*;
  time      what was highest ``hole_wait_ns`` ago has had its chance.

Proof and time both speak of counters, not of buckets: ``_settled`` is the counter below which all are
seen or given up, and a waiting packet whose counter is just above it waits for nothing any more.
There is no fixed delay: a packet in turn passes untouched.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from sdwan.core.replay import ReplayWindow
from sdwan.core.wire import widen
from sdwan.model import PATHS_PER_PEER

# Specification constants (docs/wire.md) -----------------------------------------------------------

BUCKETS = 256
_HALF = 0x8000
_MASK = 0xFFFF

# Implementation constants -------------------------------------------------------------------------

HOLE_WAIT_NS_DEFAULT = 30_000_000
"""Until control has measured the paths' delays."""
_CHECKPOINT_NS = 2_000_000
_GAPS_MAX = 32
_JUMP_MAX = 1 << 16
"""Link-sequence jumps above this are suspect (unauthenticated field): ignored."""
HELD_BYTES_MAX = 32 << 20
"""Of all peers together: 30 ms of 8 Gbit/s."""


class Item(Protocol):
    """Something that waits: where it stands in its bucket, and what it weighs."""

    counter: int
    bucket: int
    bucket_sequence: int
    rows: int

    @property
    def size_bytes(self) -> int:
        """Memory it holds while it waits."""


class HeldBytes:
    """What all peers' waiting packets weigh together, against one bound."""

    __slots__ = ("limit", "total")

    def __init__(self, limit: int = HELD_BYTES_MAX) -> None:
        self.limit = limit
        self.total = 0


class Reorder:
    """Order of one peer's DATA. ``window`` is its replay window, shared with whoever opens."""

    def __init__(self, window: ReplayWindow, held_bytes: HeldBytes, hole_wait_ns: int = HOLE_WAIT_NS_DEFAULT):
        self.window = window
        self.hole_wait_ns = hole_wait_ns
        self.held_now = 0
        self.held = 0
        self.holes_closed = 0
        self.holes_expired = 0
        self.overflows = 0
        self._held_bytes = held_bytes
        self._expected: list[int | None] = [None] * BUCKETS
        self._waiting: dict[int, dict[int, Item]] = {}
        self._settled = -1
        self._paths: list[tuple[int, int] | None] = [None] * PATHS_PER_PEER
        self._gaps: deque[tuple[int, int, int]] = deque(maxlen=_GAPS_MAX)
        self._checkpoints: deque[tuple[int, int]] = deque()
        self.next_checkpoint_ns = 0
        self._now_ns = 0

    # in turn or not ---------------------------------------------------------------------------

    def in_turn(self, bucket: int, sequence: int, rows: int) -> bool:
        """Tell whether these datagrams may be delivered now; if so, expect their successor.

        Late ones (fresh, but their place was given up) are delivered at once.
        """
        expected = self._expected[bucket]
        if expected == sequence or expected is None:
            self._expected[bucket] = (sequence + rows) & _MASK
            return True
        if (sequence - expected) & _MASK < _HALF:
            return False
        if 0 < (sequence + rows - expected) & _MASK < _HALF:
            self._expected[bucket] = (sequence + rows) & _MASK
        return True

    def hold(self, item: Item) -> list[Item]:
        """Let ``item`` wait; return whatever must go because the reorder window is full."""
        if not self.held_now:
            self._settled = max(self._settled, self._aged())
        waiting = self._waiting.setdefault(item.bucket, {})
        if item.bucket_sequence in waiting:
            return [item]  # two in one place: only a hostile peer numbers so
        waiting[item.bucket_sequence] = item
        self.held_now += 1
        self.held += 1
        self._held_bytes.total += item.size_bytes
        out: list[Item] = []
        while self._held_bytes.total > self._held_bytes.limit and self.held_now:
            self.overflows += 1
            oldest = min(self._waiting, key=lambda b: min(i.counter for i in self._waiting[b].values()))
            out += self._skip_hole(oldest)
        return out

    def followers(self, bucket: int) -> list[Item]:
        """Return the waiting packets of ``bucket`` whose turn has come, in order."""
        waiting = self._waiting.get(bucket)
        if not waiting:
            return []
        out = []
        while waiting:
            expected = self._expected[bucket]
            item = waiting.pop(expected, None) if expected is not None else None
            if item is None:
                break
            self._expected[bucket] = (item.bucket_sequence + item.rows) & _MASK
            out.append(self._leave(item))
        if not waiting:
            del self._waiting[bucket]
        return out

    # holes ------------------------------------------------------------------------------------

    def note_link(self, path: int, first_sequence: int, last_sequence: int, first: int, last: int) -> None:
        """Note datagrams ``first..last`` (counters) that came over ``path`` with these link sequences."""
        before = self._paths[path]
        if before is None:
            self._paths[path] = (last_sequence, last)
            return
        jump = (first_sequence - before[0] - 1) & 0xFFFFFFFF
        if jump >= 1 << 31:
            return  # older than what this path already delivered
        if 0 < jump < _JUMP_MAX and first > before[1] + 1:
            gap = (before[1] + 1, first - 1, jump)
            if not self._prove(gap):
                self._gaps.append(gap)
        self._paths[path] = (last_sequence, max(last, before[1]))

    def note_next_counter(self, path: int, sequence: int, next_counter: int) -> None:
        """Note a sealed CONTROL datagram of ``path`` that names the sender's next DATA counter.

        It lets an idle path close a hole: whatever this path carried before has arrived or is lost.
        """
        counter = widen(next_counter & 0xFFFFFFFF, max(self.window.top, 0)) - 1
        if 0 <= counter <= self.window.top:
            self.note_link(path, sequence, sequence, counter + 1, counter)

    def _prove(self, gap: tuple[int, int, int]) -> bool:
        """Presume the unknown counters of a gap lost if no other path can still bring them."""
        first, last, jump = gap
        last = min(last, self.window.top)
        if self.window.unknown_between(first, last) > jump:
            return False
        self.window.presume_lost(first, last)
        return True

    def checkpoint(self, now_ns: int) -> None:
        """Remember how far counters have come; call when ``next_checkpoint_ns`` has come."""
        marks = self._checkpoints
        self.next_checkpoint_ns = now_ns + _CHECKPOINT_NS
        if not marks or self.window.top != marks[-1][1]:
            marks.append((now_ns, self.window.top))
        limit = now_ns - self.hole_wait_ns
        while len(marks) > 1 and marks[1][0] <= limit:
            marks.popleft()
        self._now_ns = now_ns

    def _aged(self) -> int:
        """Return the highest counter that was already the top ``hole_wait_ns`` ago."""
        marks = self._checkpoints
        if marks and marks[0][0] <= self._now_ns - self.hole_wait_ns:
            return marks[0][1]
        return -1

    def close_holes(self) -> list[Item]:
        """Return, in order per bucket, the packets whose hole is proven or has expired."""
        if not self.held_now:
            return []
        for gap in [g for g in self._gaps if self._prove(g)]:
            self._gaps.remove(gap)
        proven = self.window.first_unknown(self._settled + 1) - 1
        aged = self._aged()
        self._settled = max(self._settled, aged, proven)
        if aged > proven:
            # What was given up by time may be followed by more that is known.
            self._settled = max(self._settled, self.window.first_unknown(aged + 1) - 1)
        out: list[Item] = []
        for bucket in list(self._waiting):
            while (item := self._first(bucket)) is not None and item.counter <= self._settled + 1:
                if item.counter <= proven + 1:
                    self.holes_closed += 1
                else:
                    self.holes_expired += 1
                out += self._skip_hole(bucket)
        return out

    def _first(self, bucket: int) -> Item | None:
        waiting = self._waiting.get(bucket)
        if not waiting:
            return None
        expected = self._expected[bucket] or 0
        return min(waiting.values(), key=lambda item: (item.bucket_sequence - expected) & _MASK)

    def _skip_hole(self, bucket: int) -> list[Item]:
        first = self._first(bucket)
        if first is None:
            return []
        self._expected[bucket] = first.bucket_sequence
        return self.followers(bucket)

    def _leave(self, item: Item) -> Item:
        self.held_now -= 1
        self._held_bytes.total -= item.size_bytes
        return item

    def drop_all(self) -> None:
        """Forget everything that waits (the peer is gone or has begun anew)."""
        for waiting in self._waiting.values():
            for item in waiting.values():
                self._leave(item)
        self._waiting.clear()
