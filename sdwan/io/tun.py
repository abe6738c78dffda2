"""The TUN device: open it with virtio headers, and with every offload this kernel grants.

Knows the kernel's interface and nothing of the protocol. Every packet read from or written to the
descriptor is preceded by a 10-byte virtio_net_hdr; whether super-packets (TSO, USO) come through is
what ``Offload`` tells. Used by sdwan.edge.spawn (root); the data plane inherits the descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from sdwan.errors import KernelError

# Specification constants (linux/if_tun.h, linux/virtio_net.h) -------------------------------------

VNET_BYTES = 10
VNET = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; native little endian (TUNSETVNETLE)."""
VNET_NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETLE = 0x400454DC
_TUNSETPERSIST = 0x400454CB
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_OFFLOAD_CSUM, _OFFLOAD_TSO4, _OFFLOAD_TSO6, _OFFLOAD_TSO_ECN = 1, 2, 4, 8
_OFFLOAD_USO4, _OFFLOAD_USO6 = 0x20, 0x40

# Implementation constants -------------------------------------------------------------------------

READ_BYTES = VNET_BYTES + 65535
"""Largest read: header and one super-packet."""


@dataclass(frozen=True, slots=True)
class Offload:
    """What the kernel granted: super-packets of TCP, of UDP, and transport checksums left to us."""

    tcp: bool
    udp: bool
    checksum: bool


_LADDER = (
    (
        Offload(tcp=True, udp=True, checksum=True),
        _OFFLOAD_CSUM | _OFFLOAD_TSO4 | _OFFLOAD_TSO6 | _OFFLOAD_TSO_ECN | _OFFLOAD_USO4 | _OFFLOAD_USO6,
    ),  # 6.2 and later
    (
        Offload(tcp=True, udp=False, checksum=True),
        _OFFLOAD_CSUM | _OFFLOAD_TSO4 | _OFFLOAD_TSO6 | _OFFLOAD_TSO_ECN,
    ),
    (Offload(tcp=False, udp=False, checksum=False), 0),
)


def open_tun(name: str, *, offload: bool = True) -> tuple[int, Offload]:
    """Create (or re-open) a TUN device and return its non-blocking descriptor and offloads.

    Raises:
        KernelError: /dev/net/tun is missing, or the name is taken by another kind of device.
    """
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"/dev/net/tun: {error.strerror}; load it with 'modprobe tun'") from error
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        fcntl.ioctl(descriptor, _TUNSETVNETLE, struct.pack("=i", 1))
        granted = _negotiate(descriptor, _LADDER if offload else _LADDER[-1:])
    except OSError as error:
        os.close(descriptor)
        hint = "another process holds it" if error.errno == errno.EBUSY else "is the name free?"
        raise KernelError(f"TUN {name}: {error.strerror}; {hint}") from error
    return descriptor, granted


def keep_tun(descriptor: int, keep: bool) -> None:
    """Let the device outlive its last descriptor, or not.

    A process that is killed then leaves the interface with its routes: what was meant for the tunnel finds no
    carrier, instead of the default route and a way out in the clear.
    """
    fcntl.ioctl(descriptor, _TUNSETPERSIST, int(keep))


def _negotiate(descriptor: int, ladder: tuple[tuple[Offload, int], ...]) -> Offload:
    for granted, flags in ladder:
        try:
            fcntl.ioctl(descriptor, _TUNSETOFFLOAD, flags)
        except OSError:
            if flags == 0:
                raise
            continue
        return granted
    raise OSError(errno.EINVAL, "no offload setting accepted")
