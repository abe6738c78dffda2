"""One path, one class, one peer of a site, described: what Telemetry puts together.

Room: edge, control process; reads, never changes. Pure functions of the live objects (a Peering, its Tunnel's
paths) and of two readings of the counters: totals come from the newer one, rates from the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdwan.core.drain import is_quiet
from sdwan.core.path import Path
from sdwan.edge.peering import Peering
from sdwan.metrics import ClassSnapshot, PathSnapshot, PeerSnapshot
from sdwan.model import CLASSES, PATHS_PER_PEER, PathState

# Implementation constants --------------------------------------------------------------------------

SECOND_NS = 10**9
PPM = 1_000_000
OVERHEAD_BYTES_LEAST = 10_000
"""An overhead is a ratio of what was sent: of less than this it says nothing."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment: the kernel's by path row, the board's by peer and by class row."""

    now_ns: int
    sent: Array
    received: Array
    peers: Array
    classes: Array

    def rate_bps(self, table: str, row: int, column: str, before: Reading) -> int:
        """Return the rate of a byte counter since an earlier reading."""
        elapsed_ns = max(self.now_ns - before.now_ns, 1)
        grown = int(getattr(self, table)[row][column]) - int(getattr(before, table)[row][column])
        return max(grown, 0) * 8 * SECOND_NS // elapsed_ns  # a new data plane counts from zero


# Paths ----------------------------------------------------------------------------------------------


def describe_paths(
    peering: Peering,
    newest: Reading,
    before: Reading,
    *,
    until_ns: Sequence[int],
    drained: dict[str, int],
    losses_in_ppm: Sequence[int | None],
) -> Iterator[PathSnapshot]:
    """Describe the paths of a peer.

    Args:
        until_ns: for each path number, when the kernel expects it to have sent all it was given.
        drained: links, and since when.
        losses_in_ppm: for each path number.
    """
    paths = peering.tunnel.paths
    floors = [floor for path in paths.values() if (floor := _base_delay_ns(path)) is not None]
    for number, path in paths.items():
        row = peering.number * PATHS_PER_PEER + number
        floor_ns, backlog_ns = _base_delay_ns(path), max(until_ns[number] - newest.now_ns, 0)
        host, port = path.place.whereabouts.remote
        since_ns = drained.get(path.place.link)
        is_drained_by_peer = path.peer_weight_ppm == 0
        yield PathSnapshot(
            peer=peering.config.name,
            path=number,
            link=path.place.link,
            remote=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            state=path.state,
            reason=path.liveness.reason,
            drained=since_ns is not None,
            drained_by_peer=is_drained_by_peer,
            is_quiet=since_ns is not None
            and is_quiet(path, since_ns=since_ns, backlog_ns=backlog_ns, now_ns=newest.now_ns),
            out_for=tuple(
                spec.name
                for traffic_class, spec in enumerate(peering.tunnel.specs)
                if number in peering.tunnel.sla.paths_out(traffic_class)
            ),
            rtt_ns=path.rtt_ns,
            jitter_ns=path.prober.rtt.jitter_ns if path.rtt_ns is not None else None,
            loss_in_ppm=losses_in_ppm[number],
            share_ppm=_share_ppm(peering, number),
            mtu_bytes=path.mtu.size_bytes,
            backlog_ns=backlog_ns,
            extra_delay_ns=floor_ns - min(floors) if floor_ns is not None else None,
            sent_bps=newest.rate_bps("sent", row, "bytes", before),
            received_bps=newest.rate_bps("received", row, "bytes", before),
            sent_datagrams=int(newest.sent[row]["datagrams"]),
            sent_bytes=int(newest.sent[row]["bytes"]),
            received_datagrams=int(newest.received[row]["datagrams"]),
            received_bytes=int(newest.received[row]["bytes"]),
            **_capacity(path),
        )


