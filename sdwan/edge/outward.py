"""Outward: from the TUN to the links. The first half of a packet's walk, in the order it is walked.

Data-plane process. ``pump`` drains the TUN, always: a TUN never pushes back, so what it is not asked for is
lost. Each packet is checked and gets its flow (sdwan.edge.flows); then sdwan.edge.departure sends it, or lets
it wait until a path has room. From the peer's socket on, the kernel's steer program has the word.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

import numpy as np

from sdwan.core import wire
from sdwan.core.classify import Classifier
from sdwan.core.inner import checksum_place, finish_checksum, split_super
from sdwan.core.staging import SEGMENTS_MAX, TEMPLATE_BYTES_MAX
from sdwan.edge.departure import Departure
from sdwan.edge.flows import Flow, Flows
from sdwan.edge.gate import Gate
from sdwan.edge.peer import Peer
from sdwan.edge.waiting import SuperPacket
from sdwan.errors import KernelError, WireError
from sdwan.io.tun import GSO_ECN, GSO_NONE, GSO_UDP_L4, READ_BYTES, VNET, VNET_BYTES, VNET_NEEDS_CSUM
from sdwan.model import CLASSES, DropReason

# Implementation constants -------------------------------------------------------------------------

READS_PER_PUMP = 64
BYTES_PER_PUMP = 1 << 20
"""Whichever comes first gives the other descriptors their turn: 64 small packets or 16 super-packets
are each about half a millisecond of work."""
WANT_INTERVAL_NS = 500_000_000
REPORT_INTERVAL_NS = 20_000_000
"""Rows of classes are for people: a hub with a hundred busy peers has hundreds of them."""


class Outward:
    """The outward half. ``drop`` counts a DropReason; ``want_session`` tells control that traffic waits.

    Without a ``gate`` everything leaves at once. ``clock`` is the monotonic one.
    """

    def __init__(
        self, tun: int, *, segmentation: bool, drop: Callable[[DropReason, int], None],
        want_session: Callable[[int], None], gate: Gate | None = None,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:  # fmt: skip
        self.reads = 0
        self._tun = tun
        self._flows = Flows(drop)
        self._departure = Departure(segmentation=segmentation, drop=drop, gate=gate, clock=clock)
        self._drop = drop
        self._want_session = want_session
        self._clock = clock
        self._report_due_ns = 0
        self._buffer = np.zeros(READ_BYTES, dtype=np.uint8)
        self._view = self._buffer.data

    def reroute(self, routes: list[tuple[str, Peer]]) -> None:
        """Set which prefixes belong to which peer; every flow is asked again."""
        self._flows.reroute(routes)

    def obey(self, classifier: Classifier) -> None:
        """Set the policy; every flow is asked again."""
        self._flows.obey(classifier)
        self._departure.obey(classifier.specs)

    def forget(self, peer: int) -> None:
        """Forget a peer that is removed, with what waits for it."""
        self._departure.forget(peer)

    # 0. what waits ----------------------------------------------------------------------------

    @property
    def is_backlogged(self) -> bool:
        """Tell whether anything waits for a path with room."""
        return self._departure.is_backlogged

    def drain(self) -> None:
        """Send what waits, as far as there is room."""
        self._departure.drain()

    def wait_ns(self) -> int:
        """Return how long nothing that waits can go; 0 or less when something can."""
        return self._departure.next_ns() - self._clock()

    # 1. read ----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take what the TUN has (a bounded amount) all the way to the sockets.

        Raises:
            KernelError: there is no TUN any more.
        """
        read, tun, into = os.readv, self._tun, [self._view]
        taken = 0
        self._departure.begin()
        try:
            for _ in range(READS_PER_PUMP):
                length = read(tun, into)
                self.reads += 1
                self._take(length)
                taken += length
                if taken > BYTES_PER_PUMP:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            raise KernelError(f"TUN: {error.strerror}; was the interface deleted?") from error
        self._departure.flush()
        if self._departure.is_backlogged:
            self._departure.drain()

    # 2. classify ------------------------------------------------------------------------------

    def _take(self, length: int) -> None:
        flow = self._flows.find(self._view[VNET_BYTES:length])
        if flow is None:
            return
        session = flow.peer.session
        if session is None or session.sealed >= wire.REKEY_AFTER_DATAGRAMS:
            self._no_session(flow.peer, session is not None)
        elif self._view[1] == GSO_NONE:
            self._single(flow, length)
        else:
            self._super(flow, length)

    def _no_session(self, peer: Peer, limit: bool) -> None:
        self._drop(DropReason.COUNTER_LIMIT if limit else DropReason.NO_SESSION, 1)
        now_ns = self._clock()
        if now_ns - peer.wanted_ns > WANT_INTERVAL_NS:
            peer.wanted_ns = now_ns
            self._want_session(peer.number)

    # 3. check ---------------------------------------------------------------------------------

    def _single(self, flow: Flow, length: int) -> None:
        packet = self._view[VNET_BYTES:length]
        flags, _, _, _, start, field = VNET.unpack_from(self._view)
        needs_csum = bool(flags & VNET_NEEDS_CSUM)
        if needs_csum and checksum_place(packet) != (start, field):
            # A tunnel in the tunnel left its inner checksum open; the far end would finish the outer one.
            try:
                finish_checksum(packet, start, field)
            except WireError:
                self._drop(DropReason.BAD_OFFLOAD, 1)
                return
            needs_csum = False
        self._departure.take(flow, packet, needs_csum=needs_csum)

    def _super(self, flow: Flow, length: int) -> None:
        flags, kind, _, gso_bytes, start, field = VNET.unpack_from(self._view)
        udp = kind & ~GSO_ECN == GSO_UDP_L4
        # hdr_len of a TUN read is only a hint: the template ends where the transport header says.
        at = VNET_BYTES + start + 12
        template = start + (8 if udp else self._view[at] >> 4 << 2 if at < length else 0)
        payload = length - VNET_BYTES - template
        sound = flags & VNET_NEEDS_CSUM and gso_bytes and payload > 0 and not template & 3
        count = -(-payload // gso_bytes) if sound else 0
        found = checksum_place(self._view[VNET_BYTES:length]) == (start, field)
        if not sound or not found or template > TEMPLATE_BYTES_MAX:
            self._drop(DropReason.BAD_OFFLOAD, 1)
            return
        meta_flags = (
            wire.META_NEEDS_CSUM | (wire.META_UDP if udp else 0) | (wire.META_ECN if kind & GSO_ECN else 0)
        )

        def whole(packet: np.ndarray[Any, np.dtype[np.uint8]]) -> SuperPacket:
            return SuperPacket(
                flow, packet, template_bytes=template, segment_bytes=gso_bytes, meta_flags=meta_flags
            )

        one = whole(self._buffer[VNET_BYTES:length])
        if one.row_bytes > flow.peer.datagram_bytes:
            self._drop(DropReason.TOO_BIG, count)
        elif count <= SEGMENTS_MAX:
            self._departure.take_super(one)
        else:
            self._split(whole, self._view[VNET_BYTES:length], template, gso_bytes)

    def _split(
        self, whole: Callable[..., SuperPacket], packet: memoryview, template: int, gso_bytes: int
    ) -> None:
        """Send a super-packet of more segments than can be numbered as several."""
        try:
            for part in split_super(packet, template, segment_bytes=gso_bytes, segments_max=SEGMENTS_MAX):
                self._departure.take_super(whole(np.frombuffer(part, dtype=np.uint8)))
        except WireError:
            self._drop(DropReason.BAD_OFFLOAD, 1)

    # what is told -----------------------------------------------------------------------------

    def report(self, classes: np.ndarray[Any, Any], *, now_ns: int) -> None:
        """Write what each class sent and what waits into the board's rows ``peer * 8 + class``."""
        if now_ns < self._report_due_ns:
            return
        self._report_due_ns = now_ns + REPORT_INTERVAL_NS
        for (peer, number), tally in self._flows.tallies.items():
            if tally.is_dirty:
                tally.is_dirty = False
                row = classes[peer * CLASSES + number]
                row["tx_packets"], row["tx_bytes"] = tally.tx_packets, tally.tx_bytes
        for peer, lane in self._departure.news():
            row, fair = classes[peer * CLASSES + lane.number], lane.fair
            row["queued_packets"], row["queued_bytes"] = fair.segments, fair.size_bytes
            row["queue_delay_us"], row["flows"] = fair.delay_ns // 1000, fair.flows
            row["dropped"], row["overflowed"], row["marked"] = fair.dropped, lane.overflowed, fair.marked
