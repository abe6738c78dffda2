"""One peer in the shell: carries out what its Tunnel decides, in kernel, data plane and on the wire.

Room: edge, control process. ``Peering`` owns the pure ``Tunnel`` of one peer and is the only caller of it;
each method takes news to it and carries the resulting actions out at once. ``Resources`` is what all peers
share. The site (sdwan.edge.site) owns the peerings and distributes news among them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdwan.config.schema import PeerConfig, SiteConfig
from sdwan.core import epochs
from sdwan.core.actions import (
    Action,
    Event,
    MovePath,
    Resend,
    SendControl,
    SendProbe,
    SetBusy,
    SetPathMtu,
    SetProtection,
    SetShape,
    SetShares,
)
from sdwan.core.classes import ClassSpec
from sdwan.core.handshake import Handshaker, SessionKeys
from sdwan.core.mtu import BASE_BYTES
from sdwan.core.path import Pace, Place
from sdwan.core.report import Inbound
from sdwan.core.roaming import Whereabouts
from sdwan.core.schedule import Decision, turns
from sdwan.core.sent import Rows
from sdwan.core.tunnel import Traffic, Tunnel
from sdwan.core.wire import Header, Type
from sdwan.edge import channel, kernel
from sdwan.edge.doors import Doors, family_of
from sdwan.edge.links import Links
from sdwan.edge.memory import Memory
from sdwan.edge.plane import Plane
from sdwan.errors import HandshakeError, KernelError
from sdwan.io.clock import entropy
from sdwan.io.logs import get_log
from sdwan.io.maps import Maps, Weights
from sdwan.model import PATH_CHOOSE, PATH_PIN, PATHS_PER_PEER

log = get_log(__name__)

_PROBE_BODY = struct.Struct("!QII")

Endpoint = tuple[int, str, tuple[str, int]]
"""A configured path: its number, its link, and where it leads."""


@dataclass(slots=True)
class Resources:
    """What the peers of a site share."""

    config: SiteConfig
    maps: Maps
    plane: Plane
    handshaker: Handshaker
    links: Links
    memory: Memory
    shape_changed: Callable[[], None]
    """Called when a peer's datagram size changed: the MTU of the TUN may follow."""


def pace_of(config: SiteConfig) -> Pace:
    """Return the rhythm the configuration wants."""
    wanted = config.control
    return Pace(
        report_ns=wanted.report_interval_ns,
        probe_ns=wanted.probe_interval_ns,
        quiet_probe_ns=wanted.quiet_probe_interval_ns,
        keepalive_ns=wanted.keepalive_ns,
    )


