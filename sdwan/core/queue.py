"""Everything that waits for one peer: a fair queue per traffic class, and which class goes first.

Pure; the data plane keeps a ``Queue`` for each peer that it has more for than the paths take
(sdwan.edge.departure). The class with the lowest priority number goes first; but each class that waits behind
it is owed a twentieth of what the others send, and is served when that has come to a turn's worth: nobody
starves. Classes of equal priority share by bytes. A class with a rate limit waits for its own clock as well.
Memory is bounded three times: per flow (sdwan.core.fairqueue), per peer, and over all peers by ``Budget``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sdwan.core.classes import ClassSpec
from sdwan.core.fairqueue import Entry, FairQueue, Grant
from sdwan.model import CLASSES, DropReason

# Implementation constants -----------------------------------------------------------------------------

BUDGET_BYTES = 64 << 20
"""Everything that waits in this process: 0.5 s of a gigabit."""
PEER_BYTES_MAX = 16 << 20
PEER_SEGMENTS_MAX = 1 << 15
"""A small packet costs some 400 bytes more than it is long: 13 MB at most."""
GUARD_SHARE = 20
"""A class that waits is owed one byte for so many that others send."""
LIMIT_BURST_NS = 20_000_000
"""What a class with a rate limit may save up while it is silent."""
PATIENCE_DEADLINES = 2
"""A packet is thrown away after so many deadlines of its class: nobody waits for it any more."""
QUANTUM_BYTES = 1500
"""A flow's turn until ``Queue.quantum_bytes`` is set."""


class Budget:
    """Memory that all queues share. Nobody may hold more than what is still free, so latecomers find some."""

    def __init__(self, total_bytes: int = BUDGET_BYTES) -> None:
        self.free_bytes = total_bytes


class Pace:
    """A rate limit: a token bucket, kept as the moment the next byte may go (RFC 2697's other face, GCRA)."""

    __slots__ = ("free_ns", "rate_bps")

    def __init__(self, rate_bps: int) -> None:
        self.rate_bps = rate_bps
        self.free_ns = 0
        """When the class may send again; it may overdraw by one turn, and waits the longer afterwards."""

    def charge(self, size_bytes: int, now_ns: int) -> None:
        """Count what was sent."""
        if self.rate_bps:
            earliest_ns = max(self.free_ns, now_ns - LIMIT_BURST_NS)
            self.free_ns = earliest_ns + size_bytes * 8 * 10**9 // self.rate_bps


class Lane:
    """One class on its way to one peer: what is wanted of it, and where it stands."""

    __slots__ = ("fair", "number", "overflowed", "owed_bytes", "pace", "served_bytes", "spec")

    def __init__(self, number: int, spec: ClassSpec) -> None:
        self.number = number
        self.spec = spec
        self.fair = FairQueue()
        self.pace = Pace(spec.rate_limit_bps)
        self.owed_bytes = 0
        """What the guard has saved up for it while others went first."""
        self.served_bytes = 0
        """Its share among classes of the same priority: the one with least goes next."""
        self.overflowed = 0
        """Segments that found no room, or had to make some."""

    def adopt(self, spec: ClassSpec) -> None:
        """Change what is wanted; what waits goes on waiting."""
        self.spec = spec
        if self.pace.rate_bps != spec.rate_limit_bps:
            self.pace = Pace(spec.rate_limit_bps)


