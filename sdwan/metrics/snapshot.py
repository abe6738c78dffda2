"""What is true of a site at one moment: plain, frozen data, JSON-ready by ``Snapshot.as_plain``.

Made by sdwan.edge.telemetry; read by sdwan.metrics.declared (Prometheus) and, as JSON, by the commands that
show a running edge. None means "not measured yet" everywhere; "out" is from here to the peer, "in" the other
way. Totals count from the start of whoever counts; rates are those of the last second or so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sdwan.model import DropReason, PathState


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSnapshot:
    """One path."""

    peer: str
    path: int
    link: str
    remote: str = ""
    """ADDRESS:PORT of the other end."""
    state: PathState
    reason: str = ""
    """Why it is in that state, in a word or two."""
    drained: bool = False
    """An operator here wants no new data on its link."""
    drained_by_peer: bool = False
    """The peer wants none on this path."""
    is_quiet: bool = False
    """Drained, and what was under way has arrived."""
    out_for: tuple[str, ...] = ()
    """Classes whose SLA limits it breaks."""
    rtt_ns: int | None = None
    jitter_ns: int | None = None
    loss_out_ppm: int | None = None
    loss_in_ppm: int | None = None
    share_ppm: int = 0
    """Its part of the weights of the default class."""
    mtu_bytes: int | None = None
    capacity_bps: int | None = None
    """Outward, as estimated or configured."""
    capacity_state: str | None = None
    """What the estimator is doing (docs/control.md)."""
    delivered_bps: int | None = None
    """What the peer says it received lately."""
    queue_ns: int | None = None
    """Standing in the network, as the newest report measured it."""
    backlog_ns: int | None = None
    """What the kernel predicts: how long the path needs for what it was given."""
    extra_delay_ns: int | None = None
    """One-way delay without any queue, beyond that of the peer's fastest path."""
    sent_bps: int = 0
    received_bps: int = 0
    sent_datagrams: int = 0
    sent_bytes: int = 0
    received_datagrams: int = 0
    received_bytes: int = 0
    samples_refused: int = 0
    """Reports the estimator did not believe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSnapshot:
    """One local WAN interface."""

    link: str
    interface: str
    up: bool
    """The interface exists and has a carrier."""
    drained: bool = False
    metered: bool = False
    quota_left_bytes: int | None = None
    """None = it has no quota."""
    foreign_sent_bytes: int = 0
    """Bytes on the link that are not the tunnel's."""
    foreign_received_bytes: int = 0
    icmp_rtt_ns: int | None = None
    icmp_loss_ppm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSnapshot:
    """One traffic class to one peer."""

    peer: str
    number: int
    name: str
    recovery: str = "none"
    """How its losses are made good (sdwan.core.classes.Recovery)."""
    fec_sources: int = 0
    """A block of so many datagrams ..."""
    fec_repairs: int = 0
    """... gets so many repair rows; 0 = FEC is off."""
    sent_bps: int = 0
    received_bps: int = 0
    sent_packets: int = 0
    """Inner packets, segments counted."""
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    queued_packets: int = 0
    """At this moment."""
    queued_bytes: int = 0
    queue_delay_ns: int = 0
    """What the newest packet to leave the queue had waited there."""
    dropped: int = 0
    """By CoDel."""
    overflowed: int = 0
    """Because the queue was full."""
    marked: int = 0
    """Told to slow down by ECN."""
    flows: int = 0
    """With something queued, at this moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSnapshot:
    """One peer, all its paths together."""

    peer: str
    session_age_ns: int | None = None
    """Since the handshake of the session that seals; None = no session."""
    epochs: int = 0
    """Sessions established so far."""
    sent_packets: int = 0
    """Inner packets read from the TUN for this peer, segments counted."""
    sent_bytes: int = 0
    received_packets: int = 0
    received_bytes: int = 0
    # order
    held: int = 0
    """Times a packet had to wait for its predecessor."""
    held_now: int = 0
    holes_closed: int = 0
    holes_expired: int = 0
    # recovery
    nacks_sent: int = 0
    """Requests for missing datagrams."""
    nacks_received: int = 0
    resent: int = 0
    """Datagrams sent again."""
    resent_bytes: int = 0
    resend_missed: int = 0
    """Asked for, but not kept any more."""
    kept_bytes: int = 0
    """Kept for resending, at this moment."""
    kept_evicted: int = 0
    """Given up because the memory was full."""
    late_repaired: int = 0
    """Missing datagrams that came after being asked for."""
    repairs_sent: int = 0
    """FEC rows."""
    repair_bytes: int = 0
    repairs_received: int = 0
    recovered: int = 0
    """Datagrams made whole by FEC."""
    unrecovered: int = 0
    """Missing in blocks that closed with too few rows."""
    overhead_ppm: int | None = None
    """Resent and repair bytes beside the inner bytes sent, lately; None while nothing is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One site."""

    site: str
    uptime_ns: int = 0
    paths: tuple[PathSnapshot, ...] = ()
    links: tuple[LinkSnapshot, ...] = ()
    classes: tuple[ClassSnapshot, ...] = ()
    peers: tuple[PeerSnapshot, ...] = ()
    drops: Mapping[DropReason, int] = field(default_factory=dict)
    events: Mapping[str, int] = field(default_factory=dict)
    """How often each event was noted (sdwan.edge.events)."""
    tun_mtu_bytes: int | None = None
    tun_reads: int = 0
    tun_writes: int = 0
    heartbeat_age_ns: int | None = None
    """Since the data plane last showed a sign of life; None = never."""
    dataplane_starts: int = 0
    reloads_applied: int = 0
    reloads_refused: int = 0

    def as_plain(self) -> dict[str, Any]:
        """Return the snapshot as JSON-ready data, enums under their lower-case names."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.name.lower() if isinstance(value, Enum) else value
