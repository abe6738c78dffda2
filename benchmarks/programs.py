"""Nanoseconds per run of each BPF program, by BPF_PROG_TEST_RUN: no network, no noise of others.

Programs are built under a pin root of their own and removed with it. Each run gets a fresh packet, since
steering marks it (and would rightly refuse to steer it twice), so the kernel's own clock reads of about 20 ns
are in every figure. The redirect itself is not carried out in a test run.
"""

from __future__ import annotations

import statistics
import struct
from collections.abc import Callable
from dataclasses import dataclass

from sdwan.core.wire import Header
from sdwan.errors import LabError
from sdwan.io import bpf, bpfsys
from sdwan.io.maps import Maps, Weights
from sdwan.lab.home import Home
from sdwan.model import DEFAULT_PORT, PATH_CHOOSE, SteerMode

# Specification constants (linux/pkt_cls.h, linux/bpf.h) --------------------------------------------

TC_UNSPEC, TC_REDIRECT, XDP_PASS = 0xFFFFFFFF, 7, 2

# Implementation constants --------------------------------------------------------------------------

PIN_ROOT = Home("programs").pin_root("test")
RUNS = 4000
MARK = 0x5D
LOOPBACK = 1
"""An interface index that exists everywhere; test runs send nothing."""
PLAIN_BYTES = 1200
SEGMENT_BYTES = 400
SEGMENTS = 8
"""A test run carries less than a page, so the burst is one of short segments."""
TUNNEL = ("192.0.2.1", "192.0.2.2")
RECEIVER = 0x12345678
SINGLE = 0x02
EARLIEST_CLASS = 1
NS_PER_KIB, BOUND_US = 100_000, 4000
"""82 Mbit/s a path: all that is kept for earliest delivery is known and moves on with every run."""


def costs_ns() -> dict[str, float]:
    """Build the programs and return the median cost of each case."""
    home = Home("programs")
    home.claim()
    try:
        bpf.build(PIN_ROOT)
        maps = Maps.open(PIN_ROOT)
        _configure(maps)
        return {name: _median(name, case) for name, case in CASES.items()}
    finally:
        home.remove()


def _configure(maps: Maps) -> None:
    """One peer with two paths of equal weight: by shares in class 0, by backlog in class 1."""
    maps.config["mark"] = MARK
    maps.set_port(DEFAULT_PORT)
    for path in range(2):
        maps.set_path(
            1, path, ifindex=LOOPBACK, up=True, ipv6=False, mtu=1500, source=TUNNEL[1],
            source_port=DEFAULT_PORT, remote=TUNNEL[0], remote_port=DEFAULT_PORT,
        )  # fmt: skip
    rates = {"ns_per_kib": (NS_PER_KIB,) * 2, "delay_us": (0, 1000), "bound_us": (BOUND_US,) * 2}
    maps.write_weights({
        (1, 0): Weights(shares=(1.0, 1.0)),
        (1, EARLIEST_CLASS): Weights(SteerMode.EARLIEST, (1.0, 1.0), **rates),
    })  # fmt: skip
    maps.set_receiver(RECEIVER, 1)
    maps.add_link(LOOPBACK)


def _frame(destination: str, header: Header, payload_bytes: int, *, protocol: int = 17) -> bytes:
    """Build an Ethernet frame with one UDP datagram; its checksum is wrong, but there to be kept in step."""
    udp_bytes = 8 + 24 + payload_bytes
    udp = (
        struct.pack("!HHHH", DEFAULT_PORT, DEFAULT_PORT, udp_bytes, 0xABCD)
        + header.pack()
        + bytes(payload_bytes)
    )
    addresses = b"".join(bytes(map(int, address.split("."))) for address in (TUNNEL[0], destination))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + udp_bytes, 0, 0x4000, 64, protocol, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + udp


def _outgoing(number: int, traffic_class: int = 0) -> tuple[bytes, bytes]:
    header = Header(PATH_CHOOSE, traffic_class, RECEIVER, SINGLE, counter=number)
    frame = _frame("198.18.0.1", header, PLAIN_BYTES)
    return frame, bpfsys.skb_context(mark=MARK)


def _outgoing_earliest(number: int) -> tuple[bytes, bytes]:
    return _outgoing(number, EARLIEST_CLASS)


def _outgoing_burst(number: int) -> tuple[bytes, bytes]:
    header = Header(path=PATH_CHOOSE, class_flags=0, receiver=RECEIVER, type=SINGLE, counter=number)
    frame = _frame("198.18.0.1", header, SEGMENT_BYTES * SEGMENTS - 24)
    return frame, bpfsys.skb_context(mark=MARK, gso_segs=SEGMENTS, gso_size=SEGMENT_BYTES)


def _incoming(number: int) -> tuple[bytes, bytes]:
    header = Header(0, 0, RECEIVER, SINGLE, counter=number, link_sequence=number, send_time_us=number * 100)
    return _frame(TUNNEL[1], header, PLAIN_BYTES), b""


def _foreign(number: int) -> tuple[bytes, bytes]:
    return _frame(TUNNEL[1], Header(0, 0, 0, SINGLE), PLAIN_BYTES, protocol=6), b""


Make = Callable[[int], tuple[bytes, bytes]]


@dataclass(frozen=True)
class Case:
    """A program, the packets it gets, and the verdict that shows it did what is being timed."""

    program: str
    make: Make
    verdict: int


CASES: dict[str, Case] = {
    "steer, plain": Case("sdwan_steer", _outgoing, TC_REDIRECT),
    "steer, earliest": Case("sdwan_steer", _outgoing_earliest, TC_REDIRECT),
    f"steer, burst of {SEGMENTS}": Case("sdwan_steer", _outgoing_burst, TC_REDIRECT),
    "count, plain": Case("sdwan_count", _incoming, TC_UNSPEC),
    "account, plain": Case("sdwan_account", _incoming, TC_UNSPEC),
    "account, foreign packet": Case("sdwan_account", _foreign, TC_UNSPEC),
    "account in XDP, plain": Case("sdwan_account_xdp", _incoming, XDP_PASS),
}


def _median(name: str, case: Case) -> float:
    with bpfsys.opened(PIN_ROOT / "progs" / case.program) as descriptor:
        durations = []
        for number in range(1, RUNS + 1):
            frame, context = case.make(number)
            run = bpfsys.test_run(descriptor, frame, context=context)
            if run.verdict != case.verdict:
                raise LabError(
                    f"{name}: verdict {run.verdict}, expected {case.verdict}: it would time a refusal"
                )
            durations.append(run.duration_ns)
    return float(statistics.median(durations))
