"""The data plane as control sees it: a child that may die, and a queue that is bounded.

Room: edge, control process. ``Plane`` wraps sdwan.edge.spawn: it sends messages down without ever waiting,
hands up what came, and starts another child when one is gone. TUN and sockets stay open meanwhile, so the
interface never disappears. What the child says is untrusted: what does not decode is counted and dropped.
"""

from __future__ import annotations

import contextlib
from collections import deque

from sdwan.config.schema import SiteConfig
from sdwan.edge import channel
from sdwan.edge.board import Board
from sdwan.edge.spawn import DataPlane
from sdwan.errors import WireError
from sdwan.io.kernelview import KernelView
from sdwan.io.maps import Maps
from sdwan.io.udp import departure

# Implementation constants --------------------------------------------------------------------------

QUEUE_MAX = 4096
"""Messages that wait while the child does not listen: the full set-up of hundreds of peers."""
READS_MAX = 256
"""Messages taken per call, so that a talkative child cannot keep control from everything else."""


class PlaneGone(Exception):
    """The child ended or broke its channel."""


class Plane:
    """The data plane of one site, and its successors."""

    def __init__(self, config: SiteConfig) -> None:
        """Open TUN and sockets.

        Raises:
            KernelError: TUN or port is taken, or missing.
        """
        self.board = Board.create(config.bpf.peers_max)
        self._spawn = DataPlane(config.tun.name, config.port, config.bpf.peers_max, self.board)
        self._queue: deque[channel.Message] = deque()
        self.starts = 0
        self.malformed = 0
        """Messages of the child that did not decode."""
        self.unsent = 0
        """Control messages dropped because the child did not listen."""

    @property
    def facts(self) -> dict[str, object]:
        """What the kernel granted, for the log."""
        granted = self._spawn
        return {
            "tun_offload": str(granted.offload),
            "segmentation": granted.segmentation,
            "coalescing": granted.coalescing,
        }

    def show(self, maps: Maps) -> None:
        """Let every child started from now on see how busy the paths are, and what the kernel chose."""
        self._spawn.view = KernelView.describe(maps)

    def fileno(self) -> int:
        """Return the channel's descriptor; it changes with every start."""
        assert self._spawn.channel is not None
        return self._spawn.channel.fileno()

    def start(self) -> None:
        """Start the child, or another one; counters begin anew."""
        self._spawn.stop()
        self._queue.clear()
        for table in (self.board.total, self.board.peers, self.board.paths, self.board.classes):
            table[:] = 0
        self._spawn.start()
        self.starts += 1

    def kill(self) -> None:
        """End a child that does not show signs of life any more."""
        if self._spawn.process is not None:
            self._spawn.process.kill()

    # down ---------------------------------------------------------------------------------------

    def send(self, message: channel.Message, *descriptors: int) -> None:
        """Send a message, now or when the child listens again; descriptors only go now or not at all."""
        if self._queue and not descriptors:
            self._enqueue(message)
            return
        try:
            self._spawn.send(message, *descriptors)
        except BlockingIOError:
            if not descriptors:
                self._enqueue(message)
        except OSError:
            pass  # reading will tell that it is gone

    def flush(self) -> None:
        """Send what waits."""
        with contextlib.suppress(OSError):
            while self._queue:
                self._spawn.send(self._queue[0])
                self._queue.popleft()

    def _enqueue(self, message: channel.Message) -> None:
        if len(self._queue) >= QUEUE_MAX:
            if isinstance(message, channel.SealControl):
                self.unsent += 1
                return
            self.kill()  # it has not listened for thousands of messages: another one will
        self._queue.append(message)

    def send_directly(self, datagram: bytes, to: channel.Address, *, source: str, ifindex: int) -> bool:
        """Send a datagram from the site's port past the entry device; return whether the system took it."""
        wanted = 10 if ":" in to[0] else 2
        for listener in self._spawn.listeners:
            if listener.family == wanted:
                try:
                    listener.sendmsg([datagram], departure(source, ifindex), 0, to)
                except OSError:
                    return False
                return True
        return False

    # up -----------------------------------------------------------------------------------------

    def read(self) -> list[channel.Message]:
        """Return what the child said.

        Raises:
            PlaneGone: it is gone; ``start`` makes another.
        """
        messages: list[channel.Message] = []
        assert self._spawn.channel is not None
        for _ in range(READS_MAX):
            try:
                packet = self._spawn.channel.recv(channel.MESSAGE_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError as error:
                raise PlaneGone(error.strerror) from error
            if not packet:
                raise PlaneGone(f"exit code {self._spawn.process.poll() if self._spawn.process else None}")
            try:
                messages.append(channel.decode(packet))
            except WireError:
                self.malformed += 1
        return messages

    def close(self) -> None:
        """End the child; TUN and sockets go with it."""
        self._spawn.close()
