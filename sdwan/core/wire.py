"""The wire format: the 24 bytes before every ciphertext, and how small packets share a datagram.

Pure. docs/wire.md is the specification and holds the picture; this file is its only Python
transcription, bpf/abi.h its only C one (a test compares the two). All fields are in network order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from sdwan.errors import WireError

# Specification constants (docs/wire.md) ----------------------------------------------------------

VERSION = 1
HEADER_BYTES = 24
TAG_BYTES = 16
NONCE = slice(4, 16)
"""The nonce *is* these header bytes, so they are authenticated without associated data."""

META_BYTES = 4
"""First bytes of every DATA plaintext: bucket u8, flags u8, bucket sequence u16."""

CLASS_MASK = 0x07
FLAG_DUPLICATE = 0x20
"""Header byte 2: a copy on every path with a weight."""

META_CLASS_MASK = 0x07
META_NEEDS_CSUM = 0x08
"""Meta flags: the transport checksum holds only the pseudo-header sum (virtio NEEDS_CSUM)."""
META_UDP = 0x10
"""Meta flags: the super-packet is USO (UDP), else TSO (TCP)."""
META_ECN = 0x20
"""Meta flags: virtio's ECN bit of a TSO super-packet."""

BUCKET_UNORDERED = 255
"""Flow bucket of packets that need no order: bare TCP acknowledgements, which say more the newer they are."""

ENTRY_FORMAT = struct.Struct("!HBH")
"""A container's entry: length u16 (bit 15: NEEDS_CSUM), bucket u8, bucket sequence u16; then the packet."""
ENTRY_NEEDS_CSUM = 0x8000

COUNTER_MODULUS = 1 << 32
REKEY_AFTER_DATAGRAMS = 1 << 28
"""RFC 9001 B.1.1 allows 2^28 full-size packets under one AES-GCM key."""


class Type(IntEnum):
    """Datagram types. DATA (the first four) shares one counter; CONTROL has its own."""

    SUPER = 0x01
    SINGLE = 0x02
    CONTAINER = 0x03
    BUNDLE = 0x04
    REPAIR = 0x05
    PROBE = 0x10
    PROBE_REPLY = 0x11
    CONTROL = 0x20
    INIT = 0x30
    RESPONSE = 0x31
    COOKIE = 0x32


DATA_TYPES = frozenset({Type.SUPER, Type.SINGLE, Type.CONTAINER, Type.BUNDLE})

_HEADER = struct.Struct("!BBBBIBBBBIII")


@dataclass(frozen=True, slots=True)
class Header:
    """One decoded header. Path, link sequence and send time are the kernel's and unauthenticated."""

    path: int
    class_flags: int
    receiver: int
    type: int
    index: int = 0
    segments: int = 1
    template_bytes: int = 0
    counter: int = 0
    link_sequence: int = 0
    send_time_us: int = 0

    def pack(self) -> bytes:
        """Encode to 24 bytes."""
        return _HEADER.pack(
            VERSION, self.path, self.class_flags, 0, self.receiver,
            self.type, self.index, self.segments, self.template_bytes // 4,
            self.counter, self.link_sequence, self.send_time_us,
        )  # fmt: skip

    @classmethod
    def unpack(cls, datagram: bytes | bytearray | memoryview) -> Header:
        """Decode the first 24 bytes.

        Raises:
            WireError: too short, wrong version or reserved byte not zero.
        """
        if len(datagram) < HEADER_BYTES:
            raise WireError(f"header: {len(datagram)} bytes, needs {HEADER_BYTES}")
        fields = _HEADER.unpack_from(datagram)
        version, path, class_flags, reserved, receiver, kind, index, segments, words = fields[:9]
        if version != VERSION or reserved:
            raise WireError(f"header: version {version} reserved {reserved}, expected {VERSION} and 0")
        return cls(path, class_flags, receiver, kind, index, segments, words * 4, *fields[9:])


def sealed_overhead_bytes(outer_ipv6: bool) -> int:
    """Bytes a DATA datagram costs beyond the inner packet: IP, UDP, header, meta and tag."""
    return (40 if outer_ipv6 else 20) + 8 + HEADER_BYTES + META_BYTES + TAG_BYTES


def widen(low: int, near: int, bits: int = 32) -> int:
    """Return the integer closest to ``near`` whose low ``bits`` bits are ``low`` (never negative)."""
    modulus = 1 << bits
    difference = (low - near) & (modulus - 1)
    if difference >= modulus >> 1:
        difference -= modulus
    wide = near + difference
    return wide if wide >= 0 else wide + modulus
