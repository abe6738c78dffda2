"""Echo requests over one link: rtt and loss where no peer of ours answers.

Knows ICMP and nothing of the protocol. One ``Pinger`` is one socket bound to one interface, so the request
leaves by that link whatever the routing table prefers. An unprivileged ICMP socket is used where the system
permits it to our group (net.ipv4.ping_group_range), else a raw one. Send with ``send``, wait on ``fileno()``,
collect with ``read``; the number of a request is echoed in its answer.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from time import monotonic_ns

from sdwan.errors import KernelError

# Specification constants (RFC 792, RFC 4443) -------------------------------------------------------

_ECHO = struct.Struct("!BBHHHQ")
"""Type, code, checksum, identifier, sequence; then our 64-bit send time as payload."""
_REQUEST, _REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}

_READS_MAX = 64


@dataclass(frozen=True, slots=True)
class Echo:
    """One answer."""

    number: int
    """Of the request, modulo 2^16."""
    rtt_ns: int


class Pinger:
    """Echo requests to one address over one interface."""

    def __init__(self, address: str, interface: str) -> None:
        """Open the socket.

        Raises:
            KernelError: no such interface, or no permission for ICMP.
        """
        self._version = ipaddress.ip_address(address).version
        self._address = address
        self._socket, self._is_raw = _open(self._version, interface)
        self._identifier = monotonic_ns() & 0xFFFF

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def send(self, number: int, *, now_ns: int) -> bool:
        """Send a request; return whether the system took it (a link without carrier may refuse)."""
        head = (_REQUEST[self._version], 0, 0, self._identifier, number & 0xFFFF, now_ns)
        packet = _ECHO.pack(*head)
        if self._version == 4:  # the kernel fills in the checksum of ICMPv6 itself
            packet = _ECHO.pack(*head[:2], _checksum(packet), *head[3:])
        try:
            self._socket.sendto(packet, (self._address, 0))
        except OSError:
            return False
        return True

    def read(self, *, now_ns: int) -> list[Echo]:
        """Return the answers that arrived since the last call; never waits."""
        echoes = []
        for _ in range(_READS_MAX):
            try:
                packet, source = self._socket.recvfrom(2048)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error of an earlier request
            echo = self._parse(packet, now_ns) if source[0] == self._address else None
            if echo is not None:
                echoes.append(echo)
        return echoes

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _parse(self, packet: bytes, now_ns: int) -> Echo | None:
        if self._is_raw and self._version == 4:  # raw IPv4 sockets hand over the IP header, too
            packet = packet[(packet[0] & 0xF) * 4 :] if packet else b""
        if len(packet) < _ECHO.size:
            return None
        kind, _, _, identifier, number, sent_ns = _ECHO.unpack_from(packet)
        is_ours = identifier == self._identifier or not self._is_raw
        if kind != _REPLY[self._version] or not is_ours or not 0 <= now_ns - sent_ns < 60 * 10**9:
            return None
        return Echo(number, now_ns - sent_ns)


def _open(version: int, interface: str) -> tuple[socket.socket, bool]:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    try:
        try:
            sock, is_raw = socket.socket(family, socket.SOCK_DGRAM, protocol), False
        except PermissionError:
            sock, is_raw = socket.socket(family, socket.SOCK_RAW, protocol), True
    except OSError as error:
        raise KernelError(f"ICMP socket: {error.strerror}; it needs CAP_NET_RAW") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
    except OSError as error:
        sock.close()
        raise KernelError(f"ICMP over {interface}: {error.strerror}") from error
    sock.setblocking(False)
    return sock, is_raw


def _checksum(packet: bytes) -> int:
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
