"""Forward error correction, sending side: blocks of sealed datagrams, and repairs over them.

Pure; one ``Encoder`` per peer and class, used by sdwan.edge.protect. In go sealed DATA rows as they were
sent; out come the plaintexts of REPAIR datagrams when a block closes: after so many rows, or so long after
the first. The other side is sdwan.core.mending, the wire form sdwan.core.repair, the arithmetic
sdwan.core.erasure.

Bytes the kernel writes are never protected. An open block is bounded by its rows; what it may add, by a
credit that rows earn, however sparse or short blocks are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sdwan.core.erasure import encode
from sdwan.core.repair import (
    REPAIRS_MAX,
    ROW_PREFIX_BYTES,
    SOURCES_MAX,
    Form,
    Run,
    can_follow,
    shard_room_bytes,
)
from sdwan.core.wire import HEADER_BYTES

# Specification constants (docs/wire.md) -----------------------------------------------------------

_TYPE_AT = 8

# Implementation constants -------------------------------------------------------------------------

MILLISECOND_NS = 10**6
CLOSE_NS_DEFAULT = 5 * MILLISECOND_NS
OVERHEAD_MAX = 0.5
"""Repairs per source row, whatever is asked for and however short blocks are."""
CREDIT_MAX = 16.0
"""Rows' worth of repairs a quiet time may save up."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Closed:
    """A block that is complete: the plaintexts of its REPAIRs, all equally long."""

    form: Form
    plaintexts: list[bytes]


class Encoder:
    """Blocks of one class to one peer. ``datagram_bytes`` (UDP payload) may change at any time."""

    def __init__(
        self, traffic_class: int, *, datagram_bytes: int, sources: int = 1, repairs: int = 0
    ) -> None:
        self.traffic_class = traffic_class
        self.datagram_bytes = datagram_bytes
        self.due_ns: int | None = None
        """When the open block must be closed; None while none is open."""
        self._chunks: list[tuple[Bytes, int]] = []
        self._runs: list[Run] = []
        self._rows = 0
        self._credit = 0.0
        self.configure(sources=sources, repairs=repairs)

    def configure(self, *, sources: int, repairs: int, close_ns: int = CLOSE_NS_DEFAULT) -> None:
        """Make ``repairs`` rows for every ``sources`` rows, from the next block on."""
        self.sources = min(max(sources, 1), SOURCES_MAX)
        self.repairs = min(repairs, REPAIRS_MAX // 2)
        self.close_ns = close_ns

    def add(self, datagrams: Bytes, last_bytes: int, counter: int, *, now_ns: int) -> list[Closed]:
        """Take sealed datagrams as they were sent (copied); return the blocks that are complete now.

        Args:
            datagrams: one a row; the last one is ``last_bytes`` long, the others a row.
            counter: 64-bit counter of the first; the others follow.
        """
        closed: list[Closed] = []
        start, count = 0, len(datagrams)
        while start < count:
            if self._runs and not can_follow(self._runs, counter + start):
                closed += self.close()
            stop = min(count, start + self.sources - self._rows)
            length = last_bytes if stop == count else datagrams.shape[1]
            self._take(datagrams[start:stop], length, counter + start, now_ns)
            start = stop
            if self._rows >= self.sources:
                closed += self.close()
        return closed

    def _take(self, datagrams: Bytes, last_bytes: int, counter: int, now_ns: int) -> None:
        count = len(datagrams)
        if self.due_ns is None:
            self.due_ns = now_ns + self.close_ns
        if self._runs and counter == sum(self._runs[-1]):
            self._runs[-1] = (self._runs[-1][0], self._runs[-1][1] + count)
        else:
            self._runs.append((counter, count))
        self._chunks.append((datagrams.copy(), last_bytes))
        self._rows += count

    def close(self) -> list[Closed]:
        """Close the open block, if there is one; what is due by time is closed so."""
        chunks, runs, rows = self._chunks, tuple(self._runs), self._rows
        self._chunks, self._runs, self._rows, self.due_ns = [], [], 0, None
        if not rows:
            return []
        self._credit = min(self._credit + OVERHEAD_MAX * rows, CREDIT_MAX)
        repairs = min(-(-self.repairs * rows // self.sources), int(self._credit))
        if repairs <= 0:
            return []
        longest = ROW_PREFIX_BYTES - HEADER_BYTES + max(_longest(*chunk) for chunk in chunks)
        room = shard_room_bytes(self.datagram_bytes, len(runs))
        parts = -(-longest // room) if room > 0 else 3
        if parts > 2:
            return []  # the path MTU fell while the block was open
        self._credit -= repairs
        matrix = np.zeros((rows, -(-longest // parts) * parts), dtype=np.uint8)
        at = 0
        for datagrams, last_bytes in chunks:
            _lay(matrix[at : at + len(datagrams)], datagrams, last_bytes)
            at += len(datagrams)
        form = Form(self.traffic_class, runs, repairs * parts, parts)
        shards = encode(matrix.reshape(rows * parts, -1), form.repairs)
        return [Closed(form, [form.head(index) + shard for index, shard in enumerate(shards)])]


def _longest(datagrams: Bytes, last_bytes: int) -> int:
    return datagrams.shape[1] if len(datagrams) > 1 else last_bytes


def _lay(rows: Bytes, datagrams: Bytes, last_bytes: int) -> None:
    """Write what is protected of each datagram; ``rows`` holds zeros."""
    size = datagrams.shape[1]
    rows[:, :4] = datagrams[:, _TYPE_AT : _TYPE_AT + 4]
    rows[:, 4:6] = (size >> 8, size & 0xFF)
    sealed = min(size - HEADER_BYTES, rows.shape[1] - ROW_PREFIX_BYTES)
    rows[:, ROW_PREFIX_BYTES : ROW_PREFIX_BYTES + sealed] = datagrams[:, HEADER_BYTES : HEADER_BYTES + sealed]
    rows[-1, 4:6] = (last_bytes >> 8, last_bytes & 0xFF)
    rows[-1, ROW_PREFIX_BYTES + last_bytes - HEADER_BYTES :] = 0
