"""Two sites and several links between them in virtual time: links that delay, lose, repeat and go dark.

``World`` carries what the sites of a ``tests.unit.walk.Pair`` send, in both directions, as the kernel and the
links would: it chooses a path where none is pinned, stamps link sequences, notes what went where (``Ring``,
which plays sdwan.io.ring.TxRing) and lets datagrams arrive when their time has come. Everything random comes
from one seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdwan.core.wire import DATA_TYPES, Header
from sdwan.model import CLASSES, PATH_CHOOSE, PATH_PIN, PATHS_PER_PEER
from tests.unit.walk import MS, Pair, Road, Site, packets_of

TICK_NS = MS


@dataclass
class Link:
    """One direction of one link, as the world treats it."""

    delay_ns: int = 10 * MS
    loss: float = 0.0
    repeats: float = 0.0
    jitter_ns: int = 0
    """Up to so much more, so that it does not keep order."""
    is_dark: bool = False


@dataclass
class Sent:
    """One datagram that left."""

    counter: int
    path: int
    sequence: int
    time_ns: int


class Ring:
    """What the kernel noted of the DATA that left, with the questions of sdwan.io.ring.TxRing."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def find(self, _: int, counters: Sequence[int]) -> dict[int, tuple[int, int, int]]:
        newest = {s.counter: (s.path, s.sequence, s.time_ns) for s in self.sent}
        return {c: newest[c & 0xFFFFFFFF] for c in counters if c & 0xFFFFFFFF in newest}

    def sent_on(self, _: int, path: int, after_sequence: int) -> list[tuple[int, int, int]]:
        return [
            (s.counter, 1, s.sequence) for s in self.sent if s.path == path and s.sequence > after_sequence
        ]


@dataclass
class View:
    """Plays sdwan.io.kernelview.KernelView for one site: all links up, equal rates, told delays."""

    delays_ns: list[int]
    ring: Ring = field(default_factory=Ring)

    def __post_init__(self) -> None:
        rows = 2 * PATHS_PER_PEER
        self.busy = np.zeros(rows, dtype=[("until_ns", "u8"), ("idle_ns", "u8")])
        self.paths = np.zeros(rows, dtype=[("flags", "u4"), ("mtu", "u4")])
        self.paths["mtu"] = 1500
        self.paths["flags"][PATHS_PER_PEER : PATHS_PER_PEER + len(self.delays_ns)] = 1
        per_path = (PATHS_PER_PEER,)
        dtype = [("mode", "u4")] + [
            (name, "u4", per_path) for name in ("inverse", "ns_per_kib", "delay_us", "bound_us")
        ]
        self.weights = np.zeros(CLASSES, dtype=dtype)
        for path, delay_ns in enumerate(self.delays_ns):
            self.weights["inverse"][:, path] = 1024
            self.weights["ns_per_kib"][:, path] = 100_000
            self.weights["delay_us"][:, path] = delay_ns // 1000

    def weights_of(self, _: int, traffic_class: int) -> Any:
        return self.weights[traffic_class]


class World:
    """A pair of sites; ``links`` are the same in both directions."""

    def __init__(self, *links: Link, seed: int = 1, **pair: Any) -> None:
        self.links = links
        self.pair = Pair(**pair)
        self.rng = random.Random(seed)
        self._roads = {site.name: [Road(path) for path in range(len(links))] for site in self.sites}
        self._arrivals: list[tuple[int, int, str, bytes]] = []
        self._number = 0
        self._turn = 0
        self.came: list[bytes] = []
        """Packets that left site b's TUN."""
        self.carried_bytes = {"a": 0, "b": 0}
        for site in self.sites:
            site.resender.view = View([link.delay_ns for link in links])  # type: ignore[assignment]

    @property
    def sites(self) -> tuple[Site, Site]:
        return self.pair.a, self.pair.b

    @property
    def now_ns(self) -> int:
        return self.pair.clock.now_ns

    def send(self, *frames: bytes) -> None:
        """Let site a's TUN hand over these frames."""
        self._carry(self.pair.a, self.pair.a.send(*frames))

    def pass_time(self, duration_ns: int) -> None:
        """Let time pass; datagrams arrive, sites look after what waits."""
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            self.pair.clock.now_ns += TICK_NS
            while self._arrivals and self._arrivals[0][0] <= self.now_ns:
                _, _, to, datagram = heapq.heappop(self._arrivals)
                self._take(self.pair.b if to == "b" else self.pair.a, [datagram])
            for site in self.sites:
                self._take(site, None)

    def _take(self, site: Site, batch: list[bytes] | None) -> None:
        frames = site.settle() if batch is None else site.receive(batch)
        if site is self.pair.b:
            self.came += packets_of(frames)
        sender = site.senders[1]
        datagrams, sender.datagrams = sender.datagrams, []
        self._carry(site, datagrams)

    def _carry(self, site: Site, datagrams: list[bytes]) -> None:
        to = "b" if site is self.pair.a else "a"
        for datagram in datagrams:
            path = self._choose() if datagram[1] == PATH_CHOOSE else datagram[1] & ~PATH_PIN
            link, stamped = self.links[path], self._roads[site.name][path].stamp(datagram)
            self._tell(site, stamped, path)
            self.carried_bytes[site.name] += len(datagram)
            if link.is_dark or self.rng.random() < link.loss:
                continue
            for _ in range(2 if self.rng.random() < link.repeats else 1):
                self._number += 1
                at_ns = self.now_ns + link.delay_ns + self.rng.randint(0, link.jitter_ns)
                heapq.heappush(self._arrivals, (at_ns, self._number, to, stamped))

    def _choose(self) -> int:
        self._turn += 1
        return self._turn % len(self.links)

    def _tell(self, site: Site, datagram: bytes, path: int) -> None:
        header = Header.unpack(datagram)
        if header.type in DATA_TYPES:
            sent = Sent(header.counter, path, header.link_sequence, self.now_ns)
            site.resender.view.ring.sent.append(sent)  # type: ignore[union-attr]

    def close(self) -> None:
        """Let go of both sites."""
        self.pair.close()
