"""Every metric of an edge, declared once: its name, its meaning, and how it is read off a snapshot.

Pure data and small readers. Names follow Prometheus: base units, ``_total`` for counters; a rate says
``bits_per_second`` because that is how links are sold. None leaves a series out: not measured is not 0.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sdwan import __version__
from sdwan.metrics.snapshot import ClassSnapshot, LinkSnapshot, PathSnapshot, PeerSnapshot, Snapshot
from sdwan.model import DropReason, PathState

NS = 1e-9
PPM = 1e-6

CAPACITY_STATES = ("startup", "track", "test", "shallow", "compete")
"""What the estimator of a path may be doing (docs/control.md)."""

Kind = Literal["gauge", "counter"]
Sample = tuple[tuple[str, ...], float | None]
"""Label values and the value; None leaves the series out."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric: its name, its meaning, and how it is read off a snapshot."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[Snapshot], Iterable[Sample]]


Row = TypeVar("Row")
Read = Callable[[Row], float | None]


@dataclass(frozen=True)  # no slots: typing writes __orig_class__ into instances of a generic class
class Subject(Generic[Row]):
    """What a snapshot has several of: the labels that tell them apart, and where they are found."""

    labels: tuple[str, ...]
    rows: Callable[[Snapshot], Iterable[Row]]
    label: Callable[[Row], tuple[str, ...]]

    def gauge(self, name: str, meaning: str, read: Read[Row]) -> Declared:
        """Declare a figure that goes up and down."""
        return self._each(name, "gauge", meaning, read)

    def counter(self, name: str, meaning: str, read: Read[Row]) -> Declared:
        """Declare a figure that only goes up."""
        return self._each(name, "counter", meaning, read)

    def by(self, label: str, kind: Kind, name: str, meaning: str, reads: Mapping[str, Read[Row]]) -> Declared:
        """Declare one figure for each value of one more label."""

        def samples(snapshot: Snapshot) -> Iterator[Sample]:
            for row in self.rows(snapshot):
                for value, read in reads.items():
                    yield (*self.label(row), value), read(row)

        return Declared(name, kind, meaning, (*self.labels, label), samples)

    def _each(self, name: str, kind: Kind, meaning: str, read: Read[Row]) -> Declared:
        def samples(snapshot: Snapshot) -> Iterator[Sample]:
            return ((self.label(row), read(row)) for row in self.rows(snapshot))

        return Declared(name, kind, meaning, self.labels, samples)


SITE = Subject[Snapshot]((), lambda s: (s,), lambda _: ())
PATH = Subject[PathSnapshot](
    ("peer", "path", "link"), lambda s: s.paths, lambda p: (p.peer, str(p.path), p.link)
)
LINK = Subject[LinkSnapshot](("link", "interface"), lambda s: s.links, lambda n: (n.link, n.interface))
CLASS = Subject[ClassSnapshot](("peer", "class"), lambda s: s.classes, lambda c: (c.peer, c.name))
PEER = Subject[PeerSnapshot](("peer",), lambda s: s.peers, lambda p: (p.peer,))


def _seconds(value_ns: int | None) -> float | None:
    return None if value_ns is None else value_ns * NS


def _ratio(value_ppm: int | None) -> float | None:
    return None if value_ppm is None else value_ppm * PPM


def _is_state(state: PathState) -> Read[PathSnapshot]:
    return lambda p: float(p.state is state)


def _is_capacity_state(state: str) -> Read[PathSnapshot]:
    return lambda p: None if p.capacity_state is None else float(p.capacity_state == state)


def _out_for(snapshot: Snapshot) -> Iterator[Sample]:
    for p in snapshot.paths:
        for c in snapshot.classes:
            if c.peer == p.peer:
                yield (p.peer, str(p.path), p.link, c.name), float(c.name in p.out_for)


