"""Protecting: what was sent of a protected class gets repair rows beside it, on other paths.

Data-plane process, sending side. Control says which class to which peer gets how much (channel.SetRecovery);
sdwan.edge.sender passes every burst it sent to the peer's ``Guard`` (None while nothing is protected: that
is all it costs then). When a block closes, after its rows or after its time, its REPAIRs are sealed under the
session of its rows and sent at once: each on the path that carries least of the block and still has room;
where nothing is known of paths the kernel chooses. What is sent as copies is repaired by copies.

Repairs do not wait in the queue: they are as old as their rows, and bounded to half of them. The kernel
counts them into the paths' backlog, so that what comes next finds less room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdwan.core.fec import Closed, Encoder
from sdwan.core.session import Session
from sdwan.core.wire import CLASS_MASK, FLAG_DUPLICATE, HEADER_BYTES, TAG_BYTES, Type, widen
from sdwan.edge.channel import SetRecovery
from sdwan.edge.peer import Peer
from sdwan.io.kernelview import KernelView
from sdwan.io.udp import DATAGRAM_BYTES_MAX, segment_ancillary
from sdwan.model import PATH_CHOOSE, PATH_PIN, PATHS_PER_PEER, DropReason

# Specification constants (docs/wire.md, bpf/abi.h) -------------------------------------------------

_CLASS_AT = 2
_FLAG_UP, _FLAG_IPV6 = 1, 2
_OUTER_BYTES = {0: 28, _FLAG_IPV6: 48}
"""IP and UDP headers."""

# Implementation constants -------------------------------------------------------------------------

BACKLOG_NS_MAX = 10_000_000
"""Longest queue a repair is pinned to: beyond, the kernel finds a shorter one."""
NEVER_NS = 1 << 63


Emit = Callable[[Peer, Session, int, list[Closed], int], None]
"""Peer, session, byte 2 of the header, blocks, now."""


class Guard:
    """The protected classes of one peer."""

    def __init__(self, peer: Peer, emit: Emit) -> None:
        self._peer = peer
        self._emit = emit
        self._session: Session | None = None
        """The one whose rows the open blocks hold."""
        self._encoders: dict[int, Encoder] = {}
        self._flags: dict[int, int] = {}
        """Byte 2 of the header, by class."""

    def protect(self, message: SetRecovery, now_ns: int) -> None:
        """Protect a class so much from its next block on; with 0 repairs no more."""
        number = message.traffic_class
        encoder = self._encoders.get(number)
        if encoder is not None:
            self._close(encoder, now_ns)
        if not message.repairs:
            self._encoders.pop(number, None)
            return
        if encoder is None:
            encoder = self._encoders[number] = Encoder(number, datagram_bytes=self._peer.datagram_bytes)
        encoder.configure(sources=message.sources, repairs=message.repairs, close_ns=message.close_us * 1000)

    @property
    def is_idle(self) -> bool:
        """Tell whether no class is protected."""
        return not self._encoders

    def due_ns(self) -> int | None:
        """Return when the first open block must be closed; None if none is open."""
        return min((e.due_ns for e in self._encoders.values() if e.due_ns is not None), default=None)

    def on_sent(self, payload: memoryview, rows: int, stride: int, now_ns: int) -> None:
        """Take a burst that was sent: datagrams ``stride`` bytes apart, the last one takes what is left."""
        flags = payload[_CLASS_AT]
        encoder = self._encoders.get(flags & CLASS_MASK)
        if encoder is None:
            return
        last_at = (rows - 1) * stride
        first, last = self._counter(payload, 0), self._counter(payload, last_at)
        if last - first != rows - 1:
            for at in range(0, len(payload), stride):  # not numbered in a row: each for itself
                self.on_sent(payload[at : at + stride], 1, stride, now_ns)
            return
        if self._peer.session is not self._session:
            self.close_due(NEVER_NS)  # what comes now belongs to another session
            self._session = self._peer.session
        self._flags[flags & CLASS_MASK] = flags
        encoder.datagram_bytes = self._peer.datagram_bytes
        datagrams = np.frombuffer(payload, dtype=np.uint8)
        whole = datagrams[:last_at].reshape(rows - 1, stride)
        closed = encoder.add(whole, stride, first, now_ns=now_ns) if rows > 1 else []
        single = datagrams[last_at:].reshape(1, -1)
        closed += encoder.add(single, single.shape[1], last, now_ns=now_ns)
        self._send(flags, closed, now_ns)

    def _counter(self, payload: memoryview, at: int) -> int:
        return widen(int.from_bytes(payload[at + 12 : at + 16], "big"), self._peer.next_counter)

    def close_due(self, now_ns: int) -> None:
        """Close the blocks whose time has come."""
        for encoder in self._encoders.values():
            if encoder.due_ns is not None and encoder.due_ns <= now_ns:
                self._close(encoder, now_ns)

    def _close(self, encoder: Encoder, now_ns: int) -> None:
        self._send(self._flags.get(encoder.traffic_class, 0), encoder.close(), now_ns)

    def _send(self, flags: int, closed: list[Closed], now_ns: int) -> None:
        if closed and self._session is not None:
            self._emit(self._peer, self._session, flags, closed, now_ns)


class Protector:
    """The guards of all peers, and the way out for repairs.

    ``view`` shows the kernel's weights, queues and choices; None = unknown.
    """

    def __init__(
        self, *, segmentation: bool, drop: Callable[[DropReason, int], None], view: KernelView | None = None
    ) -> None:
        self.view = view
        self._segmentation = segmentation
        self._drop = drop
        self._guarded: dict[int, Peer] = {}

    def obey(self, peer: Peer, message: SetRecovery, now_ns: int) -> None:
        """Change what a class to a peer gets."""
        guard = peer.guard
        if guard is None:
            guard = peer.guard = Guard(peer, self._emit)
            self._guarded[peer.number] = peer
        guard.protect(message, now_ns)
        if guard.is_idle:
            self.forget(peer)

    def forget(self, peer: Peer) -> None:
        """Protect nothing to this peer any more."""
        peer.guard = None
        self._guarded.pop(peer.number, None)

    @property
    def is_busy(self) -> bool:
        """Tell whether anything is protected at all."""
        return bool(self._guarded)

    def next_ns(self) -> int:
        """Return when ``pump`` is next needed; ``NEVER_NS`` = not before something is sent."""
        due = [peer.guard.due_ns() for peer in self._guarded.values() if peer.guard is not None]
        return min((at_ns for at_ns in due if at_ns is not None), default=NEVER_NS)

    def pump(self, now_ns: int) -> None:
        """Close the blocks whose time has come."""
        for peer in self._guarded.values():
            if peer.guard is not None:
                peer.guard.close_due(now_ns)

    # the way out --------------------------------------------------------------------------------

    def _emit(self, peer: Peer, session: Session, flags: int, closed: list[Closed], now_ns: int) -> None:
        for block in closed:
            on_path: dict[int, list[bytes]] = {}
            places = self._places(peer, flags, block, now_ns)
            for plaintext, path_byte in zip(block.plaintexts, places, strict=True):
                datagram = session.seal_control(plaintext, path_byte, kind=Type.REPAIR, class_flags=flags)
                on_path.setdefault(path_byte, []).append(datagram)
            for path_byte, datagrams in on_path.items():
                self._send(peer, path_byte, datagrams)

    def _places(self, peer: Peer, flags: int, block: Closed, now_ns: int) -> list[int]:
        """Return the path byte of each repair: where least of its block travels, and there is room."""
        count = len(block.plaintexts)
        if self.view is None or flags & FLAG_DUPLICATE:
            return [PATH_CHOOSE] * count
        size_bytes = len(block.plaintexts[0]) + HEADER_BYTES + TAG_BYTES
        roads = _roads(self.view, peer.number, flags & CLASS_MASK, size_bytes, now_ns)
        if len(roads) > 1:
            took = self.view.ring.find(peer.number, block.form.counters())
            for path, rows in Counter(path for path, _, _ in took.values()).items():
                if path in roads:
                    roads[path].load += rows
        places: list[int] = []
        for plaintext in block.plaintexts:
            free = [road for road in roads.values() if road.backlog_ns <= BACKLOG_NS_MAX]
            if not free:
                return places + [PATH_CHOOSE] * (count - len(places))
            road = min(free, key=lambda road: road.load)
            road.load += 1 / block.form.shards_per_row
            road.backlog_ns += len(plaintext) * road.ns_per_kib >> 10
            places.append(PATH_PIN | road.path)
        return places

    def _send(self, peer: Peer, path_byte: int, datagrams: list[bytes]) -> None:
        """Send equally long repairs over one path, in bursts."""
        size = len(datagrams[0])
        burst = min(peer.burst_segments, DATAGRAM_BYTES_MAX // size) if self._segmentation else 1
        send = peer.send if path_byte == PATH_CHOOSE else peer.sender_of(path_byte & ~PATH_PIN)
        for start in range(0, len(datagrams), burst):
            part = datagrams[start : start + burst]
            try:
                send([b"".join(part)], segment_ancillary(size) if len(part) > 1 else ())
            except OSError:
                self._drop(DropReason.SEND_FAILED, len(part))
                continue
            peer.repairs_sent += len(part)
            peer.repair_bytes += size * len(part)
            peer.dirty = True


@dataclass(slots=True)
class _Road:
    """A path as one block sees it."""

    path: int
    ns_per_kib: int
    backlog_ns: int
    load: float = 0.0
    """Rows of the block on it, repairs included."""


def _roads(view: KernelView, peer: int, traffic_class: int, size_bytes: int, now_ns: int) -> dict[int, _Road]:
    """Return the paths that are up, wide enough, and may carry the class."""
    span = slice(peer * PATHS_PER_PEER, (peer + 1) * PATHS_PER_PEER)
    flags, mtu = view.paths["flags"][span].tolist(), view.paths["mtu"][span].tolist()
    until_ns = view.busy["until_ns"][span].tolist()
    weights = view.weights_of(peer, traffic_class)
    allowed, rates = weights["inverse"].tolist(), weights["ns_per_kib"].tolist()
    return {
        path: _Road(path, rates[path], max(until_ns[path] - now_ns, 0))
        for path in range(PATHS_PER_PEER)
        if allowed[path]
        and flags[path] & _FLAG_UP
        and size_bytes + _OUTER_BYTES[flags[path] & _FLAG_IPV6] <= mtu[path]
    }
