"""What is true of the site at this moment, as the Snapshot that metrics, status and top are read from.

Room: edge, control process; reads, never changes. Totals come from the counters of kernel and data plane;
rates from two readings of them about a second apart. Made when somebody asks, at most ``FRESH_NS`` old
otherwise. What a path, a class or a peer looks like is said in sdwan.edge.describe.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from sdwan.edge.describe import Reading, describe_classes, describe_paths, describe_peer
from sdwan.edge.events import EventLog
from sdwan.edge.icmp import LinkProbes
from sdwan.edge.peering import Peering
from sdwan.edge.site import Site
from sdwan.edge.watch import Watch
from sdwan.io.clock import now_ns
from sdwan.io.maps import LinkStats
from sdwan.metrics import LinkSnapshot, PathSnapshot, Snapshot
from sdwan.model import PATHS_PER_PEER, DropReason

# Implementation constants --------------------------------------------------------------------------

FRESH_NS = 20_000_000
"""A snapshot younger than this is good enough for whoever asks."""
RATE_NS = 500_000_000
"""Pause between two readings of the counters; rates are made over one to two of them."""
LOSS_READINGS = 20
"""Loss is made over this many: ten seconds."""


class Telemetry:
    """Makes snapshots of one site."""

    def __init__(self, site: Site, probes: LinkProbes, events: EventLog) -> None:
        self._site = site
        self._probes = probes
        self._events = events
        self._watch = Watch()
        self._started_ns = now_ns()
        self._newest: Snapshot | None = None
        self._newest_ns = 0
        self._readings: deque[Reading] = deque(maxlen=2)
        self._arrivals: deque[tuple[Any, Any]] = deque(maxlen=LOSS_READINGS)
        """Datagrams received and lost so far, by path row."""
        self.reloads_applied = 0
        self.reloads_refused = 0

    def snapshot(self) -> Snapshot:
        """Return the site as it is, or was a moment ago."""
        moment_ns = now_ns()
        if self._newest is None or moment_ns - self._newest_ns > FRESH_NS:
            self._newest, self._newest_ns = self._make(moment_ns), moment_ns
        return self._newest

    def forget(self) -> None:
        """Make a new one at the next call, whatever its age: something was just changed."""
        self._newest = None

    def on_tick(self) -> None:
        """Read the counters that rates are made of, and tell what changed; called a few times a second."""
        moment_ns = now_ns()
        if not self._readings or moment_ns - self._readings[-1].now_ns >= RATE_NS:
            self._readings.append(self._read(moment_ns))
            seen = self._site.maps.rx_state
            self._arrivals.append((seen["received"].copy(), seen["lost"].copy()))
        if self._watch.is_due(moment_ns):
            self._watch.look(self.snapshot(), now_ns=moment_ns)

    def _read(self, moment_ns: int) -> Reading:
        maps, board = self._site.maps, self._site.plane.board
        return Reading(moment_ns, maps.tx_stats(), maps.rx_stats(), board.peers.copy(), board.classes.copy())

    def _make(self, moment_ns: int) -> Snapshot:
        site, newest = self._site, self._read(moment_ns)
        before = self._readings[0] if self._readings else newest
        peerings = site.peerings.values()
        total = site.plane.board.total[0]
        heartbeat_ns = int(total["heartbeat_ns"])
        return Snapshot(
            site=site.config.site,
            uptime_ns=moment_ns - self._started_ns,
            paths=tuple(path for peering in peerings for path in self._paths(peering, newest, before)),
            links=tuple(self._links()),
            classes=tuple(c for peering in peerings for c in describe_classes(peering, newest, before)),
            peers=tuple(describe_peer(peering, newest, before) for peering in peerings),
            drops=self._drops(),
            events=self._events.counts(),
            tun_mtu_bytes=site.tun_mtu or None,
            tun_reads=int(total["tun_reads"]),
            tun_writes=int(total["tun_writes"]),
            heartbeat_age_ns=moment_ns - heartbeat_ns if heartbeat_ns else None,
            dataplane_starts=site.plane.starts,
            reloads_applied=self.reloads_applied,
            reloads_refused=self.reloads_refused,
        )

    def _paths(self, peering: Peering, newest: Reading, before: Reading) -> Sequence[PathSnapshot]:
        first = peering.number * PATHS_PER_PEER
        rows = range(first, first + PATHS_PER_PEER)
        return tuple(
            describe_paths(
                peering,
                newest,
                before,
                until_ns=self._site.maps.busy["until_ns"][first : first + PATHS_PER_PEER].tolist(),
                drained=self._site.links.drained,
                losses_in_ppm=[self._loss_in_ppm(row) for row in rows],
            )
        )

    def _loss_in_ppm(self, row: int) -> int | None:
        """Return what the kernel missed on a path lately; None while nothing arrives."""
        if not self._arrivals:
            return None
        seen, (arrived_before, lost_before) = self._site.maps.rx_state[row], self._arrivals[0]
        arrived = int(seen["received"]) - int(arrived_before[row])
        lost = max(int(seen["lost"]) - int(lost_before[row]), 0)  # late ones are counted back
        return lost * 1_000_000 // (lost + arrived) if arrived > 0 else None

    def _links(self) -> list[LinkSnapshot]:
        stats = self._site.maps.link_stats()
        found = []
        for name, state in self._site.links.states.items():
            counted = stats.get(state.ifindex, LinkStats())
            echo = self._probes.of(name)
            found.append(
                LinkSnapshot(
                    link=name,
                    interface=state.config.interface,
                    up=state.up,
                    drained=name in self._site.links.drained,
                    metered=state.config.metered,
                    quota_left_bytes=self._site.quotas.left_bytes(name),
                    foreign_sent_bytes=counted.tx_bytes - counted.tx_tunnel_bytes,
                    foreign_received_bytes=counted.rx_bytes - counted.rx_tunnel_bytes,
                    icmp_rtt_ns=echo.rtt.smoothed_ns if echo else None,
                    icmp_loss_ppm=echo.loss_ppm if echo else None,
                )
            )
        return found

    def _drops(self) -> dict[DropReason, int]:
        drops = self._site.maps.drops()
        counted = self._site.plane.board.total[0]["drops"]
        for reason in DropReason:
            drops[reason] = drops.get(reason, 0) + int(counted[reason])
        drops[DropReason.BAD_CONTROL] += sum(p.control_malformed for p in self._site.peerings.values())
        return drops