def _drops(snapshot: Snapshot) -> Iterator[Sample]:
    # Every reason is there from the start: a rate over a series that appears late misses its first event.
    return (((reason.name.lower(),), snapshot.drops.get(reason, 0)) for reason in DropReason)


def _events(snapshot: Snapshot) -> Iterator[Sample]:
    return (((name,), count) for name, count in snapshot.events.items())


def _build(snapshot: Snapshot) -> Iterator[Sample]:
    yield (snapshot.site, __version__, platform.python_version(), platform.release()), 1.0


_SITE_METRICS = (
    Declared("sdwan_build_info", "gauge", "Always 1; the labels say what runs here.",
             ("site", "version", "python", "kernel"), _build),
    SITE.gauge("sdwan_uptime_seconds", "Time since edge control started.", lambda s: s.uptime_ns * NS),
)  # fmt: skip

_PATH_METRICS = (
    PATH.gauge("sdwan_path_up", "1 while the path may carry data, else 0.",
               lambda p: float(p.state is PathState.UP)),
    PATH.by("state", "gauge", "sdwan_path_state", "1 for the state the path is in, 0 for the others.",
            {state.value: _is_state(state) for state in PathState}),
    PATH.by("by", "gauge", "sdwan_path_drained", "1 while an operator here or at the peer drains the path.",
            {"here": lambda p: float(p.drained), "peer": lambda p: float(p.drained_by_peer)}),
    Declared("sdwan_path_out_for_class", "gauge", "1 while the path breaks the SLA limits of a class.",
             ("peer", "path", "link", "class"), _out_for),
    PATH.gauge("sdwan_path_rtt_seconds", "Smoothed round trip time (RFC 6298).",
               lambda p: _seconds(p.rtt_ns)),
    PATH.gauge("sdwan_path_jitter_seconds", "Smoothed delay variation (RFC 3550).",
               lambda p: _seconds(p.jitter_ns)),
    PATH.by("direction", "gauge", "sdwan_path_loss_ratio", "Part of the datagrams lost lately, by direction.",
            {"out": lambda p: _ratio(p.loss_out_ppm), "in": lambda p: _ratio(p.loss_in_ppm)}),
    PATH.gauge("sdwan_path_weight_share", "The path's part of the weights, 0 to 1.",
               lambda p: p.share_ppm * PPM),
    PATH.gauge("sdwan_path_mtu_bytes", "Largest outer IP packet proven to pass.", lambda p: p.mtu_bytes),
    PATH.gauge("sdwan_path_capacity_bits_per_second", "What the path can carry to the peer, as estimated.",
               lambda p: p.capacity_bps),
    PATH.by("state", "gauge", "sdwan_path_capacity_state",
            "1 for what the capacity estimator is doing, 0 for the others.",
            {state: _is_capacity_state(state) for state in CAPACITY_STATES}),
    PATH.gauge("sdwan_path_delivered_bits_per_second", "What the peer received lately, as it reports.",
               lambda p: p.delivered_bps),
    PATH.by("kind", "gauge", "sdwan_path_queue_seconds",
            "Queue on the path: as the newest report measured it, and as the kernel predicts it now.",
            {"measured": lambda p: _seconds(p.queue_ns), "predicted": lambda p: _seconds(p.backlog_ns)}),
    PATH.gauge("sdwan_path_extra_delay_seconds",
               "One-way delay without a queue, beyond that of the peer's fastest path.",
               lambda p: _seconds(p.extra_delay_ns)),
    PATH.counter("sdwan_path_samples_refused_total", "Reports the capacity estimator did not believe.",
                 lambda p: p.samples_refused),
    PATH.counter("sdwan_path_sent_datagrams_total", "Datagrams sent on the path.",
                 lambda p: p.sent_datagrams),
    PATH.counter("sdwan_path_sent_bytes_total", "Their bytes.", lambda p: p.sent_bytes),
    PATH.counter("sdwan_path_received_datagrams_total", "Datagrams received on the path.",
                 lambda p: p.received_datagrams),
    PATH.counter("sdwan_path_received_bytes_total", "Their bytes.", lambda p: p.received_bytes),
)  # fmt: skip

