"""Two tunnels, their kernels and data planes, and the links between them, in virtual time.

A ``World`` holds two ``Side``s. Each carries out the actions of its Tunnel as the shell would: sealed
messages go over a ``Link`` with delay, rate and faults, the "kernel" numbers them and notes them in its
ring, the far side's "data plane" counts what it opened. Handshakes are granted, not run: they have tests of
their own.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sdwan.core import epochs
from sdwan.core.actions import (
    Action,
    Event,
    MovePath,
    SendControl,
    SendProbe,
    SetBusy,
    SetPathMtu,
    SetShape,
    SetShares,
)
from sdwan.core.handshake import SessionKeys
from sdwan.core.path import OUTER_HEADERS_BYTES, Pace, Place
from sdwan.core.report import Inbound
from sdwan.core.roaming import Whereabouts
from sdwan.core.sent import SENT
from sdwan.core.tunnel import Traffic, Tunnel
from sdwan.core.wire import HEADER_BYTES, TAG_BYTES, Type
from sdwan.model import PathState

MS = 10**6
SECOND = 10**9
TICK = 10 * MS
QUEUE_NS = 4 * MS
"""Bound of a virtual queue."""
DATA_BYTES = 1200


@dataclass
class Link:
    """One way of one path."""

    delay_ns: int = 10 * MS
    rate_bps: int = 0
    """0 = unlimited."""
    buffer_ns: int = 50 * MS
    loss: float = 0.0
    is_black: bool = False
    mtu: int = 9999
    jitter_ns: int = 0
    busy_until_ns: int = 0
    last_arrival_ns: int = 0

    def depart(self, size_bytes: int, now_ns: int, chance: random.Random) -> int | None:
        """Return when a datagram of this size arrives; None = lost."""
        if self.is_black or size_bytes > self.mtu or chance.random() < self.loss:
            return None
        if self.rate_bps:
            start_ns = max(now_ns, self.busy_until_ns)
            if start_ns - now_ns > self.buffer_ns:
                return None
            self.busy_until_ns = start_ns + (size_bytes + 14) * 8 * SECOND // self.rate_bps
            now_ns = self.busy_until_ns
        jitter_ns = int(chance.random() * self.jitter_ns)
        self.last_arrival_ns = max(now_ns + self.delay_ns + jitter_ns, self.last_arrival_ns)
        return self.last_arrival_ns


@dataclass
class Arrived:
    """What a side's kernel and data plane count on one path."""

    opened: int = 0
    opened_bytes: int = 0
    last_sequence: int = 0
    last_ns: int = 0
    kernel_last_ns: int = 0
    kernel_next: int = 0
    lost: int = 0
    delay_us: int = 0
    jitter_us16: int = 0


@dataclass
class Side:
    """One site: its tunnel, and what the shell around it would hold."""

    name: str
    tunnel: Tunnel
    clock_offset_us: int
    remote_of: dict[int, tuple[str, int]]
    """Address the peer sees this side under, by path."""
    initiated: list[int] = field(default_factory=list)
    """When it began handshakes."""
    next_sequence: list[int] = field(default_factory=lambda: [0] * 8)
    ring: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    arrived: dict[int, Arrived] = field(default_factory=dict)
    replies: list[tuple[int, int, int]] = field(default_factory=list)
    shares: tuple[float, ...] = (0.0,) * 8
    ns_per_kib: tuple[int, ...] = (0,) * 8
    delay_us: tuple[int, ...] = (0,) * 8
    until_ns: list[int] = field(default_factory=lambda: [0] * 8)
    """The kernel's virtual queues, by path ..."""
    idle_ns: list[int] = field(default_factory=lambda: [0] * 8)
    """... and how long each was empty."""
    shape: SetShape | None = None
    path_mtu: dict[int, int] = field(default_factory=dict)
    log: list[tuple[int, Event]] = field(default_factory=list)
    is_deaf: bool = False
    """Its data plane is gone: nothing is opened, though the kernel still reflects probes."""
    share_log: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    received_data: list[tuple[int, int]] = field(default_factory=list)
    """(when, number) of every DATA datagram."""

    def state(self, path: int) -> PathState:
        """State of a path in this side's eyes."""
        return self.tunnel.paths[path].state


