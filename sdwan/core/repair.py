"""The plaintext of a REPAIR datagram: which DATA counters its block covers, and one repair shard.

Pure; docs/wire.md (Repair) is the specification, this file its only transcription. The counters of one
class need not be consecutive, so a block is a short list of runs of them.

    first counter u32 | sources u8 | repairs u8 | index u8 | class, form u8 | runs u8
    runs x (skip u16, count u8) | shard

A *row* is what is protected of a DATA datagram: bytes 8..11 of its header, its length (u16), and bytes 24 to
its end. The receiver index is left out (a REPAIR is sealed under the session of its rows), and so is the
counter, which the runs tell.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sdwan.core.wire import HEADER_BYTES, TAG_BYTES
from sdwan.errors import WireError

# Specification constants (docs/wire.md) -----------------------------------------------------------

SOURCES_MAX = 64
"""Datagrams in one block."""
REPAIRS_MAX = 32
"""Repair shards of one block."""
RUNS_MAX = 16
"""Runs of consecutive counters in one block."""
ROW_PREFIX_BYTES = 6
"""Of a row, before its sealed bytes: type, index, segments, template words; length."""
TWO_SHARDS = 0x08
"""Form: each row is two shards."""

_CLASS_MASK, _FORM_AT = 0x07, 7
_HEAD = struct.Struct("!IBBBBB")
_RUN = struct.Struct("!HB")
_U32 = 0xFFFFFFFF
_SKIP_MAX = 0xFFFF

Run = tuple[int, int]
"""First counter (64 bits where it is not read from the wire), and how many from there on."""


@dataclass(frozen=True, slots=True)
class Form:
    """What the repairs of one block have in common."""

    traffic_class: int
    runs: tuple[Run, ...]
    repairs: int
    """Repair shards made."""
    shards_per_row: int
    """1, or 2 where a repair of a whole row would be too long for a datagram."""

    @property
    def sources(self) -> int:
        """Datagrams covered."""
        return sum(count for _, count in self.runs)

    def counters(self) -> list[int]:
        """Return the counters covered, in order."""
        return [counter for first, count in self.runs for counter in range(first, first + count)]

    def head(self, index: int) -> bytes:
        """Encode everything before the shard of repair ``index``."""
        runs = self.runs
        form = self.traffic_class | (TWO_SHARDS if self.shards_per_row == 2 else 0)
        listed = len(runs) if len(runs) > 1 else 0
        head = _HEAD.pack(runs[0][0] & _U32, self.sources, self.repairs, index, form, listed)
        if not listed:
            return head
        skips = [0, *(after[0] - sum(before) for before, after in pairwise(runs))]
        return head + b"".join(_RUN.pack(skip, count) for skip, (_, count) in zip(skips, runs, strict=True))


def head_bytes(runs: int) -> int:
    """Return how long the part before the shard is."""
    return _HEAD.size + (runs * _RUN.size if runs > 1 else 0)


def shard_room_bytes(datagram_bytes: int, runs: int) -> int:
    """Return the longest shard that fits a REPAIR of ``datagram_bytes`` of UDP payload."""
    return datagram_bytes - HEADER_BYTES - TAG_BYTES - head_bytes(runs)


def can_follow(runs: Sequence[Run], counter: int) -> bool:
    """Tell whether a block of these runs can cover ``counter`` too."""
    skip = counter - sum(runs[-1])
    return skip == 0 or (0 < skip <= _SKIP_MAX and len(runs) < RUNS_MAX)


def class_of(plaintext: bytes) -> int:
    """Return the traffic class of a repair that ``parse`` has accepted."""
    return plaintext[_FORM_AT] & _CLASS_MASK


def parse(plaintext: bytes | memoryview) -> tuple[Form, int, bytes]:
    """Return the form of the block, the index of this repair and its shard; counters have 32 bits.

    Raises:
        WireError: too short, numbers out of range, or runs that do not add up.
    """
    if len(plaintext) <= _HEAD.size:
        raise WireError(f"repair: {len(plaintext)} bytes, needs more than {_HEAD.size}")
    first, sources, repairs, index, form, listed = _HEAD.unpack_from(plaintext)
    if not 1 <= sources <= SOURCES_MAX or not 1 <= repairs <= REPAIRS_MAX or index >= repairs:
        raise WireError(f"repair {index} of {repairs} over {sources} datagrams: out of range")
    if form & ~(_CLASS_MASK | TWO_SHARDS) or listed > RUNS_MAX or listed == 1:
        raise WireError(f"repair: form {form:#x} with {listed} runs is not known")
    at = _HEAD.size + listed * _RUN.size
    if len(plaintext) <= at:
        raise WireError(f"repair: {len(plaintext)} bytes, {listed} runs and a shard need more than {at}")
    runs: list[Run] = [] if listed else [(first, sources)]
    counter = first
    for skip, count in _RUN.iter_unpack(plaintext[_HEAD.size : at]):
        runs.append((counter + skip, count))
        counter += skip + count
    if sum(count for _, count in runs) != sources or not all(count for _, count in runs):
        raise WireError(f"repair: runs {runs} are not {sources} datagrams")
    if runs[0][0] != first:
        raise WireError(f"repair: its first run begins at {runs[0][0]}, not at {first}")
    shape = Form(form & _CLASS_MASK, tuple(runs), repairs, 2 if form & TWO_SHARDS else 1)
    return shape, index, bytes(plaintext[at:])
