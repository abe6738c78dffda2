"""Two sites on two real links, with the kernel programs attached and no daemon: for tests of the kernel side.

      site A                                     site B
    entry ─ steer ─┬─ wan0 10.91.0.1 ══════ 10.91.0.2 wan0 ─┬─ account ─ UDP socket
                   └─ wan1 10.91.1.1 ══════ 10.91.1.2 wan1 ─┘
    (and fd91:0::1 ... fd91:1::2; both sites have everything)

Path n is link n; in IPv4 the paths are 0 and 1, in IPv6 2 and 3. Each site is the other's peer 1.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sdwan.core.wire import Header, Type
from sdwan.io import attach, bpf, entry, netlink
from sdwan.io.attach import Hook
from sdwan.io.maps import Maps, Weights
from sdwan.lab.namespace import Namespace, inside

PORT = 4510
MARK = 0x5D
PEER = 1
LINKS = ("wan0", "wan1")
RECEIVER = 0xA5A5A501
UDP_SEGMENT = 103
SO_NO_CHECK, SO_RCVBUFFORCE = 11, 33

DEADLINE_S = 5.0

_pairs = itertools.count()


class Site:
    """One of the two; its programs are pinned under a root of its own."""

    def __init__(self, name: str, number: int) -> None:
        self.namespace = Namespace(name)
        self.number = number
        self.pin_root = Path("/sys/fs/bpf") / name / "v1"
        self.maps: Maps

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Be in this site's namespace."""
        with inside(self.namespace.path):
            yield

    def address(self, link: int, ipv6: bool = False) -> str:
        """Return our address on a link."""
        return f"fd91:{link}::{self.number}" if ipv6 else f"10.91.{link}.{self.number}"

    def attach(self, hook: Hook = Hook.TC) -> list[attach.Attached]:
        """Build and attach, as `sdwan-bpf attach wan0 wan1` does."""
        bpf.build(self.pin_root, peers_max=4)
        with self.here():
            return attach.attach(LINKS, self.pin_root, hook=hook)

    def configure(self, other: Site) -> None:
        """Make four paths to the other site, of equal weight."""
        self.maps = Maps.open(self.pin_root)
        self.maps.config["mark"] = MARK
        self.maps.set_port(PORT)
        self.maps.set_receiver(RECEIVER, PEER)
        with self.here():
            indices = [netlink.need_link(name).index for name in LINKS]
        for path in range(4):
            link, ipv6 = path % 2, path >= 2
            self.maps.set_path(
                PEER, path, ifindex=indices[link], up=True, ipv6=ipv6, mtu=1500,
                source=self.address(link, ipv6), source_port=PORT,
                remote=other.address(link, ipv6), remote_port=PORT,
            )  # fmt: skip
        self.weigh(1, 1, 1, 1)

    def weigh(self, *shares: float, **more: object) -> None:
        """Give class 0 these shares."""
        self.maps.write_weights({(PEER, 0): Weights(shares=shares, **more)})  # type: ignore[arg-type]

    def sender(self, ipv6: bool = False, *, checksum: bool = True) -> socket.socket:
        """Return a marked socket into the entry device."""
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        with self.here():
            made = socket.socket(family, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        if not checksum:
            made.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        made.bind((entry.ADDRESS6 if ipv6 else entry.ADDRESS4, PORT))
        made.connect((entry.peer_address(PEER, 6 if ipv6 else 4), PORT))
        return made

    def receiver(self, ipv6: bool = False) -> socket.socket:
        """Return an ordinary socket on our port: the kernel checks every sum before it delivers."""
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        with self.here():
            made = socket.socket(family, socket.SOCK_DGRAM)
        if ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        made.bind(("", PORT))
        made.setblocking(False)
        return made

    def offloads(self, on: bool) -> None:
        """Switch transmit checksum and segmentation offloads of entry and links."""
        switch = "on" if on else "off"
        for device in (entry.DEFAULT_NAME, *LINKS):
            command = ["ethtool", "-K", device, "tx", switch, "tso", switch, "tx-udp-segmentation", switch]
            self.namespace.run(command)

    def close(self) -> None:
        """Remove namespace and pins."""
        if hasattr(self, "maps"):
            self.maps.close()
        self.namespace.delete()
        attach.remove_pins(self.pin_root)


@contextlib.contextmanager
def two_sites(unique_name: Callable[[str], str], hook: Hook = Hook.TC) -> Iterator[tuple[Site, Site]]:
    """Build both sites, attached and configured; remove them afterwards."""
    pair = next(_pairs)
    first, second = Site(unique_name(f"kern{pair}a"), 1), Site(unique_name(f"kern{pair}b"), 2)
    try:
        for site in (first, second):
            site.namespace.create()
        for number, name in enumerate(LINKS):
            _join(first, second, number, name)
        for site, other in ((first, second), (second, first)):
            site.attach(hook)
            site.configure(other)
        meet(first, second)
        yield first, second
    finally:
        first.close()
        second.close()


@contextlib.contextmanager
def lone_site(unique_name: Callable[[str], str]) -> Iterator[Site]:
    """Make a namespace whose two links are joined to each other, with nothing attached."""
    site = Site(unique_name(f"kern{next(_pairs)}"), 1)
    try:
        site.namespace.create()
        site.namespace.run(["ip", "link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1]])
        for name in LINKS:
            site.namespace.run(["ip", "link", "set", name, "up"])
        yield site
    finally:
        site.close()


def _join(first: Site, second: Site, number: int, name: str) -> None:
    peer = ["peer", "name", name, "netns", second.namespace.name]
    first.namespace.run(["ip", "link", "add", name, "type", "veth", *peer])
    for site in (first, second):
        site.namespace.run(["sysctl", "-q", "-w", f"net.ipv6.conf.{name}.keep_addr_on_down=1"])
        for address in (f"{site.address(number)}/24", f"{site.address(number, True)}/64"):
            site.namespace.run(["ip", "address", "add", address, "dev", name, *_no_dad(address)])
        site.namespace.run(["ip", "link", "set", name, "up"])


def meet(first: Site, second: Site) -> None:
    """Let each link's neighbours know each other: a burst that waits for that may overflow the queue."""
    for number in range(len(LINKS)):
        for ipv6 in (False, True):
            first.namespace.run(["ping", "-c", "1", "-W", "3", second.address(number, ipv6)])


def _no_dad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []


def datagram(
    number: int, *, size: int = 100, path: int = 0xFF, kind: int = Type.SINGLE, flags: int = 0
) -> bytes:
    """Build a datagram with this counter; ``size`` bytes of UDP payload."""
    header = Header(path, flags, RECEIVER, kind, counter=number)
    return header.pack() + bytes(size - 24)


def send_burst(sender: socket.socket, first: int, count: int, size: int) -> None:
    """Send ``count`` datagrams as one GSO burst."""
    data = b"".join(datagram(first + i, size=size) for i in range(count))
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
    sender.sendmsg([data], control)


def collect(receiver: socket.socket, count: int) -> list[Header]:
    """Return the headers of ``count`` datagrams, waiting for them; fewer if they do not come."""
    headers: list[Header] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(headers) < count and time.monotonic() < deadline:
        try:
            headers.append(Header.unpack(receiver.recv(65536)))
        except BlockingIOError:
            time.sleep(0.001)
    return headers


def nothing_more(receiver: socket.socket) -> bool:
    """Tell whether the socket is empty."""
    try:
        receiver.recv(65536)
    except BlockingIOError:
        return True
    return False


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that must come true."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.005)


def sequences(headers: list[Header], path: int) -> list[int]:
    """Return the link sequences of one path, in order of arrival."""
    return [header.link_sequence for header in headers if header.path == path]


def tool(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run sdwan-bpf in a site, as an operator does."""
    command = [sys.executable, "-m", "sdwan.cli.bpf", *arguments, "--pins", str(site.pin_root)]
    return subprocess.run(
        site.namespace.command(command), capture_output=True, text=True, check=False, timeout=60
    )
