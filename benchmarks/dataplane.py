"""What the data plane's own code costs, without the kernel: microseconds for each read of the TUN.

    python -m benchmarks.dataplane [--rounds N]

The outward half reads the same packet again and again from a stand-in for the TUN and "sends" into a list;
the inward half receives that list and "writes" nowhere. What is left is Python, numpy and AES-GCM: the part
of the way that a profile can make cheaper. Prints the fastest of several rounds, since noise only adds.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import click
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from sdwan.core.reorder import HeldBytes
from sdwan.core.session import Session
from sdwan.edge import outward
from sdwan.edge.delivery import Delivery
from sdwan.edge.inward import Inward
from sdwan.edge.outward import Outward
from sdwan.edge.peer import Peer
from sdwan.io.tun import GSO_NONE, GSO_TCPV4, VNET, VNET_NEEDS_CSUM, Offload
from sdwan.io.udp import SOL_UDP, UDP_GRO
from sdwan.model import DropReason

READS = 1000
SOURCE = ("192.0.2.1", 4510)
ADDRESSES = bytes((10, 1, 0, 1, 10, 2, 0, 1))
EVERYBODY = "0.0.0.0/0"


@dataclass(frozen=True)
class Load:
    """One kind of read: the frame (virtio header and packet) and the burst length it is sent with."""

    title: str
    frame: bytes
    burst_segments: int
    packets: int


def udp_frame(payload_bytes: int) -> bytes:
    """Return one UDP packet with its checksum left open, as a local application's comes out of a TUN."""
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + payload_bytes, 0, 0x4000, 64, 17, 0) + ADDRESSES
    udp = struct.pack("!HHHH", 5000, 5001, 8 + payload_bytes, 0x1234)
    return VNET.pack(VNET_NEEDS_CSUM, GSO_NONE, 0, 0, 20, 6) + ip + udp + bytes(payload_bytes)


def tcp_frame(segments: int, segment_bytes: int) -> bytes:
    """Return one TSO super-packet with a 12-byte timestamp option."""
    payload_bytes = segments * segment_bytes
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 52 + payload_bytes, 1, 0x4000, 64, 6, 0) + ADDRESSES
    tcp = struct.pack("!HHIIBBHHH", 5000, 5001, 1, 1, 0x80, 0x10, 100, 0, 0) + bytes(12)
    vnet = VNET.pack(VNET_NEEDS_CSUM, GSO_TCPV4, 52, segment_bytes, 20, 16)
    return vnet + ip + tcp + bytes(payload_bytes)


LOADS = (
    Load("TCP, 44 segments, bursts of 44", tcp_frame(44, 1376), 44, 44),
    Load("TCP, 44 segments, bursts of 8", tcp_frame(44, 1376), 8, 44),
    Load("TCP, 44 segments, bursts of 1", tcp_frame(44, 1376), 1, 44),
    Load("UDP, 200 bytes each", udp_frame(172), 44, 1),
    Load("UDP, 1328 bytes each", udp_frame(1300), 44, 1),
)


class Tun:
    """Stands in for the ``os`` module of the outward half: every read returns the same frame."""

    def __init__(self, frame: bytes, reads: int) -> None:
        self.frame, self.left = frame, reads

    def readv(self, _: int, into: list[memoryview]) -> int:
        """Return the frame once more, until there have been enough."""
        if not self.left:
            raise BlockingIOError
        self.left -= 1
        into[0][: len(self.frame)] = self.frame
        return len(self.frame)


class Wire:
    """Stands in for the receiving socket: replays what was sent."""

    def __init__(self, sent: list[tuple[bytes, int]]) -> None:
        self._sent: Iterator[tuple[bytes, int]] = iter(sent)
        self.empty = False

    def recvmsg_into(self, into: list[memoryview], _: int) -> tuple[int, list, int, tuple[str, int]]:
        """Return the next burst as GRO would."""
        item = next(self._sent, None)
        if item is None:
            self.empty = True
            raise BlockingIOError
        burst, stride = item
        into[0][: len(burst)] = burst
        many = len(burst) > stride
        return len(burst), [(SOL_UDP, UDP_GRO, struct.pack("=i", stride))] if many else [], 0, SOURCE


def refuse(reason: DropReason, count: int) -> None:
    """Nothing may be dropped here: a figure with drops would be no figure."""
    raise AssertionError(f"{count} dropped: {reason.name}")


def measure_outward(load: Load) -> tuple[float, list[tuple[bytes, int]]]:
    """Return microseconds a read, and what was sent: (burst, datagram bytes)."""
    sent: list[tuple[bytes, int]] = []

    def send(buffers: list[memoryview], ancillary: list[tuple[int, int, bytes]] | tuple[()] = ()) -> int:
        burst = bytes(buffers[0])
        sent.append((burst, struct.unpack("=H", ancillary[0][2])[0] if ancillary else len(burst)))
        return len(burst)

    peer = Peer(1, HeldBytes(), datagram_bytes=1472, burst_segments=load.burst_segments)
    peer.session = Session(1, 5, 6, bytes(32), bytes(32))
    peer.send = send
    half = Outward(0, segmentation=True, drop=refuse, want_session=lambda _: None)
    half.reroute([(EVERYBODY, peer)])
    tun = Tun(load.frame, READS)
    with mock.patch.object(outward, "os", tun):
        begin_ns = time.perf_counter_ns()
        while tun.left:
            half.pump()
        spent_ns = time.perf_counter_ns() - begin_ns
    return spent_ns / READS / 1000, sent


def measure_inward(load: Load, sent: list[tuple[bytes, int]]) -> float:
    """Return microseconds for what one read became."""
    peer = Peer(1, HeldBytes())
    session = Session(1, 6, 5, bytes(32), bytes(32))
    session.confirmed = True
    delivery = Delivery(0, Offload(tcp=True, udp=True, checksum=True), drop=refuse)
    delivery.routes.replace([(EVERYBODY, peer)])
    half = Inward(
        sessions={6: session}, peers={1: peer}, delivery=delivery, drop=refuse,
        confirmed=lambda _: None, plain=lambda *_: None, opened=lambda *_: None,
    )  # fmt: skip
    wire = Wire(sent)
    with mock.patch("sdwan.edge.delivery.os.writev", lambda *_: 0):
        begin_ns = time.perf_counter_ns()
        while not wire.empty:
            half.pump(wire)  # type: ignore[arg-type]
        spent_ns = time.perf_counter_ns() - begin_ns
    if peer.rx_packets != READS * load.packets:
        raise AssertionError(f"{peer.rx_packets} packets delivered, {READS * load.packets} sent")
    return spent_ns / READS / 1000


@click.command()
@click.option("--rounds", default=5, show_default=True, help="The fastest counts.")
def main(rounds: int) -> None:
    """Measure the data plane's own code."""
    facts = machine.describe()
    console = Console()
    console.print(
        f"{facts['processor']}, Linux {facts['kernel']}, Python {facts['python']}, commit {facts['commit']}"
    )
    table = Table("µs per read of the TUN", "outward", "inward", box=None)
    for load in LOADS:
        outs, ins = [], []
        for _ in range(rounds):
            spent_us, sent = measure_outward(load)
            outs.append(spent_us)
            ins.append(measure_inward(load, sent))
        table.add_row(load.title, f"{min(outs):.1f}", f"{min(ins):.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
