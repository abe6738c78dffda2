"""Holes: which DATA counters are missing, how that is known, and when they are asked for.

Pure; one instance per peer. Fed by sdwan.edge.inward with every opened datagram, read by
sdwan.core.reorder (who waits for a hole) and sdwan.edge.asking (who sends the requests). The state of each
counter stands in the replay window; here is the evidence:

  proof     links keep order, so when a path's link sequence jumps by g between two datagrams and at
            most g DATA counters between theirs are unknown, those are lost: *named at once*;
  time      what was highest ``hole_wait_ns`` ago has had its chance;
  word      a sealed CONTROL message names the sender's next counter: what is below it was sent.

A named counter is asked for at once (after ``patience_ns`` where a repair row will probably bring it),
again after each ``repair_wait_ns`` in which it did not come, and given up after ``ASKS_MAX`` times. Whatever
takes a link sequence must be noted here, not DATA alone: its gap would otherwise look like lost DATA. A gap
met by something that carries no new DATA counter is carried over to the next that does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sdwan.core.replay import Range, ReplayWindow
from sdwan.core.wire import widen
from sdwan.model import PATHS_PER_PEER

# Implementation constants -------------------------------------------------------------------------

HOLE_WAIT_NS_DEFAULT = 30_000_000
"""Until control has measured the paths' delays."""
REPAIR_WAIT_NS_DEFAULT = 150_000_000
"""Until control has measured round trips: time from asking to the datagram's coming."""
ASKS_MAX = 3
"""2 % loss in both directions leaves 6 in 100,000 of the lost after three rounds."""
ASK_INTERVAL_NS = 1_000_000
"""Requests are gathered for so long: one message names up to 128 holes."""
HOLES_MAX = 1024
"""Named ranges waited for at a time; beyond, the oldest is given up."""
BEGINNING = 1024
"""A first counter below this: we have listened since the sender began, so what is before it is missing."""
_CHECKPOINT_NS = 2_000_000
_GAPS_MAX = 32
_JUMP_MAX = 1 << 16
"""Link-sequence jumps above this are suspect (unauthenticated field): ignored."""
_OLD_JUMP_MAX = 64
"""A datagram that was opened before may move a path by no more: anybody can send it again with any number."""
_RESYNC_RUN = 16
"""So many fresh datagrams in a row out of sight of a path's sequence: it began anew at the far side."""
_U32 = (1 << 32) - 1


@dataclass(slots=True)
class _PathOrder:
    """How far a path has come, in both of its orders."""

    sequence: int
    """Link sequence of its newest datagram."""
    counter: int
    """Highest DATA counter it has brought, or told of."""
    gap: int = 0
    """Link sequences missing since that counter."""
    strange: int = 0
    """Fresh datagrams in a row whose sequence cannot be."""


@dataclass(slots=True)
class _Hole:
    """Named counters, asked for ``asks`` times; next looked at when ``due_ns`` has come."""

    first: int
    last: int
    proven: bool
    asks: int
    due_ns: int


