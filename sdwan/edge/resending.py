"""Sending again what a peer misses: the same sealed bytes, on the path that delivers first.

Data-plane process. Two things start it: the peer's request (Nack, opened by sdwan.edge.inward), and
control's word that a path is suspect. What goes again waits in line while the path it would take has a long
queue, so that repairing one link does not overflow another; nothing is sealed twice. Where the kernel's maps
cannot be seen, the kernel chooses the path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from sdwan.core.messages import Nack
from sdwan.core.retransmit import Burst, Piece
from sdwan.core.wire import CLASS_MASK
from sdwan.edge.peer import Peer
from sdwan.io.kernelview import KernelView
from sdwan.io.udp import DATAGRAM_BYTES_MAX, segment_ancillary
from sdwan.model import PATH_CHOOSE, PATH_PIN, PATHS_PER_PEER, DropReason

# Specification constants (docs/wire.md, bpf/abi.h) -------------------------------------------------

_PATH_AT, _CLASS_AT = 1, 2
_FLAG_UP = 1
_U32, _HALF = (1 << 32) - 1, 1 << 31

# Implementation constants -------------------------------------------------------------------------

NACKED_MAX = 8192
"""Datagrams looked up for one request: more than 0.05 s of a gigabit; the rest will be asked for again."""
BACKLOG_NS_MAX = 20_000_000
"""Longest queue a resend is added to: more is a fifth of an ordinary modem's buffer."""
LINE_MAX = 4096
"""Pieces in line; of more, the newest are left to the next request."""


class _InLine(NamedTuple):
    peer: Peer
    burst: Burst
    start: int
    stop: int
    avoided: int
    """Bit n: not on path n while there is another."""


class Resender:
    """Answers requests. ``view`` shows the kernel's weights, queues and choices; None = unknown."""

    def __init__(self, *, segmentation: bool, drop: Callable[[DropReason, int], None]) -> None:
        self.view: KernelView | None = None
        self._segmentation = segmentation
        self._drop = drop
        self._line: deque[_InLine] = deque()

    # what starts it ---------------------------------------------------------------------------

    def asked(self, peer: Peer, nack: Nack, now_ns: int) -> None:
        """Send again what the peer certainly misses, as far as it is kept and allowed."""
        peer.nacks_received += 1
        peer.dirty = True
        left = NACKED_MAX
        for first, count in nack.ranges:
            pieces = peer.kept.take(first, min(count, left), peer.next_counter, now_ns)
            left -= min(count, left)
            if pieces:
                lost_by = {} if nack.proven else self._lost_by(peer, pieces)
                self._get_in_line(peer, pieces, lost_by)
        self.pump(now_ns)

    def suspect(self, peer: Peer, path: int, sequence: int, now_ns: int) -> None:
        """Send again, elsewhere, what left on ``path`` after a link sequence, in the order it left."""
        if self.view is None:
            return
        for first, count, _ in self.view.ring.sent_on(peer.number, path, sequence):
            pieces = peer.kept.take(first, count, peer.next_counter, now_ns)
            self._get_in_line(peer, pieces, dict.fromkeys(range(len(pieces)), path))
        self.pump(now_ns)

    def _lost_by(self, peer: Peer, pieces: list[Piece]) -> dict[int, int]:
        """Return which path took each piece last, unless it has delivered something later."""
        if self.view is None:
            return {}
        took = self.view.ring.find(peer.number, [burst.first + start for burst, start, _ in pieces])
        lost_by = {}
        for at, (burst, start, _) in enumerate(pieces):
            path, sequence, _ = took.get(burst.first + start, (-1, 0, 0))
            delivered = peer.delivered[path] if path >= 0 else -1
            if path >= 0 and (delivered < 0 or delivered - sequence & _U32 >= _HALF):
                lost_by[at] = path
        return lost_by

    def _get_in_line(self, peer: Peer, pieces: list[Piece], lost_by: dict[int, int]) -> None:
        for at, (burst, start, stop) in enumerate(pieces):
            if len(self._line) < LINE_MAX:
                avoided = 1 << lost_by[at] if at in lost_by else 0
                self._line.append(_InLine(peer, burst, start, stop, avoided))

    # what it does -----------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Tell whether something is in line, so that ``pump`` must be called in time."""
        return bool(self._line)

    def forget(self, peer: Peer) -> None:
        """Drop what is in line for a peer that was removed."""
        self._line = deque(waiting for waiting in self._line if waiting.peer is not peer)

    def pump(self, now_ns: int) -> None:
        """Send what is in line, as long as the paths' queues are short."""
        while self._line:
            peer, burst, start, stop, avoided = self._line[0]
            if burst.deadline_ns > now_ns:
                stop = min(stop, start + self._rows_max(peer, burst))
                path_byte = self._choose(peer, burst, burst.size_of(start, stop), avoided, now_ns)
                if path_byte is None:
                    return
                self._send(peer, burst, start, stop, path_byte)
            if burst.deadline_ns > now_ns and stop < self._line[0].stop:
                self._line[0] = self._line[0]._replace(start=stop)
            else:
                self._line.popleft()

    def _rows_max(self, peer: Peer, burst: Burst) -> int:
        return min(peer.burst_segments, DATAGRAM_BYTES_MAX // burst.stride) if self._segmentation else 1

    def _choose(self, peer: Peer, burst: Burst, size_bytes: int, avoided: int, now_ns: int) -> int | None:
        """Return the path byte of the path that delivers first; None while its queue is too long."""
        if self.view is None:
            return PATH_CHOOSE
        weights = self.view.weights_of(peer.number, burst.traffic_class)
        at = peer.number * PATHS_PER_PEER
        flags = self.view.paths["flags"][at : at + PATHS_PER_PEER].tolist()
        until_ns = self.view.busy["until_ns"][at : at + PATHS_PER_PEER].tolist()
        inverse, rates = weights["inverse"].tolist(), weights["ns_per_kib"].tolist()
        delays_us = weights["delay_us"].tolist()
        usable = [path for path in range(PATHS_PER_PEER) if inverse[path] and flags[path] & _FLAG_UP]
        if not usable:
            return PATH_CHOOSE
        usable = [path for path in usable if not avoided >> path & 1] or usable

        def arrival_ns(path: int) -> int:
            return max(until_ns[path], now_ns) + (rates[path] * size_bytes >> 10) + delays_us[path] * 1000

        best = min(usable, key=arrival_ns)
        return None if until_ns[best] - now_ns > BACKLOG_NS_MAX else PATH_PIN | best

    def _send(self, peer: Peer, burst: Burst, start: int, stop: int, path_byte: int) -> None:
        rows, at = stop - start, start * burst.stride
        again = bytearray(burst.data[at : at + burst.size_of(start, stop)])
        again[_PATH_AT :: burst.stride] = bytes([path_byte]) * rows
        again[_CLASS_AT :: burst.stride] = bytes([again[_CLASS_AT] & CLASS_MASK]) * rows
        send = peer.send if path_byte == PATH_CHOOSE else peer.sender_of(path_byte & ~PATH_PIN)
        try:
            send([again], segment_ancillary(burst.stride) if rows > 1 else ())
        except OSError:
            self._drop(DropReason.SEND_FAILED, rows)
            return
        peer.resent += rows
        peer.resent_bytes += len(again)
        peer.dirty = True
