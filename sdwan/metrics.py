"""Every metric of an edge, declared once; and the snapshot they are read from.

Edge control fills a ``Snapshot`` (plain, frozen data: what is true of the site at one moment) and gives it
to ``Metrics.update``; whoever scrapes ``/metrics`` gets the newest one. The same snapshot, as JSON, is what
`sdwan edge status` prints, so both always tell the same. Totals come straight from the counters of kernel
and data plane: nothing is counted a second time here, and a path that is gone leaves no stale series.

Run ``python -m sdwan.metrics`` to print docs/operate/metrics.md. Imports only sdwan.model; sums nothing,
blocks on nothing; ``update`` may be called from another thread than the scrape.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import platform
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sdwan import __version__
from sdwan.model import DropReason, PathState

NS = 1e-9
PPM = 1e-6

KERNEL_REASONS_END = 32
"""DropReasons below are counted by the kernel programs (sdwan.model)."""


# What is true of a site at one moment ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSnapshot:
    """One path; None = not measured yet. "Out" is from here to the peer, "in" the other way."""

    peer: str
    path: int
    link: str
    remote: str = ""
    """ADDRESS:PORT of the other end."""
    state: PathState
    rtt_ns: int | None = None
    jitter_ns: int | None = None
    loss_out_ppm: int | None = None
    loss_in_ppm: int | None = None
    share_ppm: int = 0
    """Its part of the weights of the default class."""
    mtu_bytes: int | None = None
    sent_bps: int = 0
    """Rate of the last second or so."""
    received_bps: int = 0
    sent_datagrams: int = 0
    sent_bytes: int = 0
    received_datagrams: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSnapshot:
    """One local WAN interface."""

    link: str
    interface: str
    up: bool
    """The interface exists and has a carrier."""
    foreign_sent_bytes: int = 0
    """Bytes on the link that are not the tunnel's."""
    foreign_received_bytes: int = 0
    icmp_rtt_ns: int | None = None
    icmp_loss_ppm: int | None = None


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
    held: int = 0
    """Times a packet had to wait for its predecessor."""
    held_now: int = 0
    holes_closed: int = 0
    holes_expired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One site."""

    site: str
    uptime_ns: int = 0
    paths: tuple[PathSnapshot, ...] = ()
    links: tuple[LinkSnapshot, ...] = ()
    peers: tuple[PeerSnapshot, ...] = ()
    drops: Mapping[DropReason, int] = field(default_factory=dict)
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


# The metrics -------------------------------------------------------------------------------------------

Sample = tuple[tuple[str, ...], float | None]
"""Label values and the value; None leaves the series out."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric: its name, its meaning, and how it is read off a snapshot."""

    name: str
    kind: Literal["gauge", "counter"]
    meaning: str
    labels: tuple[str, ...]
    read: Callable[[Snapshot], Iterable[Sample]]


