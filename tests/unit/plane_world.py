"""A real data-plane process with an imagined TUN, and the test in the role of control, kernel and links.

``Child`` starts ``python -m sdwan.edge.dataplane`` the way sdwan.edge.spawn does, but over a packet-keeping
socket pair instead of a TUN and with sockets on the loopback interface. What it sends to its peer comes to
``link``, where the test stamps it as the kernel would and passes it on: ``carry``.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from sdwan.core.wire import HEADER_BYTES
from sdwan.edge import channel
from sdwan.edge.board import Board
from sdwan.model import DropReason
from tests.unit.walk import Road, Tun

PATIENCE_S = 10.0
PEERS_MAX = 4
_ECHO = 2
"""A peer that only serves to know that the channel has been read."""
_IP_PKTINFO = 8

Message = TypeVar("Message")


def until(found: Callable[[], Message], what: str) -> Message:
    """Ask again and again until the answer is true; fail after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := found()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        select.select([], [], [], 0.002)
    return answer


def loopback() -> socket.socket:
    """Return a UDP socket that tells where datagrams came to, on a free port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


class Child:
    """One data plane; peer 1 is whoever is at the other end of the link."""

    def __init__(self, *, offload: bool = True) -> None:
        self.tun = Tun()
        self.board = Board.create(PEERS_MAX)
        self.listener = loopback()
        self.address = self.listener.getsockname()
        self.link = loopback()
        self._echo = loopback()
        self.heard: list[channel.Message] = []
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        granted = {"tcp": offload, "udp": offload, "checksum": offload, "segmentation": True}
        command = [
            sys.executable, "-m", "sdwan.edge.dataplane", "--tun", str(self.tun.descriptor),
            "--control", str(theirs.fileno()), "--board", str(self.board.descriptor),
            "--peers-max", str(PEERS_MAX), "--listen", str(self.listener.fileno()),
            "--offload", json.dumps(granted),
        ]  # fmt: skip
        descriptors = (self.tun.descriptor, theirs.fileno(), self.board.descriptor, self.listener.fileno())
        self.process = subprocess.Popen(command, pass_fds=descriptors, stderr=subprocess.PIPE, text=True)
        theirs.close()

    # control ----------------------------------------------------------------------------------

    def tell(self, message: channel.Message, *descriptors: int) -> None:
        """Send a message down."""
        socket.send_fds(self.channel, [channel.encode(message)], list(descriptors))

    def hear(self, kind: type[Message]) -> Message:
        """Wait for the next message of one kind; others are kept in ``heard``."""

        def next_one() -> Message | None:
            self.listen()
            return next((m for m in self.heard if isinstance(m, kind)), None)

        message = until(next_one, kind.__name__)
        self.heard.remove(message)  # type: ignore[arg-type]
        return message  # type: ignore[return-value]

    def listen(self) -> list[channel.Message]:
        """Take what came up; return all that was not waited for."""
        while select.select([self.channel], [], [], 0)[0]:
            packet = self.channel.recv(channel.MESSAGE_BYTES_MAX)
            if not packet:
                break
            self.heard.append(channel.decode(packet))
        return self.heard

    def set_up(self, *prefixes: str, hole_wait_us: int = 20_000) -> None:
        """Make peer 1 known, with a socket that leads to the link; and one more, for ``obeyed``."""
        self.tell(channel.SetPeer(1, 1472, 40, hole_wait_us, prefixes))
        self._add_socket(1, self.link)
        self.tell(channel.SetPeer(_ECHO, 1472, 44, hole_wait_us, ()))
        self._add_socket(_ECHO, self._echo)
        self.tell(channel.Install(_ECHO, 0xEC40, 0xEC40, True, 1, bytes(32), bytes(32)))

    def _add_socket(self, peer: int, to: socket.socket) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(to.getsockname())
            self.tell(channel.AddSocket(peer, socket.AF_INET), sender.fileno())

    def obeyed(self) -> None:
        """Wait until everything told so far has been done: the channel is not in step with the links."""
        self.tell(channel.SealControl(_ECHO, 0, 0xFF, None, "", 0, b"\0\0"))
        until(lambda: select.select([self._echo], [], [], 0)[0], "the echo of what was told")
        self._echo.recv(2048)

    # kernel and links -------------------------------------------------------------------------

    def sent(self, count: int = 1) -> list[bytes]:
        """Wait for ``count`` datagrams on the link."""
        datagrams: list[bytes] = []

        def enough() -> bool:
            while select.select([self.link], [], [], 0)[0]:
                datagrams.append(self.link.recv(65536))
            return len(datagrams) >= count

        until(enough, f"{count} datagrams, {len(datagrams)} came")
        return datagrams

    def receive(self, *datagrams: bytes, source: socket.socket | None = None) -> None:
        """Let datagrams arrive, from the link's own address or another one."""
        for datagram in datagrams:
            (source or self.link).sendto(datagram, self.address)

    def written(self, count: int = 1) -> list[bytes]:
        """Wait for ``count`` frames at the TUN."""
        frames: list[bytes] = []

        def enough() -> bool:
            frames.extend(self.tun.written())
            return len(frames) >= count

        until(enough, f"{count} frames")
        return frames

    # what is counted --------------------------------------------------------------------------

    def drops(self, reason: DropReason, count: int = 1) -> int:
        """Wait until ``count`` drops of one reason stand on the board."""
        total = self.board.total
        until(lambda: total[0]["drops"][reason] >= count, f"{count} x {reason.name}")
        return int(total[0]["drops"][reason])

    def counted(self, field: str, value: int) -> int:
        """Wait until a counter of peer 1 has reached ``value``."""
        peers = self.board.peers
        until(lambda: peers[1][field] >= value, f"{field} {value}")
        return int(peers[1][field])

    def end(self) -> tuple[int, str]:
        """Wait for the process to end; return its exit code and what it said."""
        _, words = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, words

    def close(self) -> None:
        """End the process, and let go of everything."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_S)
        self.tun.close()
        self.listener.close()
        self.link.close()
        self._echo.close()


def carry(sender: Child, receiver: Child, count: int, road: Road) -> list[bytes]:
    """Take ``count`` datagrams from one child's link over a road to the other; return them as they arrive."""
    datagrams = road.carry(sender.sent(count))
    assert all(len(datagram) >= HEADER_BYTES for datagram in datagrams)
    receiver.receive(*datagrams)
    return datagrams
