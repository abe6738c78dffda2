"""Containers: one datagram full of small packets, and how they come out again.

Pure. On the way out ``Container`` is filled entry by entry and sealed in place. On the way in
``unpack`` yields the packets as runs; UDP packets of one flow and size that follow each other come
out as *one* run, so that a flood of small packets costs one write per dozens. Only packets whose
checksum is to be finished anyway are joined: the kernel finishes the joined one, and a checksum that
was broken elsewhere must not be healed on the way.

    entry:  length u16 (bit 15: NEEDS_CSUM) | bucket u8 | bucket sequence u16 | packet
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sdwan.core.assemble import UDP4_HEAD, VNET_PLAIN, Run
from sdwan.core.inner import UDP
from sdwan.core.staging import PREFIX_BYTES, ROW_HEAD
from sdwan.core.wire import (
    ENTRY_FORMAT,
    ENTRY_NEEDS_CSUM,
    HEADER_BYTES,
    META_NEEDS_CSUM,
    META_UDP,
    TAG_BYTES,
    VERSION,
    Type,
)
from sdwan.errors import WireError
from sdwan.model import PATH_CHOOSE

_ENTRY = ENTRY_FORMAT.size


class Container:
    """One datagram being filled. Packets of any flow may share it."""

    __slots__ = ("_view", "length")

    def __init__(self) -> None:
        self._view = memoryview(bytearray(65536))
        self.length = PREFIX_BYTES
        """Bytes used, with header and meta and without the tag."""

    def room(self, packet_bytes: int, datagram_bytes: int) -> bool:
        """Tell whether a packet of this size still fits a datagram of that size."""
        return self.length + _ENTRY + packet_bytes + TAG_BYTES <= datagram_bytes

    def add(self, packet: memoryview, length_flags: int, bucket: int, bucket_sequence: int) -> None:
        """Append one entry; ``length_flags`` is its length and wire.ENTRY_NEEDS_CSUM."""
        at = self.length + _ENTRY
        ENTRY_FORMAT.pack_into(self._view, at - _ENTRY, length_flags, bucket, bucket_sequence)
        self.length = at + len(packet)
        self._view[at : self.length] = packet

    def seal(
        self, seal_into: Callable[..., object], *, receiver: int, class_flags: int, counter: int
    ) -> memoryview:
        """Seal in place, empty the container and return the datagram (valid until the next add)."""
        view, end = self._view, self.length
        ROW_HEAD.pack_into(
            view, 0, VERSION, PATH_CHOOSE, class_flags, 0, receiver, Type.CONTAINER, 0, 1, 0,
            counter & 0xFFFFFFFF, 0, 0, 0, class_flags & 7, 0,
        )  # fmt: skip
        seal_into(view[4:16], view[HEADER_BYTES:end], None, view[HEADER_BYTES : end + TAG_BYTES])
        self.length = PREFIX_BYTES
        return view[: end + TAG_BYTES]


def unpack(entries: bytes, *, counter: int) -> Iterator[Run]:
    """Yield the packets of an opened container (its bytes behind the meta), neighbours joined.

    Raises:
        WireError: an entry is cut short; what came before it has been yielded.
    """
    at, end = 0, len(entries)
    alike, first, count, expected = b"", 0, 0, 0
    while at < end:
        if at + _ENTRY > end:
            raise WireError(f"container: {end - at} bytes left, an entry needs {_ENTRY}")
        length_flags, _, sequence = ENTRY_FORMAT.unpack_from(entries, at)
        packet, at = at + _ENTRY, at + _ENTRY + (length_flags & ~ENTRY_NEEDS_CSUM)
        if at > end or at == packet:
            raise WireError(f"container: entry of {at - packet} bytes, {end - packet} left")
        key = _alike(entries, packet, length_flags)
        if count and key and key == alike and sequence == expected:
            count += 1
        else:
            if count:
                yield _run(entries, first, count, counter)
            alike, first, count = key, packet - _ENTRY, 1
        expected = (sequence + 1) & 0xFFFF
    if count:
        yield _run(entries, first, count, counter)


def _alike(entries: bytes, packet: int, length_flags: int) -> bytes:
    """Return what UDP packets of one flow and size have in common; empty if they cannot be joined.

    That is everything but IPv4 identification and header checksum: the UDP checksum still holds
    only the pseudo-header sum, and the entry's own length and bucket stand before the packet.
    """
    if (
        not length_flags & ENTRY_NEEDS_CSUM
        or length_flags & ~ENTRY_NEEDS_CSUM <= UDP4_HEAD
        or entries[packet] != 0x45
        or entries[packet + 9] != UDP
    ):
        return b""
    return entries[packet - _ENTRY : packet - 2] + entries[packet : packet + 4] + entries[
        packet + 6 : packet + 10
    ] + entries[packet + 12 : packet + UDP4_HEAD]  # fmt: skip


def _run(entries: bytes, first: int, count: int, counter: int) -> Run:
    """Return ``count`` alike entries from offset ``first`` as one run."""
    length_flags, bucket, sequence = ENTRY_FORMAT.unpack_from(entries, first)
    length = length_flags & ~ENTRY_NEEDS_CSUM
    packet = first + _ENTRY
    flags = META_NEEDS_CSUM if length_flags & ENTRY_NEEDS_CSUM else 0
    if count == 1:
        frame = bytearray(VNET_PLAIN + entries[packet : packet + length])
        return Run(
            memoryview(frame), counter=counter, bucket=bucket, bucket_sequence=sequence, flags=flags
        )  # fmt: skip
    stride = _ENTRY + length
    starts = range(packet + UDP4_HEAD, packet + count * stride, stride)
    payloads = [entries[at : at + length - UDP4_HEAD] for at in starts]
    frame = bytearray(b"".join([VNET_PLAIN, entries[packet : packet + UDP4_HEAD], *payloads]))
    return Run(
        memoryview(frame), counter=counter, bucket=bucket, bucket_sequence=sequence,
        flags=flags | META_UDP, rows=count, segments=0, head_bytes=UDP4_HEAD,
        piece_bytes=length - UDP4_HEAD,
    )  # fmt: skip
