"""Bursts: what one receive call brings, and where it must be cut before it is opened.

Data-plane process; used by sdwan.edge.inward. The kernel coalesces datagrams of equal length that follow
each other on a link (GRO); a burst may hold parts of several super-packets, and other types between them.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sdwan.core.wire import Type

# Specification constants (docs/wire.md) -----------------------------------------------------------

HEAD = struct.Struct("!BBBBIIIII")
VERSION, PATH, RECEIVER, WORD, COUNTER, SEQUENCE, TIME = 0, 1, 4, 5, 6, 7, 8
"""Fields of HEAD; the word is type, index, segments and template words."""

# Implementation constants -------------------------------------------------------------------------

ROWS_MAX = 255
"""Datagrams in one burst; the kernel coalesces at most 64."""

Head = tuple[int, ...]


class Burst:
    """What one recvmsg brought: ``rows`` datagrams of ``stride`` bytes (the last may be shorter)."""

    __slots__ = ("ancillary", "last_bytes", "length", "rows", "source", "stride")

    def __init__(self, length: int, stride: int, source: tuple, ancillary: list) -> None:
        self.length = length
        self.stride = stride
        self.rows = -(-length // stride)
        self.last_bytes = length - (self.rows - 1) * stride
        self.source = source
        self.ancillary = ancillary

    def row_bytes(self, row: int) -> int:
        """Length of datagram ``row``."""
        return self.stride if row < self.rows - 1 else self.last_bytes

    def leave_last_out(self) -> None:
        """Forget the last datagram; the others are ``stride`` bytes long."""
        self.rows -= 1
        self.last_bytes = self.stride


def cut(burst: Burst, buffer: npt.NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return (start, stop) of each run of consecutive segments of one super-packet.

    First only the ends are compared: the nonces of the rows between are *predicted* when they are opened,
    so that a row which is not what it should be fails its tag and is looked at alone.
    """
    rows, stride = burst.rows, burst.stride
    if rows == 1:
        return [(0, 1)]
    first, last = HEAD.unpack_from(buffer.data), HEAD.unpack_from(buffer.data, (rows - 1) * stride)
    if (
        last[WORD] - first[WORD] == (rows - 1) << 16
        and (last[COUNTER] - first[COUNTER]) & 0xFFFFFFFF == rows - 1
        and first[WORD] >> 24 == Type.SUPER
        and last[RECEIVER] == first[RECEIVER]
    ):
        return [(0, rows)]
    words = np.ndarray((rows,), ">u4", buffer, 8, (stride,)).astype(np.uint32)
    counters = np.ndarray((rows,), ">u4", buffer, 12, (stride,)).astype(np.uint32)
    receivers = np.ndarray((rows,), ">u4", buffer, 4, (stride,))
    follows = (
        (np.diff(words) == 0x10000)
        & (np.diff(counters) == 1)
        & (words[1:] >> 24 == Type.SUPER)
        & (receivers[1:] == receivers[:-1])
    )
    return list(pairwise([0, *(np.flatnonzero(~follows) + 1).tolist(), rows]))
