"""Posting: the data plane's counters, written where control reads them (sdwan.edge.board).

Data-plane process; called by its loop every few milliseconds. Rows of peers at rest are left alone. What each
class sent and has waiting is posted by the outward half itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from sdwan.edge.board import Board
from sdwan.edge.peer import Peer
from sdwan.model import CLASSES, PATHS_PER_PEER, DropReason


class Posting:
    """Writes to one board; ``drops`` counts by DropReason and belongs to the data plane."""

    def __init__(self, board: Board, drops: list[int]) -> None:
        self._board = board
        self._drops = drops

    def post(self, peers: Iterable[Peer], *, now_ns: int) -> None:
        """Write the heartbeat, the drops, and every peer that has changed."""
        for peer in peers:
            if peer.dirty or peer.order.held_now:
                peer.dirty = False
                self._post_peer(peer)
        total = self._board.total[0]
        total["drops"][:] = self._drops
        total["heartbeat_ns"] = now_ns

    def post_reads(self, reads: int, writes: int) -> None:
        """Write how often the TUN was read and written."""
        total = self._board.total[0]
        total["tun_reads"], total["tun_writes"] = reads, writes

    def _post_peer(self, peer: Peer) -> None:
        order = peer.order
        self._drops[DropReason.REORDER_OVERFLOW] += order.overflows
        order.overflows = 0
        row = self._board.peers[peer.number]
        row["tx_packets"], row["tx_bytes"], row["tx_datagrams"] = (
            peer.tx_packets,
            peer.tx_bytes,
            peer.tx_datagrams,
        )
        row["rx_packets"], row["rx_bytes"], row["next_counter"] = (
            peer.rx_packets,
            peer.rx_bytes,
            peer.next_counter,
        )
        row["held"], row["held_now"] = order.held, order.held_now
        row["holes_closed"], row["holes_expired"] = order.holes.proven, order.holes.expired
        row["nacks_sent"], row["nacks_received"] = peer.nacks_sent, peer.nacks_received
        row["late_repaired"] = peer.window.revived
        row["resent"], row["resent_bytes"] = peer.resent, peer.resent_bytes
        row["resend_missed"] = peer.kept.missed
        row["repairs_sent"], row["repair_bytes"] = peer.repairs_sent, peer.repair_bytes
        row["repairs_received"] = peer.repairs_received
        row["recovered"], row["unrecovered"] = peer.recovered, peer.unrecovered
        row["kept_bytes"], row["kept_evicted"] = peer.kept.size_bytes, peer.kept.evicted
        for path, seen in enumerate(peer.arrivals):
            if seen.last_ns:
                row = self._board.paths[peer.number * PATHS_PER_PEER + path]
                row["opened"] = seen.opened
                row["opened_bytes"] = seen.opened_bytes
                row["last_sequence"] = seen.last_sequence
                row["last_send_us"] = seen.last_send_us
                row["last_ns"] = seen.last_ns
        first = peer.number * CLASSES
        for traffic_class, (packets, size_bytes) in enumerate(peer.rx_by_class):
            if packets:
                row = self._board.classes[first + traffic_class]
                row["rx_packets"], row["rx_bytes"] = packets, size_bytes
