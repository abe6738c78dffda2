"""What the tunnel needs to know of the packets it carries: flow, addresses, transport header.

Pure; functions over memoryviews of one IP packet (no virtio header). Nothing here trusts the bytes:
every length is checked against the view before it is used. Also mends what changes when only a part
of a super-packet is delivered: lengths, identification, TCP sequence and flags, checksums.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from sdwan.errors import WireError

# Specification constants (RFC 791, 8200, 9293, 768) -----------------------------------------------

TCP, UDP = 6, 17
_EXTENSIONS = frozenset({0, 43, 60})
"""IPv6 extension headers that may stand before the transport: hop-by-hop, routing, destination."""
_TCP_FIN, _TCP_SYN, _TCP_PSH, _TCP_ACK, _TCP_CWR = 0x01, 0x02, 0x08, 0x10, 0x80
_CHECKSUM_OFFSET = {TCP: 16, UDP: 6}
_MSS_KIND, _END_KIND, _NOP_KIND = 2, 0, 1

# Implementation constants -------------------------------------------------------------------------

_EXTENSIONS_MAX = 4
"""More extension headers than this before a transport header are nobody's honest packet."""


def flow_key(packet: memoryview) -> bytes:
    """Return the bytes that name a packet's flow: addresses, and ports where they are there.

    Fragments and other protocols are told apart by address and protocol. Empty when it is no IP packet.
    """
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= 20:
        whole = packet[0] == 0x45 and not packet[6] & 0x3F and not packet[7]
        if whole and packet[9] in _CHECKSUM_OFFSET and len(packet) >= 24:
            return bytes(packet[12:24])
        return bytes(packet[12:20]) + bytes(packet[9:10])
    if version == 6 and len(packet) >= 40:
        if packet[6] in _CHECKSUM_OFFSET and len(packet) >= 44:
            return bytes(packet[8:44])
        return bytes(packet[8:40]) + bytes(packet[6:7])
    return b""


def source_of(packet: memoryview) -> bytes:
    """Return the source address: 4 or 16 bytes, empty when it is no IP packet."""
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= 20:
        return bytes(packet[12:16])
    if version == 6 and len(packet) >= 40:
        return bytes(packet[8:24])
    return b""


def destination_of(packet: memoryview) -> bytes:
    """Return the destination address: 4 or 16 bytes, empty when it is no IP packet."""
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= 20:
        return bytes(packet[16:20])
    if version == 6 and len(packet) >= 40:
        return bytes(packet[24:40])
    return b""


