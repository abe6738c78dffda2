"""Sending sealed rows: the last thing user space does to an outward datagram.

Data-plane process. Rows leave as GSO bursts of the peer's burst length on the peer's socket; the
kernel's steer program chooses one path per burst. A socket that refuses (full, or the entry device is
gone) costs the burst, never the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sdwan.core.staging import Rows
from sdwan.edge.peer import Peer
from sdwan.io.udp import DATAGRAM_BYTES_MAX, segment_ancillary
from sdwan.model import DropReason

# Implementation constants -------------------------------------------------------------------------

_SIZES_KEPT = 4096


class Sender:
    """Cuts rows into bursts and sends them. ``segmentation``: the kernel has UDP_SEGMENT."""

    def __init__(self, *, segmentation: bool, drop: Callable[[DropReason, int], None]) -> None:
        self._segmentation = segmentation
        self._drop = drop
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}

    def send_rows(self, peer: Peer, rows: Rows, count: int, last_bytes: int) -> None:
        """Send ``count`` sealed rows; the last datagram is ``last_bytes`` long."""
        size, flat = rows.datagram_bytes, rows.flat
        burst = min(peer.burst_segments, DATAGRAM_BYTES_MAX // size) if self._segmentation else 1
        ancillary = self._ancillary.get(size)
        if ancillary is None:
            if len(self._ancillary) >= _SIZES_KEPT:
                self._ancillary.clear()
            ancillary = self._ancillary[size] = segment_ancillary(size)
        end_of_all = (count - 1) * size + last_bytes
        for start in range(0, count, burst):
            stop = min(start + burst, count)
            end = stop * size if stop < count else end_of_all
            self.send(peer, flat[start * size : end], ancillary if stop - start > 1 else (), stop - start)

    def send(
        self, peer: Peer, payload: memoryview, ancillary: Iterable[tuple[int, int, bytes]], datagrams: int
    ) -> None:
        """Send one burst."""
        try:
            peer.send([payload], ancillary)
        except OSError:
            self._drop(DropReason.SEND_FAILED, datagrams)
        if len(peer.turns) > 1:
            peer.turn_sender()
