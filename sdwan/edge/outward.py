"""Outward: from the TUN to the links. The first half of a packet's walk, in the order it is walked.

Data-plane process. ``pump`` drains the TUN: each packet is classified to a flow; a super-packet is
staged as rows, sealed in place and sent in bursts at once, other packets are first put together
(sdwan.edge.packing). From the peer's socket on, the kernel's steer program has the word.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic_ns

import numpy as np
import numpy.typing as npt

from sdwan.core import wire
from sdwan.core.inner import checksum_place, destination_of, finish_checksum, flow_key, split_super
from sdwan.core.routes import Routes
from sdwan.core.staging import ROW_OVERHEAD_BYTES, TEMPLATE_BYTES_MAX, Rows, Stage
from sdwan.edge.packing import Packing
from sdwan.edge.peer import Flow, Peer
from sdwan.edge.sender import Sender
from sdwan.errors import KernelError, WireError
from sdwan.io.tun import GSO_ECN, GSO_NONE, GSO_UDP_L4, READ_BYTES, VNET, VNET_BYTES, VNET_NEEDS_CSUM
from sdwan.model import DropReason

# Implementation constants -------------------------------------------------------------------------

READS_PER_PUMP = 64
BYTES_PER_PUMP = 1 << 20
"""Whichever comes first gives the other descriptors their turn: 64 small packets or 16 super-packets
are each about half a millisecond of work."""
FLOWS_MAX = 1 << 16
WANT_INTERVAL_NS = 500_000_000


class Outward:
    """The outward half. ``drop`` counts a DropReason; ``want_session`` tells control that traffic waits."""

    def __init__(
        self, tun: int, *, segmentation: bool, drop: Callable[[DropReason, int], None],
        want_session: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.reads = 0
        self.routes: Routes[Peer] = Routes()
        self._tun = tun
        self._sender = Sender(segmentation=segmentation, drop=drop)
        self._packing = Packing(self._sender, drop=drop)
        self._drop = drop
        self._want_session = want_session
        self._flows: dict[bytes, Flow] = {}
        self._buffer = np.zeros(READ_BYTES, dtype=np.uint8)
        self._view = self._buffer.data
        self._stage = Stage()

    def reroute(self, routes: list[tuple[str, Peer]]) -> None:
        """Set which prefixes belong to which peer; every flow is asked again."""
        self.routes.replace(routes)
        self._flows.clear()

    # 1. read ----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take what the TUN has (a bounded amount) all the way to the sockets.

        Raises:
            KernelError: there is no TUN any more.
        """
        read, tun, into = os.readv, self._tun, [self._view]
        taken = 0
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
        self._packing.flush()

    # 2. classify ------------------------------------------------------------------------------

    def _take(self, length: int) -> None:
        key = flow_key(self._view[VNET_BYTES:length])
        flow = self._flows.get(key) or self._new_flow(key, length)
        if flow is None:
            return
        session = flow[0].session
        if session is None or session.sealed >= wire.REKEY_AFTER_DATAGRAMS:
            self._no_session(flow[0], session is not None)
        elif self._view[1] == GSO_NONE:
            self._single(flow, length)
        else:
            self._super(flow, length)

    def _new_flow(self, key: bytes, length: int) -> Flow | None:
        if not key:
            self._drop(DropReason.NOT_IP, 1)
            return None
        peer = self.routes.find(destination_of(self._view[VNET_BYTES:length]))
        if peer is None:
            self._drop(DropReason.NO_ROUTE, 1)
            return None
        if len(self._flows) >= FLOWS_MAX:
            self._flows.clear()
        flow = self._flows[key] = (peer, hash(key) & 0xFF)
        return flow

    def _no_session(self, peer: Peer, limit: bool) -> None:
        self._drop(DropReason.COUNTER_LIMIT if limit else DropReason.NO_SESSION, 1)
        now_ns = monotonic_ns()
        if now_ns - peer.wanted_ns > WANT_INTERVAL_NS:
            peer.wanted_ns = now_ns
            self._want_session(peer.number)

    # 3. stage, seal, send -----------------------------------------------------------------------

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
        self._packing.take(flow, packet, needs_csum=needs_csum)

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
        peer = flow[0]
        size = ROW_OVERHEAD_BYTES + template + gso_bytes
        if size > peer.datagram_bytes:
            self._drop(DropReason.TOO_BIG, count)
            return
        self._packing.flush()  # what came first leaves first
        rows = self._stage.rows(size)
        meta_flags = (
            wire.META_NEEDS_CSUM | (wire.META_UDP if udp else 0) | (wire.META_ECN if kind & GSO_ECN else 0)
        )
        if count <= rows.capacity:
            self._send_super(flow, rows, self._buffer[VNET_BYTES:length], template, meta_flags)
            return
        whole, most = self._view[VNET_BYTES:length], rows.capacity
        try:
            for part in split_super(whole, template, segment_bytes=gso_bytes, segments_max=most):
                self._send_super(flow, rows, np.frombuffer(part, dtype=np.uint8), template, meta_flags)
        except WireError:
            self._drop(DropReason.BAD_OFFLOAD, 1)

    def _send_super(
        self, flow: Flow, rows: Rows, packet: npt.NDArray[np.uint8], template: int, meta_flags: int
    ) -> None:
        (peer, bucket), session = flow, flow[0].session
        assert session is not None
        count, last_bytes = rows.stage_super(
            packet, template, receiver=session.remote_index, class_flags=0, meta_flags=meta_flags,
            bucket=bucket, bucket_sequence=peer.bucket_sequences[bucket], counter=peer.next_counter,
        )  # fmt: skip
        peer.advance(bucket, datagrams=count, packets=count, size_bytes=packet.shape[0])
        session.seal_rows(rows, count, last_bytes)
        self._sender.send_rows(peer, rows, count, last_bytes)
