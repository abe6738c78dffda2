"""What the data plane knows of one peer: wanted (from control), and the state of its traffic.

Room: edge, data-plane process only. ``Peer`` is the one object outward and inward halves share; each
half touches its own fields.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdwan.core.classes import READY, ClassSpec
from sdwan.core.holes import HOLE_WAIT_NS_DEFAULT, REPAIR_WAIT_NS_DEFAULT
from sdwan.core.playout import Playout
from sdwan.core.reorder import BUCKETS, HeldBytes, Reorder
from sdwan.core.replay import ReplayWindow
from sdwan.core.retransmit import Kept, KeptBytes
from sdwan.core.session import Session
from sdwan.edge.channel import Address
from sdwan.model import CLASSES, PATHS_PER_PEER

if TYPE_CHECKING:
    from sdwan.edge.protect import Guard
    from sdwan.edge.recover import Mender

SOURCES_MAX = 1 << 16
"""Inner source addresses remembered per peer."""


def _no_sender(*_: object) -> int:
    raise OSError("no socket for this peer yet")


@dataclass(slots=True)
class Arrivals:
    """What was opened from one path, and where it should come from."""

    endpoint: Address | None = None
    opened: int = 0
    opened_bytes: int = 0
    last_sequence: int = 0
    last_send_us: int = 0
    last_ns: int = 0
    moved_ns: int = 0
    """When an unexpected source was last reported to control."""


@dataclass(slots=True)
class Peer:
    """One peer of the data plane."""

    number: int
    held_bytes: HeldBytes
    kept_bytes: KeptBytes = field(default_factory=KeptBytes)
    lost_on: Callable[[int], int] | None = None
    """Tells what the receiving kernel misses of a path (see sdwan.core.holes)."""
    # wanted
    datagram_bytes: int = 1200
    burst_segments: int = 1
    prefixes: tuple[str, ...] = ()
    classes: Sequence[ClassSpec] = READY
    hole_wait_ns: int = HOLE_WAIT_NS_DEFAULT
    repair_wait_ns: int = REPAIR_WAIT_NS_DEFAULT
    # sessions
    session: Session | None = None
    """The one that seals DATA; None until a session is active."""
    incarnation: int = 0
    # outward
    senders: dict[int, socket.socket] = field(default_factory=dict)
    """By address family."""
    families: tuple[int, ...] = ()
    turns: list[Callable[..., int]] = field(default_factory=list)
    """``sendmsg`` of each sender, as often as its family has a turn."""
    send: Callable[..., int] = _no_sender
    """The first of them."""
    next_counter: int = 0
    bucket_sequences: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    wanted_ns: int = 0
    """When control was last told that traffic waits for a session."""
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_datagrams: int = 0
    # recovery
    kept: Kept = field(init=False)
    """What was sent lately, to be sent again if the peer misses it."""
    nacks_sent: int = 0
    nacks_received: int = 0
    resent: int = 0
    resent_bytes: int = 0
    delivered: list[int] = field(default_factory=lambda: [-1] * PATHS_PER_PEER)
    """Highest link sequence (32 bits) the peer has reported on each path; -1: none."""
    guard: Guard | None = None
    """Makes repairs over what is sent; None while no class is protected."""
    repairs_sent: int = 0
    repair_bytes: int = 0
    mender: Mender | None = None
    """Makes whole what is lost; None while the peer sends no repairs."""
    repairs_received: int = 0
    recovered: int = 0
    unrecovered: int = 0
    # inward
    window: ReplayWindow = field(default_factory=ReplayWindow)
    order: Reorder = field(init=False)
    playout: Playout | None = None
    """Packets that wait for their time; None before any class asked for it."""
    sources: dict[bytes, bool] = field(default_factory=dict)
    """Answers of the inner source check, by address."""
    arrivals: list[Arrivals] = field(default_factory=lambda: [Arrivals() for _ in range(PATHS_PER_PEER)])
    rx_packets: int = 0
    rx_bytes: int = 0
    rx_by_class: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in range(CLASSES)])
    """Packets and bytes among them, by traffic class."""
    dirty: bool = False
    """Counters changed since they were written to the board."""

    def __post_init__(self) -> None:
        self.kept = Kept(self.kept_bytes, self.classes)
        self.order = self._new_order()
        self.set_classes(self.classes)

    def _new_order(self) -> Reorder:
        order = Reorder(self.window, self.held_bytes, self.hole_wait_ns, self.repair_wait_ns, self.classes)
        order.holes.lost_on = self.lost_on
        return order

    def set_waits(self, hole_wait_ns: int, repair_wait_ns: int) -> None:
        """Set how long a hole may be unproven, and how long a repair takes once asked for."""
        self.hole_wait_ns, self.repair_wait_ns = hole_wait_ns, repair_wait_ns
        self.order.set_waits(hole_wait_ns, repair_wait_ns)
        self.kept.pause_ns = repair_wait_ns * 3 // 4

    def set_classes(self, classes: Sequence[ClassSpec]) -> None:
        """Set what each traffic class needs."""
        self.classes = classes
        self.order.set_classes(classes)
        self.kept.set_classes(classes)
        if self.playout is not None:
            self.playout.set_classes(classes)  # it may hold something still
        elif Playout.is_wanted(classes):
            self.playout = Playout(classes, self.held_bytes)

    def advance(self, bucket: int, *, datagrams: int, packets: int, size_bytes: int) -> None:
        """Count what was staged; the bucket's sequence counts packets, the counter datagrams."""
        self.bucket_sequences[bucket] = (self.bucket_sequences[bucket] + packets) & 0xFFFF
        self.next_counter += datagrams
        self.tx_datagrams += datagrams
        self.tx_packets += packets
        self.tx_bytes += size_bytes
        self.dirty = True

    def begin_anew(self, incarnation: int) -> None:
        """Forget order, replay state and what was kept: the peer's data plane is another process now."""
        self.order.drop_all()
        self.kept.forget_all()
        self.incarnation = incarnation
        self.window = ReplayWindow()
        self.order = self._new_order()
        self.delivered = [-1] * PATHS_PER_PEER
        self.mender = None

    def forget(self) -> None:
        """Give back what waits and what is kept: the peer is removed."""
        self.order.drop_all()
        if self.playout is not None:
            self.playout.drop_all()
        self.kept.close()

    def add_sender(self, sock: socket.socket) -> None:
        """Send through this socket too (one per outer address family)."""
        self.senders[sock.family] = sock
        self.set_families(self.families)

    def set_families(self, families: tuple[int, ...]) -> None:
        """Deal bursts to the address families in these turns; families without a socket are left out."""
        self.families = families
        usable = [family for family in families if family in self.senders] or list(self.senders)
        self.turns = [self.senders[family].sendmsg for family in usable]
        self.send = self.turns[0] if self.turns else _no_sender

    def turn_sender(self) -> None:
        """Give the next burst to the next address family."""
        self.turns.append(self.turns.pop(0))
        self.send = self.turns[0]

    def lead_with(self, family: int) -> None:
        """Give the next burst to this address family, if it has a socket."""
        if family in self.senders:
            self.send = self.senders[family].sendmsg

    def sender_of(self, path: int) -> Callable[..., int]:
        """Return ``sendmsg`` of the socket for a path's family: what is pinned must not meet another's."""
        endpoint = self.arrivals[path].endpoint
        if endpoint is None:
            return self.send
        sock = self.senders.get(socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET)
        return sock.sendmsg if sock else _no_sender
