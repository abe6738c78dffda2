"""Two sites joined by a road the test paves: no network, no clock, no child process.

``Site`` holds the real Outward, Inward and Delivery of one site over an imagined TUN (a socket pair that
keeps packet boundaries). What it sends collects as single datagrams. The test does to them what links do
(lose, repeat, reorder, forge), stamps them as the kernel does (``Road``), cuts them into batches as GRO may
(``coalesced``) and lets the other site ``receive`` them. Time stands still unless the test moves it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from unittest import mock

from sdwan.core.holes import ASKS_MAX
from sdwan.core.reorder import HeldBytes
from sdwan.core.session import Session
from sdwan.core.wire import HEADER_BYTES, TAG_BYTES, Header, Type
from sdwan.edge.delivery import Delivery
from sdwan.edge.gate import Gate
from sdwan.edge.inward import BURSTS_PER_PUMP, Inward
from sdwan.edge.outward import Outward
from sdwan.edge.peer import Peer
from sdwan.edge.resending import Resender
from sdwan.io.tun import Offload
from sdwan.model import DropReason
from tests.unit import packets

MS = 1_000_000
HOLE_WAIT_NS = 30 * MS
"""How long a packet waits for one that is missing and not proven lost."""
REPAIR_WAIT_NS = 20 * MS
"""How long what was asked for may take to come."""
FULL = Offload(tcp=True, udp=True, checksum=True)
TCP_ONLY = Offload(tcp=True, udp=False, checksum=True)
NONE = Offload(tcp=False, udp=False, checksum=False)
SOURCE = ("192.0.2.1", 4510)
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
UDP_PAYLOAD_MAX = 65507
PREFIXES = {"a": ("10.1.0.0/16", "fd01::/64"), "b": ("10.2.0.0/16", "fd02::/64")}

Batch = list[bytes]
"""Datagrams the kernel would hand over in one call: of equal length, but for a shorter last one."""


class Clock:
    """Virtual time."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * MS

    def __call__(self) -> int:
        return self.now_ns


class Tun:
    """Both ends of a TUN: the site has ``descriptor``, the test plays the kernel."""

    def __init__(self) -> None:
        self._kernel, self._site = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._kernel, self._site):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            end.setblocking(False)
        self.descriptor = self._site.fileno()
        self._written: list[bytes] = []

    def put(self, frame: bytes) -> None:
        """Give the site a frame to read."""
        self._kernel.send(frame)

    def drain(self) -> None:
        """Take what the site wrote off the pipe, so that it never fills."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._written.append(self._kernel.recv(1 << 18))

    def written(self) -> list[bytes]:
        """Return the frames written since the last call."""
        self.drain()
        frames, self._written = self._written, []
        return frames

    def close(self) -> None:
        """Close both ends."""
        self._kernel.close()
        self._site.close()


class Sender:
    """Plays the connected UDP socket: cuts what is sent into datagrams, as UDP_SEGMENT says."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.family = family
        self.datagrams: list[bytes] = []
        self.bursts: list[int] = []
        """Datagrams of each call."""
        self.tos: list[int] = []
        """Of each call that sets it."""
        self.broken = False

    def sendmsg(self, buffers: Iterable[memoryview], ancillary: object = (), *_: object) -> int:
        if self.broken:
            raise BlockingIOError("the socket buffer is full")
        data = b"".join(bytes(part) for part in buffers)
        assert len(data) <= UDP_PAYLOAD_MAX, "EMSGSIZE"
        size = len(data)
        for level, kind, value in ancillary:  # type: ignore[attr-defined]
            if level == SOL_UDP:
                assert kind == UDP_SEGMENT
                (size,) = struct.unpack("=H", value)
            elif (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS):
                self.tos.append(*struct.unpack("=i", value))
        cut = [data[at : at + size] for at in range(0, len(data), size)]
        assert len(cut) <= 64, "UDP_MAX_SEGMENTS of older kernels"
        self.datagrams += cut
        self.bursts.append(len(cut))
        return len(data)


class Mouth:
    """Plays the wildcard UDP socket: one batch a call."""

    def __init__(self, batches: Iterable[Batch], source: tuple, between: Callable[[], None]) -> None:
        self._batches = iter(batches)
        self._source = source
        self._between = between

    def recvmsg_into(self, buffers: list[memoryview], _: int) -> tuple:
        self._between()
        batch = next(self._batches, None)
        if batch is None:
            raise BlockingIOError
        data = b"".join(batch)
        buffers[0][: len(data)] = data
        stride = [(SOL_UDP, UDP_GRO, struct.pack("=i", len(batch[0])))] if len(batch) > 1 else []
        return len(data), stride, 0, self._source


