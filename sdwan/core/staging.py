"""Staging: the rows of one numpy array, each of which becomes one datagram.

Pure. A burst is written here column by column (header, counter, bucket sequence: one strided store
each for all rows), sealed in place by sdwan.core.session and sent from here as one GSO burst. The
memoryviews a row needs for sealing are cut once per datagram size and kept; a ``Stage`` keeps a
bounded number of sizes.

    row:  header 24 | meta 4 | header template H | segment payload g | tag 16
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from sdwan.core.wire import (
    HEADER_BYTES,
    META_BYTES,
    TAG_BYTES,
    VERSION,
    Type,
)
from sdwan.model import PATH_CHOOSE

# Specification constants (docs/wire.md) -----------------------------------------------------------

PREFIX_BYTES = HEADER_BYTES + META_BYTES
ROW_OVERHEAD_BYTES = PREFIX_BYTES + TAG_BYTES
TEMPLATE_BYTES_MAX = 255 * 4
SEGMENTS_MAX = 255
"""Segments of one super-packet: a byte on the wire."""
ROW_HEAD = struct.Struct("!BBBBIBBBBIIIBBH")

# Implementation constants -------------------------------------------------------------------------

_STAGE_BYTES = 66_000
"""Rows of one size together hold at least the payload of one 64 KiB super-packet."""
_TEMPLATE_BYTES = 120
"""What a template takes of a row at most, IPv6 extension headers aside: 60 bytes of IP, 60 of TCP."""
_SIZES_KEPT = 32
"""Datagram sizes whose rows are kept: 32 x 70 kB. A TCP flow uses one or two."""

_RAMP32 = np.arange(SEGMENTS_MAX + 1, dtype=np.uint32)
_RAMP16 = np.arange(SEGMENTS_MAX + 1, dtype=np.uint16)
_RAMP8 = np.arange(SEGMENTS_MAX + 1, dtype=np.uint8)


class Rows:
    """Staging rows of one datagram size. Contents live until the next burst of that size."""

    __slots__ = (
        "_bucket_sequences", "_counters", "_head", "_indices", "array", "capacity", "ciphertexts",
        "datagram_bytes", "flat", "nonces", "plaintexts",
    )  # fmt: skip

    def __init__(self, datagram_bytes: int) -> None:
        size = datagram_bytes
        self.datagram_bytes = size
        payload = max(size - ROW_OVERHEAD_BYTES - _TEMPLATE_BYTES, 1)
        self.capacity = min(SEGMENTS_MAX, _STAGE_BYTES // payload + 1)
        self.array: npt.NDArray[np.uint8] = np.zeros((self.capacity, size), dtype=np.uint8)
        self.flat = self.array.reshape(-1).data
        self._head = bytearray(size)
        self._indices = self.array[:, 9]
        self._counters = self._column(12, ">u4")
        self._bucket_sequences = self._column(26, ">u2")
        starts = range(0, self.capacity * size, size)
        self.nonces = [self.flat[at + 4 : at + 16] for at in starts]
        self.plaintexts = [self.flat[at + HEADER_BYTES : at + size - TAG_BYTES] for at in starts]
        self.ciphertexts = [self.flat[at + HEADER_BYTES : at + size] for at in starts]

    def _column(self, offset: int, dtype: str) -> npt.NDArray[np.unsignedinteger]:
        return np.ndarray(
            (self.capacity,), dtype=dtype, buffer=self.array, offset=offset, strides=(self.datagram_bytes,)
        )

    def stage_super(
        self, packet: npt.NDArray[np.uint8], template_bytes: int, *, receiver: int, class_flags: int,
        meta_flags: int, bucket: int, bucket_sequence: int, counter: int,
        kind: Type = Type.SUPER, packets_per_row: int = 1, first: int = 0, rows_max: int = SEGMENTS_MAX,
    ) -> tuple[int, int]:  # fmt: skip
        """Lay a super-packet out, one segment a row; return (rows, bytes of the last datagram).

        ``packet`` is the IP packet; its payload behind ``template_bytes`` is cut into pieces of this
        size of datagram. Only segments ``first .. first + rows_max - 1`` are laid out, from row 0 on, with
        their index in the whole super-packet; ``counter`` and ``bucket_sequence`` are those of segment
        ``first``. With ``kind`` BUNDLE a row carries ``packets_per_row`` segments (all segments are equal).
        """
        prefix = PREFIX_BYTES + template_bytes
        piece = self.datagram_bytes - prefix - TAG_BYTES
        segments = -(-(packet.shape[0] - template_bytes) // piece)
        begin = template_bytes + first * piece
        full, rest = divmod(min(packet.shape[0] - begin, rows_max * piece), piece)
        count = full + (rest > 0)
        head = self._head
        ROW_HEAD.pack_into(
            head, 0, VERSION, PATH_CHOOSE, class_flags, 0, receiver, kind, 0,
            segments if kind == Type.SUPER else packets_per_row,
            template_bytes >> 2, 0, 0, 0, bucket, meta_flags, 0,
        )  # fmt: skip
        head[PREFIX_BYTES:prefix] = packet[:template_bytes].data
        array = self.array
        array[:count, :prefix] = np.frombuffer(head, dtype=np.uint8, count=prefix)
        array[:full, prefix : prefix + piece] = packet[begin : begin + full * piece].reshape(full, piece)
        if rest:
            array[full, prefix : prefix + rest] = packet[begin + full * piece :]
        if kind == Type.SUPER:
            self._indices[:count] = _RAMP8[first : first + count]
        elif rest:
            array[full, 10] = rest * packets_per_row // piece
        # The arrays wrap like the fields on the wire do.
        self._counters[:count] = _RAMP32[:count] + np.uint32(counter & 0xFFFFFFFF)
        self._bucket_sequences[:count] = _RAMP16[:count] * np.uint16(packets_per_row) + np.uint16(
            bucket_sequence
        )
        return count, self.datagram_bytes if not rest else prefix + rest + TAG_BYTES

    def stage_single(
        self, row: int, packet: npt.NDArray[np.uint8], *, receiver: int, class_flags: int,
        meta_flags: int, bucket: int, bucket_sequence: int, counter: int,
    ) -> None:  # fmt: skip
        """Lay one whole packet, exactly as long as these rows allow, into ``row``."""
        at = row * self.datagram_bytes
        ROW_HEAD.pack_into(
            self.flat, at, VERSION, PATH_CHOOSE, class_flags, 0, receiver, Type.SINGLE, 0, 1, 0,
            counter & 0xFFFFFFFF, 0, 0, bucket, meta_flags, bucket_sequence,
        )  # fmt: skip
        self.array[row, PREFIX_BYTES:-TAG_BYTES] = packet


class Stage:
    """Rows by datagram size, a bounded number of sizes."""

    def __init__(self) -> None:
        self._rows: dict[int, Rows] = {}

    def rows(self, datagram_bytes: int) -> Rows:
        """Return the rows for datagrams of this size (their former contents are lost)."""
        rows = self._rows.get(datagram_bytes)
        if rows is None:
            if len(self._rows) >= _SIZES_KEPT:
                del self._rows[next(iter(self._rows))]
            rows = self._rows[datagram_bytes] = Rows(datagram_bytes)
        return rows
