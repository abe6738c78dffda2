"""What was sent on one path and when, so that a report can be read: which datagrams are due, which arrived.

Pure. In come the kernel's ring records (``SENT`` names the fields that count here; sdwan.io.ring), sorted by
path with ``split``; a report's last sequence releases them and turns into a ``Point``: the state of the path
as that datagram left. Only DATA is *due*: a report answers data and keepalives, never another report.

Kept as columns of numpy arrays, so that a path of a gigabit costs a few microseconds a tick. Bounded: beyond
``ROWS_MAX`` the oldest records are given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sdwan.core.wire import DATA_TYPES

Rows = np.ndarray[Any, np.dtype[Any]]

# Specification constants (bpf/abi.h, struct tx_record) --------------------------------------------

SENT = np.dtype([
    ("first_sequence", "u4"),  # modulo 2^32
    ("segments", "u2"),
    ("type", "u1"),
    ("time_ns", "u8"),
    ("size_bytes", "u4"),  # of all segments, frame headers included
    ("backlog_us", "u4"),  # the path's virtual queue before them
    ("idle_us", "u4"),  # time that queue was empty so far, modulo 2^32
    ("class", "u1"),
])  # fmt: skip
"""The fields of a ring record that control reads; records may have more."""

_DATA_LAST = max(DATA_TYPES)
"""DATA types are the lowest numbers (docs/wire.md); comparing costs a tenth of looking them up."""

# Implementation constants ------------------------------------------------------------------------

ROWS_FIRST, ROWS_MAX = 256, 16384
"""1.5 s of bursts at the rate of a gigabit in bursts of 16, longer than a path may be suspect."""

_LOG = np.dtype([
    ("first", "i8"), ("end", "i8"), ("time_ns", "i8"), ("bytes", "i8"), ("bytes_after", "i8"),
    ("idle_ns", "i8"), ("backlog_ns", "i8"), ("is_due", "?"),
])  # fmt: skip


def split(records: Rows) -> dict[int, dict[int, Rows]]:
    """Sort ring records by peer and path; their order within a path stays."""
    if not len(records):
        return {}
    rows = (records["peer"].astype(np.uint32) << np.uint32(3)) | records["path"]
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - np.uint32(1)))
    found: dict[int, dict[int, Rows]] = {}
    for start, of_path in zip(starts.tolist(), np.split(records[order], starts[1:]), strict=True):
        found.setdefault(int(rows[start]) >> 3, {})[int(rows[start]) & 7] = of_path
    return found


@dataclass(frozen=True, slots=True)
class Point:
    """A path as one datagram left on it; counts include that datagram."""

    sequence: int
    time_ns: int
    sent_bytes: int
    idle_ns: int
    backlog_ns: int


class SentLog:
    """The sends of one path that no report has named yet."""

    def __init__(self) -> None:
        self.next_sequence = 0
        """The kernel's next link sequence on this path (64 bits), as far as the log has read."""
        self.total_bytes = 0
        self.named: Point | None = None
        """As the newest named datagram left; None while none is known."""
        self.last_due_ns = 0
        """When DATA was last sent."""
        self._rows = np.zeros(ROWS_FIRST, dtype=_LOG)
        self._start = self._stop = 0
        self._idle_ns = 0
        self._idle_us: int | None = None

    # in ---------------------------------------------------------------------------------------

    def note(self, records: Rows) -> None:
        """Take what was sent next on the path, oldest first (fields as in ``SENT``)."""
        count = len(records)
        if not count:
            return
        records = records[-ROWS_MAX:]
        self._make_room(len(records))
        rows = self._rows[self._stop : self._stop + len(records)]
        self._stop += len(records)
        # The sequence is widened by its signed distance from the one expected.
        distance = (records["first_sequence"] - np.uint32(self.next_sequence & 0xFFFFFFFF)).astype(np.int32)
        rows["first"] = distance.astype(np.int64) + self.next_sequence
        rows["end"] = rows["first"] + records["segments"]
        rows["time_ns"] = records["time_ns"]
        rows["bytes"] = records["size_bytes"]
        rows["bytes_after"] = np.cumsum(rows["bytes"]) + self.total_bytes
        rows["backlog_ns"] = records["backlog_us"].astype(np.int64) * 1000
        rows["is_due"] = records["type"] <= _DATA_LAST
        rows["idle_ns"] = self._unwrap_idle(records["idle_us"])
        self.next_sequence = max(self.next_sequence, int(rows["end"].max()))
        self.total_bytes = int(rows["bytes_after"][-1])
        due = np.flatnonzero(rows["is_due"])
        if len(due):
            self.last_due_ns = int(rows["time_ns"][due[-1]])

    def _unwrap_idle(self, idle_us: Rows) -> Rows:
        before = np.uint32(idle_us[0] if self._idle_us is None else self._idle_us)
        steps_us = np.diff(idle_us, prepend=before).astype(np.uint32)  # wraps as the field does
        steps_us[steps_us > 1 << 31] = 0  # two CPUs raced by a few records: never backwards
        idle_ns = np.cumsum(steps_us.astype(np.int64) * 1000) + self._idle_ns
        self._idle_us, self._idle_ns = int(idle_us[-1]), int(idle_ns[-1])
        return idle_ns

    def _make_room(self, count: int) -> None:
        held = self._stop - self._start
        if self._stop + count <= len(self._rows):
            return
        keep = self._rows[max(self._start, self._stop - (ROWS_MAX - count)) : self._stop]
        size = len(self._rows)
        while size < min(2 * (held + count), ROWS_MAX):
            size *= 2
        grown = np.zeros(max(size, count), dtype=_LOG)
        grown[: len(keep)] = keep
        self._rows, self._start, self._stop = grown, 0, len(keep)

    # out --------------------------------------------------------------------------------------

    def on_reported(self, sequence: int) -> Point | None:
        """Release everything up to a reported sequence (64 bits); return its point if it is news.

        Links keep order, so what lies before a named datagram is either named or lost: not due any more.
        """
        held = self._rows[self._start : self._stop]
        at = int(np.searchsorted(held["first"], sequence, side="right")) - 1
        if at < 0 or (self.named is not None and sequence <= self.named.sequence):
            return None
        row = held[at]
        first, end, size = int(row["first"]), int(row["end"]), int(row["bytes"])
        sequence = min(sequence, end - 1)
        unnamed = (end - 1 - sequence) * size // max(end - first, 1)
        self.named = Point(
            sequence,
            time_ns=int(row["time_ns"]),
            sent_bytes=int(row["bytes_after"]) - unnamed,
            idle_ns=int(row["idle_ns"]),
            backlog_ns=int(row["backlog_ns"]),
        )
        self._start += at + (sequence == end - 1)
        return self.named

    def oldest_due_ns(self) -> int | None:
        """Return when the oldest DATA that no report has named was sent; None if there is none."""
        held = self._rows["is_due"][self._start : self._stop]
        at = int(held.argmax()) if len(held) else 0
        return int(self._rows["time_ns"][self._start + at]) if len(held) and held[at] else None

    def forget(self) -> None:
        """Expect nothing of what was sent so far: the path leads elsewhere now, or its records were lost."""
        self._start = self._stop
        self.named = None
