"""The site: all peers, and the news that the kernel, the data plane and netlink have for them.

Room: edge, control process. ``Site`` owns the ``Peering``s and distributes: handshake datagrams to the
Handshaker, opened messages, ring records, board counters and timers to the peers they are about. It is
called by sdwan.edge.control, whose loop decides when; it waits for nothing itself.
"""

from __future__ import annotations

import numpy as np

from sdwan.config.paths import paths_of
from sdwan.config.schema import SiteConfig
from sdwan.core.drain import cut_off
from sdwan.core.handshake import Established, Handshaker, Reply
from sdwan.core.report import Inbound
from sdwan.core.sent import split
from sdwan.core.tunnel import Traffic
from sdwan.edge import channel, kernel
from sdwan.edge.links import Links
from sdwan.edge.load import Load
from sdwan.edge.memory import Memory
from sdwan.edge.peering import Endpoint, Peering, Resources
from sdwan.edge.plane import Plane
from sdwan.edge.policy import classifier_of
from sdwan.edge.quotas import Quotas
from sdwan.errors import CommandError, HandshakeError, KernelError, WireError
from sdwan.io import entry, netlink
from sdwan.io.clock import entropy, now_ns, random_u64, today
from sdwan.io.keyfile import read_key
from sdwan.io.logs import get_log
from sdwan.io.maps import LinkStats, Maps
from sdwan.io.monitor import Change, LinkEvent
from sdwan.model import PATHS_PER_PEER

log = get_log(__name__)

# Specification constants (bpf/abi.h) ---------------------------------------------------------------

_NO_DELAY = 0xFFFFFFFF
"""``delay_min_us`` before the first datagram of a new minimum."""

# Implementation constants --------------------------------------------------------------------------

MILLISECOND_NS = 10**6
PROBES_EVERY_NS = 20 * MILLISECOND_NS
"""How often answers to probes are collected; the kernel noted their time, so this costs no accuracy."""
KERNEL_BEHIND_NS = 500 * MILLISECOND_NS
"""What the kernel counted is opened at most this much later, or something is wrong."""
BUSY_NS = 1000 * MILLISECOND_NS
"""The loop keeps its fast rhythm this long after the last sign of traffic."""