_LINK_METRICS = (
    LINK.gauge("sdwan_link_up", "1 while the interface exists and has a carrier.", lambda n: float(n.up)),
    LINK.gauge("sdwan_link_drained", "1 while an operator drains the link.", lambda n: float(n.drained)),
    LINK.gauge("sdwan_link_quota_left_bytes", "What is left of the month's quota, for links that have one.",
               lambda n: n.quota_left_bytes),
    LINK.counter("sdwan_link_foreign_sent_bytes_total", "Bytes sent on the link, the tunnel's aside.",
                 lambda n: n.foreign_sent_bytes),
    LINK.counter("sdwan_link_foreign_received_bytes_total", "The same, received.",
                 lambda n: n.foreign_received_bytes),
    LINK.gauge("sdwan_link_icmp_rtt_seconds", "Round trip time to the link's ICMP probe address.",
               lambda n: _seconds(n.icmp_rtt_ns)),
    LINK.gauge("sdwan_link_icmp_loss_ratio", "Part of the ICMP probes lost lately.",
               lambda n: _ratio(n.icmp_loss_ppm)),
)  # fmt: skip

_CLASS_METRICS = (
    CLASS.counter("sdwan_class_sent_packets_total", "Inner packets of the class sent to the peer.",
                  lambda c: c.sent_packets),
    CLASS.counter("sdwan_class_sent_bytes_total", "Their bytes.", lambda c: c.sent_bytes),
    CLASS.counter("sdwan_class_received_packets_total", "Inner packets of the class received from the peer.",
                  lambda c: c.received_packets),
    CLASS.counter("sdwan_class_received_bytes_total", "Their bytes.", lambda c: c.received_bytes),
    CLASS.gauge("sdwan_class_queued_packets", "Packets in the class's queue.", lambda c: c.queued_packets),
    CLASS.gauge("sdwan_class_queued_bytes", "Their bytes.", lambda c: c.queued_bytes),
    CLASS.gauge("sdwan_class_queued_flows", "Flows with something in the queue.", lambda c: c.flows),
    CLASS.gauge("sdwan_class_queue_delay_seconds", "What the newest packet to leave the queue had waited.",
                lambda c: c.queue_delay_ns * NS),
    CLASS.by("reason", "counter", "sdwan_class_dropped_total",
             "Packets the queue dropped: by CoDel, or because it was full.",
             {"codel": lambda c: c.dropped, "full": lambda c: c.overflowed}),
    CLASS.counter("sdwan_class_marked_total", "Packets marked by ECN instead of dropped.",
                  lambda c: c.marked),
    CLASS.gauge("sdwan_class_fec_ratio", "Repair rows for each datagram at present; 0 while FEC is off.",
                lambda c: c.fec_repairs / c.fec_sources if c.fec_sources else 0.0),
)  # fmt: skip

_PEER_METRICS = (
    PEER.gauge("sdwan_peer_handshake_age_seconds", "Age of the session that seals, if any.",
               lambda p: _seconds(p.session_age_ns)),
    PEER.counter("sdwan_peer_session_epochs_total", "Sessions established.", lambda p: p.epochs),
    PEER.counter("sdwan_peer_sent_packets_total", "Inner packets sent to the peer.",
                 lambda p: p.sent_packets),
    PEER.counter("sdwan_peer_sent_bytes_total", "Their bytes.", lambda p: p.sent_bytes),
    PEER.counter("sdwan_peer_received_packets_total", "Inner packets received from the peer.",
                 lambda p: p.received_packets),
    PEER.counter("sdwan_peer_received_bytes_total", "Their bytes.", lambda p: p.received_bytes),
    PEER.counter("sdwan_reorder_held_total", "Times a packet waited for its predecessor.", lambda p: p.held),
    PEER.gauge("sdwan_reorder_held_packets", "Packets waiting at this moment.", lambda p: p.held_now),
    PEER.counter("sdwan_reorder_holes_closed_total", "Waits that ended because the loss was proven.",
                 lambda p: p.holes_closed),
    PEER.counter("sdwan_reorder_holes_expired_total", "Waits that ended because their time ran out.",
                 lambda p: p.holes_expired),
)  # fmt: skip