def transport(packet: memoryview) -> tuple[int, int]:
    """Return (protocol, offset of its header) of an unfragmented packet.

    Raises:
        WireError: not IP, header cut short, or too many extension headers.
    """
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= 20:
        offset = (packet[0] & 0x0F) * 4
        if 20 <= offset <= len(packet):
            return packet[9], offset
    elif version == 6 and len(packet) >= 40:
        protocol, offset = packet[6], 40
        for _ in range(_EXTENSIONS_MAX):
            if protocol not in _EXTENSIONS or offset + 8 > len(packet):
                break
            protocol, offset = packet[offset], offset + 8 + packet[offset + 1] * 8
        if protocol not in _EXTENSIONS and offset <= len(packet):
            return protocol, offset
    raise WireError(f"inner packet of {len(packet)} bytes: no transport header")


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """Return the folded, un-complemented 16-bit ones' complement sum (RFC 1071)."""
    even = len(data) & ~1
    total = start + int(np.frombuffer(data, dtype=">u2", count=even // 2).sum(dtype=np.uint64))
    if even != len(data):
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _pseudo_sum(packet: memoryview, protocol: int, length: int) -> int:
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return checksum(addresses, protocol + (length >> 16) + (length & 0xFFFF))


def segment_bytes(packet: memoryview, head_bytes: int, segments: int) -> int:
    """Return the segment size of a super-packet from its *last* segment alone.

    ``packet`` is the header template (whose IP length is still the super-packet's) and the last
    segment's payload. Never less than that payload: the last segment is not longer than the others.
    """
    version = packet[0] >> 4 if len(packet) >= 6 else 0
    at, extra = (2, 0) if version == 4 else (4, 40)
    total = (packet[at] << 8 | packet[at + 1]) + extra if version else 0
    last = len(packet) - head_bytes
    return max((total - head_bytes - last) // max(segments - 1, 1), last, 1)


def trim_template(
    head: memoryview, *, payload_bytes: int, first_index: int, is_last: bool, segment_bytes: int
) -> None:
    """Make a super-packet's header template right for a run of its segments, in place.

    ``head`` is the writable template (IP and transport header); the run starts with segment
    ``first_index`` and carries ``payload_bytes``. Lengths, IP identification and checksum, TCP
    sequence and flags are mended; the transport checksum is set to the pseudo-header sum.

    Raises:
        WireError: the template is not TCP or UDP over IP, or is cut short.
    """
    protocol, offset = transport(head)
    minimum = {TCP: 20, UDP: 8}.get(protocol, len(head) + 1)
    if offset + minimum > len(head):
        raise WireError(f"super-packet template of {len(head)} bytes: protocol {protocol} does not fit")
    total = len(head) + payload_bytes
    if head[0] >> 4 == 4:
        identification = (head[4] << 8 | head[5]) + first_index & 0xFFFF
        struct.pack_into("!HH", head, 2, total & 0xFFFF, identification)
        head[10:12] = b"\0\0"
        struct.pack_into("!H", head, 10, ~checksum(head[:offset]) & 0xFFFF)
    else:
        struct.pack_into("!H", head, 4, total - 40 & 0xFFFF)
    if protocol == TCP:
        (sequence,) = struct.unpack_from("!I", head, offset + 4)
        struct.pack_into("!I", head, offset + 4, sequence + first_index * segment_bytes & 0xFFFFFFFF)
        clear = (0 if is_last else _TCP_FIN | _TCP_PSH) | (_TCP_CWR if first_index else 0)
        head[offset + 13] &= ~clear & 0xFF
    else:
        struct.pack_into("!H", head, offset + 4, total - offset & 0xFFFF)
    pseudo = _pseudo_sum(head, protocol, total - offset)
    struct.pack_into("!H", head, offset + _CHECKSUM_OFFSET[protocol], pseudo)


def split_super(
    packet: memoryview, head_bytes: int, *, segment_bytes: int, segments_max: int
) -> Iterator[bytearray]:
    """Yield a super-packet as smaller ones of at most ``segments_max`` segments, checksums still open.

    Raises:
        WireError: its first ``head_bytes`` are no TCP or UDP over IP.
    """
    step = segment_bytes * segments_max
    for start in range(head_bytes, len(packet), step):
        part = bytearray(packet[:head_bytes]) + packet[start : start + step]
        trim_template(
            memoryview(part)[:head_bytes],
            payload_bytes=len(part) - head_bytes,
            first_index=(start - head_bytes) // segment_bytes,
            is_last=start + step >= len(packet),
            segment_bytes=segment_bytes,
        )
        yield part


def checksum_place(packet: memoryview) -> tuple[int, int]:
    """Return where ``complete_checksum`` works: offset of the transport header, and of the field in it.

    (0, 0) when it would find neither TCP nor UDP.
    """
    if len(packet) > 20 and packet[0] == 0x45:  # asked of every small packet
        protocol, start = packet[9], 20
    else:
        try:
            protocol, start = transport(packet)
        except WireError:
            return 0, 0
    field = _CHECKSUM_OFFSET.get(protocol, 0)
    return (start, field) if field and start + field + 2 <= len(packet) else (0, 0)


def complete_checksum(packet: memoryview) -> None:
    """Finish, in place, a transport checksum that holds only the pseudo-header sum.

    Raises:
        WireError: the packet is not TCP or UDP over IP.
    """
    start, field = checksum_place(packet)
    if not start:
        raise WireError(f"inner packet of {len(packet)} bytes: no TCP or UDP checksum to finish")
    finish_checksum(packet, start, field)


def finish_checksum(packet: memoryview, start: int, field: int) -> None:
    """Finish a checksum over everything from ``start`` on, in the ``field`` that many bytes behind it.

    Raises:
        WireError: the field lies outside the packet.
    """
    if start + field + 2 > len(packet):
        raise WireError(f"inner packet of {len(packet)} bytes: no checksum at {start} + {field}")
    value = ~checksum(packet[start:]) & 0xFFFF
    struct.pack_into("!H", packet, start + field, value or 0xFFFF)


def maybe_syn(packet: memoryview) -> bool:
    """Tell, quickly, whether a packet may be a TCP SYN (False is certain)."""
    if len(packet) < 40:
        return False
    if packet[0] == 0x45:
        return packet[9] == TCP and bool(packet[33] & _TCP_SYN)
    return packet[0] >> 4 != 4 or packet[9] == TCP


def is_bare_ack(packet: memoryview) -> bool:
    """Tell whether a packet is TCP's acknowledgement and nothing else: no payload, no other flag."""
    if len(packet) > 60 + 60:
        return False
    if len(packet) >= 40 and packet[0] == 0x45 and packet[9] == TCP and not packet[6] & 0x3F:
        start = 20
    elif len(packet) >= 60 and packet[0] >> 4 == 6 and packet[6] == TCP:
        start = 40
    else:
        return False
    return packet[start + 13] == _TCP_ACK and start + (packet[start + 12] >> 4 << 2) == len(packet)


def clamp_mss(packet: memoryview, mtu_bytes: int, *, needs_csum: bool) -> bool:
    """Lower the MSS option of a TCP SYN, in place, to what fits the tunnel; tell whether it changed.

    ``needs_csum``: the checksum field holds only the pseudo-header sum and does not cover options.
    Anything that is no well-formed SYN is left alone.
    """
    try:
        protocol, offset = transport(packet)
    except WireError:
        return False
    if protocol != TCP or len(packet) < offset + 20 or not packet[offset + 13] & _TCP_SYN:
        return False
    limit = mtu_bytes - (20 if packet[0] >> 4 == 4 else 40) - 20
    at, end = offset + 20, min(offset + (packet[offset + 12] >> 4) * 4, len(packet))
    while at < end and packet[at] != _END_KIND:
        if packet[at] == _NOP_KIND:
            at += 1
            continue
        if at + 2 > end or packet[at + 1] < 2:
            return False
        if packet[at] == _MSS_KIND and packet[at + 1] == 4 and at + 4 <= end:
            return _lower_mss(packet, offset, at + 2, limit, needs_csum)
        at += packet[at + 1]
    return False


def _lower_mss(packet: memoryview, offset: int, at: int, limit: int, needs_csum: bool) -> bool:
    (old,) = struct.unpack_from("!H", packet, at)
    if old <= limit:
        return False
    struct.pack_into("!H", packet, at, limit)
    if not needs_csum:
        # RFC 1624; an option at an odd offset counts with its bytes swapped.
        before, after = (old, limit) if at % 2 == offset % 2 else (_swap(old), _swap(limit))
        (field,) = struct.unpack_from("!H", packet, offset + 16)
        total = (~field & 0xFFFF) + (~before & 0xFFFF) + after
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", packet, offset + 16, ~total & 0xFFFF)
    return True


def _swap(word: int) -> int:
    return (word << 8 | word >> 8) & 0xFFFF