class Site:
    """All peers of one site."""

    def __init__(self, config: SiteConfig, maps: Maps, plane: Plane) -> None:
        """Read the keys and begin with every configured peer.

        Raises:
            KeyFileError: a key file is missing, malformed or open to others.
        """
        self.config = config
        self.maps = maps
        self.plane = plane
        self.links = Links(config.links)
        self.links.refresh(netlink.links())
        self.handshaker = Handshaker(
            private_key=read_key(config.private_key), incarnation=random_u64(), entropy=entropy
        )
        self.peerings: dict[int, Peering] = {}
        self.refused_handshakes = 0
        self.busy_until_ns = 0
        """Traffic flowed lately: the loop should turn fast until then."""
        self.tun_mtu = 0
        self.is_unattached = False
        """An interface appeared, or the entry device went away: the programs must be attached again."""
        self.memory = Memory(config.memory_file)
        self.quotas = Quotas(self.memory)
        self.classifier = classifier_of(config)
        self._load = Load()
        self._tun_mtu_is_stale = False
        self._probes_ns = 0
        self._opened = np.zeros(len(plane.board.paths), dtype=np.uint64)
        self._seen_ns = np.zeros(len(plane.board.paths), dtype=np.uint64)
        self._shared = Resources(
            config, maps, plane, self.handshaker, self.links, self.memory, self._on_shape_changed
        )

    # Wishes -----------------------------------------------------------------------------------------

    def configure(self, config: SiteConfig) -> None:
        """Put a configuration into force: peers come, go and change; those that stay keep their sessions.

        Raises:
            KeyFileError: a preshared key cannot be read; nothing was changed.
            ConfigError: the rules are more than the data plane can be told; nothing was changed.
        """
        keys = {peer.name: read_key(peer.preshared_key) for peer in config.peers if peer.preshared_key}
        classifier = classifier_of(config)
        policy = channel.SetClasses(classifier.to_json())
        self.config = self._shared.config = config
        self.links.configure(config.links)
        self.quotas.configure(config.links)
        self.classifier = classifier
        self.plane.send(policy)
        moment_ns = now_ns()
        wanted = {peer.public_key: peer for peer in config.peers}
        for number, peering in tuple(self.peerings.items()):
            if peering.config.public_key not in wanted:
                self._remove(number, peering, moment_ns)
        numbers = {peering.config.public_key: number for number, peering in self.peerings.items()}
        endpoints = _endpoints(config)
        for place, peer in enumerate(config.peers, start=1):
            self.handshaker.set_peer(peer.public_key, keys.get(peer.name))
            known = self.peerings.get(numbers.get(peer.public_key, 0))
            if known is not None:
                old = set(known.config.prefixes)
                known.configure(peer, endpoints[peer.name], self.classifier.specs, now_ns=moment_ns)
                kernel.delete_routes(config, [p for p in old if p not in peer.prefixes])
            else:
                number = place if place not in self.peerings else self._free_number()
                self.peerings[number] = Peering(
                    number, peer, endpoints[peer.name], self.classifier.specs, self._shared, now_ns=moment_ns
                )
            kernel.add_routes(config, peer.prefixes)
        self._tun_mtu_is_stale = True

    def _free_number(self) -> int:
        return next(n for n in range(1, self.maps.peers_max) if n not in self.peerings)

    def _remove(self, number: int, peering: Peering, moment_ns: int) -> None:
        log.info("peer_removed", peer=peering.config.name)
        peering.remove(now_ns=moment_ns)
        kernel.delete_routes(self.config, peering.config.prefixes)
        self.handshaker.remove_peer(peering.config.public_key)
        del self.peerings[number]

    def set_drained(self, link: str, drained: bool, force: bool = False) -> None:
        """Let a link carry no new data in either direction, or let it carry data again.

        Raises:
            CommandError: there is no such link, or a peer would be cut off and ``force`` is not given.
        """
        if link not in self.links.states:
            raise CommandError(f"{link}: no such link; there are {', '.join(self.links.states)}")
        lonely = cut_off({p.config.name: p.tunnel.paths.values() for p in self.peerings.values()}, link)
        if drained and lonely and not force:
            raise CommandError(
                f"{link} is the only link in use to {', '.join(lonely)}: draining it ends traffic"
            )
        moment_ns = now_ns()
        if self.links.set_drained(link, drained, now_ns=moment_ns):
            self._refresh_places(moment_ns)
            log.info("link_drained" if drained else "link_undrained", link=link, reason="operator")

    def remember(self) -> None:
        """Write down what is worth knowing after a restart."""
        for peering in self.peerings.values():
            peering.remember()
        self.memory.save()

    def close(self) -> None:
        """Say goodbye to all peers."""
        self.remember()
        for peering in self.peerings.values():
            peering.close(now_ns=now_ns())

    # The data plane ---------------------------------------------------------------------------------

    def on_plane_started(self) -> None:
        """Set a new data plane up; sessions begin anew, since keys and counters died with the old one."""
        self.handshaker.restart(random_u64())
        self.plane.send(channel.SetClasses(self.classifier.to_json()))
        self._opened[:] = 0
        for peering in self.peerings.values():
            peering.on_plane_started(now_ns=now_ns())

    def on_messages(self, messages: list[channel.Message]) -> None:
        """Take what the data plane says."""
        if not messages:
            return
        moment_ns = now_ns()
        if any(type(message) is channel.Opened for message in messages):
            self._read_ring(moment_ns)  # a report is read against what was sent before it
        for message in messages:
            match message:
                case channel.Opened():
                    self._on_opened(message, moment_ns)
                case channel.Plain():
                    self._on_plain(message, moment_ns)
                case channel.Confirmed(peer, local_index) if peer in self.peerings:
                    self.peerings[peer].on_confirmed(local_index, now_ns=moment_ns)
                case channel.WantSession(peer) if peer in self.peerings:
                    self.peerings[peer].on_wanted(now_ns=moment_ns)
                case channel.Ready(facts):
                    log.info("dataplane_ready", facts=facts)

    def _on_opened(self, message: channel.Opened, moment_ns: int) -> None:
        peering = self.peerings.get(message.peer)
        if peering is None:
            return
        try:
            peering.on_opened(message, now_ns=moment_ns)
        except WireError as error:
            peering.control_malformed += 1
            log.debug("control_malformed", peer=peering.config.name, error=str(error))

    def _on_plain(self, message: channel.Plain, moment_ns: int) -> None:
        """Take a handshake datagram: anybody's, until proven otherwise."""
        source = f"{message.source[0]}|{message.source[1]}".encode()
        under_load = self._load.on_arrival(moment_ns)
        try:
            outcome = self.handshaker.receive(
                message.datagram, source, now_ns=moment_ns, under_load=under_load
            )
        except (HandshakeError, WireError) as error:
            self.refused_handshakes += 1
            log.debug("handshake_refused", source=message.source[0], error=str(error))
            return
        reply: bytes | None = None
        if isinstance(outcome, Established):
            for peering in self.peerings.values():
                if peering.config.public_key == outcome.keys.peer_public:
                    peering.on_established(outcome.keys, now_ns=moment_ns)
            reply = outcome.reply
        elif isinstance(outcome, Reply):
            reply = outcome.datagram
        if reply is not None:
            self.plane.send_directly(reply, message.source, source=message.local, ifindex=message.ifindex)

    # The kernel -------------------------------------------------------------------------------------

    def on_tick(self) -> None:
        """Look at everything that only counts and never calls: ring, board, probes, timers."""
        moment_ns = now_ns()
        self._read_ring(moment_ns)
        self._read_board(moment_ns)
        if moment_ns >= self._probes_ns:
            self._probes_ns = moment_ns + PROBES_EVERY_NS
            for peering in self.peerings.values():
                peering.collect_probes()
        for peering in tuple(self.peerings.values()):
            if peering.due_ns <= moment_ns:
                peering.on_timer(now_ns=moment_ns)
        if self._tun_mtu_is_stale:
            self._set_tun_mtu()

    def count_quotas(self) -> None:
        """Count what the links carried; those whose quota is spent carry data only when no other can."""
        if not self.quotas:
            return
        stats = self.maps.link_stats()
        carried = {name: stats.get(s.ifindex, LinkStats()) for name, s in self.links.states.items()}
        for name in self.quotas.on_counters(carried, today=today()):
            is_used_up = not self.quotas.left_bytes(name)
            (self.links.used_up.add if is_used_up else self.links.used_up.discard)(name)
            self._refresh_places(now_ns())
            log.warning("quota_used_up" if is_used_up else "quota_anew", link=name)

    def _read_ring(self, moment_ns: int) -> None:
        for peer, sends in split(self.maps.ring.read_new()).items():
            peering = self.peerings.get(peer)
            if peering is not None:
                peering.on_sent(sends, now_ns=moment_ns)

    def _read_board(self, moment_ns: int) -> None:
        """Pass on what arrived: opened, or seen by the kernel while the data plane was busy elsewhere."""
        opened, seen_ns = self.plane.board.paths["opened"], self.maps.rx_state["last_ns"][: len(self._opened)]
        changed = np.flatnonzero((opened != self._opened) | (seen_ns != self._seen_ns))
        if not len(changed):
            return
        self._opened[changed], self._seen_ns[changed] = opened[changed], seen_ns[changed]
        for peer in {int(row) // PATHS_PER_PEER for row in changed}:
            peering = self.peerings.get(peer)
            if peering is not None:
                self.busy_until_ns = moment_ns + BUSY_NS
                peering.on_inbound(self._inbound(peer), self._traffic(peer), now_ns=moment_ns)

    def _traffic(self, peer: int) -> Traffic:
        counted = self.plane.board.peers[peer]
        return Traffic(
            next_counter=int(counted["next_counter"]),
            repairs=int(counted["repairs_received"]),
            recovered=int(counted["recovered"]),
        )

    def _inbound(self, peer: int) -> list[Inbound]:
        """Join what the data plane opened and what the kernel saw, for each path of a peer.

        The kernel counts only what comes from a proven endpoint. Until it has counted what was opened, its
        delay is nobody's, or that of an earlier run: the path is left out.
        """
        first = peer * PATHS_PER_PEER
        opened = self.plane.board.paths[first : first + PATHS_PER_PEER]
        seen = self.maps.rx_state[first : first + PATHS_PER_PEER]
        return [
            Inbound(
                path=int(path),
                opened=int(opened[path]["opened"]),
                opened_bytes=int(opened[path]["opened_bytes"]),
                last_sequence=int(opened[path]["last_sequence"]),
                last_ns=int(opened[path]["last_ns"]),
                kernel_last_ns=int(seen[path]["last_ns"]),
                lost=int(seen[path]["lost"]),
                delay_us=int(seen[path]["delay_last_us"]),
                delay_min_us=_take_least(seen[path]),
                jitter_us=int(seen[path]["jitter_us16"]) >> 4,
            )
            for path in np.flatnonzero(opened["opened"])
            if int(seen[path]["last_ns"]) + KERNEL_BEHIND_NS > int(opened[path]["last_ns"])
        ]

    # Links and the TUN ------------------------------------------------------------------------------

    def on_link_events(self, events: list[LinkEvent]) -> None:
        """Take news of interfaces: carriers at once, everything else from a fresh list."""
        moment_ns = now_ns()
        changed: set[str] = set()
        for event in events:
            changed |= self.links.on_event(event)
        if changed:
            self._refresh_places(moment_ns)
        own = {state.ifindex for state in self.links.states.values()}
        if any(event.change is not Change.LINK or event.ifindex not in own for event in events):
            changed |= self._refresh_links(moment_ns)
        for name in changed:
            state = self.links.states[name]
            log.info("link", link=name, up=state.up, mtu=state.mtu, addresses=",".join(state.addresses))

    def _refresh_links(self, moment_ns: int) -> set[str]:
        before = {name for name, state in self.links.states.items() if state.ifindex}
        present = netlink.links()
        changed = self.links.refresh(present)
        after = {name for name, state in self.links.states.items() if state.ifindex}
        if after - before or all(link.name != entry.DEFAULT_NAME for link in present):
            self.is_unattached = True
        if changed:
            self._refresh_places(moment_ns)
        return changed

    def _refresh_places(self, moment_ns: int) -> None:
        for peering in self.peerings.values():
            peering.refresh_places(now_ns=moment_ns)

    def _on_shape_changed(self) -> None:
        self._tun_mtu_is_stale = True

    def _set_tun_mtu(self) -> None:
        """Let the TUN follow the smallest datagram any connected peer takes, unless its MTU is configured."""
        self._tun_mtu_is_stale = False
        connected = (p for p in self.peerings.values() if p.shape and p.tunnel.epochs.sealing)
        mtu = kernel.tun_mtu(self.config, [p.shape.datagram_bytes for p in connected if p.shape])
        if mtu == self.tun_mtu:
            return
        try:
            netlink.set_mtu(self.config.tun.name, mtu)
        except KernelError as error:
            log.error("tun_mtu_refused", error=str(error))
            return
        self.tun_mtu = mtu
        log.info("tun_mtu", mtu_bytes=mtu)


def _take_least(seen: np.void) -> int:
    """Return the least delay since the last call, and let the kernel begin a new minimum."""
    least_us = int(seen["delay_min_us"])
    seen["delay_min_us"] = _NO_DELAY
    return int(seen["delay_last_us"]) if least_us == _NO_DELAY else least_us


def _endpoints(config: SiteConfig) -> dict[str, list[Endpoint]]:
    """Return the configured paths of each peer, by name; their numbers are those of the file."""
    names = [peer.name for peer in config.peers]
    found: dict[str, list[Endpoint]] = {name: [] for name in names}
    for path in paths_of(config):
        found[names[path.peer_number - 1]].append((path.path_number, path.link_name, path.remote))
    return found
