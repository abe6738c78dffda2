"""The ring in which the kernel says which path it chose, read without a system call.

``sdwan_steer`` writes one record per skb into an mmapped array (struct tx_record in bpf/abi.h). One
reader follows; the kernel never waits for it. What was overwritten before it was read is counted as an
overrun, and a record the kernel is just writing ends the reading until next time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Records = np.ndarray[Any, np.dtype[Any]]


class TxRing:
    """Follows the ring from the moment it is made; not for use by several threads."""

    def __init__(self, records: Records, head: Records) -> None:
        """Follow ``records`` (a power of two of them), whose count of ever written ones is ``head[0]``."""
        self._records = records
        self._head = head
        self._next = int(head[0])
        self.overruns = 0
        """Records that were overwritten before they were read."""

    def read_new(self) -> Records:
        """Return a copy of the records not returned before, oldest first.

        The dtype is struct tx_record's; ``first_counter`` is converted to the machine's order.
        """
        head = int(self._head[0])
        self._skip_to(head - len(self._records))
        fresh = self._copy(self._next, head)
        # Whatever the kernel wrote while we copied may have changed the oldest of the copies.
        overwritten = max(0, int(self._head[0]) - len(self._records) - self._next)
        fresh = fresh[overwritten:]
        self._skip_to(self._next + overwritten)
        numbers = np.arange(self._next + 1, self._next + 1 + len(fresh), dtype=np.uint64).astype(np.uint32)
        complete = fresh["number"] == numbers
        count = len(fresh) if complete.all() else int(np.argmin(complete))
        self._next += count
        fresh = fresh[:count]
        fresh["first_counter"] = fresh["first_counter"].view(">u4")
        return fresh

    def _skip_to(self, number: int) -> None:
        if number > self._next:
            self.overruns += number - self._next
            self._next = number

    def _copy(self, start: int, end: int) -> Records:
        size = len(self._records)
        first, last = start % size, end % size
        if start == end:
            return self._records[:0].copy()
        if first < last:
            return self._records[first:last].copy()
        return np.concatenate((self._records[first:], self._records[:last]))
