"""The queue of one traffic class: fair between flows, short within each (FQ-CoDel, RFC 8290).

Pure. What waits is an **entry**: a packet, or a super-packet of several segments, whatever it holds. Entries
are put into flow queues by the hash of their flow and given out a few segments at a time, flows taking turns
by bytes (deficit round robin); a flow that has just begun to send, or sends little, goes before those that
have a queue. Drops and marks hit one segment, never a super-packet: what is left of it stays at the head.

    enqueue(hash, entry) → [flow queues] → dequeue(...) → Grant(entry, first segment, how many, marked?)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from sdwan.core.codel import CoDel

# Specification constants (RFC 8290 section 5.2) ------------------------------------------------------

FLOW_QUEUES = 1024

# Implementation constants -----------------------------------------------------------------------------

FLOW_BYTES_MAX = 4 << 20
"""One flow's share of memory: the product of 1 Gbit/s and 30 ms. CoDel acts long before."""
FLOW_ENTRIES_MAX = 4096
BATCH_SEGMENTS_MAX = 64
"""Dropped at once from the fattest flow, so that looking for it is paid rarely (RFC 8290 section 4.1)."""
SHORT_BYTES = 1500
"""Less than this waiting is no queue: one datagram must be allowed to wait for the link."""


class Entry:
    """Something that waits: ``content`` of ``segments`` equal segments, the last of which may be shorter."""

    __slots__ = ("content", "ecn", "first", "left_bytes", "queued_ns", "segment_bytes", "segments")

    def __init__(
        self, content: object, *, size_bytes: int, segments: int = 1, first: int = 0, ecn: bool = False
    ) -> None:
        """Make an entry of which ``first`` segments have gone already; ``ecn``: it may be marked."""
        self.content = content
        self.segments = segments
        self.segment_bytes = -(-size_bytes // segments)
        self.first = first
        self.left_bytes = max(size_bytes - first * self.segment_bytes, 1)
        self.ecn = ecn
        self.queued_ns = 0

    @property
    def left(self) -> int:
        """Segments that are still to go."""
        return self.segments - self.first

    def take(self, count: int) -> int:
        """Take ``count`` segments off the front; return their bytes."""
        self.first += count
        taken = self.left_bytes if self.first >= self.segments else count * self.segment_bytes
        taken = min(taken, self.left_bytes)
        self.left_bytes -= taken
        return taken


class Grant(NamedTuple):
    """Segments ``first .. first + segments - 1`` of an entry may be sent now."""

    entry: Entry
    first: int
    segments: int
    size_bytes: int
    marked: bool
    """One segment, to be sent with congestion experienced."""


class _FlowQueue:
    """One flow's entries, in the order they came."""

    __slots__ = ("codel", "deficit_bytes", "entries", "is_listed", "number", "size_bytes")

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: deque[Entry] = deque()
        self.size_bytes = 0
        self.deficit_bytes = 0
        self.codel = CoDel()
        self.is_listed = False

    def take(self, count: int) -> int:
        """Take segments off the first entry; return their bytes."""
        entry = self.entries[0]
        taken = entry.take(count)
        self.size_bytes -= taken
        if not entry.left:
            self.entries.popleft()
        return taken


class FairQueue:
    """Flow queues of one class to one peer."""

    def __init__(self) -> None:
        self.segments = 0
        self.size_bytes = 0
        self.delay_ns = 0
        """How long the newest segment given out had waited."""
        self.dropped = 0
        """Segments dropped by CoDel, or because they had waited beyond all use."""
        self.marked = 0
        self.is_used = False
        """Anything ever waited here."""
        self._flows: dict[int, _FlowQueue] = {}
        self._new: deque[_FlowQueue] = deque()
        self._old: deque[_FlowQueue] = deque()

    @property
    def flows(self) -> int:
        """Flow queues with something in them."""
        return sum(1 for flow in self._listed() if flow.entries)

    def _listed(self) -> Iterable[_FlowQueue]:
        return (*self._new, *self._old)

    def enqueue(self, flow_hash: int, entry: Entry, *, quantum_bytes: int, now_ns: int) -> int:
        """Put an entry behind the others of its flow; return the segments a full flow lost for it."""
        number = flow_hash % FLOW_QUEUES
        flow = self._flows.get(number)
        if flow is None:
            flow = self._flows[number] = _FlowQueue(number)
        self.is_used = True
        entry.queued_ns = now_ns
        flow.entries.append(entry)
        flow.size_bytes += entry.left_bytes
        self.size_bytes += entry.left_bytes
        self.segments += entry.left
        if not flow.is_listed:
            flow.is_listed = True
            flow.deficit_bytes = quantum_bytes
            self._new.append(flow)
        lost = 0
        while flow.size_bytes > FLOW_BYTES_MAX or len(flow.entries) > FLOW_ENTRIES_MAX:
            lost += self._discard(flow, 1)
        return lost

    def dequeue(
        self, *, quantum_bytes: int, segments_max: int, target_ns: int, patience_ns: int, now_ns: int
    ) -> Grant | None:
        """Give out up to ``segments_max`` segments of the flow whose turn it is; None when all is empty.

        A flow has ``quantum_bytes`` a turn, and may overdraw by the segment it has begun. What has waited
        longer than ``patience_ns`` is of no use any more and dropped.
        """
        while True:
            lane = self._new or self._old
            if not lane:
                return None
            flow = lane[0]
            if flow.deficit_bytes <= 0:
                flow.deficit_bytes += quantum_bytes
                self._old.append(lane.popleft())
                continue
            marked = self._obey_codel(flow, target_ns, patience_ns, now_ns)
            if not flow.entries:
                self._retire(lane)
                continue
            return self._grant(flow, segments_max, marked)

    def _grant(self, flow: _FlowQueue, segments_max: int, marked: bool) -> Grant:
        entry = flow.entries[0]
        affordable = -(-flow.deficit_bytes // entry.segment_bytes)
        count = 1 if marked else max(min(entry.left, segments_max, affordable), 1)
        first = entry.first
        taken = self._take(flow, count)
        flow.deficit_bytes -= taken
        return Grant(entry, first, count, taken, marked)

    def _take(self, flow: _FlowQueue, count: int) -> int:
        taken = flow.take(count)
        self.size_bytes -= taken
        self.segments -= count
        return taken

    def _retire(self, lane: deque[_FlowQueue]) -> None:
        """Strike an empty flow off; a new one has to pass the old ones first, or it would be new for ever."""
        flow = lane.popleft()
        flow.codel.ran_empty()
        if lane is self._new and self._old:
            self._old.append(flow)
            return
        flow.is_listed = False
        if not flow.codel.has_history:  # a hub would keep a hundred thousand
            del self._flows[flow.number]

    def _obey_codel(self, flow: _FlowQueue, target_ns: int, patience_ns: int, now_ns: int) -> bool:
        """Drop what must be dropped at the head of a flow; tell whether its next segment is to be marked."""
        while flow.entries:
            entry = flow.entries[0]
            self.delay_ns = sojourn_ns = now_ns - entry.queued_ns
            if sojourn_ns > patience_ns:
                self.dropped += entry.left
                self._take(flow, entry.left)
            elif flow.codel.must_drop(
                sojourn_ns, is_short=flow.size_bytes <= SHORT_BYTES, target_ns=target_ns, now_ns=now_ns
            ):
                if entry.ecn:
                    self.marked += 1
                    return True
                self.dropped += 1
                self._take(flow, 1)
            else:
                return False
        return False

    # when there is no room ------------------------------------------------------------------------

    @property
    def fattest_bytes(self) -> int:
        """Bytes of the flow that has most."""
        return max((flow.size_bytes for flow in self._listed()), default=0)

    def cut_fattest(self) -> int:
        """Drop from the head of the fattest flow half of what it has, or a batch; return the segments."""
        fattest = max(self._listed(), key=lambda flow: flow.size_bytes, default=None)
        if fattest is None or not fattest.entries:
            return 0
        lost, keep_bytes = 0, fattest.size_bytes // 2
        while fattest.entries and fattest.size_bytes > keep_bytes and lost < BATCH_SEGMENTS_MAX:
            lost += self._discard(fattest, BATCH_SEGMENTS_MAX - lost)
        return lost

    def _discard(self, flow: _FlowQueue, segments_max: int) -> int:
        count = min(flow.entries[0].left, segments_max)
        self._take(flow, count)
        return count

    def clear(self) -> int:
        """Throw everything away; return the segments."""
        lost, self.segments, self.size_bytes = self.segments, 0, 0
        self._flows.clear()
        self._new.clear()
        self._old.clear()
        return lost
