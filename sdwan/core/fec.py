"""Forward error correction over sealed datagrams: blocks of sources, repairs beside them, losses made whole.

Pure. The sender's ``Encoder`` (one per peer and class) collects sealed DATA rows and gives out the plaintexts
of REPAIR datagrams when a block closes: after so many rows, or so long after the first. The receiver's
``Decoder`` (one per peer) keeps copies of sealed rows that *opened*, takes opened REPAIRs, and gives back
whole datagrams, which then enter by the same door as those that arrive: opened, checked for replay, ordered.

What a repair looks like on the wire is in sdwan.core.repair, the arithmetic in sdwan.core.erasure. Kernel
bytes are never protected. Everything is bounded: rows and blocks by age, bytes and number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sdwan.core.erasure import encode, reconstruct
from sdwan.core.repair import (
    REPAIRS_MAX,
    ROW_PREFIX_BYTES,
    SOURCES_MAX,
    Form,
    Run,
    can_follow,
    parse,
    shard_room_bytes,
)
from sdwan.core.wire import DATA_TYPES, HEADER_BYTES, META_BYTES, TAG_BYTES, VERSION, widen
from sdwan.errors import WireError
from sdwan.model import PATH_CHOOSE

# Implementation constants -------------------------------------------------------------------------

MILLISECOND_NS = 10**6
CLOSE_NS_DEFAULT = 5 * MILLISECOND_NS
OVERHEAD_MAX = 0.5
"""Repairs per source row, whatever is asked for and however short blocks are."""
CREDIT_MAX = 16.0
"""Rows' worth of repairs a quiet time may save up."""
KEEP_NS = 1000 * MILLISECOND_NS
"""How long rows and blocks wait for each other: the delay gap of a satellite link beside a fibre."""
KEPT_BYTES_MAX = 8 << 20
"""Of rows and repairs per peer: 0.6 s at 100 Mbit/s."""
BLOCKS_MAX = 256

_TEMPLATE_AT, _SEALED_LEAST = 8, META_BYTES + TAG_BYTES

Bytes = npt.NDArray[np.uint8]


# Sender -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Closed:
    """A block that is complete: the plaintexts of its REPAIRs, all equally long."""

    form: Form
    plaintexts: list[bytes]


class Encoder:
    """Blocks of one class to one peer. ``datagram_bytes`` (UDP payload) may change at any time."""

    def __init__(self, traffic_class: int, *, sources: int, repairs: int, datagram_bytes: int) -> None:
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
    rows[:, :4] = datagrams[:, _TEMPLATE_AT : _TEMPLATE_AT + 4]
    rows[:, 4:6] = (size >> 8, size & 0xFF)
    sealed = min(size - HEADER_BYTES, rows.shape[1] - ROW_PREFIX_BYTES)
    rows[:, ROW_PREFIX_BYTES : ROW_PREFIX_BYTES + sealed] = datagrams[:, HEADER_BYTES : HEADER_BYTES + sealed]
    rows[-1, 4:6] = (last_bytes >> 8, last_bytes & 0xFF)
    rows[-1, ROW_PREFIX_BYTES + last_bytes - HEADER_BYTES :] = 0


# Receiver -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    """A block of which at least one repair came."""

    form: Form
    """Its runs widened to 64 bits."""
    receiver: int
    since_ns: int
    missing: set[int]
    shards: dict[int, bytes] = field(default_factory=dict)
    is_done: bool = False

    @property
    def is_solvable(self) -> bool:
        return len(self.missing) * self.form.shards_per_row <= len(self.shards)


