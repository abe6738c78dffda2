"""Runs the kernel programs on single packets (BPF_PROG_TEST_RUN): packet and maps in, verdict and packet out.

``Kernel`` builds the programs once, in a network namespace of its own, and empties every map on ``reset``.
No traffic flows: a redirect shows only as its verdict, and what was chosen shows in the rewritten packet.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdwan.core.wire import Header, Type
from sdwan.io import attach, bpf, bpfsys, layout, netlink
from sdwan.io.maps import Maps
from tests.packet.frames import ETHERNET_BYTES, Frame, unpack

PEERS_MAX = 8
MARK = 0x5D
PORT = 4510
LOCAL = "10.0.0.1"
LOCAL6 = "fd00::1"

OK, SHOT, REDIRECT, UNSPEC = 0, 2, 7, 0xFFFFFFFF
XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3

PEER = 3
"""The peer most tests speak of."""


@dataclass(frozen=True)
class Sent:
    """Outcome of one run."""

    verdict: int
    data: bytes

    @property
    def frame(self) -> Frame:
        """The frame as it left."""
        return unpack(self.data)

    @property
    def header(self) -> Header:
        """The tunnel header as it left."""
        return Header.unpack(self.frame.payload)


def virtual_address(peer: int, ipv6: bool = False) -> str:
    """Return where the data plane sends for a peer."""
    return f"fd5d:8a3e:77c1::{peer:x}" if ipv6 else f"198.18.{peer >> 8}.{peer & 255}"


def datagram(
    kind: int = Type.SINGLE,
    *,
    path: int = 0xFF,
    flags: int = 0,
    receiver: int = 0x01020304,
    counter: int = 1,
    sequence: int = 0,
    time_us: int = 0,
    body: bytes = b"s" * 60,
) -> bytes:
    """Build a tunnel datagram; what is sealed in it does not matter to the kernel."""
    header = Header(
        path, flags, receiver, int(kind), counter=counter, link_sequence=sequence, send_time_us=time_us
    )
    return header.pack() + body


class Kernel:
    """The programs and maps under test."""

    def __init__(self, pin_root: Path) -> None:
        self.pin_root = pin_root
        bpf.build(pin_root, peers_max=PEERS_MAX)
        self.maps = Maps.open(pin_root)
        self._programs = {name: bpfsys.obj_get(pin_root / "progs" / name) for name in bpf.PROGRAMS}
        self._defaults = self.maps.live["cfg"].copy()

    def close(self) -> None:
        """Remove everything."""
        self.maps.close()
        for descriptor in self._programs.values():
            os.close(descriptor)
        attach.remove_pins(self.pin_root)
        layout.layout_path(self.pin_root).unlink(missing_ok=True)

    def reset(self) -> None:
        """Empty every map; steering is on, the port is set."""
        for name, view in self.maps.live.items():
            if name != "cfg":
                view.view(np.uint8)[:] = 0
        self.maps.live["cfg"][:] = self._defaults
        self.maps.config["mark"] = MARK
        self.maps.set_port(PORT)
        for name in bpf.MAPS:
            with bpfsys.opened(self.pin_root / "maps" / name) as descriptor:
                self._empty(name, descriptor)
        self.maps.ring.read_new()
        self.maps.close()
        self.maps = Maps.open(self.pin_root)

    def _empty(self, name: str, descriptor: int) -> None:
        info = bpfsys.map_info(descriptor)
        if name in self.maps.live:
            return
        if info.type in (bpfsys.MapType.ARRAY, bpfsys.MapType.PERCPU_ARRAY):
            cpus = bpfsys.possible_cpus() if info.type in bpfsys.PER_CPU_TYPES else 1
            for row in range(info.max_entries):
                bpfsys.update(descriptor, np.uint32(row).tobytes(), bytes(info.value_bytes * cpus))
        else:
            for key in bpfsys.keys(descriptor, info.key_bytes, info.max_entries):
                bpfsys.delete(descriptor, key)

    def run(self, program: str, data: bytes, *, repeat: int = 1, **context: int) -> bpfsys.TestRun:
        """Run one program on one frame; keywords fill struct __sk_buff."""
        block = b"" if program.endswith("_xdp") else bpfsys.skb_context(**context)
        return bpfsys.test_run(self._programs[program], data, context=block, repeat=repeat)

    def steer(
        self,
        payload: bytes,
        *,
        peer: int = PEER,
        ipv6: bool = False,
        mark: int = MARK,
        segment_bytes: int = 0,
        checksum: str | None = "full",
        destination: str | None = None,
        traffic_byte: int = 0,
    ) -> Sent:
        """Send a datagram, or a burst of segments of ``segment_bytes``, into the entry device."""
        frame = Frame(
            source="fd5d:8a3e:77c1:1::1" if ipv6 else "198.19.0.1",
            destination=destination or virtual_address(peer, ipv6),
            payload=payload,
            traffic_byte=traffic_byte,
            checksum="pseudo" if segment_bytes and checksum else checksum,  # type: ignore[arg-type]
        )
        context = {"mark": mark}
        if segment_bytes:
            segments = -(-len(payload) // segment_bytes)
            headers = len(frame.pack()) - len(payload)
            context |= {
                "gso_size": segment_bytes,
                "gso_segs": segments,
                "wire_len": len(payload) + segments * headers,
            }
        result = self.run("sdwan_steer", frame.pack(), **context)
        return Sent(result.verdict, result.data)

    def route_elsewhere(self, prefix: str) -> None:
        """Make this machine a router that would forward ``prefix``, over a link of its own."""
        if netlink.find_link("elsewhere") is None:
            netlink.call(
                "veth", lambda route: route.link("add", ifname="elsewhere", kind="veth", peer="elsewhere-p")
            )
            netlink.set_up("elsewhere")
            netlink.set_up("elsewhere-p")
        for name in ("all", "lo", "elsewhere"):
            netlink.write_switch("ipv4", name, "forwarding", 1)
        netlink.add_route(prefix, "elsewhere")

    def run_many_steers(self, count: int) -> None:
        """Send ``count`` datagrams, each chosen anew."""
        for _ in range(count):
            self.steer(datagram())

    def receive(
        self, frame: Frame, *, program: str = "sdwan_account", segment_bytes: int = 0, segments: int = 0
    ) -> Sent:
        """Let a frame arrive on a link."""
        context = {"gso_size": segment_bytes, "gso_segs": segments} if segment_bytes else {}
        result = self.run(program, frame.pack(), **context)
        return Sent(result.verdict, result.data)

    def add_path(self, number: int, *, peer: int = PEER, ipv6: bool = False, **changes: object) -> None:
        """Configure path ``number``: remote 10.0.<number>.2 or fd00:<number>::2, port 4600 + number."""
        settings: dict[str, object] = {
            "ifindex": 1,
            "up": True,
            "ipv6": ipv6,
            "mtu": 1500,
            "source": f"fd00:{number}::1" if ipv6 else f"10.0.{number}.1",
            "source_port": PORT,
            "remote": f"fd00:{number}::2" if ipv6 else f"10.0.{number}.2",
            "remote_port": 4600 + number,
        }
        self.maps.set_path(peer, number, **(settings | changes))  # type: ignore[arg-type]


def enter_private_namespace() -> int:
    """Move this thread into a new network namespace with our addresses on lo; return the old one's fd.

    Received packets must be for this machine, and no route or forwarding switch of the host may matter.
    """
    old = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    return old


def leave_namespace(old: int) -> None:
    """Go back to the namespace ``old``."""
    ctypes.CDLL(None, use_errno=True).setns(old, 0x40000000)
    os.close(old)


def headers_of(data: bytes, segment_bytes: int) -> list[Header]:
    """Return the tunnel headers of all segments of a burst."""
    offset = len(data) - len(unpack(data).payload)
    return [Header.unpack(data[at : at + 24]) for at in range(offset, len(data), segment_bytes)]


def ip_bytes(data: bytes) -> int:
    """Return the length of the IP packet in a frame."""
    return len(data) - ETHERNET_BYTES
