"""The replay window: which counters were opened, which are known to be lost.

Pure. Same rule as RFC 6479 (the window slides over a ring, nothing is ever shifted), with one byte
per counter instead of one bit, so that a whole burst is looked up, marked or searched by one memchr-
like call. Beside seen and unknown a counter may be *lost*: it certainly did not come and was asked for;
and *given up*: nobody waits for it any more. Both are still fresh: when the datagram comes after all, it
is accepted. They serve sdwan.core.holes and sdwan.core.reorder; security knows only seen or not.
Unsafe for concurrent use; one window per direction.
"""

from __future__ import annotations

import re

UNKNOWN, SEEN, LOST, GIVEN_UP = 0, 1, 2, 3

# Implementation constants -------------------------------------------------------------------------

DATA_WINDOW = 1 << 17
"""Counters remembered for DATA: 0.3 s at 4 Gbit/s; RFC 6479's 8128 would be 20 ms."""
CONTROL_WINDOW = 1 << 14
"""Repairs count here too: at 10,000 a second a CONTROL on a path 1.6 s slower is still fresh."""

_UNKNOWN_TO_LOST = bytes([LOST, *range(1, 256)])
_LOST_TO_GIVEN_UP = bytes([UNKNOWN, SEEN, GIVEN_UP, *range(3, 256)])
_RUNS = {value: re.compile(bytes([value]) + b"+") for value in (UNKNOWN, LOST)}

Range = tuple[int, int]
"""First counter, and how many from there on."""


class ReplayWindow:
    """Counters are 64-bit and only ever asked about after their datagram was authenticated."""

    __slots__ = ("_mask", "_ring", "revived", "size", "top")

    def __init__(self, size: int = DATA_WINDOW) -> None:
        if size & (size - 1):
            raise ValueError(f"window of {size} counters: must be a power of two")
        self.size = size
        self.top = -1
        """Highest counter seen or announced; -1 before the first."""
        self.revived = 0
        """Datagrams that came after they were known to be lost."""
        self._mask = size - 1
        self._ring = bytearray(size)

    def accept(self, first: int, count: int = 1) -> bool:
        """Mark ``count`` counters from ``first`` as seen if all are fresh; else change nothing."""
        last = first + count - 1
        top = self.top
        if first > top:
            if last - top >= self.size:
                self._ring = bytearray(self.size)
            elif first != top + 1:
                self._fill(top + 1, first - top - 1, UNKNOWN)
            self.top = last
        elif first <= top - self.size or self._holds(first, min(last, top), SEEN):
            return False
        else:
            for a, b in self._spans(first, min(last, top)):
                self.revived += self._ring.count(LOST, a, b)
            self.top = max(top, last)
        self._fill(first, count, SEEN)
        return True

    def announce(self, counter: int) -> bool:
        """Learn that every counter up to this one was sent; False if that is too far to be believed."""
        if counter - self.top >= self.size >> 1:
            return False
        if counter > self.top:
            self._fill(self.top + 1, counter - self.top, UNKNOWN)
            self.top = counter
        return True

    def is_fresh(self, counter: int) -> bool:
        """Tell whether ``counter`` would be accepted."""
        if counter > self.top:
            return True
        return counter > self.top - self.size and self._ring[counter & self._mask] != SEEN

    def is_open(self, counter: int, *, named_too: bool) -> bool:
        """Tell whether ``counter`` may still be worth waiting for: unknown or (``named_too``) lost."""
        if counter <= self.top - self.size:
            return False
        state = self._ring[counter & self._mask]
        return state == UNKNOWN or (named_too and state == LOST)

    def first_open(self, first: int, last: int, *, named_too: bool) -> int:
        """Return the lowest counter in ``first..last`` that is open (see ``is_open``); -1: none."""
        base = max(first, self.top - self.size + 1, 0)
        for a, b in self._spans(base, min(last, self.top)):
            at = self._ring.find(UNKNOWN, a, b)
            if named_too:
                lost_at = self._ring.find(LOST, a, b if at < 0 else at)
                at = lost_at if lost_at >= 0 else at
            if at >= 0:
                return base + at - a
            base += b - a
        return -1

    def unknown_between(self, first: int, last: int) -> int:
        """Count counters in ``first..last`` that are neither seen nor known to be lost."""
        return sum(self._ring.count(UNKNOWN, a, b) for a, b in self._spans(first, last))

    def name_lost(self, first: int, last: int) -> list[Range]:
        """Mark every unknown counter in ``first..last`` (all at most ``top``) as lost; return them."""
        named = self._runs(UNKNOWN, first, last)
        if named:
            self._translate(first, last, _UNKNOWN_TO_LOST)
        return named

    def lost_between(self, first: int, last: int) -> list[Range]:
        """Return what in ``first..last`` is lost and has neither come again nor been given up."""
        return self._runs(LOST, first, last)

    def give_up(self, first: int, last: int) -> None:
        """Wait no more for what is lost in ``first..last``."""
        self._translate(first, last, _LOST_TO_GIVEN_UP)

    def _runs(self, value: int, first: int, last: int) -> list[Range]:
        base, out = max(first, self.top - self.size + 1, 0), []
        for a, b in self._spans(first, last):
            for match in _RUNS[value].finditer(self._ring, a, b):
                out.append((base + match.start() - a, match.end() - match.start()))
            base += b - a
        return out

    def _translate(self, first: int, last: int, table: bytes) -> None:
        for a, b in self._spans(first, last):
            self._ring[a:b] = self._ring[a:b].translate(table)

    def _spans(self, first: int, last: int) -> tuple[tuple[int, int], ...]:
        first = max(first, self.top - self.size + 1, 0)
        if last < first:
            return ()
        a = first & self._mask
        b = a + last - first + 1
        if b <= self.size:
            return ((a, b),)
        return ((a, self.size), (0, b - self.size))

    def _holds(self, first: int, last: int, value: int) -> bool:
        return any(self._ring.find(value, a, b) >= 0 for a, b in self._spans(first, last))

    def _fill(self, first: int, count: int, value: int) -> None:
        a = first & self._mask
        b = a + count
        if b <= self.size:
            self._ring[a:b] = bytes((value,)) * count
        else:
            self._ring[a:] = bytes((value,)) * (self.size - a)
            self._ring[: b - self.size] = bytes((value,)) * (b - self.size)
