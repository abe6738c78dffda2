"""Two sites with real TUNs and real data-plane processes, joined by one wire, without steering and handshake.

      site A: tun0 10.77.0.1, fd77::1                                     site B: tun0 10.77.0.2, fd77::2
              data plane ─ UDP 4510 ─ wire 10.9.0.1 ═════════ 10.9.0.2 wire ─ UDP 4510 ─ data plane

The peer's socket leads straight to the other site, so what is tested is TUN, data plane and UDP. The keys are
handed out by the test, which plays control.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sdwan.edge import channel
from sdwan.edge.board import Board
from sdwan.edge.spawn import DataPlane
from sdwan.io.udp import peer_socket
from sdwan.lab.namespace import Namespace, inside
from sdwan.model import DropReason

PORT = 4510
MTU_BYTES = 1428
"""What the page promises on a wire of 1500 bytes over IPv4."""
PATIENCE_S = 15.0
KEYS = {1: bytes(range(32)), 2: bytes(range(32, 64))}


def until(found: Callable[[], object], what: str) -> None:
    """Ask again and again until the answer is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)


class Site:
    """One site, number 1 or 2; the other one is its peer 1."""

    def __init__(self, namespace: Namespace, number: int, *, offload: bool) -> None:
        self.namespace, self.number = namespace, number
        self.board = Board.create(4)
        self._incarnation = number * 100
        with inside(namespace.path):
            self.plane = DataPlane("tun0", PORT, 4, self.board, offload=offload)
        namespace.run(["ip", "link", "set", "tun0", "mtu", str(MTU_BYTES), "up"])
        self.add_addresses()
        self.start()

    def add_addresses(self) -> None:
        """Give the TUN its inner addresses."""
        add = ["ip", "address", "replace", "dev", "tun0"]
        self.namespace.run([*add, f"{self.address(ipv6=False)}/24"])
        self.namespace.run([*add, f"{self.address(ipv6=True)}/64", "nodad"])

    def start(self) -> None:
        """Start (another) data plane and tell it what control would."""
        with inside(self.namespace.path):
            self._control = self.plane.start()
            sender = peer_socket(
                socket.AF_INET, f"10.9.0.{self.number}", f"10.9.0.{3 - self.number}", PORT, 0
            )
        self.plane.send(channel.SetPeer(1, 1472, 44, 30_000, ("10.77.0.0/24", "fd77::/64")))
        self.plane.send(channel.AddSocket(1, socket.AF_INET), sender.fileno())
        sender.close()
        self._incarnation += 1

    def install(self, index: int, incarnation: int, keys: tuple[bytes, bytes]) -> None:
        """Install a session that seals at once; both sites use the same index."""
        self.plane.send(channel.Install(1, index, index, True, incarnation, *keys))

    @property
    def incarnation(self) -> int:
        """Number of the present data plane."""
        return self._incarnation

    @property
    def pid(self) -> int:
        """Process id of the data plane."""
        assert self.plane.process is not None
        return self.plane.process.pid

    @property
    def drops(self) -> dict[DropReason, int]:
        """What was dropped so far, by reason."""
        counts = self.board.total[0]["drops"]
        return {DropReason(i): int(n) for i, n in enumerate(counts) if n}

    def process_status(self) -> dict[str, str]:
        """Return /proc/PID/status of the data plane."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}

    def ping(self, address: str, size_bytes: int = 56, *, fragment: bool = False) -> bool:
        """Send one echo request; tell whether it was answered."""
        size = ["-s", str(size_bytes), *([] if fragment else ["-M", "do"])]
        command = self.namespace.command(["ping", "-c", "1", "-W", "2", *size, address])
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def address(self, ipv6: bool) -> str:
        """Return our inner address."""
        return f"fd77::{self.number}" if ipv6 else f"10.77.0.{self.number}"


def agree(a: Site, b: Site, index: int = 7) -> None:
    """Give both sites one more session."""
    a.install(index, b.incarnation, (KEYS[1], KEYS[2]))
    b.install(index, a.incarnation, (KEYS[2], KEYS[1]))
    until(lambda: a.ping(b.address(False)), "the tunnel")


@contextmanager
def tunnel(unique_name: Callable[[str], str], *, offload: bool) -> Iterator[tuple[Site, Site]]:
    """Build both sites, and leave nothing behind."""
    spaces = [Namespace(unique_name(f"dp-{name}{'' if offload else 'n'}")) for name in "ab"]
    sites: list[Site] = []
    try:
        for space in spaces:
            space.create()
        far = ["peer", "name", "wire", "netns", spaces[1].name]
        spaces[0].run(["ip", "link", "add", "wire", "type", "veth", *far])
        for number, space in enumerate(spaces, 1):
            space.run(["ip", "address", "add", f"10.9.0.{number}/24", "dev", "wire"])
            space.run(["ip", "link", "set", "wire", "up"])
        sites += [Site(space, number, offload=offload) for number, space in enumerate(spaces, 1)]
        agree(*sites)
        yield sites[0], sites[1]
    finally:
        for site in sites:
            site.plane.close()
        for space in spaces:
            space.delete()
