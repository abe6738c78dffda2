"""What is true of the site at this moment, as the Snapshot that metrics and status are read from.

Room: edge, control process; reads, never changes. Totals come from the counters of kernel and data plane;
rates from two readings of them about a second apart. Made when somebody asks, at most ``FRESH_NS`` old
otherwise.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from sdwan.core.path import Path
from sdwan.edge.icmp import LinkProbes
from sdwan.edge.peering import Peering
from sdwan.edge.site import Site
from sdwan.io.clock import now_ns
from sdwan.io.maps import LinkStats
from sdwan.metrics import LinkSnapshot, PathSnapshot, PeerSnapshot, Snapshot
from sdwan.model import PATHS_PER_PEER, DropReason

# Implementation constants --------------------------------------------------------------------------

SECOND_NS = 10**9
FRESH_NS = 20_000_000
"""A snapshot younger than this is good enough for whoever asks."""
RATE_NS = 500_000_000
"""Pause between two readings of the counters; rates are made over one to two of them."""
LOSS_READINGS = 20
"""Loss is made over this many: ten seconds."""


class Telemetry:
    """Makes snapshots of one site."""

    def __init__(self, site: Site, probes: LinkProbes) -> None:
        self._site = site
        self._probes = probes
        self._started_ns = now_ns()
        self._newest: Snapshot | None = None
        self._newest_ns = 0
        self._readings: deque[tuple[int, Any, Any]] = deque(maxlen=2)
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
        """Read the counters that rates are made of; called a few times a second."""
        moment_ns = now_ns()
        if not self._readings or moment_ns - self._readings[-1][0] >= RATE_NS:
            self._readings.append((moment_ns, self._site.maps.tx_stats(), self._site.maps.rx_stats()))
            seen = self._site.maps.rx_state
            self._arrivals.append((seen["received"].copy(), seen["lost"].copy()))

    def _make(self, moment_ns: int) -> Snapshot:
        site = self._site
        sent, received = site.maps.tx_stats(), site.maps.rx_stats()
        earlier_ns, earlier_sent, earlier_received = (
            self._readings[0] if self._readings else (0, sent, received)
        )
        elapsed_ns = max(moment_ns - earlier_ns, 1)
        paths = []
        for peering in site.peerings.values():
            for path in peering.tunnel.paths.values():
                row = peering.number * PATHS_PER_PEER + path.number
                rates = [
                    (int(now[row]["bytes"]) - int(then[row]["bytes"])) * 8 * SECOND_NS // elapsed_ns
                    for now, then in ((sent, earlier_sent), (received, earlier_received))
                ]
                paths.append(self._path(peering, path, sent[row], received[row], rates))
        total = site.plane.board.total[0]
        heartbeat_ns = int(total["heartbeat_ns"])
        return Snapshot(
            site=site.config.site,
            uptime_ns=moment_ns - self._started_ns,
            paths=tuple(paths),
            links=tuple(self._links()),
            peers=tuple(self._peer(peering, moment_ns) for peering in site.peerings.values()),
            drops=self._drops(),
            tun_mtu_bytes=site.tun_mtu or None,
            tun_reads=int(total["tun_reads"]),
            tun_writes=int(total["tun_writes"]),
            heartbeat_age_ns=moment_ns - heartbeat_ns if heartbeat_ns else None,
            dataplane_starts=site.plane.starts,
            reloads_applied=self.reloads_applied,
            reloads_refused=self.reloads_refused,
        )

    def _path(self, peering: Peering, path: Path, sent: Any, received: Any, rates: list[int]) -> PathSnapshot:
        shares = peering.decision.shares if peering.decision else ()
        total = sum(shares) or 1.0
        host, port = path.place.whereabouts.remote
        return PathSnapshot(
            peer=peering.config.name,
            path=path.number,
            link=path.place.link,
            remote=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            state=path.state,
            rtt_ns=path.rtt_ns,
            jitter_ns=path.prober.rtt.jitter_ns if path.rtt_ns is not None else None,
            loss_out_ppm=path.rate.loss_ppm if path.rate.loss_ppm is not None else path.prober.loss_ppm,
            loss_in_ppm=self._loss_in_ppm(peering.number * PATHS_PER_PEER + path.number),
            share_ppm=round(1_000_000 * shares[path.number] / total) if shares else 0,
            mtu_bytes=path.mtu.size_bytes,
            sent_bps=rates[0],
            received_bps=rates[1],
            sent_datagrams=int(sent["datagrams"]),
            sent_bytes=int(sent["bytes"]),
            received_datagrams=int(received["datagrams"]),
            received_bytes=int(received["bytes"]),
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
                    foreign_sent_bytes=counted.tx_bytes - counted.tx_tunnel_bytes,
                    foreign_received_bytes=counted.rx_bytes - counted.rx_tunnel_bytes,
                    icmp_rtt_ns=echo.rtt.smoothed_ns if echo else None,
                    icmp_loss_ppm=echo.loss_ppm if echo else None,
                )
            )
        return found

    def _peer(self, peering: Peering, moment_ns: int) -> PeerSnapshot:
        row = self._site.plane.board.peers[peering.number]
        since_ns = peering.tunnel.epochs.sealing_since_ns
        return PeerSnapshot(
            peer=peering.config.name,
            session_age_ns=moment_ns - since_ns if since_ns is not None else None,
            epochs=peering.tunnel.epochs.established_total,
            sent_packets=int(row["tx_packets"]),
            sent_bytes=int(row["tx_bytes"]),
            received_packets=int(row["rx_packets"]),
            received_bytes=int(row["rx_bytes"]),
            held=int(row["held"]),
            held_now=int(row["held_now"]),
            holes_closed=int(row["holes_closed"]),
            holes_expired=int(row["holes_expired"]),
        )

    def _drops(self) -> dict[DropReason, int]:
        drops = self._site.maps.drops()
        counted = self._site.plane.board.total[0]["drops"]
        for reason in DropReason:
            drops[reason] = drops.get(reason, 0) + int(counted[reason])
        drops[DropReason.BAD_CONTROL] += sum(p.control_malformed for p in self._site.peerings.values())
        return drops