def _scale(value: int | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _of_site(
    name: str, kind: Literal["gauge", "counter"], meaning: str, read: Callable[[Snapshot], float | None]
) -> Declared:
    return Declared(name, kind, meaning, (), lambda s: [((), read(s))])


def _of_path(
    name: str, kind: Literal["gauge", "counter"], meaning: str, read: Callable[[PathSnapshot], float | None]
) -> Declared:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        return (((p.peer, str(p.path), p.link), read(p)) for p in snapshot.paths)

    return Declared(name, kind, meaning, ("peer", "path", "link"), samples)


def _of_link(
    name: str, kind: Literal["gauge", "counter"], meaning: str, read: Callable[[LinkSnapshot], float | None]
) -> Declared:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        return (((link.link, link.interface), read(link)) for link in snapshot.links)

    return Declared(name, kind, meaning, ("link", "interface"), samples)


def _of_peer(
    name: str, kind: Literal["gauge", "counter"], meaning: str, read: Callable[[PeerSnapshot], float | None]
) -> Declared:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        return (((p.peer,), read(p)) for p in snapshot.peers)

    return Declared(name, kind, meaning, ("peer",), samples)


def _path_loss(snapshot: Snapshot) -> Iterator[Sample]:
    for p in snapshot.paths:
        yield (p.peer, str(p.path), p.link, "out"), _scale(p.loss_out_ppm, PPM)
        yield (p.peer, str(p.path), p.link, "in"), _scale(p.loss_in_ppm, PPM)


def _path_state(snapshot: Snapshot) -> Iterator[Sample]:
    for p in snapshot.paths:
        for state in PathState:
            yield (p.peer, str(p.path), p.link, state.value), float(p.state is state)


def _drops(snapshot: Snapshot) -> Iterator[Sample]:
    # Every reason is there from the start: a rate over a series that appears late misses its first event.
    return (((reason.name.lower(),), snapshot.drops.get(reason, 0)) for reason in DropReason)


def _reloads(snapshot: Snapshot) -> Iterator[Sample]:
    yield ("applied",), snapshot.reloads_applied
    yield ("refused",), snapshot.reloads_refused


def _build(snapshot: Snapshot) -> Iterator[Sample]:
    yield (snapshot.site, __version__, platform.python_version(), platform.release()), 1.0


METRICS: tuple[Declared, ...] = (
    Declared("sdwan_build_info", "gauge", "Always 1; the labels say what runs here.",
             ("site", "version", "python", "kernel"), _build),
    _of_site("sdwan_uptime_seconds", "gauge", "Time since edge control started.", lambda s: s.uptime_ns * NS),
    # paths
    _of_path("sdwan_path_up", "gauge", "1 while the path may carry data, else 0.",
             lambda p: float(p.state is PathState.UP)),
    Declared("sdwan_path_state", "gauge", "1 for the state the path is in, 0 for the others.",
             ("peer", "path", "link", "state"), _path_state),
    _of_path("sdwan_path_rtt_seconds", "gauge", "Smoothed round trip time (RFC 6298).",
             lambda p: _scale(p.rtt_ns, NS)),
    _of_path("sdwan_path_jitter_seconds", "gauge", "Smoothed delay variation (RFC 3550).",
             lambda p: _scale(p.jitter_ns, NS)),
    Declared("sdwan_path_loss_ratio", "gauge", "Part of the datagrams lost lately, by direction (out, in).",
             ("peer", "path", "link", "direction"), _path_loss),
    _of_path("sdwan_path_weight_share", "gauge", "The path's part of the weights, 0 to 1.",
             lambda p: p.share_ppm * PPM),
    _of_path("sdwan_path_mtu_bytes", "gauge", "Largest outer IP packet proven to pass.",
             lambda p: p.mtu_bytes),
    _of_path("sdwan_path_sent_datagrams_total", "counter", "Datagrams sent on the path.",
             lambda p: p.sent_datagrams),
    _of_path("sdwan_path_sent_bytes_total", "counter", "Their bytes.", lambda p: p.sent_bytes),
    _of_path("sdwan_path_received_datagrams_total", "counter", "Datagrams received on the path.",
             lambda p: p.received_datagrams),
    _of_path("sdwan_path_received_bytes_total", "counter", "Their bytes.", lambda p: p.received_bytes),
    # links
    _of_link("sdwan_link_up", "gauge", "1 while the interface exists and has a carrier.",
             lambda link: float(link.up)),
    _of_link("sdwan_link_foreign_sent_bytes_total", "counter", "Bytes sent on the link, the tunnel's aside.",
             lambda link: link.foreign_sent_bytes),
    _of_link("sdwan_link_foreign_received_bytes_total", "counter", "The same, received.",
             lambda link: link.foreign_received_bytes),
    _of_link("sdwan_link_icmp_rtt_seconds", "gauge", "Round trip time to the link's ICMP probe address.",
             lambda link: _scale(link.icmp_rtt_ns, NS)),
    _of_link("sdwan_link_icmp_loss_ratio", "gauge", "Part of the ICMP probes lost lately.",
             lambda link: _scale(link.icmp_loss_ppm, PPM)),
    # peers
    _of_peer("sdwan_peer_handshake_age_seconds", "gauge", "Age of the session that seals, if any.",
             lambda p: _scale(p.session_age_ns, NS)),
    _of_peer("sdwan_peer_session_epochs_total", "counter", "Sessions established.", lambda p: p.epochs),
    _of_peer("sdwan_peer_sent_packets_total", "counter", "Inner packets sent to the peer.",
             lambda p: p.sent_packets),
    _of_peer("sdwan_peer_sent_bytes_total", "counter", "Their bytes.", lambda p: p.sent_bytes),
    _of_peer("sdwan_peer_received_packets_total", "counter", "Inner packets received from the peer.",
             lambda p: p.received_packets),
    _of_peer("sdwan_peer_received_bytes_total", "counter", "Their bytes.", lambda p: p.received_bytes),
    _of_peer("sdwan_reorder_held_total", "counter", "Times a packet waited for its predecessor.",
             lambda p: p.held),
    _of_peer("sdwan_reorder_held_packets", "gauge", "Packets waiting at this moment.", lambda p: p.held_now),
    _of_peer("sdwan_reorder_holes_closed_total", "counter", "Waits that ended because the loss was proven.",
             lambda p: p.holes_closed),
    _of_peer("sdwan_reorder_holes_expired_total", "counter", "Waits that ended because their time ran out.",
             lambda p: p.holes_expired),
    # data plane and control
    Declared("sdwan_drops_total", "counter", "Datagrams or packets dropped.", ("reason",), _drops),
    _of_site("sdwan_tun_mtu_bytes", "gauge", "MTU of the TUN.", lambda s: s.tun_mtu_bytes),
    _of_site("sdwan_tun_reads_total", "counter", "Reads from the TUN; one is up to a super-packet.",
             lambda s: s.tun_reads),
    _of_site("sdwan_tun_writes_total", "counter", "Writes to the TUN.", lambda s: s.tun_writes),
    _of_site("sdwan_dataplane_heartbeat_age_seconds", "gauge", "Time since its last sign of life.",
             lambda s: _scale(s.heartbeat_age_ns, NS)),
    _of_site("sdwan_dataplane_starts_total", "counter", "Starts of the data plane; more than 1: it died.",
             lambda s: s.dataplane_starts),
    Declared("sdwan_config_reloads_total", "counter", "Configurations applied or refused since the start.",
             ("result",), _reloads),
)  # fmt: skip


class Metrics(Collector):
    """The newest snapshot as a Prometheus collector, in a registry of its own."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def update(self, snapshot: Snapshot) -> None:
        """Let later scrapes read ``snapshot``."""
        self._snapshot = snapshot

    def exposition(self) -> bytes:
        """Return the text a scrape gets."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the newest snapshot (called by prometheus_client)."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        for declared in METRICS:
            cls = CounterMetricFamily if declared.kind == "counter" else GaugeMetricFamily
            family = cls(declared.name, declared.meaning, labels=declared.labels)
            for labels, value in declared.read(snapshot):
                if value is not None:
                    family.add_metric(labels, value)
            yield family


def reference() -> str:
    """Return docs/operate/metrics.md."""
    head = """# Metrics

<!-- Generated by `python -m sdwan.metrics`; a test keeps it in step with the code. -->

With `metrics: {listen: 127.0.0.1:9105}` in the configuration an edge serves these at
`http://127.0.0.1:9105/metrics` in the Prometheus text format. Times are in seconds, sizes in bytes, ratios
from 0 to 1. A series that was not measured yet is absent rather than 0.

| metric | kind | labels | meaning |
|---|---|---|---|
"""
    rows = "".join(
        f"| `{m.name}` | {m.kind} | {', '.join(m.labels) or 'none'} | {m.meaning} |\n" for m in METRICS
    )
    reasons = "".join(
        f"| `{reason.name.lower()}` | {_counted_by(reason)} | {text} |\n"
        for reason, text in _reason_meanings().items()
    )
    tail = "\n## Reasons of `sdwan_drops_total`\n\n| reason | counted by | meaning |\n|---|---|---|\n"
    return head + rows + tail + reasons


def _counted_by(reason: DropReason) -> str:
    return "kernel" if reason < KERNEL_REASONS_END else "data plane"


def _reason_meanings() -> dict[DropReason, str]:
    """Read the docstrings under the members of DropReason, which Python itself throws away."""
    body = ast.parse(textwrap.dedent(inspect.getsource(DropReason))).body[0].body  # type: ignore[attr-defined]
    meanings = {}
    for member, docstring in pairwise(body):
        match member, docstring:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                meanings[DropReason[name]] = " ".join(text.split())
    return meanings


if __name__ == "__main__":
    print(reference(), end="")
