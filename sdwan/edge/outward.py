"""Outward: from the TUN to the links. The first half of a packet's walk, in the order it is walked.

Data-plane process. ``pump`` drains the TUN: each super-packet is classified to a flow, staged as rows,
sealed in place and sent in bursts on the peer's socket; the kernel's steer program takes it from
there. Small packets share a container, others of equal size share a burst; both leave at the latest
when the TUN is empty, so nothing waits for company.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic_ns

import numpy as np

from sdwan.core import wire
from sdwan.core.container import Container
from sdwan.core.inner import clamp_mss, destination_of, flow_key, maybe_syn, transport
from sdwan.core.routes import Routes
from sdwan.core.staging import ROW_OVERHEAD_BYTES, SEGMENTS_MAX, Rows, Stage
from sdwan.edge.peer import Peer
from sdwan.errors import WireError
from sdwan.io.tun import GSO_ECN, GSO_NONE, GSO_UDP_L4, READ_BYTES, VNET, VNET_BYTES, VNET_NEEDS_CSUM
from sdwan.io.udp import segment_ancillary
from sdwan.model import DropReason

# Implementation constants -------------------------------------------------------------------------

READS_PER_PUMP = 16
"""Super-packets taken before the other descriptors get their turn."""
FLOWS_MAX = 1 << 16
SMALL_BYTES = 600
"""Packets up to this size share a container: two fit a datagram."""
WANT_INTERVAL_NS = 500_000_000

Flow = tuple[Peer, int]
"""Peer and flow bucket."""


class Outward:
    """The outward half. ``drop`` counts a DropReason; ``want_session`` tells control that traffic waits."""

    def __init__(
        self, tun: int, *, segmentation: bool, drop: Callable[[DropReason, int], None],
        want_session: Callable[[int], None],
    ) -> None:  # fmt: skip
        self.reads = 0
        self.routes: Routes[Peer] = Routes()
        self._tun = tun
        self._segmentation = segmentation
        self._drop = drop
        self._want_session = want_session
        self._flows: dict[bytes, Flow] = {}
        self._buffer = np.zeros(READ_BYTES, dtype=np.uint8)
        self._view = self._buffer.data
        self._packet = self._view[VNET_BYTES:]
        self._stage = Stage()
        self._singles_stage = Stage()
        self._singles: tuple[Peer, Rows] | None = None
        self._singles_count = 0
        self._container = Container()
        self._container_peer: Peer | None = None
        self._container_packets = 0
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}

    def reroute(self, routes: list[tuple[str, Peer]]) -> None:
        """Set which prefixes belong to which peer; every flow is asked again."""
        self.routes.replace(routes)
        self._flows.clear()

    # 1. read ----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take what the TUN has (at most READS_PER_PUMP super-packets) all the way to the sockets."""
        read, tun, into = os.readv, self._tun, [self._view]
        try:
            for _ in range(READS_PER_PUMP):
                length = read(tun, into)
                self.reads += 1
                self._take(length)
        except BlockingIOError:
            pass
        self._flush()

    # 2. classify ------------------------------------------------------------------------------

    def _take(self, length: int) -> None:
        key = flow_key(self._view[VNET_BYTES:length])
        flow = self._flows.get(key) or self._new_flow(key, length)
        if flow is None:
            return
        peer, bucket = flow
        session = peer.session
        if session is None or session.sealed >= wire.REKEY_AFTER_DATAGRAMS:
            self._no_session(peer, session is not None)
            return
        if self._view[1] == GSO_NONE:
            self._single(peer, bucket, length)
        else:
            self._super(peer, bucket, length)

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

    # 3. stage and seal: super-packets -----------------------------------------------------------

    def _super(self, peer: Peer, bucket: int, length: int) -> None:
        flags, kind, _, gso_bytes, start, _ = VNET.unpack_from(self._view)
        udp = kind & ~GSO_ECN == GSO_UDP_L4
        # hdr_len of a TUN read is only a hint: the template ends where the transport header says.
        at = VNET_BYTES + start + 12
        template = start + (8 if udp else self._view[at] >> 4 << 2 if at < length else 0)
        payload = length - VNET_BYTES - template
        sound = (
            flags & VNET_NEEDS_CSUM and gso_bytes and payload > 0 and template <= 1020 and not template & 3
        )
        count = -(-payload // gso_bytes) if sound else 0
        size = ROW_OVERHEAD_BYTES + template + gso_bytes
        if not sound or count > SEGMENTS_MAX:
            self._drop(DropReason.BAD_OFFLOAD, 1)
            return
        if size > peer.datagram_bytes:
            self._drop(DropReason.TOO_BIG, count)
            return
        if self._singles_count or self._container_packets:
            self._flush()  # what came first leaves first
        session = peer.session
        assert session is not None
        rows = self._stage.rows(size)
        sequence = peer.bucket_sequences[bucket]
        count, last_bytes = rows.stage_super(
            self._buffer[VNET_BYTES:length], template, receiver=session.remote_index, class_flags=0,
            meta_flags=wire.META_NEEDS_CSUM | (wire.META_UDP if udp else 0)
            | (wire.META_ECN if kind & GSO_ECN else 0),
            bucket=bucket, bucket_sequence=sequence, counter=peer.next_counter,
        )  # fmt: skip
        self._advance(peer, bucket, count, count, length - VNET_BYTES)
        session.seal_rows(rows, count, last_bytes)
        self._send_rows(peer, rows, count, last_bytes)

    def _advance(self, peer: Peer, bucket: int, datagrams: int, packets: int, size_bytes: int) -> None:
        peer.bucket_sequences[bucket] = (peer.bucket_sequences[bucket] + packets) & 0xFFFF
        peer.next_counter += datagrams
        peer.tx_datagrams += datagrams
        peer.tx_packets += packets
        peer.tx_bytes += size_bytes
        peer.dirty = True

    # 3. stage and seal: single and small packets --------------------------------------------------

    def _single(self, peer: Peer, bucket: int, length: int) -> None:
        size = length - VNET_BYTES
        packet = self._packet[:size]
        needs_csum = self._view[0] & VNET_NEEDS_CSUM
        if maybe_syn(packet):
            clamp_mss(packet, peer.datagram_bytes - ROW_OVERHEAD_BYTES, needs_csum=bool(needs_csum))
        if needs_csum and packet[0] != 0x45 and not _mendable(packet):
            self._drop(DropReason.BAD_OFFLOAD, 1)
            return
        datagram = size + ROW_OVERHEAD_BYTES
        if datagram > peer.datagram_bytes:
            self._drop(DropReason.TOO_BIG, 1)
        elif size <= SMALL_BYTES:
            self._small(peer, bucket, packet, size | (wire.ENTRY_NEEDS_CSUM if needs_csum else 0))
        else:
            self._equal(peer, bucket, datagram, length, wire.META_NEEDS_CSUM if needs_csum else 0)

    def _small(self, peer: Peer, bucket: int, packet: memoryview, length_flags: int) -> None:
        container = self._container
        if self._singles_count:
            self._flush_singles()
        if self._container_packets and (
            self._container_peer is not peer or not container.room(len(packet), peer.datagram_bytes)
        ):
            self._flush_container()
        container.add(packet, length_flags, bucket, peer.bucket_sequences[bucket])
        self._container_peer = peer
        self._container_packets += 1
        self._advance(peer, bucket, 0, 1, len(packet))

    def _equal(self, peer: Peer, bucket: int, datagram: int, length: int, meta_flags: int) -> None:
        if self._container_packets:
            self._flush_container()
        rows = self._singles_stage.rows(datagram)
        if self._singles_count and (
            self._singles != (peer, rows) or self._singles_count >= min(rows.capacity, peer.burst_segments)
        ):
            self._flush_singles()
        session = peer.session
        assert session is not None
        rows.stage_single(
            self._singles_count, self._buffer[VNET_BYTES:length],
            receiver=session.remote_index, class_flags=0,
            meta_flags=meta_flags, bucket=bucket, bucket_sequence=peer.bucket_sequences[bucket],
            counter=peer.next_counter,
        )  # fmt: skip
        self._singles = (peer, rows)
        self._singles_count += 1
        self._advance(peer, bucket, 1, 1, length - VNET_BYTES)

    def _flush(self) -> None:
        if self._singles_count:
            self._flush_singles()
        if self._container_packets:
            self._flush_container()

    def _flush_singles(self) -> None:
        assert self._singles is not None
        (peer, rows), count = self._singles, self._singles_count
        self._singles_count = 0
        # Sessions change only between pumps, and a pump ends with a flush: it is still there.
        assert peer.session is not None
        peer.session.seal_rows(rows, count, rows.datagram_bytes)
        self._send_rows(peer, rows, count, rows.datagram_bytes)

    def _flush_container(self) -> None:
        peer = self._container_peer
        assert peer is not None and peer.session is not None
        session = peer.session
        self._container_packets = 0
        datagram = self._container.seal(
            session.seal_into, receiver=session.remote_index, class_flags=0, counter=peer.next_counter
        )
        session.sealed += 1
        peer.next_counter += 1
        peer.tx_datagrams += 1
        self._send(peer, datagram, (), 1)

    # 4. send ----------------------------------------------------------------------------------

    def _send_rows(self, peer: Peer, rows: Rows, count: int, last_bytes: int) -> None:
        size, flat = rows.datagram_bytes, rows.flat
        burst = peer.burst_segments if self._segmentation else 1
        ancillary = self._ancillary.get(size)
        if ancillary is None:
            if len(self._ancillary) > 4096:
                self._ancillary.clear()
            ancillary = self._ancillary[size] = segment_ancillary(size)
        end_of_all = (count - 1) * size + last_bytes
        for start in range(0, count, burst):
            stop = min(start + burst, count)
            end = stop * size if stop < count else end_of_all
            self._send(peer, flat[start * size : end], ancillary if stop - start > 1 else (), stop - start)

    def _send(self, peer: Peer, payload: memoryview, ancillary: object, datagrams: int) -> None:
        try:
            peer.send([payload], ancillary)
        except OSError:  # a full buffer, or the entry device is gone
            self._drop(DropReason.SEND_FAILED, datagrams)
        if len(peer.senders) > 1:
            peer.turn_sender()


def _mendable(packet: memoryview) -> bool:
    """Tell whether the far end will find the checksum that it has to finish."""
    try:
        return transport(packet)[0] in (6, 17)
    except WireError:
        return False