class Holes:
    """What is missing of one peer's DATA. ``window`` is its replay window."""

    def __init__(self, window: ReplayWindow) -> None:
        self.window = window
        self.hole_wait_ns = HOLE_WAIT_NS_DEFAULT
        self.repair_wait_ns = REPAIR_WAIT_NS_DEFAULT
        self.patience_ns = 0
        """How long what is named now is left to forward error correction before it is asked for."""
        self.lost_on: Callable[[int], int] | None = None
        """Tells how many link sequences of a path the receiving kernel misses so far; None = nobody knows.

        The kernel sees what ends in it: a probe takes a link sequence and never gets here.
        """
        self._accounted = [0] * PATHS_PER_PEER
        self.proven = 0
        """Holes named because the loss was proven."""
        self.expired = 0
        """Holes named because the wait ran out."""
        self.now_ns = 0
        self.next_checkpoint_ns = 0
        self.floor = -1
        """Counters up to here were before our time: nobody waits for them."""
        self._aged_to = self._known_to = -1
        self._paths: list[_PathOrder | None] = [None] * PATHS_PER_PEER
        self._gaps: deque[tuple[int, int, int]] = deque(maxlen=_GAPS_MAX)
        self._checkpoints: deque[tuple[int, int]] = deque()
        self._named: deque[_Hole] = deque()
        self._left_to_fec: deque[_Hole] = deque()
        self._asks: dict[bool, list[Range]] = {True: [], False: []}
        self._next_ask_ns = 0

    # what is seen -----------------------------------------------------------------------------

    def begin(self, first: int) -> None:
        """Note the first DATA counter ever opened; what came before it is nobody's loss."""
        self.floor = self._aged_to = self._known_to = first - 1 if first >= BEGINNING else -1

    def note_data(self, path: int, first_sequence: int, last_sequence: int, first: int, last: int) -> None:
        """Note fresh datagrams ``first..last`` (counters) that ``path`` brought with these link sequences."""
        jump = self._advance(path, first_sequence, last_sequence, last)
        order = self._paths[path]
        if jump is None or order is None:
            return
        order.gap += jump
        if last <= order.counter:
            return  # sent again: it tells nothing new, the gap remains
        if order.gap and first > order.counter + 1:
            evidence = (order.counter + 1, first - 1, order.gap)
            if not self._prove(evidence):
                self._gaps.append(evidence)
        order.gap, order.counter = 0, last

    def note_other(self, path: int, sequence: int) -> None:
        """Note a datagram that carries no DATA counter (CONTROL, REPAIR) but took a link sequence."""
        jump = self._advance(path, sequence, sequence, self.window.top)
        order = self._paths[path]
        if jump and order is not None:
            order.gap = min(order.gap + jump, _JUMP_MAX)

    def note_copy(self, path: int, first_sequence: int, last_sequence: int) -> None:
        """Note datagrams that were opened before: copies, or recorded by anybody and sent again.

        They move the path's sequence on, a little at a time, and prove nothing.
        """
        order = self._paths[path]
        if order is not None and (first_sequence - order.sequence - 1) & _U32 <= _OLD_JUMP_MAX:
            order.sequence = last_sequence

    def note_next_counter(self, path: int, sequence: int, next_counter: int) -> None:
        """Note a sealed CONTROL datagram of ``path`` that names the sender's next DATA counter.

        Whatever this path carried before has arrived or is lost; and what no path has brought yet is known
        to have been sent.
        """
        counter = widen(next_counter & _U32, max(self.window.top, 0)) - 1
        if self.window.top >= 0 and counter >= 0 and self.window.announce(counter):
            self.note_data(path, sequence, sequence, counter + 1, counter)
        else:
            self.note_other(path, sequence)

    def _advance(self, path: int, first_sequence: int, last_sequence: int, counter: int) -> int | None:
        """Move a path's link sequence on; return by how much it jumped, None when it tells nothing."""
        order = self._paths[path]
        if order is None:
            self._paths[path] = _PathOrder(last_sequence, counter)
            self._accounted[path] = self.lost_on(path) if self.lost_on else 0
            return None
        jump = (first_sequence - order.sequence - 1) & _U32
        if jump < _JUMP_MAX:
            order.sequence, order.strange = last_sequence, 0
            return self._believed(path, jump) if jump else 0
        order.strange += 1
        if order.strange >= _RESYNC_RUN:
            self._paths[path] = _PathOrder(last_sequence, counter)
        return None

    def _believed(self, path: int, jump: int) -> int:
        """Return how much of a jump the kernel misses too."""
        if self.lost_on is None:
            return jump
        lost = self.lost_on(path)
        accounted = min(self._accounted[path], lost)  # what came late is missed no more
        believed = min(jump, lost - accounted)
        self._accounted[path] = accounted + believed
        return believed

    # what follows from it -----------------------------------------------------------------------

    def _prove(self, evidence: tuple[int, int, int]) -> bool:
        """Name the unknown counters of a gap if no other path can still bring them."""
        first, last, gap = evidence
        last = min(last, self.window.top)
        unknown = self.window.unknown_between(first, last)
        if unknown > gap:
            return False
        if unknown:
            self._name(first, last, proven=True)
        return True

    def _name(self, first: int, last: int, *, proven: bool) -> None:
        named = self.window.name_lost(first, last)
        if proven:
            self.proven += len(named)
        else:
            self.expired += len(named)
        for start, count in named:
            if self.patience_ns:
                due_ns = self.now_ns + self.patience_ns
                self._left_to_fec.append(_Hole(start, start + count - 1, proven, 0, due_ns))
            else:
                self._ask(start, count, proven, 1)

    def _ask(self, first: int, count: int, proven: bool, asks: int) -> None:
        hole = _Hole(first, first + count - 1, proven, asks, self.now_ns + self.repair_wait_ns)
        self._named.append(hole)
        if len(self._asks[proven]) < HOLES_MAX:
            self._asks[proven].append((first, count))
        if len(self._named) > HOLES_MAX:
            self._give_up(self._named.popleft())

    def _give_up(self, hole: _Hole) -> None:
        self.window.give_up(hole.first, hole.last)

    def checkpoint(self, now_ns: int) -> None:
        """Remember how far counters have come; call when ``next_checkpoint_ns`` has come."""
        marks = self._checkpoints
        self.now_ns = now_ns
        self.next_checkpoint_ns = now_ns + _CHECKPOINT_NS
        if not marks or self.window.top != marks[-1][1]:
            marks.append((now_ns, self.window.top))
        limit = now_ns - self.hole_wait_ns
        while len(marks) > 1 and marks[1][0] <= limit:
            marks.popleft()

    def review(self, now_ns: int) -> None:
        """Name what is lost by now, ask again for what did not come, give up what will not."""
        self.now_ns = now_ns
        if now_ns >= self.next_checkpoint_ns:
            self.checkpoint(now_ns)
        for evidence in [gap for gap in self._gaps if self._prove(gap)]:
            self._gaps.remove(evidence)
        marks = self._checkpoints
        if marks and marks[0][0] <= now_ns - self.hole_wait_ns and marks[0][1] > self._aged_to:
            first, self._aged_to = self._aged_to + 1, marks[0][1]
            self._name(first, self._aged_to, proven=False)
        for named in (self._left_to_fec, self._named):
            for _ in range(len(named)):
                if named[0].due_ns > now_ns and len(named) <= HOLES_MAX:
                    break
                self._look_again(named.popleft())
        unknown = self.window.first_open(self._known_to + 1, self.window.top, named_too=False)
        self._known_to = unknown - 1 if unknown >= 0 else self.window.top

    def _look_again(self, hole: _Hole) -> None:
        if hole.asks >= ASKS_MAX:
            self._give_up(hole)
            return
        for first, count in self.window.lost_between(hole.first, hole.last):
            self._ask(first, count, hole.proven, hole.asks + 1)

    # asking -----------------------------------------------------------------------------------

    @property
    def asks_for_something(self) -> bool:
        """Tell whether ``take_asks`` has something, now or soon."""
        return bool(self._asks[True] or self._asks[False])

    @property
    def busy(self) -> bool:
        """Tell whether ``review`` must be called again soon though nothing arrives."""
        waits = self._named or self._left_to_fec or self.asks_for_something
        return self._known_to < self.window.top or bool(waits)

    def take_asks(self, now_ns: int, ranges_max: int) -> tuple[bool, list[Range]] | None:
        """Return whether the loss is proven, and at most ``ranges_max`` ranges to ask for now; or None."""
        if now_ns < self._next_ask_ns:
            return None
        for proven, ranges in self._asks.items():
            if ranges:
                self._asks[proven] = ranges[ranges_max:]
                if not any(self._asks.values()):
                    self._next_ask_ns = now_ns + ASK_INTERVAL_NS
                return proven, ranges[:ranges_max]
        return None
