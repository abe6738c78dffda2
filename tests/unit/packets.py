"""IP packets for tests, built and judged the slow, obvious way, with nothing of the code under test.

``tcp``, ``udp`` and ``icmp`` make finished packets. ``tso`` and ``uso`` make what a kernel hands over at a
TUN with offload: a virtio header and a super-packet whose checksum holds only the pseudo-header sum.
``finished`` does what the kernel does with such a frame: cut it into segments and finish the checksums. So a
tunnel is right when ``finished`` of what came out equals ``finished`` of what went in, byte for byte.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

VNET = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset (linux/virtio_net.h, little endian)."""
NEEDS_CSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_ECN = 1, 4, 5, 0x80
TCP, UDP, ICMP = 6, 17, 1
FIN, SYN, PSH, ACK, ECE, CWR = 0x01, 0x02, 0x08, 0x10, 0x40, 0x80

A4, B4 = "10.1.0.1", "10.2.0.1"
A6, B6 = "fd01::1", "fd02::1"


def ones_sum(data: bytes, start: int = 0) -> int:
    """Return the folded ones' complement sum, word by word (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total = start + sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def address(text: str) -> bytes:
    """Return an address as it stands in a packet."""
    return ipaddress.ip_address(text).packed


def pseudo_sum(packet: bytes, protocol: int, length: int) -> int:
    """Return the sum of the pseudo-header for ``length`` bytes of transport header and payload."""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return ones_sum(addresses + struct.pack("!II", length, protocol))


def ip(source: str, destination: str, protocol: int, body: bytes, *, identification: int = 0, tos: int = 0,
       options: bytes = b"", extensions: bytes = b"", fragment: int = 0x4000) -> bytes:  # fmt: skip
    """Put an IPv4 or IPv6 header before ``body``; ``extensions`` begin with a header of kind 60."""
    a, b = address(source), address(destination)
    if len(a) == 16:
        length = len(extensions) + len(body)
        first = 60 if extensions else protocol
        return struct.pack("!IHBB", 6 << 28 | tos << 20, length, first, 64) + a + b + extensions + body
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s",
        4 << 4 | words, tos, words * 4 + len(body), identification, fragment, 64, protocol, 0, a, b,
    ) + options  # fmt: skip
    return head[:10] + struct.pack("!H", ones_sum(head) ^ 0xFFFF) + head[12:] + body


def transport_at(packet: bytes) -> tuple[int, int]:
    """Return protocol and offset of the transport header (destination options are stepped over)."""
    if packet[0] >> 4 == 4:
        return packet[9], (packet[0] & 15) * 4
    protocol, at = packet[6], 40
    while protocol == 60:
        protocol, at = packet[at], at + 8 + packet[at + 1] * 8
    return protocol, at


def checksum_field(packet: bytes) -> int:
    """Return the offset of the transport checksum."""
    protocol, at = transport_at(packet)
    return at + {TCP: 16, UDP: 6}[protocol]


def with_pseudo_sum(packet: bytes) -> bytes:
    """Let the transport checksum hold only the pseudo-header sum, as NEEDS_CSUM means it."""
    protocol, at = transport_at(packet)
    field = checksum_field(packet)
    partial = struct.pack("!H", pseudo_sum(packet, protocol, len(packet) - at))
    return packet[:field] + partial + packet[field + 2 :]


def with_checksum(packet: bytes) -> bytes:
    """Finish the transport checksum."""
    _, at = transport_at(packet)
    open_packet = with_pseudo_sum(packet)
    field = checksum_field(packet)
    value = ones_sum(open_packet[at:]) ^ 0xFFFF or 0xFFFF
    return packet[:field] + struct.pack("!H", value) + packet[field + 2 :]


def tcp(source: str = A4, destination: str = B4, payload: bytes = b"", *,
        ports: tuple[int, int] = (40000, 80), sequence: int = 1000, flags: int = ACK, options: bytes = b"",
        **ip_fields: object) -> bytes:  # fmt: skip
    """Return a finished TCP packet."""
    words = 5 + len(options) // 4
    segment = (
        struct.pack("!HHIIBBHHH", *ports, sequence, 77, words << 4, flags, 512, 0, 0) + options + payload
    )
    return with_checksum(ip(source, destination, TCP, segment, **ip_fields))  # type: ignore[arg-type]


def udp(source: str = A4, destination: str = B4, payload: bytes = b"", *,
        ports: tuple[int, int] = (40000, 53), **ip_fields: object) -> bytes:  # fmt: skip
    """Return a finished UDP packet."""
    datagram = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    return with_checksum(ip(source, destination, UDP, datagram, **ip_fields))  # type: ignore[arg-type]


def icmp(source: str = A4, destination: str = B4, payload: bytes = b"", *, number: int = 1) -> bytes:
    """Return an echo request (of IPv4; to IPv6 addresses it is just some protocol)."""
    message = struct.pack("!BBHHH", 8, 0, 0, 99, number) + payload
    message = message[:2] + struct.pack("!H", ones_sum(message) ^ 0xFFFF) + message[4:]
    return ip(source, destination, ICMP, message)


def payload_of(packet: bytes) -> bytes:
    """Return what follows the transport header."""
    protocol, at = transport_at(packet)
    return packet[at + (8 if protocol == UDP else (packet[at + 12] >> 4) * 4) :]


def plain(packet: bytes) -> bytes:
    """Return the TUN frame of a packet with nothing left open."""
    return bytes(VNET.size) + packet


def unfinished(packet: bytes) -> bytes:
    """Return the TUN frame of a packet whose checksum is left to the next one."""
    _, at = transport_at(packet)
    vnet = VNET.pack(NEEDS_CSUM, 0, 0, 0, at, checksum_field(packet) - at)
    return vnet + with_pseudo_sum(packet)


@dataclass(frozen=True)
class Super:
    """A super-packet as the kernel hands it over, and the packets it stands for."""

    packet: bytes
    """One oversized IP packet."""
    gso_bytes: int
    ecn: bool = False
    frame: bytes = field(init=False)
    packets: list[bytes] = field(init=False)
    """What the kernel would have sent without offload."""

    def __post_init__(self) -> None:
        protocol, at = transport_at(self.packet)
        kind = GSO_UDP if protocol == UDP else GSO_TCPV4 if self.packet[0] >> 4 == 4 else GSO_TCPV6
        # hdr_len is only a hint: it may say more than the headers.
        hint = len(self.packet) - len(payload_of(self.packet)) + 7
        vnet = VNET.pack(
            NEEDS_CSUM, kind | GSO_ECN * self.ecn, hint, self.gso_bytes, at, checksum_field(self.packet) - at
        )
        object.__setattr__(self, "frame", vnet + with_pseudo_sum(self.packet))
        object.__setattr__(self, "packets", segments(self.packet, self.gso_bytes))


def segments(packet: bytes, gso_bytes: int) -> list[bytes]:
    """Cut a super-packet into finished packets, as tcp_gso_segment and udp_gso_segment do."""
    protocol, at = transport_at(packet)
    payload = payload_of(packet)
    head = packet[: len(packet) - len(payload)]
    starts = list(range(0, len(payload), gso_bytes))
    out = []
    for index, start in enumerate(starts):
        piece = payload[start : start + gso_bytes]
        one = bytearray(head + piece)
        if one[0] >> 4 == 4:
            identification = int.from_bytes(head[4:6], "big") + index & 0xFFFF
            one[2:6] = struct.pack("!HH", len(one), identification)
            one[10:12] = b"\0\0"
            one[10:12] = struct.pack("!H", ones_sum(bytes(one[:at])) ^ 0xFFFF)
        else:
            one[4:6] = struct.pack("!H", len(one) - 40)
        if protocol == TCP:
            sequence = int.from_bytes(head[at + 4 : at + 8], "big") + start & 0xFFFFFFFF
            one[at + 4 : at + 8] = struct.pack("!I", sequence)
            if index:
                one[at + 13] &= ~CWR & 0xFF
            if index < len(starts) - 1:
                one[at + 13] &= ~(FIN | PSH) & 0xFF
        else:
            one[at + 4 : at + 6] = struct.pack("!H", len(one) - at)
        out.append(with_checksum(bytes(one)))
    return out


def finished(frame: bytes) -> list[bytes]:
    """Return the packets a kernel makes of a TUN frame; fail where it would refuse the frame."""
    flags, kind, head_bytes, gso_bytes, start, offset = VNET.unpack_from(frame)
    packet = frame[VNET.size :]
    assert len(packet) == total_bytes(packet), "length field and frame disagree"
    if not flags & NEEDS_CSUM:
        assert flags == kind == gso_bytes == 0
        return [packet]
    protocol, at = transport_at(packet)
    assert start == at
    assert start + offset == checksum_field(packet)
    partial = int.from_bytes(packet[start + offset : start + offset + 2], "big")
    assert partial == pseudo_sum(packet, protocol, len(packet) - at), "not the pseudo-header sum"
    if not kind:
        return [with_checksum(packet)]
    version = packet[0] >> 4
    assert kind & ~GSO_ECN == (GSO_UDP if protocol == UDP else GSO_TCPV4 if version == 4 else GSO_TCPV6)
    assert head_bytes == len(packet) - len(payload_of(packet))
    assert 0 < gso_bytes < len(payload_of(packet))
    return segments(packet, gso_bytes)


def total_bytes(packet: bytes) -> int:
    """Return how long the IP header says the packet is."""
    if packet[0] >> 4 == 4:
        return int.from_bytes(packet[2:4], "big")
    return int.from_bytes(packet[4:6], "big") + 40


def is_sound(packet: bytes) -> bool:
    """Tell whether lengths and all checksums of a finished TCP or UDP packet are right."""
    at = transport_at(packet)[1]
    header_ok = packet[0] >> 4 == 6 or ones_sum(packet[:at]) == 0xFFFF
    return header_ok and len(packet) == total_bytes(packet) and with_checksum(packet) == packet


def tso(payload: bytes, gso_bytes: int, *, ecn: bool = False, **fields: object) -> Super:
    """Return a TCP super-packet."""
    return Super(tcp(payload=payload, **fields), gso_bytes, ecn)  # type: ignore[arg-type]


def uso(payload: bytes, gso_bytes: int, **fields: object) -> Super:
    """Return a UDP super-packet."""
    return Super(udp(payload=payload, **fields), gso_bytes)  # type: ignore[arg-type]


def pattern(size_bytes: int, seed: int = 0) -> bytes:
    """Return bytes in which no two places look alike."""
    words = (size_bytes + 3) // 4
    return b"".join(struct.pack("!I", (seed << 20) + i & 0xFFFFFFFF) for i in range(words))[:size_bytes]


def without_identification(packet: bytes) -> bytes:
    """Blank the fields a kernel numbers anew when it cuts joined UDP packets."""
    return packet if packet[0] >> 4 == 6 else packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]


def by_flow(some: list[bytes]) -> dict[bytes, list[bytes]]:
    """Sort TCP and UDP packets by protocol, addresses and ports; identification is blanked."""
    table: dict[bytes, list[bytes]] = {}
    for packet in some:
        protocol, at = transport_at(packet)
        addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
        flow = bytes([protocol]) + addresses + packet[at : at + 4]
        table.setdefault(flow, []).append(without_identification(packet))
    return table
