"""Containers: one datagram full of small packets, and how they come out again.

Pure. On the way out ``Container`` is filled entry by entry and sealed in place; on the way in
``unpack`` yields its packets. ``contents`` does the same for every type that is opened alone.

    entry:  length u16 (bit 15: NEEDS_CSUM) | bucket u8 | bucket sequence u16 | packet
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from sdwan.core.assemble import SLOT_LEAD, VNET_BYTES, VNET_PLAIN, Run
from sdwan.core.staging import PREFIX_BYTES, ROW_HEAD
from sdwan.core.wire import (
    ENTRY_FORMAT,
    ENTRY_NEEDS_CSUM,
    HEADER_BYTES,
    META_BYTES,
    META_NEEDS_CSUM,
    META_UDP,
    TAG_BYTES,
    VERSION,
    Type,
)
from sdwan.errors import WireError
from sdwan.model import PATH_CHOOSE

_ENTRY = ENTRY_FORMAT.size
_META = struct.Struct("!BBH")


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


def unpack(entries: memoryview, *, counter: int) -> Iterator[Run]:
    """Yield the packets of an opened container (its bytes behind the meta), each in own memory.

    Raises:
        WireError: an entry is cut short; what came before it has been yielded.
    """
    at, end = 0, len(entries)
    while at < end:
        if at + _ENTRY > end:
            raise WireError(f"container: {end - at} bytes left, an entry needs {_ENTRY}")
        length, bucket, sequence = ENTRY_FORMAT.unpack_from(entries, at)
        flags = META_NEEDS_CSUM if length & ENTRY_NEEDS_CSUM else 0
        packet, at = at + _ENTRY, at + _ENTRY + (length & ~ENTRY_NEEDS_CSUM)
        if at > end or at == packet:
            raise WireError(f"container: entry of {at - packet} bytes, {end - packet} left")
        frame = bytearray(VNET_PLAIN + entries[packet:at])
        yield Run(
            memoryview(frame), counter=counter, bucket=bucket, bucket_sequence=sequence, flags=flags
        )  # fmt: skip


def contents(frame: memoryview, word: int, *, counter: int) -> Iterable[Run]:
    """Return what an opened SINGLE, CONTAINER or BUNDLE holds.

    ``frame`` is its slot: SLOT_LEAD spare bytes, then the plaintext. ``word`` is the header's third:
    type, index, segments, template words.

    Raises:
        WireError: it does not hold what its type says (raised while iterating, for a container).
    """
    if word >> 24 == Type.CONTAINER:
        return unpack(frame[SLOT_LEAD + META_BYTES :], counter=counter)
    bucket, flags, sequence = _META.unpack_from(frame, SLOT_LEAD)
    rows, head_bytes, piece = 1, 0, 0
    if word >> 24 == Type.BUNDLE:
        rows, head_bytes = word >> 8 & 0xFF, (word & 0xFF) << 2
        piece, rest = divmod(len(frame) - VNET_BYTES - head_bytes, rows or 1)
        if rest or piece <= 0 or not rows or not head_bytes or not flags & META_UDP:
            raise WireError(f"bundle of {rows} packets behind {head_bytes} bytes of template")
    return (
        Run(
            frame, counter=counter, bucket=bucket, bucket_sequence=sequence, flags=flags, rows=rows,
            segments=1 if not head_bytes else 0, head_bytes=head_bytes, piece_bytes=piece,
        ),
    )  # fmt: skip
