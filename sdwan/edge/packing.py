"""Packing: packets that are no super-packets, put together so that they cost little.

Data-plane process; used by sdwan.edge.departure. Three ways, in this order of preference:

  streak      equal UDP packets of one flow become a super-packet: small ones several to a datagram
              (BUNDLE), large ones one to a datagram (SUPER);
  container   small packets of any flow of the same bearer share a datagram;
  row         larger ones of equal size share a GSO burst (SINGLE).

Everything leaves at the latest when the TUN is empty, or when a burst is full: nothing waits for company.
Packets of one flow leave in the order they came, those of different flows as it suits; datagrams leave in the
order of their counters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdwan.core import wire
from sdwan.core.coalesce import PACKETS_MAX, Coalescer
from sdwan.core.container import Container
from sdwan.core.inner import clamp_mss, is_bare_ack, maybe_syn
from sdwan.core.staging import ROW_OVERHEAD_BYTES, Rows, Stage
from sdwan.core.wire import BUCKET_UNORDERED, META_NEEDS_CSUM, META_UDP, Type
from sdwan.edge.flows import Bearer, Flow
from sdwan.edge.sender import Sender
from sdwan.model import DropReason

# Implementation constants -------------------------------------------------------------------------

SMALL_BYTES = 600
"""Packets up to this size share a container: two fit a datagram."""


class Packing:
    """What waits for the end of this round of reading. A peer's session cannot change meanwhile."""

    def __init__(self, sender: Sender, *, drop: Callable[[DropReason, int], None]) -> None:
        self._sender = sender
        self._drop = drop
        self._streak_stage = Stage()  # of its own: rows of the same size may be waiting in the other
        self._streak = Coalescer()
        self._rows_stage = Stage()
        self._rows: tuple[Bearer, Rows] | None = None
        self._rows_count = 0
        self._rows_buckets = 0
        """Bit n is set while a packet of bucket n waits there; the same for the container."""
        self._container = Container()
        self._container_bearer: Bearer | None = None
        self._container_buckets = 0

    def take(self, flow: Flow, packet: memoryview, *, needs_csum: bool) -> None:
        """Take one whole packet (the memory may be used again afterwards)."""
        peer = flow.peer
        if len(packet) + ROW_OVERHEAD_BYTES > peer.datagram_bytes:
            self._drop(DropReason.TOO_BIG, 1)
            return
        if maybe_syn(packet):
            clamp_mss(packet, peer.datagram_bytes - ROW_OVERHEAD_BYTES, needs_csum=needs_csum)
        streak = self._streak
        if streak.count and (needs_csum or streak.owner is flow):
            if needs_csum and streak.add(flow, packet):
                return
            self._flush_streak()
        if needs_csum and streak.begin(flow, packet):
            return
        self._pack(flow, packet, needs_csum)

    def flush(self) -> None:
        """Send everything that was taken."""
        if self._streak.count:
            self._flush_streak()
        self._flush_packed()

    def _flush_packed(self) -> None:
        if self._container_bearer is not None:
            self._flush_container()
        elif self._rows_count:
            self._flush_rows()

    # streaks ----------------------------------------------------------------------------------

    def _flush_streak(self) -> None:
        streak = self._streak
        flow: Flow = streak.owner  # type: ignore[assignment]
        if streak.count == 1:
            self._pack(flow, streak.only(), True)
            return
        peer, bucket, bearer = flow.peer, flow.bucket, flow.bearer
        if self._container_buckets >> bucket & 1:
            self._flush_packed()
        elif self._rows_count:
            self._flush_rows()  # they have their counters already
        count, piece, template = streak.count, streak.piece_bytes, streak.head_bytes
        fit = min((peer.datagram_bytes - ROW_OVERHEAD_BYTES - template) // piece, PACKETS_MAX)
        packet = streak.joined()
        rows = self._streak_stage.rows(ROW_OVERHEAD_BYTES + template + fit * piece)
        session = peer.session
        assert session is not None
        datagrams, last_bytes = rows.stage_super(
            packet, template, receiver=session.remote_index, class_flags=bearer.class_flags,
            meta_flags=META_NEEDS_CSUM | META_UDP | bearer.traffic_class, bucket=bucket,
            bucket_sequence=peer.bucket_sequences[bucket], counter=peer.next_counter,
            kind=Type.SUPER if fit == 1 else Type.BUNDLE, packets_per_row=fit,
        )  # fmt: skip
        flow.advance(datagrams=datagrams, packets=count, size_bytes=packet.shape[0])
        session.seal_rows(rows, datagrams, last_bytes)
        self._sender.send_rows(peer, rows, datagrams, last_bytes, bearer.extra)

    # containers and rows ------------------------------------------------------------------------

    def _pack(self, flow: Flow, packet: memoryview, needs_csum: bool) -> None:
        if len(packet) <= SMALL_BYTES:
            self._into_container(flow, packet, needs_csum)
        else:
            self._into_row(flow, packet, needs_csum)

    def _into_container(self, flow: Flow, packet: memoryview, needs_csum: bool) -> None:
        container, peer = self._container, flow.peer
        bucket = BUCKET_UNORDERED if is_bare_ack(packet) else flow.bucket
        if self._rows_buckets >> bucket & 1:
            self._flush_rows()
        if self._container_bearer is not None and (
            self._container_bearer is not flow.bearer or not container.room(len(packet), peer.datagram_bytes)
        ):
            self._flush_container()
        length_flags = len(packet) | (wire.ENTRY_NEEDS_CSUM if needs_csum else 0)
        container.add(packet, length_flags, bucket, peer.bucket_sequences[bucket])
        self._container_bearer = flow.bearer
        self._container_buckets |= 1 << bucket
        flow.advance(datagrams=0, packets=1, size_bytes=len(packet), bucket=bucket)

    def _flush_container(self) -> None:
        if self._rows_count:
            self._flush_rows()  # they have their counters already
        bearer, self._container_bearer = self._container_bearer, None
        self._container_buckets = 0
        assert bearer is not None
        peer, session = bearer.peer, bearer.peer.session
        assert session is not None
        datagram = self._container.seal(
            session.seal_into, receiver=session.remote_index, class_flags=bearer.class_flags,
            counter=peer.next_counter,
        )  # fmt: skip
        session.sealed += 1
        peer.advance(0, datagrams=1, packets=0, size_bytes=0)
        self._sender.send(peer, datagram, bearer.extra, 1)

    def _into_row(self, flow: Flow, packet: memoryview, needs_csum: bool) -> None:
        peer, bucket, bearer = flow.peer, flow.bucket, flow.bearer
        if self._container_buckets >> bucket & 1:
            self._flush_container()
        rows = self._rows_stage.rows(len(packet) + ROW_OVERHEAD_BYTES)
        if self._rows_count and (
            self._rows != (bearer, rows) or self._rows_count >= min(rows.capacity, peer.burst_segments)
        ):
            self._flush_rows()
        session = peer.session
        assert session is not None
        rows.stage_single(
            self._rows_count, np.frombuffer(packet, dtype=np.uint8), receiver=session.remote_index,
            class_flags=bearer.class_flags,
            meta_flags=bearer.traffic_class | (META_NEEDS_CSUM if needs_csum else 0), bucket=bucket,
            bucket_sequence=peer.bucket_sequences[bucket], counter=peer.next_counter,
        )  # fmt: skip
        self._rows = (bearer, rows)
        self._rows_count += 1
        self._rows_buckets |= 1 << bucket
        flow.advance(datagrams=1, packets=1, size_bytes=len(packet))

    def _flush_rows(self) -> None:
        assert self._rows is not None
        (bearer, rows), count = self._rows, self._rows_count
        self._rows_count = self._rows_buckets = 0
        peer, session = bearer.peer, bearer.peer.session
        assert session is not None
        session.seal_rows(rows, count, rows.datagram_bytes)
        self._sender.send_rows(peer, rows, count, rows.datagram_bytes, bearer.extra)
