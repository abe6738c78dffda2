"""Flows: whose a packet from the TUN is, and what its datagrams will look like.

Data-plane process; used by the outward half. A flow is asked about once, by routes (which peer?) and rules
(which traffic class?), and remembered; a policy that looks at the DSCP keeps flows of unlike DSCP apart. All
flows to one peer that are treated alike share a ``Bearer``: only they may share a datagram or a burst.
"""

from __future__ import annotations

from collections.abc import Callable

from sdwan.core.classes import READY, ClassSpec, Recovery
from sdwan.core.classify import Classifier
from sdwan.core.ecn import ECN_MASK, traffic_octet
from sdwan.core.inner import destination_of, flow_key
from sdwan.core.queue import spec_of
from sdwan.core.routes import Routes
from sdwan.core.wire import BUCKET_UNORDERED, FLAG_DUPLICATE
from sdwan.edge.peer import Peer
from sdwan.io.udp import traffic_ancillary
from sdwan.model import DropReason

# Implementation constants -------------------------------------------------------------------------

FLOWS_MAX = 1 << 16
BEARERS_MAX = 1 << 14
"""A hub with 256 peers and 8 classes has 2,048; outer DSCPs multiply them."""


class Tally:
    """What one class has sent to one peer."""

    __slots__ = ("is_dirty", "tx_bytes", "tx_packets")

    def __init__(self) -> None:
        self.tx_packets = 0
        self.tx_bytes = 0
        self.is_dirty = False


class Bearer:
    """One peer, one class, one look on the outside."""

    __slots__ = ("class_flags", "extra", "peer", "tally", "traffic_class")

    def __init__(self, peer: Peer, traffic_class: int, spec: ClassSpec, tos: int, tally: Tally) -> None:
        self.peer = peer
        self.traffic_class = traffic_class
        self.class_flags = traffic_class | (FLAG_DUPLICATE if spec.recovery is Recovery.DUPLICATE else 0)
        """Byte 2 of the header."""
        self.extra = traffic_ancillary(tos) if tos else ()
        """Rides beside every sendmsg: the outer DSCP."""
        self.tally = tally


class Flow:
    """What packets with the same addresses and ports share."""

    __slots__ = ("bearer", "bucket", "peer", "queue_hash")

    def __init__(self, bearer: Bearer, bucket: int, queue_hash: int) -> None:
        self.bearer = bearer
        self.peer = bearer.peer
        self.bucket = bucket
        """Flow bucket: order is kept within it."""
        self.queue_hash = queue_hash

    def advance(self, *, datagrams: int, packets: int, size_bytes: int, bucket: int | None = None) -> None:
        """Count what was staged of this flow, in its own bucket or in another one."""
        bucket = self.bucket if bucket is None else bucket
        self.peer.advance(bucket, datagrams=datagrams, packets=packets, size_bytes=size_bytes)
        tally = self.bearer.tally
        tally.tx_packets += packets
        tally.tx_bytes += size_bytes
        tally.is_dirty = True


class Flows:
    """The table of flows, a bounded number; everything in it can be asked again. ``drop`` counts drops."""

    def __init__(self, drop: Callable[[DropReason, int], None]) -> None:
        self.routes: Routes[Peer] = Routes()
        self.specs: tuple[ClassSpec, ...] = READY
        self.tallies: dict[tuple[int, int], Tally] = {}
        """By peer number and class."""
        self._classifier: Classifier | None = None
        """None until control has told a policy: everything is class 0."""
        self._splits_dscp = False
        self._drop = drop
        self._flows: dict[bytes, Flow] = {}
        self._bearers: dict[tuple[int, int, int], Bearer] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def reroute(self, routes: list[tuple[str, Peer]]) -> None:
        """Set which prefixes belong to which peer; every flow is asked again."""
        self.routes.replace(routes)
        self._forget()
        peers = {peer.number for _, peer in routes}
        self.tallies = {key: tally for key, tally in self.tallies.items() if key[0] in peers}

    def obey(self, classifier: Classifier) -> None:
        """Set the policy; every flow is asked again."""
        self._classifier = classifier
        self.specs = classifier.specs
        self._splits_dscp = classifier.uses_dscp or any(spec.copy_dscp for spec in classifier.specs)
        self._forget()

    def _forget(self) -> None:
        self._flows.clear()
        self._bearers.clear()

    def find(self, packet: memoryview) -> Flow | None:
        """Return the flow of an IP packet, or count why it has none."""
        key = flow_key(packet)
        if self._splits_dscp and key:
            key += bytes((traffic_octet(packet) & ~ECN_MASK,))
        return self._flows.get(key) or self._new(key, packet)

    def _new(self, key: bytes, packet: memoryview) -> Flow | None:
        if not key:
            self._drop(DropReason.NOT_IP, 1)
            return None
        peer = self.routes.find(destination_of(packet))
        if peer is None:
            self._drop(DropReason.NO_ROUTE, 1)
            return None
        if len(self._flows) >= FLOWS_MAX:
            self._flows.clear()
        number = hash(key)
        flow = self._flows[key] = Flow(self._bearer(peer, packet), number % BUCKET_UNORDERED, number >> 8)
        return flow

    def _bearer(self, peer: Peer, packet: memoryview) -> Bearer:
        traffic_class = self._classifier.classify(packet) if self._classifier else 0
        spec = spec_of(self.specs, traffic_class)
        tos = traffic_octet(packet) & ~ECN_MASK if spec.copy_dscp else 0
        key = (peer.number, traffic_class, tos)
        bearer = self._bearers.get(key)
        if bearer is None:
            if len(self._bearers) >= BEARERS_MAX:
                self._forget()
            tally = self.tallies.setdefault(key[:2], Tally())
            bearer = self._bearers[key] = Bearer(peer, traffic_class, spec, tos, tally)
        return bearer
