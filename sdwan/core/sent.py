"""What was sent on one path and when, so that a report can be read: which datagrams are due, which arrived.

Pure. In come the kernel's ring records (sdwan.io.maps), already of one path and in order of their link
sequence; a report's last sequence releases them. Only sealed datagrams count, since only those are opened and
reported; among them only DATA is *due*: a report answers data and keepalives, never another report.

Bounded: sends closer than a millisecond share an entry (which then carries the earliest of their times), and
beyond ``ENTRIES_MAX`` the oldest entries are given up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

from sdwan.core.wire import DATA_TYPES, Type, widen

# Implementation constants ------------------------------------------------------------------------

MERGE_NS = 1_000_000
"""Resolution of send times: a tenth of the slack that decides whether a datagram is late."""

ENTRIES_MAX = 2048
"""Two seconds of sends, one entry a millisecond: twice as long as a path may be suspect."""


@dataclass(slots=True)
class Sends:
    """Datagrams ``first <= sequence < end`` of one path, sent within a millisecond from ``time_ns``."""

    first: int
    end: int
    time_ns: int
    is_due: bool


class SentLog:
    """The sends of one path that no report has named yet, and the newest ones that were named."""

    def __init__(self) -> None:
        self._entries: deque[Sends] = deque()
        self.next_sequence = 0
        """The kernel's next link sequence on this path (64 bits), as far as the log has read."""
        self.named: Sends | None = None
        """The entry that holds the newest named datagram; None while it is not known."""
        self.last_due_ns = 0
        """When DATA was last sent."""

    def note(self, first_sequence: int, datagrams: int, kind: int, time_ns: int) -> None:
        """Take one ring record: a burst of ``datagrams`` whose first link sequence is given modulo 2^32."""
        first = widen(first_sequence, self.next_sequence)
        end = first + datagrams
        self.next_sequence = max(self.next_sequence, end)
        is_due = kind in DATA_TYPES
        if not is_due and kind != Type.CONTROL:
            return
        if is_due:
            self.last_due_ns = time_ns
        last = self._entries[-1] if self._entries else None
        if last and last.is_due == is_due and time_ns - last.time_ns < MERGE_NS:
            last.end = max(last.end, end)
            return
        self._entries.append(Sends(first, end, time_ns, is_due))
        if len(self._entries) > ENTRIES_MAX:
            self._entries.popleft()

    def on_reported(self, sequence: int) -> None:
        """Release everything up to a reported sequence (64 bits).

        Links keep order, so what lies before a named datagram is either named or lost: not due any more.
        """
        entries = self._entries
        at = bisect_right(entries, sequence, key=lambda entry: entry.first)
        if not at:
            return
        self.named = entries[at - 1]
        in_the_middle = sequence < self.named.end - 1
        for _ in range(at - in_the_middle):
            entries.popleft()

    def oldest_due_ns(self) -> int | None:
        """Return when the oldest DATA that no report has named was sent; None if there is none."""
        return next((entry.time_ns for entry in self._entries if entry.is_due), None)

    def forget(self) -> None:
        """Expect nothing of what was sent so far: the path leads elsewhere now, or its records were lost."""
        self._entries.clear()
        self.named = None
