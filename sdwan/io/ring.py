"""The ring in which the kernel says which path it chose, read without a system call.

``sdwan_steer`` writes one record per skb into an mmapped array (struct tx_record in bpf/abi.h). Each reader
has a ``TxRing`` of its own, and the kernel waits for none. A reader that follows takes ``read_new``: what was
overwritten before it was read is counted as an overrun, and a record the kernel is just writing ends the
reading until next time. A reader that asks takes ``find`` (which path took these datagrams?) and ``sent_on``
(what left on this path?): they look at every record still in the ring, a second of bursts at 8192 a second.

Made by sdwan.io.maps for control and by sdwan.io.kernelview for the data plane. Counters and link sequences
are 32-bit numbers that wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Records = np.ndarray[Any, np.dtype[Any]]
Words = np.ndarray[Any, np.dtype[np.uint64]]

# Specification constants (bpf/abi.h) ---------------------------------------------------------------

_DATA_TYPE_FIRST, _DATA_TYPE_LAST = 0x01, 0x04
"""SUPER to BUNDLE: the types that share the DATA counter."""
_SEGMENTS_MAX = 128
"""Datagrams in one record (UDP_MAX_SEGMENTS, include/linux/udp.h)."""
_U32 = 0xFFFFFFFF


class TxRing:
    """Follows the ring from the moment it is made; not for use by several threads."""

    def __init__(self, records: Records, head: Records) -> None:
        """Follow ``records`` (a power of two of them), whose count of ever written ones is ``head[0]``."""
        self._records = records
        self._words = records.view(np.uint64).reshape(len(records), -1)
        """The same memory: numpy copies words twenty times as fast as it copies records."""
        self._head = head
        self._next = int(head[0])
        self.overruns = 0
        """Records that were overwritten before they were read."""

    # Follow --------------------------------------------------------------------------------------

    def read_new(self) -> Records:
        """Return a copy of the records not returned before, oldest first.

        The dtype is struct tx_record's; ``first_counter`` is converted to the machine's order.
        """
        head = int(self._head[0])
        self._skip_to(head - len(self._records))
        fresh = self._as_records(self._copy(self._next, head))
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

    def _copy(self, start: int, end: int) -> Words:
        size = len(self._words)
        first, last = start % size, end % size
        if start == end:
            return self._words[:0].copy()
        if first < last:
            return self._words[first:last].copy()
        return np.concatenate((self._words[first:], self._words[:last]))

    def _as_records(self, words: Words) -> Records:
        return words.view(self._records.dtype)[:, 0]

    # Ask -----------------------------------------------------------------------------------------

    def find(self, peer: int, first_counters: Sequence[int]) -> dict[int, tuple[int, int, int]]:
        """Tell which path took each of these DATA datagrams of a peer, the last time it was sent.

        Args:
            peer: its number.
            first_counters: counters, of which the low 32 bits count; all within 2^31 of each other.

        Returns:
            By counter, as given: path, link sequence (low 32 bits), time_ns. What the ring does not hold
            any more, or never did, is missing.
        """
        if not len(first_counters):
            return {}
        low = np.fromiter((counter & _U32 for counter in first_counters), np.uint32, len(first_counters))
        asked = (low - low[0]).view(np.int32).astype(np.int64)  # relative to the first: they may wrap
        order = np.argsort(asked)
        wanted = asked[order]
        distance = (self._records["first_counter"].view(">u4") - low[0]).view(np.int32)
        near = (distance > wanted[0] - _SEGMENTS_MAX) & (distance <= wanted[-1])
        rows = self._copy_where(near & self._is_data_of(peer))
        first = (rows["first_counter"] - low[0]).view(np.int32).astype(np.int64)
        newest = _newest_covering(wanted, first, first + rows["segments"])
        known = newest >= 0
        asked_at, rows = order[known], rows[newest[known]]
        sequences = rows["first_sequence"] + (low[asked_at] - rows["first_counter"])
        took = zip(rows["path"].tolist(), sequences.tolist(), rows["time_ns"].tolist(), strict=True)
        return {first_counters[at]: found for at, found in zip(asked_at.tolist(), took, strict=True)}

    def sent_on(self, peer: int, path: int, after_sequence: int) -> list[tuple[int, int, int]]:
        """Tell what DATA left on a path with a link sequence higher than ``after_sequence``, oldest first.

        Returns:
            Runs of datagrams with consecutive counters and link sequences: first counter, how many, first
            link sequence (all low 32 bits). A burst is cut where ``after_sequence`` lies within it.
        """
        rows = self._copy_where(self._is_data_of(peer) & (self._records["path"] == path))
        start = np.uint32((after_sequence + 1) & _U32)
        known = (start - rows["first_sequence"]).view(np.int32).clip(0)
        left = rows["segments"] - known
        chosen = np.flatnonzero(left > 0)
        skip = known[chosen].astype(np.uint32)
        counters, sequences = rows["first_counter"][chosen] + skip, rows["first_sequence"][chosen] + skip
        return list(zip(counters.tolist(), left[chosen].tolist(), sequences.tolist(), strict=True))

    def _is_data_of(self, peer: int) -> Records:
        kinds = self._records["type"]
        is_data = (kinds >= _DATA_TYPE_FIRST) & (kinds <= _DATA_TYPE_LAST)
        return np.asarray(is_data & (self._records["peer"] == peer))

    def _copy_where(self, mask: Records) -> Records:
        """Copy the records of a mask, oldest first; counters in the machine's order."""
        records = self._records
        slots = np.flatnonzero(mask)
        oldest = np.searchsorted(slots, int(self._head[0]) % len(records))
        slots = np.concatenate((slots[oldest:], slots[:oldest]))
        numbers = records["number"][slots]
        words = self._take(slots)
        # The kernel takes a record's number away before it changes anything else.
        whole = (numbers != 0) & (numbers == records["number"][slots])
        if not whole.all():
            words = words[whole]
        rows = self._as_records(words)
        rows["first_counter"] = rows["first_counter"].view(">u4")
        return rows

    def _take(self, slots: Records) -> Words:
        return np.take(self._words, slots, axis=0)


def _newest_covering(wanted: Records, first: Records, end: Records) -> Records:
    """For each of the sorted numbers, give the last of the spans [first, end) that holds it, or -1."""
    begin = np.searchsorted(wanted, first)
    covered = np.searchsorted(wanted, end) - begin
    hits = np.flatnonzero(covered)
    begin, covered = begin[hits], covered[hits]
    span = np.repeat(hits, covered)
    # Places begin .. begin + covered - 1 for every span, one after the other.
    place = np.arange(len(span)) + np.repeat(begin - np.cumsum(covered) + covered, covered)
    newest = np.full(len(wanted), -1)
    newest[place] = span  # where several are assigned, the last stays
    return newest
