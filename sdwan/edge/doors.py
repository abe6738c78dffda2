"""The doors of one peer: sockets into the entry device, one for each address family in use.

Room: edge, control process. Control sends handshakes and probes through these, pinned to a path; the data
plane is given sockets of its own. Bound to the entry's address, marked, connected to the peer's virtual
one.
"""

from __future__ import annotations

import contextlib
import socket

from sdwan.core.path import Place
from sdwan.edge import channel, kernel
from sdwan.edge.plane import Plane
from sdwan.edge.spawn import entry_socket
from sdwan.errors import KernelError
from sdwan.io.logs import get_log
from sdwan.model import PATH_PIN

log = get_log(__name__)


def family_of(place: Place) -> int:
    """Return the address family of a place's outer packets."""
    return socket.AF_INET6 if place.ipv6 else socket.AF_INET


class Doors:
    """The sockets of one peer."""

    def __init__(self, peer: int, port: int, plane: Plane) -> None:
        self._peer, self._port, self._plane = peer, port, plane
        self._sockets: dict[int, socket.socket] = {}

    def open(self, family: int) -> None:
        """Have a socket of this family, and give the data plane another; nothing happens if we have one."""
        if family in self._sockets:
            return
        try:
            self._sockets[family] = entry_socket(self._peer, family, self._port, kernel.MARK)
            with entry_socket(self._peer, family, self._port, kernel.MARK) as theirs:
                self._plane.send(channel.AddSocket(self._peer, family), theirs.fileno())
        except (KernelError, OSError) as error:
            log.error("entry_refused", peer_number=self._peer, error=str(error))

    def send_pinned(self, datagram: bytes, path: int, place: Place) -> None:
        """Send a datagram over this path and no other; what the system refuses is lost, as on a link."""
        sock = self._sockets.get(family_of(place))
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.send(datagram[:1] + bytes([PATH_PIN | path]) + datagram[2:])

    def close(self) -> None:
        """Close ours; the data plane closes its own when it forgets the peer or dies."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
