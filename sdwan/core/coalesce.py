"""Coalescing: equal UDP packets of one flow become one super-packet before they are sealed.

Pure. An application that sends many UDP packets one by one costs one read each, and nothing can be
done about that; from here on they travel as one: staged together, sealed together, sent in one burst,
written to the far TUN in one call. Only packets qualify whose checksum is still to be finished (the
kernel will finish the joined one; a checksum that was broken elsewhere must not be healed on the way),
and only while they follow each other: nothing waits here longer than one round of reading.
"""

from __future__ import annotations

import numpy as np

from sdwan.core.inner import UDP, trim_template

# Implementation constants -------------------------------------------------------------------------

PACKETS_MAX = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9; also what one write at the far end may carry."""
_BYTES_MAX = 65_000


class Coalescer:
    """Collects one streak of alike packets. ``owner`` is whatever the caller calls their flow."""

    __slots__ = ("_alike", "_size", "_view", "array", "count", "head_bytes", "length", "owner")

    def __init__(self) -> None:
        self.array = np.zeros(_BYTES_MAX + 1, dtype=np.uint8)
        """The joined packet: template, then payloads; ``length`` bytes of it are valid."""
        self._view = self.array.data
        self.owner: object = None
        self.count = 0
        self.length = 0
        self.head_bytes = 0
        self._size = 0
        self._alike = b""

    @property
    def packet_bytes(self) -> int:
        """Size of each collected packet."""
        return self._size

    @property
    def piece_bytes(self) -> int:
        """Payload of each collected packet."""
        return self._size - self.head_bytes

    def add(self, owner: object, packet: memoryview) -> bool:
        """Take a packet that continues the streak; tell whether it does."""
        size = self._size
        end = self.length + size - self.head_bytes
        if (
            owner is not self.owner
            or len(packet) != size
            or self.count >= PACKETS_MAX
            or end > _BYTES_MAX
            or _fixed_part(packet) != self._alike
        ):
            return False
        self._view[self.length : end] = packet[self.head_bytes :]
        self.length = end
        self.count += 1
        return True

    def begin(self, owner: object, packet: memoryview) -> bool:
        """Begin a streak with this packet; tell whether it qualifies (UDP without IP options)."""
        is_fragment = len(packet) > 48 and (packet[6] & 0x3F or packet[7])  # of IPv4
        if len(packet) > 48 and packet[0] == 0x45 and packet[9] == UDP and not is_fragment:
            self.head_bytes = 28
        elif len(packet) > 48 and packet[0] >> 4 == 6 and packet[6] == UDP:
            self.head_bytes = 48
        else:
            return False
        self.owner = owner
        self.count = 1
        self.length = self._size = len(packet)
        self._alike = _fixed_part(packet)
        self._view[: self.length] = packet
        return True

    def joined(self) -> np.ndarray:
        """Return the streak as one super-packet with a right header, and end it."""
        trim_template(
            self._view[: self.head_bytes],
            payload_bytes=self.length - self.head_bytes,
            first_index=0,
            is_last=True,
            segment_bytes=self.piece_bytes,
        )
        self.count, self.owner = 0, None
        return self.array[: self.length]

    def only(self) -> memoryview:
        """Return the one packet collected, and end the streak."""
        self.count, self.owner = 0, None
        return self._view[: self.length]


def _fixed_part(packet: memoryview) -> bytes:
    """Return the header bytes that must not differ, beside addresses and ports (the flow's)."""
    if packet[0] >> 4 == 6:
        return bytes(packet[:8])  # class, label, length, next header, hop limit
    return bytes(packet[1:4]) + bytes(packet[6:10])  # class, length; flags, TTL, protocol
