"""Explicit congestion notification of inner packets: may one be marked, and marking it (RFC 3168).

Pure; functions over the bytes of one IP packet (no virtio header). The queue (sdwan.core.queue) marks instead
of dropping where both ends of a flow said that they understand.
"""

from __future__ import annotations

from sdwan.core.inner import checksum

# Specification constants (RFC 3168 section 5) --------------------------------------------------------

ECN_MASK = 0x03
CONGESTION_EXPERIENCED = 0x03
_IPV4_BYTES, _IPV6_BYTES = 20, 40


def traffic_octet(packet: memoryview) -> int:
    """Return TOS or traffic class: DSCP in the upper six bits, ECN in the lower two; 0 if it is no packet."""
    if len(packet) < 2:
        return 0
    if packet[0] >> 4 == 4:
        return packet[1]
    return (packet[0] << 4 | packet[1] >> 4) & 0xFF if packet[0] >> 4 == 6 else 0


def is_capable(packet: memoryview) -> bool:
    """Tell whether the packet says that its flow understands marks."""
    return bool(traffic_octet(packet) & ECN_MASK)


def mark(packet: memoryview) -> None:
    """Set congestion experienced, in place; IPv4's header checksum is mended."""
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= _IPV4_BYTES:
        head_bytes = (packet[0] & 0x0F) * 4
        packet[1] |= CONGESTION_EXPERIENCED
        packet[10:12] = b"\0\0"
        packet[10:12] = (~checksum(packet[:head_bytes]) & 0xFFFF).to_bytes(2, "big")
    elif version == 6 and len(packet) >= _IPV6_BYTES:
        packet[1] |= CONGESTION_EXPERIENCED << 4
