"""UDP sockets in bursts: GSO on the way out, GRO on the way in.

Knows socket options and nothing of the protocol. Sockets are made by the privileged parent
(sdwan.edge.spawn): marks and forced buffer sizes need CAP_NET_ADMIN.
"""

from __future__ import annotations

import socket
import struct

from sdwan.errors import KernelError

# Specification constants (linux/udp.h, linux/in.h, linux/in6.h, asm-generic/socket.h) -------------

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE = 23, 3
_IP_PKTINFO = 8
_PKTINFO4 = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")

# Implementation constants -------------------------------------------------------------------------

BUFFER_BYTES = 8 << 20
"""A slow link's queue is charged to the sending socket: 8 MiB holds 0.6 s of 100 Mbit/s."""
DATAGRAM_BYTES_MAX = 65507
BURST_SEGMENTS_MAX = 44
"""44 datagrams of 1472 bytes are the largest burst one send takes (65,507 bytes)."""
ANCILLARY_BYTES = 128


def _common(family: int, port: int, address: str, mark: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE)
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise KernelError(
            f"UDP {address or '*'} port {port}: {error.strerror}; is another daemon on it?"
        ) from error
    return sock


def listening_socket(family: int, port: int, *, offload: bool = True) -> tuple[socket.socket, bool]:
    """Return a wildcard socket that tells source, local address and interface; and whether GRO is on.

    Unmarked: what is sent from it is routed like anybody's (replies to unproven addresses).
    """
    sock = _common(family, port, "", 0)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    return sock, offload and _try_gro(sock)


def _try_gro(sock: socket.socket) -> bool:
    try:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def peer_socket(family: int, local: str, virtual: str, port: int, mark: int) -> socket.socket:
    """Return a marked socket bound to the entry's own address, connected to a peer's virtual one."""
    sock = _common(family, 0, local, mark)
    sock.connect((virtual, port))
    return sock


def segmentation_works() -> bool:
    """Tell whether this kernel splits one send into datagrams (UDP_SEGMENT, Linux 4.18)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(SOL_UDP, UDP_SEGMENT, 1200)
        except OSError:
            return False
    return True


def segment_ancillary(datagram_bytes: int) -> list[tuple[int, int, bytes]]:
    """Return sendmsg's ancillary data that cuts the payload into datagrams of this size."""
    return [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", datagram_bytes))]


def traffic_ancillary(tos: int) -> tuple[tuple[int, int, bytes], ...]:
    """Return sendmsg's ancillary data that sets TOS or traffic class; each address family heeds its own."""
    value = struct.pack("=i", tos)
    return (
        (socket.IPPROTO_IP, socket.IP_TOS, value),
        (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value),
    )


def arrival(ancillary: list[tuple[int, int, bytes]]) -> tuple[str, int]:
    """Return local address and interface index from recvmsg's packet information ("", 0 if absent)."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            ifindex, _, destination = _PKTINFO4.unpack_from(data)
            return socket.inet_ntop(socket.AF_INET, destination), ifindex
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            destination, ifindex = _PKTINFO6.unpack_from(data)
            return socket.inet_ntop(socket.AF_INET6, destination), ifindex
    return "", 0


def departure(source: str, ifindex: int) -> list[tuple[int, int, bytes]]:
    """Return sendmsg's ancillary data that fixes source address and interface of one datagram."""
    if not source:
        return []
    if ":" in source:
        data = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, source), ifindex)
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, data)]
    data = _PKTINFO4.pack(ifindex, socket.inet_pton(socket.AF_INET, source), b"\0\0\0\0")
    return [(socket.IPPROTO_IP, _IP_PKTINFO, data)]