class Site:
    """One site; ``peers`` by name of the other site."""

    def __init__(
        self, name: str, clock: Clock, *, offload: Offload = FULL, segmentation: bool = True,
        gate: Gate | None = None,
    ) -> None:  # fmt: skip
        self.name, self.clock = name, clock
        self.tun = Tun()
        self.drops: Counter[DropReason] = Counter()
        self.wanted: list[int] = []
        self.confirmed: list[int] = []
        self.plain: list[bytes] = []
        self.control: list[tuple[int, bytes]] = []
        """Path and plaintext of opened CONTROL; an empty plaintext tells of a new address."""
        self.peers: dict[int, Peer] = {}
        self.sessions: dict[int, Session] = {}
        self.senders: dict[int, Sender] = {}
        self._held_bytes = HeldBytes()
        self.outward = Outward(
            self.tun.descriptor, segmentation=segmentation, drop=self._drop,
            want_session=self.wanted.append, gate=gate, clock=clock,
        )  # fmt: skip
        self.delivery = Delivery(self.tun.descriptor, offload, drop=self._drop)
        self.resender = Resender(segmentation=segmentation, drop=self._drop)
        self.inward = Inward(
            sessions=self.sessions,
            peers=self.peers,
            delivery=self.delivery,
            drop=self._drop,
            confirmed=lambda session: self.confirmed.append(session.local_index),
            plain=lambda _, datagram: self.plain.append(bytes(datagram)),
            opened=lambda _burst, _session, path, plaintext: self.control.append((path, plaintext)),
            asked=self.resender.asked,
        )

    def _drop(self, reason: DropReason, count: int) -> None:
        self.drops[reason] += count

    def add_peer(self, number: int, prefixes: tuple[str, ...], **wanted: int) -> Peer:
        """Make a peer known; ``wanted`` are datagram_bytes and burst_segments."""
        peer = self.peers[number] = Peer(number, self._held_bytes, prefixes=prefixes, **wanted)
        peer.set_waits(HOLE_WAIT_NS, REPAIR_WAIT_NS)
        sender = self.senders[number] = Sender()
        peer.add_sender(sender)  # type: ignore[arg-type]
        routes = [(prefix, peer) for peer in self.peers.values() for prefix in peer.prefixes]
        self.outward.reroute(routes)
        self.delivery.routes.replace(routes)
        return peer

    def install(self, number: int, local_index: int, remote_index: int, send_key: bytes, receive_key: bytes,
                *, seals: bool = True) -> Session:  # fmt: skip
        """Install a session."""
        session = Session(number, local_index, remote_index, send_key, receive_key)
        session.active = seals
        self.sessions[local_index] = session
        if seals:
            self.peers[number].session = session
        return session

    def send(self, *frames: bytes, number: int = 1) -> list[bytes]:
        """Let the TUN hand over these frames in one go; return the datagrams sent to the peer."""
        with (
            mock.patch("sdwan.edge.outward.monotonic_ns", self.clock),
            mock.patch("sdwan.edge.sender.monotonic_ns", self.clock),
        ):
            for frame in frames:
                self.tun.put(frame)
            self.outward.pump()
        sender = self.senders[number]
        datagrams, sender.datagrams = sender.datagrams, []
        return datagrams

    def receive(self, *batches: Batch, source: tuple = SOURCE) -> list[bytes]:
        """Let these batches arrive in one go; return the frames written to the TUN."""
        frames = []
        for start in range(0, len(batches), BURSTS_PER_PUMP):
            mouth = Mouth(batches[start : start + BURSTS_PER_PUMP], source, self.tun.drain)
            frames += self.receive_from(mouth)
        return frames

    def receive_from(self, mouth: object) -> list[bytes]:
        """Let the site read what plays a socket until it is empty; return the frames written to the TUN."""
        with mock.patch("sdwan.edge.inward.monotonic_ns", self.clock):
            self.inward.pump(mouth)  # type: ignore[arg-type]
        return self.tun.written()

    def settle(self) -> list[bytes]:
        """Let the loop look after waiting packets; return the frames written to the TUN."""
        self.delivery.settle(self.clock.now_ns)
        self.resender.pump(self.clock.now_ns)
        return self.tun.written()

    def close(self) -> None:
        """Let go of the pipe."""
        self.tun.close()


KEYS = (bytes(range(32)), bytes(range(32, 64)))


