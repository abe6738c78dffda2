"""Delivery: fresh packets, put in turn and written to the TUN. The last stretch of a packet's walk.

Data-plane process; fed by sdwan.edge.inward. A run is admitted if its inner source address belongs to
the peer, waits for its turn in its flow bucket if it must, and for its time if its class has a playout delay,
is joined with the neighbours that belong to the same super-packet, and written in one call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from sdwan.core.assemble import VNET_BYTES, VNET_PLAIN, Assembler, Frame, Run, single_vnet
from sdwan.core.inner import complete_checksum, source_of
from sdwan.core.playout import Playout
from sdwan.core.reorder import Item
from sdwan.core.routes import Routes
from sdwan.core.wire import META_CLASS_MASK
from sdwan.edge.asking import ask_for_missing
from sdwan.edge.peer import SOURCES_MAX, Peer
from sdwan.errors import WireError
from sdwan.io.tun import Offload
from sdwan.model import DropReason


class Delivery:
    """The delivering half. ``routes`` says which inner addresses belong to which peer."""

    def __init__(self, tun: int, offload: Offload, *, drop: Callable[[DropReason, int], None]) -> None:
        self.writes = 0
        self.routes: Routes[Peer] = Routes()
        self._tun = tun
        self._offload = offload
        self._drop = drop
        self._assembler = Assembler()
        self._joining_peer: Peer | None = None
        self._unsettled: dict[int, Peer] = {}

    # 1. inner source --------------------------------------------------------------------------

    def admit(self, peer: Peer, run: Run) -> None:
        """Take a fresh run; what is not this peer's to send is dropped."""
        address = source_of(run.packet)
        belongs = peer.sources.get(address)
        if belongs is None:
            belongs = self._ask(peer, address)
        if belongs:
            if peer.playout is not None:
                run.due_ns = peer.playout.due_ns(run.flags, run.counter)
            self._put_in_turn(peer, run)
            return
        self._drop(DropReason.INNER_SOURCE if address else DropReason.BAD_INNER, run.rows)
        if peer.order.in_turn(run.bucket, run.counter, run.bucket_sequence, run.rows):
            self._deliver(peer, peer.order.followers(run.bucket))

    def _ask(self, peer: Peer, address: bytes) -> bool:
        if len(peer.sources) >= SOURCES_MAX:
            peer.sources.clear()
        belongs = peer.sources[address] = bool(address) and self.routes.find(address) is peer
        return belongs

    # 2. turn ----------------------------------------------------------------------------------

    def _put_in_turn(self, peer: Peer, run: Run) -> None:
        order = peer.order
        if order.in_turn(run.bucket, run.counter, run.bucket_sequence, run.rows):
            self._deliver_one(peer, run)
            if order.held_now:
                self._deliver(peer, order.followers(run.bucket))
        else:
            self.look_after(peer)
            self._deliver(peer, order.hold(run.keep()))

    @property
    def anything_waits(self) -> bool:
        """Tell whether ``settle`` must be called in time: a packet waits, or something is missing."""
        return bool(self._unsettled)

    def look_after(self, peer: Peer) -> None:
        """Include a peer in ``settle`` until nothing of it is missing: something of it has arrived."""
        self._unsettled[peer.number] = peer

    def settle(self, now_ns: int) -> None:
        """Deliver what waits for nothing any more, ask for what is missing, write what is joined."""
        for peer in list(self._unsettled.values()):
            order = peer.order
            self._deliver(peer, order.close_holes(now_ns))
            if order.holes.asks_for_something:
                ask_for_missing(peer, now_ns)
            if peer.playout is not None:
                self._play_out(peer, peer.playout, now_ns)
            if not order.held_now and not order.holes.busy and not (peer.playout and peer.playout.held_now):
                del self._unsettled[peer.number]
        self.write_joined()

    def forget(self, peer: Peer) -> None:
        """Expect nothing more from a peer that was removed."""
        self._unsettled.pop(peer.number, None)

    def _deliver(self, peer: Peer, items: Sequence[Item]) -> None:
        for item in items:
            assert isinstance(item, Run)
            self._deliver_one(peer, item)

    def _deliver_one(self, peer: Peer, run: Run) -> None:
        size_bytes = len(run.frame) - VNET_BYTES
        peer.rx_packets += run.rows
        peer.rx_bytes += size_bytes
        of_class = peer.rx_by_class[run.flags & META_CLASS_MASK]
        of_class[0] += run.rows
        of_class[1] += size_bytes
        peer.dirty = True
        if run.due_ns and peer.playout is not None:
            self.look_after(peer)
            peer.playout.hold(run.keep(), run.due_ns)
        else:
            self._join_or_write(peer, run)

    def _play_out(self, peer: Peer, playout: Playout, now_ns: int) -> None:
        for item in playout.take_due(now_ns):
            assert isinstance(item, Run)
            self._join_or_write(peer, item)

    def _join_or_write(self, peer: Peer, run: Run) -> None:
        if run.head_bytes:
            if self._joining_peer is not peer:
                self.write_joined()  # no peer continues what another has begun
                self._joining_peer = peer
            self._join(run)
        else:
            self.write_joined()
            self._write_single(run)

    # 3. join and write --------------------------------------------------------------------------

    def _join(self, run: Run) -> None:
        try:
            done = self._assembler.add(run)
        except WireError:
            self._drop(DropReason.BAD_INNER, 1)
            return
        if done is not None:
            self._write_super(done)
        if self._assembler.complete:
            self.write_joined()

    @property
    def joining(self) -> bool:
        """Tell whether runs wait in their slots to be joined."""
        return self._assembler.holds

    def write_joined(self) -> None:
        """Write what has been joined so far."""
        try:
            frame = self._assembler.take()
        except WireError:
            self._drop(DropReason.BAD_INNER, 1)
            return
        if frame is not None:
            self._write_super(frame)

    def _write_super(self, frame: Frame) -> None:
        if self._offload.tcp and (self._offload.udp or not frame.udp):
            self._write(frame.pieces)
            return
        for packet in frame.split():
            self._write([packet])

    def _write_single(self, run: Run) -> None:
        try:
            vnet = single_vnet(run.packet, run.flags)
            if vnet[0] and not self._offload.checksum:
                complete_checksum(run.packet)
                vnet = VNET_PLAIN
        except WireError:
            self._drop(DropReason.BAD_INNER, 1)
            return
        run.frame[:VNET_BYTES] = vnet
        self._write([run.frame])

    def _write(self, buffers: Sequence[memoryview | bytes]) -> None:
        try:
            os.writev(self._tun, buffers)
        except OSError:
            self._drop(DropReason.TUN_WRITE, 1)
            return
        self.writes += 1