class Queue:
    """What waits for one peer. ``drop`` counts segments under a DropReason."""

    def __init__(
        self, specs: Sequence[ClassSpec], budget: Budget, *, drop: Callable[[DropReason, int], None]
    ) -> None:
        self.quantum_bytes = QUANTUM_BYTES
        """What a flow may send in one turn: a datagram on slow links, a burst on fast ones."""
        self.lanes = tuple(Lane(number, spec_of(specs, number)) for number in range(CLASSES))
        self.size_bytes = 0
        self.segments = 0
        self._budget = budget
        self._drop = drop

    def adopt(self, specs: Sequence[ClassSpec]) -> None:
        """Obey another policy from now on."""
        for lane in self.lanes:
            lane.adopt(spec_of(specs, lane.number))

    # in -------------------------------------------------------------------------------------------

    def enqueue(self, traffic_class: int, flow_hash: int, entry: Entry, *, now_ns: int) -> None:
        """Let an entry wait; where there is no room, the flow that has most pays for it."""
        lane = self.lanes[traffic_class]
        fair = lane.fair
        size_bytes, segments = fair.size_bytes, fair.segments
        if not segments:
            self._join(lane)
        lost = fair.enqueue(flow_hash, entry, quantum_bytes=self.quantum_bytes, now_ns=now_ns)
        self._account(lane, size_bytes, segments)
        self._overflow(lane, lost)
        while self._is_full() and self._cut_fattest():
            pass

    def _join(self, lane: Lane) -> None:
        """A class that comes back has no claim for the time it was away."""
        equals = [
            other.served_bytes
            for other in self.lanes
            if other.fair.segments and other.spec.priority == lane.spec.priority
        ]
        lane.served_bytes = max(lane.served_bytes, min(equals, default=lane.served_bytes))

    def _is_full(self) -> bool:
        limit_bytes = min(PEER_BYTES_MAX, self._budget.free_bytes)
        return self.size_bytes > limit_bytes or self.segments > PEER_SEGMENTS_MAX

    def _cut_fattest(self) -> bool:
        lane = max(self.lanes, key=lambda each: each.fair.fattest_bytes)
        size_bytes, segments = lane.fair.size_bytes, lane.fair.segments
        lost = lane.fair.cut_fattest()
        self._account(lane, size_bytes, segments)
        self._overflow(lane, lost)
        return lost > 0

    def _account(self, lane: Lane, size_bytes: int, segments: int) -> None:
        """Keep the sums right after a lane changed, which held so much before."""
        grown = lane.fair.size_bytes - size_bytes
        self.size_bytes += grown
        self._budget.free_bytes -= grown
        self.segments += lane.fair.segments - segments

    def _overflow(self, lane: Lane, lost: int) -> None:
        if lost:
            lane.overflowed += lost
            self._drop(DropReason.RATE_LIMIT if lane.spec.rate_limit_bps else DropReason.QUEUE_FULL, lost)

    # out ------------------------------------------------------------------------------------------

    def dequeue(self, may_go: Callable[[int], bool], *, segments_max: int, now_ns: int) -> Grant | None:
        """Give out the next segments, at most ``segments_max``; None when nothing may go now.

        ``may_go`` tells whether a class has a path with room (sdwan.edge.gate).
        """
        waiting = [lane for lane in self.lanes if lane.fair.segments]
        if len(waiting) > 1:
            waiting.sort(key=self._turn)
        for lane in waiting:
            if lane.pace.free_ns > now_ns or not may_go(lane.number):
                continue
            grant = self._serve(lane, segments_max, now_ns)
            if grant is not None:
                self._share(lane, waiting, grant.size_bytes)
                lane.pace.charge(grant.size_bytes, now_ns)
                return grant
        return None

    def _turn(self, lane: Lane) -> tuple[bool, int, int]:
        return lane.owed_bytes < self.quantum_bytes, lane.spec.priority, lane.served_bytes

    def _serve(self, lane: Lane, segments_max: int, now_ns: int) -> Grant | None:
        fair = lane.fair
        size_bytes, segments, dropped = fair.size_bytes, fair.segments, fair.dropped
        grant = fair.dequeue(
            quantum_bytes=self.quantum_bytes,
            segments_max=segments_max,
            target_ns=lane.spec.queue_target_ns,
            patience_ns=PATIENCE_DEADLINES * lane.spec.deadline_ns,
            now_ns=now_ns,
        )
        self._account(lane, size_bytes, segments)
        if fair.dropped != dropped:
            self._drop(DropReason.QUEUE_CODEL, fair.dropped - dropped)
        return grant

    def _share(self, served: Lane, waiting: Sequence[Lane], size_bytes: int) -> None:
        """Put down what a class was given, and what those behind it are owed for that."""
        served.served_bytes += size_bytes
        served.owed_bytes = max(served.owed_bytes - size_bytes, 0)
        for lane in waiting:
            if lane.spec.priority > served.spec.priority:
                owed_bytes = lane.owed_bytes + size_bytes // GUARD_SHARE
                lane.owed_bytes = min(owed_bytes, 2 * self.quantum_bytes)

    def free_ns(self, traffic_class: int) -> int:
        """Return when the rate limit of a class lets something go; the past, without one."""
        return self.lanes[traffic_class].pace.free_ns

    @property
    def waiting(self) -> list[int]:
        """Classes that have something waiting."""
        return [lane.number for lane in self.lanes if lane.fair.segments]

    def clear(self, reason: DropReason) -> None:
        """Throw everything away under one reason."""
        for lane in self.lanes:
            size_bytes, segments = lane.fair.size_bytes, lane.fair.segments
            lost = lane.fair.clear()
            self._account(lane, size_bytes, segments)
            if lost:
                self._drop(reason, lost)


def spec_of(specs: Sequence[ClassSpec], traffic_class: int) -> ClassSpec:
    """Return the spec of a class; numbers beyond the policy are ordinary traffic."""
    return specs[traffic_class] if traffic_class < len(specs) else ClassSpec(f"class {traffic_class}")