class Pair:
    """Sites a and b, each the other's peer 1, with one session: index 7 at a, 9 at b."""

    def __init__(self, *, datagram_bytes: int = 1472, burst_segments: int = 40, offload: Offload = FULL,
                 segmentation: bool = True, gate: Gate | None = None) -> None:  # fmt: skip
        self.clock = Clock()
        self.a = Site("a", self.clock, offload=offload, segmentation=segmentation, gate=gate)
        self.b = Site("b", self.clock, offload=offload, segmentation=segmentation)
        for site, other in ((self.a, "b"), (self.b, "a")):
            site.add_peer(1, PREFIXES[other], datagram_bytes=datagram_bytes, burst_segments=burst_segments)
        self.install(7, 9)

    def install(
        self, index_a: int, index_b: int, keys: tuple[bytes, bytes] = KEYS, *, seals: bool = True
    ) -> None:
        """Install one more session at both sites."""
        self.a.install(1, index_a, index_b, *keys, seals=seals)
        self.b.install(1, index_b, index_a, *reversed(keys), seals=seals)

    def crossing(self, *frames: bytes) -> list[bytes]:
        """Send frames from a to b in one round over a perfect link; return the packets that come out."""
        return packets_of(self.b.receive(*coalesced(Road().carry(self.a.send(*frames)))))

    def arriving(self, *batches: Batch) -> list[bytes]:
        """Let batches arrive at b in one round, wait for their holes; return the packets that come out."""
        return packets_of(self.b.receive(*batches)) + self.wait_for_holes()

    def wait_for_holes(self) -> list[bytes]:
        """Let time run until b waits for nothing any more; return the packets that come out."""
        frames = []
        for _ in range((2 * HOLE_WAIT_NS + (ASKS_MAX + 1) * REPAIR_WAIT_NS) // MS):
            self.clock.now_ns += MS
            frames += self.b.settle()
        return packets_of(frames)

    def close(self) -> None:
        """Let go of both sites."""
        self.a.close()
        self.b.close()


@dataclass
class Road:
    """One link: stamps what goes over it, as the kernel does, losses included."""

    path: int = 0
    sequence: int = 0

    def stamp(self, datagram: bytes) -> bytes:
        """Return the datagram with path, link sequence and send time."""
        header = replace(
            Header.unpack(datagram),
            path=self.path,
            link_sequence=self.sequence,
            send_time_us=self.sequence * 10 & 0xFFFFFFFF,
        )
        self.sequence = self.sequence + 1 & 0xFFFFFFFF
        return header.pack() + datagram[HEADER_BYTES:]

    def carry(self, datagrams: Iterable[bytes]) -> list[bytes]:
        """Stamp several."""
        return [self.stamp(datagram) for datagram in datagrams]


def coalesced(datagrams: Iterable[bytes], rows_max: int = 64) -> list[Batch]:
    """Cut datagrams of one link into batches as GRO does: equal lengths, a shorter one ends the batch."""
    batches: list[Batch] = []
    is_open = False
    for datagram in datagrams:
        fits = is_open and len(datagram) <= len(batches[-1][0]) and len(batches[-1]) < rows_max
        if fits and (len(batches[-1]) + 1) * len(batches[-1][0]) <= UDP_PAYLOAD_MAX:
            batches[-1].append(datagram)
        else:
            batches.append([datagram])
        is_open = len(datagram) == len(batches[-1][0])
    return batches


def packets_of(frames: Iterable[bytes]) -> list[bytes]:
    """Return the finished packets behind TUN frames, in order."""
    return [packet for frame in frames for packet in packets.finished(frame)]


# Datagrams no honest site would send ----------------------------------------------------------------


def header(kind: int, receiver: int = 9, **fields: int) -> bytes:
    """Return a header for site b's first session."""
    return Header(path=0, class_flags=0, receiver=receiver, type=kind, **fields).pack()


def flipped(datagram: bytes, at: int) -> bytes:
    """Change one bit of byte ``at``."""
    return datagram[:at] + bytes([datagram[at] ^ 1]) + datagram[at + 1 :]


def seal(session: Session, counter: int, kind: Type, plaintext: bytes, **fields: int) -> bytes:
    """Seal anything: what an authenticated but hostile peer could."""
    head = header(kind, session.remote_index, counter=counter, **fields)
    body = bytearray(len(plaintext) + TAG_BYTES)
    session.seal_into(head[4:16], plaintext, None, body)
    return head + bytes(body)


def sealed(pair: Pair, kind: Type, plaintext: bytes, **fields: int) -> bytes:
    """Seal anything as site a's next datagram."""
    peer = pair.a.peers[1]
    peer.next_counter += 1
    return seal(peer.session, peer.next_counter - 1, kind, plaintext, **fields)
