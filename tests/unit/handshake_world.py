"""Two or more sites that shake hands over an imagined network, in virtual time.

Each ``Site`` joins the real ``Handshaker`` and the real ``Epochs`` of every peer the way the control process
does, with the smallest model of a data plane that seals and opens. ``World`` moves time from one event to the
next; nothing here sleeps, and all randomness comes from a seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from sdwan.core.epochs import Action, Epochs, Forget, Initiate, Install, Retire, SendKeepalive
from sdwan.core.handshake import Established, Handshaker, Reply, SessionKeys
from sdwan.errors import HandshakeError

MS = 1_000_000
SECOND = 1_000_000_000

Fate = Callable[[], list[int]]
"""Delays in ns at which copies of one datagram arrive; an empty list is a loss."""


def steady(delay_ns: int = 10 * MS) -> Fate:
    """A link that delivers everything once, in order."""
    return lambda: [delay_ns]


def broken() -> list[int]:
    """A link that delivers nothing."""
    return []


def rough(rng: random.Random, *, loss: float, duplicate: float = 0.1, delay_max_ns: int = 300 * MS) -> Fate:
    """A link that loses, copies and, by its uneven delay, reorders."""

    def fate() -> list[int]:
        copies = 0 if rng.random() < loss else 2 if rng.random() < duplicate else 1
        return [rng.randrange(MS, delay_max_ns) for _ in range(copies)]

    return fate


@dataclass(frozen=True)
class Sealed:
    """A datagram of the modelled data plane: the key stands for what is sealed with it."""

    receiver: int
    key: bytes
    number: int
    """Of the data, 0 for a keepalive."""


@dataclass
class Plane:
    """What a data plane knows of one peer: installed sessions in order, and who seals."""

    installed: dict[int, SessionKeys] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)
    confirmed: set[int] = field(default_factory=set)

    def sealing(self) -> SessionKeys | None:
        usable = [keys for index, keys in self.installed.items() if index in self.active]
        return usable[-1] if usable else None


class Site:
    """One site: the shell around the pure parts."""

    def __init__(self, world: World, name: str, *, incarnation: int | None = None) -> None:
        self.world, self.name = world, name
        self.entropy = world.rng.randbytes
        self.private = self.entropy(32)
        self.incarnation = incarnation or world.rng.getrandbits(64)
        self.handshaker = Handshaker(
            private_key=self.private, incarnation=self.incarnation, entropy=self.entropy
        )
        self.under_load = False
        self.peers: dict[bytes, Site] = {}
        self.epochs: dict[bytes, Epochs] = {}
        self.planes: dict[bytes, Plane] = {}
        self.opened: list[int] = []
        self.refused: list[str] = []
        self.initiated = 0
        self.oldest_sealed_ns = 0

    @property
    def public(self) -> bytes:
        return self.handshaker.public

    def know(self, peer: Site, *, connects: bool, preshared_key: bytes | None = None) -> None:
        """Configure a peer."""
        self.handshaker.set_peer(peer.public, preshared_key)
        self.peers[peer.public] = peer
        self.epochs[peer.public] = Epochs(connects=connects, entropy=self.entropy)
        self.planes[peer.public] = Plane()

    def restart(self) -> None:
        """Lose everything a process loses when it dies; key and configuration stay."""
        self.incarnation = self.world.rng.getrandbits(64)
        self.handshaker = Handshaker(
            private_key=self.private, incarnation=self.incarnation, entropy=self.entropy
        )
        for public, epochs in self.epochs.items():
            self.handshaker.set_peer(public)
            self.epochs[public] = Epochs(connects=epochs.connects, entropy=self.entropy)
            self.planes[public] = Plane()

    def next_timer_ns(self) -> int | None:
        timers = [epochs.next_timer_ns() for epochs in self.epochs.values()]
        return min((timer for timer in timers if timer is not None), default=None)

    def on_timer(self) -> None:
        for public, epochs in self.epochs.items():
            due_ns = epochs.next_timer_ns()
            if due_ns is not None and due_ns <= self.world.now_ns:
                self.act(public, epochs.on_timer(now_ns=self.world.now_ns))

    def act(self, public: bytes, actions: list[Action]) -> None:
        """Carry out what Epochs wants, in order."""
        plane = self.planes[public]
        for action in actions:
            match action:
                case Initiate():
                    self.initiated += 1
                    self.send(public, self.handshaker.initiate(public, now_ns=self.world.now_ns))
                case Install(keys, active):
                    assert keys.local_index not in plane.installed
                    plane.installed[keys.local_index] = keys
                    if active:
                        plane.active.add(keys.local_index)
                case Retire(index):
                    plane.active.discard(index)
                case Forget(index):
                    plane.installed.pop(index, None)
                    plane.active.discard(index)
                    self.handshaker.release_index(index)
                case SendKeepalive(index):
                    keys = plane.installed[index]
                    self.send(public, Sealed(keys.remote_index, keys.send_key, 0))

    def send(self, public: bytes, datagram: bytes | Sealed) -> None:
        self.world.carry(self, self.peers[public], datagram)

    def send_data(self, public: bytes, number: int) -> bool:
        """Seal one datagram with the session that seals; False without one."""
        keys = self.planes[public].sealing()
        if keys is None:
            return False
        self.epochs[public].on_datagrams(1)
        since_ns = self.epochs[public].sealing_since_ns
        assert since_ns is not None
        self.oldest_sealed_ns = max(self.oldest_sealed_ns, self.world.now_ns - since_ns)
        self.send(public, Sealed(keys.remote_index, keys.send_key, number))
        return True

    def receive(self, sender: Site, datagram: bytes | Sealed) -> None:
        if isinstance(datagram, Sealed):
            self._open(datagram)
            return
        try:
            outcome = self.handshaker.receive(
                datagram, sender.name.encode(), now_ns=self.world.now_ns, under_load=self.under_load
            )
        except HandshakeError as error:
            self.refused.append(str(error))
            return
        if isinstance(outcome, Established):
            public = outcome.keys.peer_public
            self.act(public, self.epochs[public].on_established(outcome.keys, now_ns=self.world.now_ns))
            if outcome.reply:
                self.world.carry(self, sender, outcome.reply)
        elif isinstance(outcome, Reply):
            self.world.carry(self, sender, outcome.datagram)

    def _open(self, datagram: Sealed) -> None:
        for public, plane in self.planes.items():
            keys = plane.installed.get(datagram.receiver)
            if keys is None or keys.receive_key != datagram.key:
                continue
            if datagram.receiver not in plane.confirmed:
                plane.confirmed.add(datagram.receiver)
                plane.active.add(datagram.receiver)
                actions = self.epochs[public].on_confirmed(datagram.receiver, now_ns=self.world.now_ns)
                self.act(public, actions)
            if datagram.number:
                self.opened.append(datagram.number)


class World:
    """Virtual time and the datagrams under way."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = random.Random(seed)
        self.now_ns = 1000 * SECOND
        self.fate: Fate = steady()
        self.fates: dict[tuple[str, str], Fate] = {}
        self.sites: list[Site] = []
        self.carried: list[tuple[Site, Site, bytes]] = []
        self._order = count()
        self._events: list[tuple[int, int, Callable[[], None]]] = []

    def site(self, name: str) -> Site:
        self.sites.append(Site(self, name))
        return self.sites[-1]

    def pair(self, *, both_connect: bool = False, psk: bytes | None = None) -> tuple[Site, Site]:
        """An edge that knows where its hub is, and the hub."""
        edge, hub = self.site("edge"), self.site("hub")
        edge.know(hub, connects=True, preshared_key=psk)
        hub.know(edge, connects=both_connect, preshared_key=psk)
        return edge, hub

    def carry(self, sender: Site, receiver: Site, datagram: bytes | Sealed) -> None:
        """Put a datagram on the way; handshake datagrams are also recorded, as an eavesdropper would."""
        if isinstance(datagram, bytes):
            self.carried.append((sender, receiver, datagram))
        for delay_ns in self.fates.get((sender.name, receiver.name), self.fate)():
            self.at(self.now_ns + delay_ns, lambda: receiver.receive(sender, datagram))

    def at(self, moment_ns: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment_ns, next(self._order), what))

    def run(self, duration_ns: int) -> None:
        """Let ``duration_ns`` pass."""
        end_ns = self.now_ns + duration_ns
        for _ in range(1_000_000):
            timers = [timer for site in self.sites if (timer := site.next_timer_ns()) is not None]
            moments = timers + [event[0] for event in self._events[:1]]
            if not moments or min(moments) > end_ns:
                self.now_ns = end_ns
                return
            self.now_ns = max(self.now_ns, min(moments))
            if self._events and self._events[0][0] <= self.now_ns:
                heapq.heappop(self._events)[2]()
            for site in self.sites:
                site.on_timer()
        raise AssertionError("the world does not come to rest: something is due again and again")

    def stream(self, sender: Site, receiver: Site, *, every_ns: int, duration_ns: int) -> list[int]:
        """Plan data at a steady pace; returns the list that will hold the numbers really sent."""
        sent: list[int] = []

        def tick(number: int, left_ns: int) -> None:
            if sender.send_data(receiver.public, number):
                sent.append(number)
            if left_ns >= every_ns:
                self.at(self.now_ns + every_ns, lambda: tick(number + 1, left_ns - every_ns))

        self.at(self.now_ns, lambda: tick(1, duration_ns))
        return sent
