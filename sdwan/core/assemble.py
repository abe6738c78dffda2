"""Assembling: opened datagrams become runs, neighbouring runs become one write to the TUN.

Pure. A **run** is a contiguous piece of one super-packet (or one whole packet). Its rows were opened
last row first into a **slot**, each row's header template landing on the tail of the row before it
and then overwritten by that row's payload: what remains is one template followed by all payloads,
with room in front for the virtio header:

    slot:   6 spare | meta 4 | template H | payload of row 0 | payload of row 1 | …
            └ virtio header 10 ┘

A run that is a part of a super-packet is delivered as a smaller super-packet: no reassembly, no
waiting for the rest, no loss amplification. A BUNDLE is a run as well, of equal UDP packets, and open
at its end: the next bundle of the flow joins it.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from sdwan.core.inner import TCP, UDP, complete_checksum, split_super, transport, trim_template
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

BUNDLED_MAX = 64
"""Packets joined from bundles per write: UDP_MAX_SEGMENTS of kernels before 6.9."""
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
    template's length, 0 for a whole packet. ``segments`` 0: a bundle.
    """

    __slots__ = (
        "bucket", "bucket_sequence", "counter", "due_ns", "flags", "frame", "head_bytes", "index",
        "piece_bytes", "rows", "segments",
    )  # fmt: skip

    def __init__(
        self, frame: memoryview, *, counter: int, bucket: int, bucket_sequence: int, flags: int,
        rows: int = 1, index: int = 0, segments: int = 1, head_bytes: int = 0, piece_bytes: int = 0,
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
        self.due_ns = 0
        """When it is to be delivered (sdwan.core.playout); 0 = when its turn has come."""

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
        if self.segments == 0:
            return (
                other.segments == 0
                and self.bucket == other.bucket
                and self.bucket_sequence == (other.bucket_sequence + segments_joined) & 0xFFFF
                and self.piece_bytes == other.piece_bytes
                and segments_joined + self.rows <= BUNDLED_MAX
                and self.head_bytes == other.head_bytes
                and _same_flow(self.packet, other.packet)
            )
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

    def split(self) -> list[bytes]:
        """Cut into whole packets with finished checksums, for a TUN without offload."""
        whole = memoryview(b"".join(self.pieces))[VNET_BYTES:]
        out = []
        for packet in split_super(whole, self.head_bytes, segment_bytes=self.piece_bytes, segments_max=1):
            complete_checksum(memoryview(packet))
            out.append(VNET_PLAIN + packet)
        return out


class Assembler:
    """Joins runs in delivery order into frames."""

    def __init__(self) -> None:
        self._first: Run | None = None
        self._pieces: list[memoryview] = []
        self._joined = 0

    def add(self, run: Run) -> Frame | None:
        """Add one run; return the frame that this displaces, or None.

        Call ``take`` when the super-packet is ``complete``, and at the end of a round.

        Raises:
            WireError: the displaced frame makes no packet and is dropped; ``run`` is kept.
        """
        first = self._first
        if first is not None and run.continues(first, self._joined):
            self._pieces.append(run.frame[VNET_BYTES + run.head_bytes :])
            self._joined += run.rows
            return None
        try:
            return self.take()
        finally:
            self._first = run
            self._pieces = [run.frame]
            self._joined = run.rows

    @property
    def holds(self) -> bool:
        """Tell whether something has been joined and not taken."""
        return self._first is not None

    @property
    def complete(self) -> bool:
        """Tell whether the last segment of the super-packet has been joined."""
        first = self._first
        return first is not None and bool(first.segments) and first.index + self._joined >= first.segments

    def take(self) -> Frame | None:
        """Return the frame joined so far, with its virtio header in place, and begin anew.

        Raises:
            WireError: the template makes no packet; the frame is dropped.
        """
        first, pieces, joined = self._first, self._pieces, self._joined
        if first is None:
            return None
        self._first = None
        payload = sum(map(len, pieces)) - VNET_BYTES - first.head_bytes
        head = first.frame[VNET_BYTES : VNET_BYTES + first.head_bytes]
        if joined != first.segments:
            trim_template(
                head,
                payload_bytes=payload,
                first_index=first.index,
                is_last=first.index + joined >= first.segments,
                segment_bytes=first.piece_bytes,
            )
        first.frame[:VNET_BYTES] = super_vnet(head, first.flags, first.piece_bytes, payload)
        return Frame(pieces, first.head_bytes, first.piece_bytes, bool(first.flags & META_UDP))


def _same_flow(one: memoryview, other: memoryview) -> bool:
    """Tell whether two UDP templates differ in nothing but identification and what follows from it.

    The UDP checksum holds only the pseudo-header sum, which the lengths decide.
    """
    if one[0] >> 4 == 6:
        return one[:4] == other[:4] and one[6:44] == other[6:44]
    return one[:2] == other[:2] and one[6:10] == other[6:10] and one[12:24] == other[12:24]


def super_vnet(head: memoryview, flags: int, piece_bytes: int, payload_bytes: int) -> bytes:
    """Return the virtio header of a run with this template.

    Raises:
        WireError: the template is not the TCP or UDP over IP that ``flags`` says.
    """
    protocol, offset = transport(head)
    udp = bool(flags & META_UDP)
    if protocol != (UDP if udp else TCP) or offset + (8 if udp else 20) > len(head):
        raise WireError(f"super-packet template: protocol {protocol}, flags {flags:#x}")
    gso_bytes = piece_bytes if payload_bytes > piece_bytes else 0
    return _super_vnet(head[0] >> 4, flags, len(head), offset, gso_bytes)


@lru_cache(maxsize=256)
def _super_vnet(version: int, flags: int, head_bytes: int, offset: int, gso_bytes: int) -> bytes:
    udp = bool(flags & META_UDP)
    if not gso_bytes:
        return _vnet(0, 0, 0, offset, udp)
    kind = _GSO_UDP if udp else _GSO_TCPV4 if version == 4 else _GSO_TCPV6
    if flags & META_ECN and not udp:
        kind |= _GSO_ECN
    return _vnet(kind, head_bytes, gso_bytes, offset, udp)


def single_vnet(packet: memoryview, flags: int) -> bytes:
    """Return the virtio header of one whole packet.

    Raises:
        WireError: its checksum is to be finished, but it is not TCP or UDP over IP.
    """
    if not flags & META_NEEDS_CSUM:
        return VNET_PLAIN
    protocol, offset = transport(packet)
    if protocol not in (TCP, UDP):
        raise WireError(f"inner packet: checksum left open for protocol {protocol}")
    return _vnet(0, 0, 0, offset, protocol == UDP)


def _vnet(kind: int, head_bytes: int, gso_bytes: int, offset: int, udp: bool) -> bytes:
    return _VNET.pack(_NEEDS_CSUM, kind, head_bytes, gso_bytes, offset, 6 if udp else 16)