class World:
    """Two sides, ``edge`` and ``hub``, and a clock."""

    def __init__(self, links: int = 2, *, seed: int = 1, pace: Pace | None = None, **link: object) -> None:
        self.now_ns = 1000 * SECOND
        self.chance = random.Random(seed)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        pace = pace or Pace()
        self.out = [Link(**link) for _ in range(links)]  # type: ignore[arg-type]
        self.back = [Link(**link) for _ in range(links)]  # type: ignore[arg-type]
        self.edge = self._side("edge", True, pace, 0)
        self.hub = self._side("hub", False, pace, 123_456_789)
        self._sent = 0
        self._ticking()

    def _side(self, name: str, connects: bool, pace: Pace, offset_us: int) -> Side:
        tunnel = Tunnel(connects=connects, pace=pace, entropy=self.chance.randbytes, now_ns=self.now_ns)
        net = 1 if connects else 2
        return Side(name, tunnel, offset_us, {path: (f"10.{path}.0.{net}", 4510) for path in range(8)})

    # the clock ----------------------------------------------------------------------------------

    def at(self, when_ns: int, what: Callable[[], None]) -> None:
        """Do something at a moment."""
        self._count += 1
        heapq.heappush(self._events, (when_ns, self._count, what))

    def run(self, duration_ns: int) -> None:
        """Let time pass."""
        end_ns = self.now_ns + duration_ns
        while self._events and self._events[0][0] <= end_ns:
            when_ns, _, what = heapq.heappop(self._events)
            self.now_ns = max(self.now_ns, when_ns)
            what()
        self.now_ns = end_ns

    def run_until(self, what: Callable[[], bool], limit_ns: int = 10 * SECOND) -> int:
        """Let time pass until something is true; return how long it took."""
        start_ns = self.now_ns
        while not what():
            assert self.now_ns - start_ns < limit_ns, "it did not happen in time"
            self.run(MS)
        return self.now_ns - start_ns

    def _ticking(self) -> None:
        for side in (self.edge, self.hub):
            self._tick(side)
        self.at(self.now_ns + TICK, self._ticking)

    # what a shell does --------------------------------------------------------------------------

    def far(self, side: Side) -> Side:
        """Return the other side."""
        return self.hub if side is self.edge else self.edge

    def place(self, side: Side, path: int, **changes: object) -> Place:
        """Return where a path of this side leads."""
        whereabouts = Whereabouts(self.far(side).remote_of[path], side.remote_of[path][0], path + 1)
        return Place(whereabouts, f"wan{path}", **{"link_up": True, "link_mtu": 1500} | changes)  # type: ignore[arg-type]

    def connect(self) -> None:
        """Give both sides a session, and the edge its paths."""
        edge = SessionKeys(b"h" * 32, 11, 22, b"", b"", 2, initiator=True)
        hub = SessionKeys(b"e" * 32, 22, 11, b"", b"", 1, initiator=False)
        for path in range(len(self.out)):
            self.do(
                self.edge, self.edge.tunnel.set_place(path, self.place(self.edge, path), now_ns=self.now_ns)
            )
        self.do(self.hub, self.hub.tunnel.on_established(hub, now_ns=self.now_ns))
        self.do(self.edge, self.edge.tunnel.on_established(edge, now_ns=self.now_ns))

    def do(self, side: Side, actions: list[Action]) -> None:
        """Carry out actions as the shell does."""
        for action in actions:
            match action:
                case SendControl():
                    self._send_control(side, action)
                case SendProbe(path, token):
                    self._send_probe(side, path, token)
                case SetShares(decisions):
                    decision = decisions[0]
                    side.shares = decision.shares
                    side.ns_per_kib, side.delay_us = decision.ns_per_kib, decision.delay_us
                    side.share_log.append((self.now_ns, decision.shares))
                case SetBusy(path, until_ns):
                    side.until_ns[path] = until_ns
                case SetShape():
                    side.shape = action
                case SetPathMtu(path, mtu_bytes):
                    side.path_mtu[path] = mtu_bytes
                case MovePath(path, whereabouts):
                    place = Place(whereabouts, f"wan{path}", link_up=True, link_mtu=1500)
                    self.do(side, side.tunnel.set_place(path, place, now_ns=self.now_ns))
                case Event():
                    side.log.append((self.now_ns, action))
                case epochs.Initiate():
                    side.initiated.append(self.now_ns)
                case epochs.Install() | epochs.Retire() | epochs.Forget():
                    pass

    def _tick(self, side: Side) -> None:
        tunnel, now_ns = side.tunnel, self.now_ns
        ring, side.ring = side.ring, []
        for path, record in ring:
            tunnel.on_sent({path: np.array([record], dtype=SENT)})
        rows = [
            Inbound(
                path, a.opened, a.opened_bytes, a.last_sequence, a.last_ns, a.kernel_last_ns, a.lost,
                a.delay_us, a.delay_us, a.jitter_us16 >> 4,
            )
            for path, a in side.arrived.items()
            if a.opened
        ]  # fmt: skip
        replies, side.replies = side.replies, []
        for reply in replies:
            tunnel.on_probe_reply(*reply)
        self.do(side, tunnel.on_inbound(rows, Traffic(), now_ns=now_ns))
        if tunnel.next_timer_ns(now_ns) <= now_ns + MS:
            self.do(side, tunnel.on_timer(now_ns=now_ns))

    # the wire -----------------------------------------------------------------------------------

    def _link(self, side: Side, path: int) -> Link:
        return (self.out if side is self.edge else self.back)[path]

    def _stamp(self, side: Side, path: int, kind: int, size: int = 26) -> int:
        sequence = side.next_sequence[path]
        side.next_sequence[path] += 1
        backlog_ns = max(side.until_ns[path] - self.now_ns, 0)
        if side.until_ns[path]:
            side.idle_ns[path] += max(self.now_ns - side.until_ns[path], 0)
        frame_bytes = size + 42
        side.until_ns[path] = self.now_ns + backlog_ns + (side.ns_per_kib[path] * frame_bytes >> 10)
        record = (
            sequence & 0xFFFFFFFF, 1, kind, self.now_ns, frame_bytes, backlog_ns // 1000,
            side.idle_ns[path] // 1000 & 0xFFFFFFFF, 0,
        )  # fmt: skip
        side.ring.append((path, record))
        return sequence

    def _choose(self, side: Side, size: int, bound_ns: int = QUEUE_NS) -> int | None:
        """Earliest delivery among paths whose virtual queue is short, as the kernel does; None = wait."""
        arrivals = {
            path: max(side.until_ns[path] - self.now_ns, 0)
            + (side.ns_per_kib[path] * size >> 10)
            + side.delay_us[path] * 1000
            for path in range(8)
            if side.shares[path] and side.until_ns[path] - self.now_ns <= bound_ns
        }
        return min(arrivals, key=lambda path: arrivals[path]) if arrivals else None

    def send_data(self, side: Side, size_bytes: int = DATA_BYTES) -> None:
        """Send one DATA datagram where it arrives first; what no path has room for is dropped."""
        path = self._choose(side, size_bytes)
        self._sent += 1
        if path is not None:
            self._fly(side, path, Type.SINGLE, size_bytes, b"", number=self._sent)

    def stream(self, side: Side, interval_ns: int, duration_ns: int, size_bytes: int = DATA_BYTES) -> None:
        """Send DATA at a steady pace from now on."""
        for k in range(duration_ns // interval_ns):
            self.at(self.now_ns + k * interval_ns, lambda: self.send_data(side, size_bytes))

    def _send_control(self, side: Side, action: SendControl) -> None:
        if action.to is not None:
            far = self.far(side)
            path = next((p for p, address in far.remote_of.items() if address == action.to.remote), None)
            if path is None or path >= len(self.out):
                return
            arrival_ns = self._link(side, path).depart(100, self.now_ns, self.chance)
            if arrival_ns is not None:
                self.at(arrival_ns, lambda: self._open(side, path, action.plaintext))
            return
        path = action.path if action.path is not None else self._choose(side, 200, bound_ns=SECOND)
        if path is None or path not in side.tunnel.paths:
            return
        size = len(action.plaintext) + HEADER_BYTES + TAG_BYTES
        self._fly(side, path, Type.CONTROL, size, action.plaintext)

    def _fly(self, side: Side, path: int, kind: int, size: int, plaintext: bytes, number: int = 0) -> None:
        sequence, sent_ns = self._stamp(side, path, kind, size), self.now_ns
        arrival_ns = self._link(side, path).depart(size + OUTER_HEADERS_BYTES[False], sent_ns, self.chance)
        if arrival_ns is not None:
            self.at(
                arrival_ns, lambda: self._arrive(side, path, kind, size, plaintext, sequence, sent_ns, number)
            )

    def _arrive(
        self,
        sender: Side,
        path: int,
        kind: int,
        size: int,
        plaintext: bytes,
        sequence: int,
        sent_ns: int,
        number: int,
    ) -> None:
        side = self.far(sender)
        if side.is_deaf:
            return
        arrived = side.arrived.setdefault(path, Arrived())
        if sequence >= arrived.kernel_next:
            arrived.lost += sequence - arrived.kernel_next
            arrived.kernel_next = sequence + 1
        arrived.opened += 1
        arrived.opened_bytes += size
        arrived.last_sequence, arrived.last_ns, arrived.kernel_last_ns = sequence, self.now_ns, self.now_ns
        offset_us = side.clock_offset_us - sender.clock_offset_us
        delay_us = ((self.now_ns - sent_ns) // 1000 + offset_us) & 0xFFFFFFFF
        if arrived.opened > 1:
            step_us = abs(delay_us - arrived.delay_us)
            arrived.jitter_us16 += step_us - ((arrived.jitter_us16 + 8) >> 4)  # RFC 3550 A.8
        arrived.delay_us = delay_us
        if kind == Type.CONTROL:
            self._open(sender, path, plaintext)
        else:
            side.received_data.append((self.now_ns, number))

    def _open(self, sender: Side, path: int, plaintext: bytes) -> None:
        side = self.far(sender)
        whereabouts = Whereabouts(sender.remote_of[path], side.remote_of[path][0], path + 1)
        if not side.tunnel.epochs.is_proven and side.tunnel.epochs.indices():
            index = side.tunnel.epochs.indices()[-1]
            self.do(side, side.tunnel.on_confirmed(index, now_ns=self.now_ns))
        self._tick(side)
        self.do(side, side.tunnel.on_opened(path, whereabouts, plaintext, now_ns=self.now_ns))

    def _send_probe(self, side: Side, path: int, token: int) -> None:
        self._stamp(side, path, Type.PROBE)
        sent_ns = self.now_ns
        there_ns = self._link(side, path).depart(68, sent_ns, self.chance)
        if there_ns is not None:
            self.at(there_ns, lambda: self._reflect(side, path, token, sent_ns))

    def _reflect(self, side: Side, path: int, token: int, sent_ns: int) -> None:
        back_ns = self._link(self.far(side), path).depart(68, self.now_ns, self.chance)
        if back_ns is not None:
            self.at(back_ns, lambda: side.replies.append((path, token, back_ns - sent_ns)))
