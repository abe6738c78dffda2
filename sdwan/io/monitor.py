"""Word from the kernel that a link went up or down, or that its addresses changed.

``LinkMonitor`` is one raw netlink socket: register ``fileno()`` with a selector or an asyncio loop and
call ``read()`` when it is readable. It reads only the fixed header of each message, so a message takes
microseconds; what else is to be known is asked from sdwan.io.netlink.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from enum import Enum

from sdwan.errors import KernelError
from sdwan.io.netlink import has_carrier

# Specification constants (include/uapi/linux/rtnetlink.h) --------------------------------------------

_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_NEW_LINK, _DEL_LINK, _NEW_ADDRESS, _DEL_ADDRESS = 16, 17, 20, 21
_MESSAGE = struct.Struct("IHHII")
_LINK = struct.Struct("BxHiII")
_ADDRESS = struct.Struct("BBBBI")

_READS_MAX = 64
"""Packets per call, so that a flapping link cannot keep the caller from everything else."""


class Change(Enum):
    """What a message is about."""

    LINK = "link"
    ADDRESS = "address"
    LOST = "lost"
    """The kernel dropped messages: ask for everything again."""


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """One message."""

    change: Change
    ifindex: int = 0
    carrier: bool = False
    """LINK: packets can leave now. False also when the interface is gone."""
    present: bool = True
    """False: the interface or the address was removed."""


class LinkMonitor:
    """Listens in the network namespace it is made in. A context manager."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.bind((0, _GROUPS))
        except OSError as error:
            raise KernelError(f"netlink monitor: {error.strerror}") from error
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def read(self) -> list[LinkEvent]:
        """Return what happened since the last call, oldest first; never waits."""
        events: list[LinkEvent] = []
        for _ in range(_READS_MAX):
            try:
                events += parse(self._socket.recv(65536))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(f"netlink monitor: {error.strerror}") from error
                events.append(LinkEvent(Change.LOST))
        return events

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def __enter__(self) -> LinkMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def parse(packet: bytes) -> list[LinkEvent]:
    """Decode one netlink packet; what is cut short or unknown is left out."""
    events, offset = [], 0
    while offset + _MESSAGE.size <= len(packet):
        length, kind, *_ = _MESSAGE.unpack_from(packet, offset)
        if length < _MESSAGE.size or offset + length > len(packet):
            break
        body = packet[offset + _MESSAGE.size : offset + length]
        if kind in (_NEW_LINK, _DEL_LINK) and len(body) >= _LINK.size:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            present = kind == _NEW_LINK
            events.append(LinkEvent(Change.LINK, index, present and has_carrier(flags), present))
        elif kind in (_NEW_ADDRESS, _DEL_ADDRESS) and len(body) >= _ADDRESS.size:
            index = _ADDRESS.unpack_from(body)[4]
            events.append(LinkEvent(Change.ADDRESS, index, present=kind == _NEW_ADDRESS))
        offset += (length + 3) & ~3
    return events