_RECOVERY_METRICS = (
    PEER.by("direction", "counter", "sdwan_recovery_nacks_total", "Requests for missing datagrams.",
            {"sent": lambda p: p.nacks_sent, "received": lambda p: p.nacks_received}),
    PEER.counter("sdwan_recovery_resent_datagrams_total",
                 "Datagrams sent again: asked for, or sent on a path that became suspect.",
                 lambda p: p.resent),
    PEER.counter("sdwan_recovery_resent_bytes_total", "Their bytes.", lambda p: p.resent_bytes),
    PEER.counter("sdwan_recovery_resend_missed_total", "Datagrams asked for, but not kept any more.",
                 lambda p: p.resend_missed),
    PEER.gauge("sdwan_recovery_kept_bytes", "Sealed datagrams kept for resending.", lambda p: p.kept_bytes),
    PEER.counter("sdwan_recovery_kept_evicted_total", "Given up because the memory for them was full.",
                 lambda p: p.kept_evicted),
    PEER.counter("sdwan_recovery_late_repaired_total", "Missing datagrams that came after being asked for.",
                 lambda p: p.late_repaired),
    PEER.by("direction", "counter", "sdwan_recovery_repairs_total", "Repair rows of FEC.",
            {"sent": lambda p: p.repairs_sent, "received": lambda p: p.repairs_received}),
    PEER.counter("sdwan_recovery_repair_bytes_total", "Bytes of the repair rows sent.",
                 lambda p: p.repair_bytes),
    PEER.by("result", "counter", "sdwan_recovery_fec_datagrams_total",
            "Missing datagrams of blocks that closed: made whole, or not.",
            {"recovered": lambda p: p.recovered, "unrecovered": lambda p: p.unrecovered}),
    PEER.gauge("sdwan_recovery_overhead_ratio",
               "Resent and repair bytes for each inner byte sent, lately.",
               lambda p: _ratio(p.overhead_ppm)),
)  # fmt: skip

_PROCESS_METRICS = (
    Declared("sdwan_drops_total", "counter", "Datagrams or packets dropped.", ("reason",), _drops),
    Declared("sdwan_events_total", "counter", "Decisions and other events noted since the start.",
             ("event",), _events),
    SITE.gauge("sdwan_tun_mtu_bytes", "MTU of the TUN.", lambda s: s.tun_mtu_bytes),
    SITE.counter("sdwan_tun_reads_total", "Reads from the TUN; one is up to a super-packet.",
                 lambda s: s.tun_reads),
    SITE.counter("sdwan_tun_writes_total", "Writes to the TUN.", lambda s: s.tun_writes),
    SITE.gauge("sdwan_dataplane_heartbeat_age_seconds", "Time since its last sign of life.",
               lambda s: _seconds(s.heartbeat_age_ns)),
    SITE.counter("sdwan_dataplane_starts_total", "Starts of the data plane; more than 1: it died.",
                 lambda s: s.dataplane_starts),
    SITE.by("result", "counter", "sdwan_config_reloads_total",
            "Configurations applied or refused since the start.",
            {"applied": lambda s: s.reloads_applied, "refused": lambda s: s.reloads_refused}),
)  # fmt: skip

METRICS: tuple[Declared, ...] = (
    *_SITE_METRICS,
    *_PATH_METRICS,
    *_LINK_METRICS,
    *_CLASS_METRICS,
    *_PEER_METRICS,
    *_RECOVERY_METRICS,
    *_PROCESS_METRICS,
)
