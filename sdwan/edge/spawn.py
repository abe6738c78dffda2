"""Starting the data plane: make what needs privilege, hand it over, keep the other end of the channel.

Used by sdwan.edge.control, as root. The TUN descriptor and the listening sockets stay open here too,
so that a data plane that died is replaced without the interface or the ports ever going away.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict

from sdwan.edge import channel
from sdwan.edge.board import Board
from sdwan.errors import KernelError
from sdwan.io.tun import Offload, keep_tun, open_tun
from sdwan.io.udp import listening_socket, peer_socket, segmentation_works

# Specification constants (bpf/abi.h) --------------------------------------------------------------

ENTRY_LOCAL: dict[int, str] = {socket.AF_INET: "198.19.0.1", socket.AF_INET6: "fd5d:8a3e:77c1:1::1"}
"""Our own addresses on the entry device."""

# Implementation constants -------------------------------------------------------------------------

_CHANNEL_BYTES = 4 << 20
_STOP_WAIT_S = 2.0


def virtual_address(peer: int, family: int) -> str:
    """Return the address of ``peer`` that routes into the entry device (bpf/abi.h)."""
    if family == socket.AF_INET:
        return f"198.18.{peer >> 8}.{peer & 255}"
    return f"fd5d:8a3e:77c1::{peer:x}"


def entry_socket(peer: int, family: int, port: int, mark: int) -> socket.socket:
    """Return a marked socket connected to the peer's virtual address.

    Raises:
        KernelError: the entry device or its addresses are missing.
    """
    return peer_socket(family, ENTRY_LOCAL[family], virtual_address(peer, family), port, mark)


class DataPlane:
    """The TUN, the listening sockets, and the child process that uses them."""

    def __init__(
        self, tun_name: str, port: int, peers_max: int, board: Board, *, offload: bool = True
    ) -> None:
        self.board = board
        self.peers_max = peers_max
        self.listeners: list[socket.socket] = []
        self._tun, granted = open_tun(tun_name, offload=offload)
        keep_tun(self._tun, True)
        self.offload: Offload = granted
        self.segmentation = offload and segmentation_works()
        self.coalescing = True
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                sock, coalescing = listening_socket(family, port, offload=offload)
            except KernelError:
                if family == socket.AF_INET:
                    self.close()
                    raise
                continue  # a kernel without IPv6
            self.listeners.append(sock)
            self.coalescing = self.coalescing and coalescing
        self.view: tuple[list[int], str] = ([], "")
        """Descriptors of the kernel's maps and their layout (sdwan.io.kernelview), for the next start."""
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None

    def start(self) -> socket.socket:
        """Start the child; return control's non-blocking end of the channel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHANNEL_BYTES)
        ours.setblocking(False)
        listeners = [sock.fileno() for sock in self.listeners]
        maps, layout = self.view
        inherited = [self._tun, theirs.fileno(), self.board.descriptor, *listeners, *maps]
        facts = {**asdict(self.offload), "segmentation": self.segmentation}
        command = [
            sys.executable, "-m", "sdwan.edge.dataplane",
            "--tun", str(self._tun), "--control", str(theirs.fileno()),
            "--board", str(self.board.descriptor), "--peers-max", str(self.peers_max),
            "--offload", json.dumps(facts),
            *(word for fd in listeners for word in ("--listen", str(fd))),
            "--view", layout, *(word for fd in maps for word in ("--map", str(fd))),
        ]  # fmt: skip
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = subprocess.Popen(
            command, pass_fds=inherited, env=environment, stdin=subprocess.DEVNULL
        )
        theirs.close()
        self.channel = ours
        return ours

    def send(self, message: channel.Message, *descriptors: int) -> None:
        """Send one message down, with descriptors if it carries any.

        Raises:
            OSError: the child is gone or does not listen.
        """
        assert self.channel is not None
        packet = channel.encode(message)
        if descriptors:
            socket.send_fds(self.channel, [packet], list(descriptors))
        else:
            self.channel.send(packet)

    def stop(self) -> None:
        """End the child: by closing the channel, then by SIGTERM, at last by SIGKILL."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        process, self.process = self.process, None
        if process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_WAIT_S / 2)
                return
            process.send_signal(sign)
        process.wait()

    def close(self) -> None:
        """Stop the child and let go of sockets and TUN, which vanishes: only a killed control leaves it."""
        if getattr(self, "process", None) is not None:
            self.stop()
        for sock in self.listeners:
            sock.close()
        with contextlib.suppress(OSError):  # somebody deleted the interface already
            keep_tun(self._tun, False)
        os.close(self._tun)