class Decoder:
    """What one peer's repairs can make whole. ``is_fresh`` asks its replay window about a counter."""

    def __init__(self, is_fresh: Callable[[int], bool]) -> None:
        self.repairs = 0
        self.recovered = 0
        self.unrecovered = 0
        """Missing datagrams of blocks that were given up."""
        self.refused = 0
        """Repairs that contradict others of their block."""
        self.kept_bytes = 0
        self._is_fresh = is_fresh
        self._rows: dict[int, memoryview] = {}
        self._ages: deque[tuple[int, int, int, int]] = deque()
        """Time, first counter, rows and bytes of each burst kept."""
        self._blocks: dict[int, _Block] = {}
        self._awaited: dict[int, _Block] = {}

    def note(
        self, counter: int, datagrams: memoryview, stride: int, rows: int, *, now_ns: int
    ) -> list[bytes]:
        """Keep a copy of sealed datagrams that opened and were fresh; return what that makes whole.

        Args:
            datagrams: ``rows`` of them, ``stride`` apart; the last one takes what is left.
        """
        self.expire(now_ns=now_ns)
        kept = memoryview(bytes(datagrams))
        for row in range(rows):
            self._rows[counter + row] = kept[row * stride : (row + 1) * stride]
        self._ages.append((now_ns, counter, rows, len(kept)))
        self.kept_bytes += len(kept)
        if not self._awaited:
            return []
        met = {id(b): b for c in range(counter, counter + rows) if (b := self._awaited.pop(c, None))}
        whole: list[bytes] = []
        for block in met.values():
            block.missing.difference_update(range(counter, counter + rows))
            whole += self._solve(block)
        return whole

    def on_repair(
        self, plaintext: bytes | memoryview, receiver: int, *, top: int, now_ns: int
    ) -> list[bytes]:
        """Take an opened REPAIR; return the datagrams it makes whole, header and all.

        Args:
            receiver: receiver index of its session, which is that of its rows.
            top: highest DATA counter opened so far.

        Raises:
            WireError: it is no repair, or contradicts an earlier one of its block.
        """
        form, index, shard = parse(plaintext)
        self.expire(now_ns=now_ns)
        first = form.runs[0][0]
        wide = widen(first, max(top, 0))
        runs = tuple((wide + counter - first, count) for counter, count in form.runs)
        form = replace(form, runs=runs)
        block = self._blocks.get(wide) or self._begin(form, receiver, now_ns)
        known = next(iter(block.shards.values()), shard)
        if block.form != form or block.receiver != receiver or len(known) != len(shard):
            self.refused += 1
            raise WireError(f"repair of block {wide} contradicts an earlier one")
        self.repairs += 1
        if block.is_done or index in block.shards:
            return []
        block.shards[index] = shard
        self.kept_bytes += len(shard)
        return self._solve(block)

    def expire(self, *, now_ns: int) -> None:
        """Forget rows and blocks that are too old, or too many."""
        blocks = self._blocks
        limit_ns = now_ns - KEEP_NS
        while blocks and (
            (first := next(iter(blocks.values()))).since_ns < limit_ns or len(blocks) > BLOCKS_MAX
        ):
            del blocks[first.form.runs[0][0]]
            self._finish(first)
        ages = self._ages
        while ages and (ages[0][0] < limit_ns or self.kept_bytes > KEPT_BYTES_MAX):
            _, counter, rows, size_bytes = ages.popleft()
            self.kept_bytes -= size_bytes
            for number in range(counter, counter + rows):
                self._rows.pop(number, None)
        if self.kept_bytes > KEPT_BYTES_MAX and blocks:  # repairs alone: only a hostile peer sends so
            for block in list(blocks.values()):
                self._finish(block)

    def _begin(self, form: Form, receiver: int, now_ns: int) -> _Block:
        missing = {counter for counter in form.counters() if counter not in self._rows}
        block = _Block(form, receiver, now_ns, missing)
        self._blocks[form.runs[0][0]] = block
        if not missing or not all(map(self._is_fresh, missing)):
            block.is_done = True  # nothing is lost; or rows came that were not kept: begun in the middle
            return block
        for counter in missing:
            self._awaited[counter] = block
        return block

    def _solve(self, block: _Block) -> list[bytes]:
        """Recover what is missing, if enough is there."""
        if block.is_done or not block.is_solvable:
            return []
        counters, missing = block.form.counters(), sorted(block.missing)
        present = [(i, self._rows.get(c)) for i, c in enumerate(counters) if c not in block.missing]
        if any(row is None for _, row in present):
            self._finish(block)
            return []
        lost = [i for i, counter in enumerate(counters) if counter in block.missing]
        whole = _recover(block, [(i, row) for i, row in present if row is not None], lost)
        for counter in missing:
            del self._awaited[counter]
        block.missing.clear()
        self._finish(block)
        datagrams = [
            datagram
            for counter, row in zip(missing, whole, strict=True)
            if (datagram := _datagram(row, block, counter))
        ]
        self.recovered += len(datagrams)
        self.refused += len(missing) - len(datagrams)
        return datagrams

    def _finish(self, block: _Block) -> None:
        """Give up what a block still misses, and its repairs."""
        if not block.is_done:
            self.unrecovered += len(block.missing)
        block.is_done = True
        for counter in block.missing:
            if self._awaited.get(counter) is block:
                del self._awaited[counter]
        self.kept_bytes -= sum(map(len, block.shards.values()))
        block.shards = {}


def _recover(block: _Block, present: Sequence[tuple[int, memoryview]], lost: list[int]) -> Sequence[Bytes]:
    """Return the protected bytes of the rows at positions ``lost``."""
    parts = block.form.shards_per_row
    if not lost:
        return []
    width = len(next(iter(block.shards.values()))) * parts
    matrix = np.zeros((block.form.sources, width), dtype=np.uint8)
    for at, row in present:
        size = len(row)
        if size - HEADER_BYTES + ROW_PREFIX_BYTES > width:
            return [np.zeros(ROW_PREFIX_BYTES, dtype=np.uint8)] * len(lost)
        datagram = np.frombuffer(row, dtype=np.uint8)
        matrix[at, :4] = datagram[_TEMPLATE_AT : _TEMPLATE_AT + 4]
        matrix[at, 4], matrix[at, 5] = size >> 8, size & 0xFF
        matrix[at, ROW_PREFIX_BYTES : ROW_PREFIX_BYTES + size - HEADER_BYTES] = datagram[HEADER_BYTES:]
    missing = [row * parts + part for row in lost for part in range(parts)]
    shards = matrix.reshape(block.form.sources * parts, -1)
    reconstruct(shards, missing, block.shards, block.form.repairs)
    return [matrix[row] for row in lost]


def _datagram(row: Bytes, block: _Block, counter: int) -> bytes:
    """Return the datagram a recovered row is; nothing if it is none, because the peer coded other rows."""
    size = int(row[4]) << 8 | int(row[5])
    sealed = size - HEADER_BYTES
    if row[0] not in DATA_TYPES or not _SEALED_LEAST <= sealed <= len(row) - ROW_PREFIX_BYTES:
        return b""
    head = bytes((VERSION, PATH_CHOOSE, block.form.traffic_class, 0)) + block.receiver.to_bytes(4, "big")
    nonce_rest = row[:4].tobytes() + (counter & 0xFFFFFFFF).to_bytes(4, "big")
    return head + nonce_rest + bytes(8) + row[ROW_PREFIX_BYTES : ROW_PREFIX_BYTES + sealed].tobytes()
