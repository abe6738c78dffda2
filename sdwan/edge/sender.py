"""Sending sealed rows: the last thing user space does to an outward datagram.

Data-plane process. Rows leave as GSO bursts of the peer's burst length on the peer's socket; the
kernel's steer program chooses one path per burst. A socket that refuses (full, or the entry device is
gone) costs the burst, never the loop. What was sent is kept for a while, in case the peer misses it
(sdwan.core.retransmit), and passed to the guard of its peer if its class may be protected
(sdwan.edge.protect); repairs and what is sent again do not come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic_ns

from sdwan.core.staging import Rows
from sdwan.edge.peer import Peer
from sdwan.io.udp import BURST_SEGMENTS_MAX, DATAGRAM_BYTES_MAX, segment_ancillary
from sdwan.model import DropReason

# Implementation constants -------------------------------------------------------------------------

_SIZES_KEPT = 4096

Ancillary = Iterable[tuple[int, int, bytes]]
"""What rides beside a sendmsg: level, type, data."""


class Sender:
    """Cuts rows into bursts and sends them. ``segmentation``: the kernel has UDP_SEGMENT."""

    def __init__(self, *, segmentation: bool, drop: Callable[[DropReason, int], None]) -> None:
        self._segmentation = segmentation
        self._drop = drop
        self._ancillary: dict[int, list[tuple[int, int, bytes]]] = {}

    def send_rows(self, peer: Peer, rows: Rows, count: int, last_bytes: int, extra: Ancillary = ()) -> None:
        """Send ``count`` sealed rows, the last ``last_bytes`` long; ``extra`` goes with each sendmsg."""
        size = rows.datagram_bytes
        payload = rows.flat[: (count - 1) * size + last_bytes]
        burst = min(peer.burst_segments, DATAGRAM_BYTES_MAX // size) if self._segmentation else 1
        for start in range(0, count, burst):
            part = payload[start * size : (start + burst) * size]
            ancillary = (*self.ancillary(size), *extra) if len(part) > size else extra
            self._send_burst(peer, part, ancillary, min(burst, count - start))
        self._sent(peer, payload, count, size)

    def send(self, peer: Peer, payload: memoryview, ancillary: Ancillary, datagrams: int = 1) -> None:
        """Send one sealed datagram."""
        self._send_burst(peer, payload, ancillary, datagrams)
        self._sent(peer, payload, datagrams, len(payload))

    def _send_burst(self, peer: Peer, payload: memoryview, ancillary: Ancillary, datagrams: int) -> None:
        try:
            peer.send([payload], ancillary)
        except OSError:
            self._drop(DropReason.SEND_FAILED, datagrams)
        if len(peer.turns) > 1:
            peer.turn_sender()

    def _sent(self, peer: Peer, payload: memoryview, datagrams: int, stride: int) -> None:
        """Remember what was sent, or refused by the socket: datagrams ``stride`` bytes apart.

        A bond of gigabits is bound by this process: copying what it sends would cost a tenth of its rate, and
        the memory would hold a fraction of a round trip. Its losses are left to the applications.
        """
        now_ns = monotonic_ns()
        if peer.burst_segments < BURST_SEGMENTS_MAX:
            peer.kept.keep(payload, datagrams, stride, peer.next_counter, now_ns)
        if peer.guard is not None:
            peer.guard.on_sent(payload, datagrams, stride, now_ns)

    def ancillary(self, stride: int) -> list[tuple[int, int, bytes]]:
        """Return what makes the kernel cut a payload into datagrams of this size."""
        ancillary = self._ancillary.get(stride)
        if ancillary is None:
            if len(self._ancillary) >= _SIZES_KEPT:
                self._ancillary.clear()
            ancillary = self._ancillary[stride] = segment_ancillary(stride)
        return ancillary
