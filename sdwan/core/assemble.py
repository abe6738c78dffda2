"""Assembling: opened datagrams become runs, neighbouring runs become one write to the TUN.

Pure. A **run** is a contiguous piece of one super-packet (or one whole packet). Its rows were opened
last row first into a **slot**, each row's header template landing on the tail of the row before it
and then overwritten by that row's payload: what remains is one template followed by all payloads,
with room in front for the virtio header:

    slot:   6 spare | meta 4 | template H | payload of row 0 | payload of row 1 | …
            └ virtio header 10 ┘

A run that is a part of a super-packet is delivered as a smaller super-packet: no reassembly, no
waiting for the rest, no loss amplification.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from sdwan.core.inner import TCP, UDP, complete_checksum, transport, trim_template
from sdwan.core.wire import META_BYTES, META_ECN, META_NEEDS_CSUM, META_UDP
from sdwan.errors import WireError

# Specification constants (linux/virtio_net.h) -----------------------------------------------------

VNET_BYTES = 10
_NEEDS_CSUM = 1
_GSO_TCPV4, _GSO_TCPV6, _GSO_UDP, _GSO_ECN = 1, 4, 5, 0x80
VNET_PLAIN = bytes(VNET_BYTES)
_VNET = struct.Struct("<BBHHHH")

SLOT_LEAD = VNET_BYTES - META_BYTES
"""Where the first row's plaintext begins in a slot: the virtio header overwrites its meta."""

# Implementation constants -------------------------------------------------------------------------

SLOT_BYTES = 67_000
"""One 64 KiB super-packet with lead and template."""
_VIEWS_KEPT = 8


class Slot:
    """Memory for one run, and the views its rows are opened into (kept for a few shapes)."""

    __slots__ = ("_views", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SLOT_BYTES))
        self._views: dict[tuple[int, int], list[memoryview]] = {}

    def destinations(self, prefix_bytes: int, piece_bytes: int) -> list[memoryview]:
        """Return where rows go whose plaintext is ``prefix_bytes`` and then ``piece_bytes``."""
        key = (prefix_bytes, piece_bytes)
        views = self._views.get(key)
        if views is None:
            if len(self._views) >= _VIEWS_KEPT:
                self._views.clear()
            size = prefix_bytes + piece_bytes
            starts = range(SLOT_LEAD, SLOT_BYTES - size, piece_bytes)
            views = self._views[key] = [self.view[at : at + size] for at in starts[:256]]
        return views


class Run:
    """Contiguous segments of one super-packet, opened; or (``segments`` = 1) one whole packet.

    ``frame`` begins with room for the virtio header, then template and payload. ``head_bytes`` is the
    template's length, 0 for a whole packet.
    """

    __slots__ = (
        "bucket", "bucket_sequence", "counter", "flags", "frame", "head_bytes", "index", "piece_bytes",
        "rows", "segments",
    )  # fmt: skip

    def __init__(
        self, frame: memoryview, *, counter: int, bucket: int, bucket_sequence: int, flags: int, rows: int = 1,
        index: int = 0, segments: int = 1, head_bytes: int = 0, piece_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.frame = frame
        self.counter = counter
        self.bucket = bucket
        self.bucket_sequence = bucket_sequence
        self.flags = flags
        self.rows = rows
        self.index = index
        self.segments = segments
        self.head_bytes = head_bytes
        self.piece_bytes = piece_bytes

    @property
    def size_bytes(self) -> int:
        """Memory it holds while it waits."""
        return len(self.frame)

    @property
    def packet(self) -> memoryview:
        """The IP packet (with an untrimmed template when it is a run of segments)."""
        return self.frame[VNET_BYTES:]

    def keep(self) -> Run:
        """Move to memory of its own: the slot is about to be used again."""
        self.frame = memoryview(bytearray(self.frame))
        return self

    def row(self, row: int) -> Run:
        """Return one row of this run as a run of its own, in memory of its own."""
        head = VNET_BYTES + self.head_bytes
        start = head + row * self.piece_bytes
        frame = bytearray(self.frame[:head]) + bytearray(self.frame[start : start + self.piece_bytes])
        return Run(
            memoryview(frame),
            counter=self.counter + row,
            bucket=self.bucket,
            bucket_sequence=(self.bucket_sequence + row) & 0xFFFF,
            flags=self.flags,
            index=self.index + row,
            segments=self.segments,
            head_bytes=self.head_bytes,
            piece_bytes=self.piece_bytes,
        )

    def continues(self, other: Run, segments_joined: int) -> bool:
        """Tell whether this run follows ``other`` (of which ``segments_joined`` are joined already)."""
        return (
            self.counter == other.counter + segments_joined
            and self.index == other.index + segments_joined
            and self.segments == other.segments
            and self.head_bytes == other.head_bytes
            and self.bucket == other.bucket
            and other.piece_bytes == self.piece_bytes
        )


class Frame:
    """A joined (part of a) super-packet, ready to be written: virtio header, template, payloads."""

    __slots__ = ("head_bytes", "piece_bytes", "pieces", "udp")

    def __init__(self, pieces: list[memoryview], head_bytes: int, piece_bytes: int, udp: bool) -> None:
        self.pieces = pieces
        self.head_bytes = head_bytes
        self.piece_bytes = piece_bytes
        self.udp = udp

    def _vnet(kind: int, head_bytes: int, gso_bytes: int, offset: int, udp: bool) -> bytes:
    return _VNET.pack(_NEEDS_CSUM, kind, head_bytes, gso_bytes, offset, 6 if udp else 16)