def _share_ppm(peering: Peering, number: int) -> int:
    shares = peering.decision.shares if peering.decision else ()
    return round(PPM * shares[number] / (sum(shares) or 1.0)) if shares else 0


def _base_delay_ns(path: Path) -> int | None:
    return None if path.state is PathState.DOWN else path.estimator.base_delay_ns


def _capacity(path: Path) -> dict[str, Any]:
    """Return what the estimator knows; before its first sample, what was configured."""
    estimator = path.estimator
    if not estimator.is_known:
        return {"capacity_bps": path.place.rate_up_bps, "loss_out_ppm": path.prober.loss_ppm}
    return {
        "capacity_bps": estimator.capacity_bps,
        "capacity_state": estimator.state.value,
        "delivered_bps": estimator.delivered_bps,
        "queue_ns": estimator.queue_ns,
        "loss_out_ppm": estimator.loss_ppm,
        "samples_refused": estimator.refused,
    }


# Classes and peers ----------------------------------------------------------------------------------


def describe_classes(peering: Peering, newest: Reading, before: Reading) -> Iterator[ClassSnapshot]:
    """Describe the traffic classes of a peer: those of the policy."""
    for number, spec in enumerate(peering.tunnel.specs):
        row = peering.number * CLASSES + number
        counted, protection = newest.classes[row], peering.tunnel.recovery.of(number)
        yield ClassSnapshot(
            peer=peering.config.name,
            number=number,
            name=spec.name,
            recovery=spec.recovery.value,
            fec_sources=protection.sources,
            fec_repairs=protection.repairs,
            sent_bps=newest.rate_bps("classes", row, "tx_bytes", before),
            received_bps=newest.rate_bps("classes", row, "rx_bytes", before),
            sent_packets=int(counted["tx_packets"]),
            sent_bytes=int(counted["tx_bytes"]),
            received_packets=int(counted["rx_packets"]),
            received_bytes=int(counted["rx_bytes"]),
            queued_packets=int(counted["queued_packets"]),
            queued_bytes=int(counted["queued_bytes"]),
            queue_delay_ns=int(counted["queue_delay_us"]) * 1000 if counted["queued_packets"] else 0,
            dropped=int(counted["dropped"]),
            overflowed=int(counted["overflowed"]),
            marked=int(counted["marked"]),
            flows=int(counted["flows"]),
        )


_SAME_NAMES = (
    "held", "held_now", "holes_closed", "holes_expired",
    "nacks_sent", "nacks_received", "resent", "resent_bytes", "resend_missed", "kept_bytes", "kept_evicted",
    "late_repaired", "repairs_sent", "repair_bytes", "repairs_received", "recovered", "unrecovered",
)  # fmt: skip
"""Columns of the board that are called the same in a PeerSnapshot."""


def describe_peer(peering: Peering, newest: Reading, before: Reading) -> PeerSnapshot:
    """Describe a peer as a whole."""
    counted, epochs = newest.peers[peering.number], peering.tunnel.epochs
    since_ns = epochs.sealing_since_ns
    return PeerSnapshot(
        peer=peering.config.name,
        session_age_ns=newest.now_ns - since_ns if since_ns is not None else None,
        epochs=epochs.established_total,
        sent_packets=int(counted["tx_packets"]),
        sent_bytes=int(counted["tx_bytes"]),
        received_packets=int(counted["rx_packets"]),
        received_bytes=int(counted["rx_bytes"]),
        overhead_ppm=_overhead_ppm(counted, before.peers[peering.number]),
        **{name: int(counted[name]) for name in _SAME_NAMES},
    )


def _overhead_ppm(newest: Any, before: Any) -> int | None:
    sent, resent, repairs = (
        int(newest[name]) - int(before[name]) for name in ("tx_bytes", "resent_bytes", "repair_bytes")
    )
    return (resent + repairs) * PPM // sent if sent >= OVERHEAD_BYTES_LEAST else None
