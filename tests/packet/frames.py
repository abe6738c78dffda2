"""Frames for packet tests: build one, take one apart, check its sums. Pure; nothing of the code under test.

Ethernet, IPv4 or IPv6, UDP. A frame is built with correct checksums, or with the UDP checksum left out
(``checksum=None``) or as the pseudo-header sum that GSO super-packets carry (``checksum="pseudo"``).
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Literal

Checksum = Literal["full", "pseudo"] | None

ETHERNET_BYTES, IP4_BYTES, IP6_BYTES, UDP_BYTES = 14, 20, 40, 8
UDP = 17

LOOPBACK_MAC = bytes(6)
"""A test run happens on lo; a frame for another address would be somebody else's."""
OTHER_MAC = bytes.fromhex("020000000002")


def ones_sum(data: bytes) -> int:
    """Return the one's complement sum of 16-bit words (RFC 1071), not complemented."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(source: str, destination: str, length: int) -> bytes:
    """Return what the UDP checksum covers beside the datagram."""
    first, second = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if first.version == 4:
        return first.packed + second.packed + struct.pack("!BBH", 0, UDP, length)
    return first.packed + second.packed + struct.pack("!IHBB", length, 0, 0, UDP)


@dataclass(frozen=True)
class Frame:
    """One UDP datagram in an Ethernet frame (or without one: ``link_header=False``)."""

    source: str = "10.0.0.2"
    destination: str = "10.0.0.1"
    source_port: int = 4510
    destination_port: int = 4510
    payload: bytes = b""
    checksum: Checksum = "full"
    ttl: int = 64
    traffic_byte: int = 0
    """DSCP and ECN: the TOS byte, or IPv6's traffic class."""
    fragment: int = 0
    options: bytes = b""
    link_header: bool = True
    length: int | None = None
    """What the UDP header says, if it lies."""

    @property
    def ipv6(self) -> bool:
        """The outer family."""
        return ":" in self.source

    def pack(self) -> bytes:
        """Return the bytes of the frame."""
        length = self.length if self.length is not None else UDP_BYTES + len(self.payload)
        udp = struct.pack("!HHHH", self.source_port, self.destination_port, length, 0)
        check = 0
        pseudo = pseudo_header(self.source, self.destination, length)
        if self.checksum == "full":
            check = (~ones_sum(pseudo + udp + self.payload) & 0xFFFF) or 0xFFFF
        elif self.checksum == "pseudo":
            check = ones_sum(pseudo)
        packet = self._ip(length) + udp[:6] + struct.pack("!H", check) + self.payload
        if not self.link_header:
            return packet
        kind = 0x86DD if self.ipv6 else 0x0800
        return LOOPBACK_MAC + OTHER_MAC + struct.pack("!H", kind) + packet

    def _ip(self, udp_bytes: int) -> bytes:
        source, destination = (
            ipaddress.ip_address(self.source).packed,
            ipaddress.ip_address(self.destination).packed,
        )
        if self.ipv6:
            return (
                struct.pack("!IHBB", 6 << 28 | self.traffic_byte << 20, udp_bytes, UDP, self.ttl)
                + source
                + destination
            )
        words = (IP4_BYTES + len(self.options)) // 4
        fields = (0x40 | words, self.traffic_byte, words * 4 + udp_bytes, 1, self.fragment, self.ttl, UDP, 0)
        header = struct.pack("!BBHHHBBH", *fields) + source + destination + self.options
        return header[:10] + struct.pack("!H", ~ones_sum(header) & 0xFFFF) + header[12:]


def unpack(data: bytes, *, link_header: bool = True) -> Frame:
    """Take a frame apart; its checksums are kept for ``sums_are_right``, not here."""
    start = ETHERNET_BYTES if link_header else 0
    ip = data[start:]
    if ip[0] >> 4 == 6:
        source, destination = ipaddress.ip_address(ip[8:24]), ipaddress.ip_address(ip[24:40])
        ttl, udp = ip[7], ip[IP6_BYTES:]
        traffic_byte = struct.unpack_from("!H", ip)[0] >> 4 & 0xFF
    else:
        source, destination = ipaddress.ip_address(ip[12:16]), ipaddress.ip_address(ip[16:20])
        ttl, udp, traffic_byte = ip[8], ip[(ip[0] & 15) * 4 :], ip[1]
    ports = struct.unpack_from("!HH", udp)
    return Frame(
        str(source), str(destination), *ports, payload=udp[UDP_BYTES:], ttl=ttl, traffic_byte=traffic_byte
    )


def sums_are_right(data: bytes, checksum: Checksum = "full") -> bool:
    """Verify the IPv4 header sum, and the UDP sum as whatever kind it was built as."""
    frame = unpack(data)
    ip = data[ETHERNET_BYTES:]
    if not frame.ipv6 and ones_sum(ip[:IP4_BYTES]) != 0xFFFF:
        return False
    udp = ip[IP6_BYTES if frame.ipv6 else IP4_BYTES :]
    (length, check) = struct.unpack_from("!HH", udp, 4)
    pseudo = pseudo_header(frame.source, frame.destination, length)
    if checksum is None:
        return bool(check == 0)
    if checksum == "pseudo":
        return bool(check == ones_sum(pseudo))
    return check != 0 and ones_sum(pseudo + udp) == 0xFFFF