class Peering:
    """One peer."""

    def __init__(
        self,
        number: int,
        config: PeerConfig,
        endpoints: Sequence[Endpoint],
        specs: Sequence[ClassSpec],
        shared: Resources,
        *,
        now_ns: int,
    ) -> None:
        self.number = number
        self.config = config
        self.shared = shared
        self.endpoints: Sequence[Endpoint] = ()
        self.decisions: tuple[Decision, ...] = ()
        """In force, one for each traffic class."""
        self.shape: SetShape | None = None
        self.due_ns = now_ns
        """When its tunnel wants to be called."""
        self.control_malformed = 0
        self._places: dict[int, Place] = {}
        """As the kernel has them."""
        self._mtus: dict[int, int] = {}
        self._told_turns: tuple[int, ...] = ()
        self._doors = Doors(number, shared.config.port, shared.plane)
        self._pending_index: int | None = None
        self.tunnel = Tunnel(
            connects=bool(endpoints), pace=pace_of(shared.config), entropy=entropy, now_ns=now_ns
        )
        self.configure(config, endpoints, specs, now_ns=now_ns)

    # Wishes -----------------------------------------------------------------------------------------

    def configure(
        self, config: PeerConfig, endpoints: Sequence[Endpoint], specs: Sequence[ClassSpec], *, now_ns: int
    ) -> None:
        """Take the peer's section of the configuration, and the traffic classes of the site."""
        self.config = config
        self.tunnel.specs = specs
        for number in {n for n, _, _ in self.endpoints} - {n for n, _, _ in endpoints}:
            self._drop_path(number, now_ns)
        self.endpoints = endpoints
        self.tunnel.connects = self.tunnel.epochs.connects = bool(endpoints)
        self.tunnel.set_pace(pace_of(self.shared.config))
        self._tell_shape()
        self.refresh_places(now_ns=now_ns)
        self._write_weights()

    def refresh_places(self, *, now_ns: int) -> None:
        """Look again where each path leads, after a link or an address changed."""
        links = self.shared.links
        if self.endpoints:
            for number, link, remote in self.endpoints:
                place = links.place(link, remote, self._places.get(number))
                if place is not None:
                    self._set_place(number, place, now_ns)
        else:
            for number, path in tuple(self.tunnel.paths.items()):
                self._set_place(number, links.place_at(path.place.whereabouts), now_ns)

    def remember(self) -> None:
        """Note what its paths were found to carry."""
        for number, path in self.tunnel.paths.items():
            if path.estimator.is_known:
                self.shared.memory.note_capacity(self.config.name, number, path.estimator.capacity_bps)

    def close(self, *, now_ns: int) -> None:
        """Say goodbye; the peer asks again when it wants to."""
        self._do(self.tunnel.close(), now_ns)

    def remove(self, *, now_ns: int) -> None:
        """Forget the peer everywhere."""
        self.close(now_ns=now_ns)
        self._do(self.tunnel.restart(now_ns=now_ns), now_ns)
        self._set_pending(None)
        self.shared.plane.send(channel.RemovePeer(self.number))
        kernel.forget_peer(self.shared.maps, self.number)
        self._doors.close()

    def on_plane_started(self, *, now_ns: int) -> None:
        """Tell a new data plane all about the peer, and begin a new session with it."""
        self._do(self.tunnel.restart(now_ns=now_ns), now_ns)
        self._set_pending(None)
        self._doors.close()
        self._tell_shape()
        for number, place in self._places.items():
            self._tell_place(number, place)
        self.due_ns = now_ns

    # News -------------------------------------------------------------------------------------------

    def on_established(self, keys: SessionKeys, *, now_ns: int) -> None:
        """Take a completed handshake."""
        if keys.local_index == self._pending_index:
            self._pending_index = None  # it is a session now, and stays known to the kernel
        log.info("session", peer=self.config.name, initiator=keys.initiator, index=f"{keys.local_index:08x}")
        self._do(self.tunnel.on_established(keys, now_ns=now_ns), now_ns)

    def on_confirmed(self, local_index: int, *, now_ns: int) -> None:
        """Note that the data plane opened the first datagram of a session."""
        self._do(self.tunnel.on_confirmed(local_index, now_ns=now_ns), now_ns)

    def on_wanted(self, *, now_ns: int) -> None:
        """Note that traffic waits for a session."""
        self._do(self.tunnel.on_wanted(now_ns=now_ns), now_ns)

    def on_opened(self, message: channel.Opened, *, now_ns: int) -> None:
        """Take an opened control message."""
        whereabouts = Whereabouts(message.source, message.local, message.ifindex)
        self._do(self.tunnel.on_opened(message.path, whereabouts, message.plaintext, now_ns=now_ns), now_ns)

    def on_sent(self, sends: Mapping[int, Rows], *, now_ns: int) -> None:
        """Take what the kernel sent, by path."""
        self.tunnel.on_sent(sends)
        self.due_ns = self.tunnel.next_timer_ns(now_ns)

    def on_inbound(self, rows: Sequence[Inbound], traffic: Traffic, *, now_ns: int) -> None:
        """Take the counters of what was opened."""
        self._do(self.tunnel.on_inbound(rows, traffic, now_ns=now_ns), now_ns)

    def collect_probes(self) -> None:
        """Take the round trip times the kernel noted since the last call."""
        for number, path in self.tunnel.paths.items():
            for token in path.prober.tokens:
                rtt_us = self.shared.maps.probe_rtt_us(self.number, number, token)
                if rtt_us is not None:
                    self.tunnel.on_probe_reply(number, token, rtt_us * 1000)

    def on_timer(self, *, now_ns: int) -> None:
        """Do what is due."""
        self._do(self.tunnel.on_timer(now_ns=now_ns), now_ns)

    # Carrying out -----------------------------------------------------------------------------------

    def _do(self, actions: Iterable[Action], now_ns: int) -> None:
        for action in actions:
            match action:
                case SendControl():
                    self._send_control(action)
                case SendProbe(path, token):
                    self._send_probe(path, token)
                case SetShares(decisions):
                    self.decisions = decisions
                    self._write_weights()
                    if self._turns() != self._told_turns:
                        self._tell_shape()
                case SetBusy(path, until_ns):
                    self.shared.maps.busy[self.number * PATHS_PER_PEER + path]["until_ns"] = until_ns
                case Resend(path, sequence):
                    self.shared.plane.send(channel.Suspect(self.number, path, sequence & 0xFFFFFFFF))
                case SetShape():
                    self.shape = action
                    self._tell_shape()
                    self.shared.shape_changed()
                case SetProtection(number, sources, repairs, close_us):
                    self.shared.plane.send(
                        channel.SetRecovery(self.number, number, sources, repairs, close_us)
                    )
                case SetPathMtu(path, mtu_bytes):
                    self._mtus[path] = mtu_bytes
                    self._write_path(path)
                case MovePath(path, whereabouts):
                    self._set_place(path, self.shared.links.place_at(whereabouts), now_ns)
                case Event(name, fields, is_warning):
                    (log.warning if is_warning else log.info)(name, peer=self.config.name, **fields)
                case epochs.Initiate():
                    self._initiate(now_ns)
                case epochs.Install(keys, active):
                    self._install(keys, active)
                case epochs.Retire(local_index):
                    self.shared.plane.send(channel.Retire(local_index))
                case epochs.Forget(local_index):
                    self.shared.plane.send(channel.Forget(local_index))
                    self.shared.maps.delete_receiver(local_index)
                    self.shared.handshaker.release_index(local_index)
        self.due_ns = self.tunnel.next_timer_ns(now_ns)

    # Carrying out: sessions -------------------------------------------------------------------------

    def _initiate(self, now_ns: int) -> None:
        handshaker = self.shared.handshaker
        self._set_pending(None)
        try:
            datagram = handshaker.initiate(self.config.public_key, now_ns=now_ns)
        except HandshakeError as error:
            log.warning("handshake_refused", peer=self.config.name, error=str(error))
            return
        self._set_pending(handshaker.pending_index(self.config.public_key))
        for number, place in self._places.items():
            if place.link_up:
                self._doors.send_pinned(datagram, number, place)

    def _set_pending(self, index: int | None) -> None:
        """Let the kernel pass answers to the handshake under way, and only to that."""
        old, self._pending_index = self._pending_index, index
        if old is not None:
            self.shared.maps.delete_receiver(old)
        if index is not None:
            self.shared.maps.set_receiver(index, self.number)

    def _install(self, keys: SessionKeys, active: bool) -> None:
        self.shared.maps.set_receiver(keys.local_index, self.number)
        self.shared.plane.send(
            channel.Install(
                self.number, keys.local_index, keys.remote_index, active, keys.peer_incarnation,
                keys.send_key, keys.receive_key,
            )
        )  # fmt: skip

    # Carrying out: datagrams ------------------------------------------------------------------------

    def _send_control(self, action: SendControl) -> None:
        path_byte = PATH_CHOOSE if action.path is None else PATH_PIN | action.path
        to, source, ifindex = None, "", 0
        if action.to is not None:
            to, source, ifindex = action.to.remote, action.to.local, action.to.ifindex
            path_byte &= ~PATH_PIN  # no steering program will turn the pin into a number on the way
        self.shared.plane.send(
            channel.SealControl(
                self.number, action.local_index, path_byte, to, source, ifindex, action.plaintext
            )
        )

    def _send_probe(self, path: int, token: int) -> None:
        sealing, place = self.tunnel.epochs.sealing, self._places.get(path)
        if sealing is None or place is None:
            return
        self.shared.maps.expect_probe(self.number, path, token)
        header = Header(PATH_CHOOSE, 0, sealing.remote_index, Type.PROBE)
        self._doors.send_pinned(header.pack() + _PROBE_BODY.pack(token, 0, 0), path, place)

    # Carrying out: paths, weights, shape --------------------------------------------------------------

    def _set_place(self, number: int, place: Place, now_ns: int) -> None:
        if self._places.get(number) != place or number not in self.tunnel.paths:
            self._places[number] = place
            self._tell_place(number, place)
            remembered_bps = self.shared.memory.capacity_bps(self.config.name, number)
            self._do(
                self.tunnel.set_place(number, place, now_ns=now_ns, remembered_bps=remembered_bps), now_ns
            )

    def _tell_place(self, number: int, place: Place) -> None:
        """Tell kernel and data plane where a path leads, before anything is sent that way."""
        self._doors.open(family_of(place))
        self._write_path(number)
        self.shared.plane.send(channel.SetEndpoint(self.number, number, place.whereabouts.remote))

    def _write_path(self, number: int) -> None:
        place = self._places.get(number)
        if place is None:
            return
        where = place.whereabouts
        try:
            self.shared.maps.set_path(
                self.number, number, ifindex=where.ifindex, up=place.link_up, ipv6=place.ipv6,
                mtu=self._mtus.get(number, BASE_BYTES[place.ipv6]),
                source=where.local, source_port=self.shared.config.port,
                remote=where.remote[0], remote_port=where.remote[1],
            )  # fmt: skip
        except KernelError as error:
            log.error("path_refused", peer=self.config.name, path=number, error=str(error))

    def _drop_path(self, number: int, now_ns: int) -> None:
        self._places.pop(number, None)
        self._mtus.pop(number, None)
        self._do(self.tunnel.remove_path(number), now_ns)
        self.shared.maps.clear_path(self.number, number)

    @property
    def decision(self) -> Decision | None:
        """What is in force for class 0."""
        return self.decisions[0] if self.decisions else None

    def _write_weights(self) -> None:
        self.shared.maps.write_weights({
            (self.number, number): Weights(
                decision.mode,
                decision.shares,
                decision.ns_per_kib,
                decision.delay_us,
                decision.bound_us,
            )
            for number, decision in enumerate(self.decisions)
        })  # fmt: skip

    def _turns(self) -> tuple[int, ...]:
        """Return how bursts are dealt between the address families of the paths in use."""
        shares: dict[int, float] = {}
        for number, place in self._places.items():
            share = self.decision.shares[number] if self.decision else 0.0
            shares[family_of(place)] = shares.get(family_of(place), 0.0) + share
        return turns(shares)

    def _tell_shape(self) -> None:
        shape = self.shape or SetShape(1172, 1, 10_000, 150_000)
        self._told_turns = self._turns()
        prefixes = tuple(str(prefix) for prefix in self.config.prefixes)
        self.shared.plane.send(
            channel.SetPeer(
                self.number, shape.datagram_bytes, shape.burst_segments, shape.hole_wait_us, prefixes,
                self._told_turns, shape.repair_wait_us,
            )
        )  # fmt: skip
