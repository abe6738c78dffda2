"""Forward error correction, receiving side: what was lost of a block, made whole from its repairs.

Pure; one ``Decoder`` per peer, used by sdwan.edge.recover. In go copies of sealed rows that *opened*, and
opened REPAIRs; out come whole datagrams, which then enter by the same door as those that arrive: opened,
checked for replay, ordered. The other side is sdwan.core.fec.

A repair says which counters its block covers. Blocks wait for repairs and rows in any order; what is
missing is solved for as soon as enough is there, though it may still be on its way. Everything is bounded:
rows and blocks by age, bytes and number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sdwan.core.erasure import reconstruct
from sdwan.core.repair import ROW_PREFIX_BYTES, Form, parse
from sdwan.core.wire import DATA_TYPES, HEADER_BYTES, META_BYTES, TAG_BYTES, VERSION, widen
from sdwan.errors import WireError
from sdwan.model import PATH_CHOOSE

# Specification constants (docs/wire.md) -----------------------------------------------------------

_TYPE_AT = 8
_SEALED_LEAST = META_BYTES + TAG_BYTES

# Implementation constants -------------------------------------------------------------------------

KEEP_NS = 1_000_000_000
"""How long rows and blocks wait for each other: the delay gap of a satellite link beside a fibre."""
KEPT_BYTES_MAX = 8 << 20
"""Of rows and repairs per peer: 0.6 s at 100 Mbit/s."""
BLOCKS_MAX = 256

Bytes = npt.NDArray[np.uint8]


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
        self.useless = 0
        """What came out and is no datagram: the peer coded other rows than it sent."""
        self.span_ns: int | None = None
        """From the first row of the newest block to its first repair, both as they came."""
        self.kept_bytes = 0
        self._is_fresh = is_fresh
        self._rows: dict[int, tuple[memoryview, int]] = {}
        """Sealed datagram and arrival, by counter."""
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
            self._rows[counter + row] = (kept[row * stride : (row + 1) * stride], now_ns)
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
        counters = form.counters()
        missing = {counter for counter in counters if counter not in self._rows}
        came_ns = [self._rows[counter][1] for counter in counters if counter not in missing]
        self.span_ns = now_ns - min(came_ns) if came_ns else self.span_ns
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
        if any(kept is None for _, kept in present):
            self._finish(block)
            return []
        lost = [i for i, counter in enumerate(counters) if counter in block.missing]
        whole = _recover(block, [(i, kept[0]) for i, kept in present if kept is not None], lost)
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
        self.useless += len(missing) - len(datagrams)
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
        matrix[at, :4] = datagram[_TYPE_AT : _TYPE_AT + 4]
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
