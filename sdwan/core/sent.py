"""What was sent on one path and when, so that a report can be read: which datagrams are due, which arrived.

Pure. In come the kernel's ring records (sdwan.io.ring), condensed and sorted by path; a report's last
sequence releases them. Only sealed datagrams count, since only those are opened and reported; among them
only DATA is *due*: a report answers data and keepalives, never another report.

Bounded: sends closer than a millisecond share an entry (which then carries the earliest of their times), and
beyond ``ENTRIES_MAX`` the oldest entries are given up.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdwan.core.wire import DATA_TYPES, Type, widen

# Implementation constants ------------------------------------------------------------------------

MERGE_NS = 1_000_000
"""Resolution of send times: a tenth of the slack that decides whether a datagram is late."""

_DATA_LAST = max(DATA_TYPES)
"""DATA types are the lowest numbers (docs/wire.md); comparing costs a tenth of looking them up."""

ENTRIES_MAX = 2048
"""Two seconds of sends, one entry a millisecond: twice as long as a path may be suspect."""


Send = tuple[int, int, int, int]
"""First link sequence (modulo 2^32), datagrams, type and time of one or more ring records of one path."""


def condense(records: np.ndarray[Any, np.dtype[Any]]) -> dict[int, dict[int, list[Send]]]:
    """Sort ring records by peer and path, and join those sent in one millisecond.

    Thousands of bursts a second become at most a thousand entries a second and path. Of several types in one
    millisecond DATA counts apart from the rest.

    Args:
        records: struct tx_record rows (bpf/abi.h), oldest first.
    """
    if not len(records):
        return {}
    rows = (records["peer"].astype(np.uint64) << np.uint64(3)) | records["path"]
    is_due = records["type"] <= _DATA_LAST
    moments = records["time_ns"] // np.uint64(MERGE_NS)
    order = np.lexsort((moments, is_due, rows))
    records, rows, is_due, moments = records[order], rows[order], is_due[order], moments[order]
    is_first = np.ones(len(records), dtype=bool)
    is_first[1:] = (rows[1:] != rows[:-1]) | (moments[1:] != moments[:-1]) | (is_due[1:] != is_due[:-1])
    starts = np.flatnonzero(is_first)
    firsts = records["first_sequence"][starts]
    group = np.cumsum(is_first) - 1
    offsets = records["first_sequence"] - firsts[group]  # wraps as the sequence does
    datagrams = np.maximum.reduceat(offsets + records["segments"].astype(np.uint32), starts)
    sorted_by: dict[int, dict[int, list[Send]]] = {}
    kinds, times = records["type"][starts], records["time_ns"][starts]
    columns = (column.tolist() for column in (rows[starts], firsts, datagrams, kinds, times))
    for row, first, count, kind, time_ns in zip(*columns, strict=True):
        sorted_by.setdefault(row >> 3, {}).setdefault(row & 7, []).append((first, count, kind, time_ns))
    for paths in sorted_by.values():
        for sends in paths.values():
            sends.sort(key=lambda send: send[3])
    return sorted_by


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

    def note(self, send: Send) -> None:
        """Take what was sent next on the path."""
        first_sequence, datagrams, kind, time_ns = send
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
