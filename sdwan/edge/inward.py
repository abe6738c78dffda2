"""Inward: from the links towards the TUN. The second half of a packet's walk, up to the replay window.

Data-plane process. ``pump`` drains a wildcard socket: each coalesced burst is cut into runs of consecutive
datagrams (sdwan.edge.burst), opened last row first into a slot, and checked for replay; what is fresh goes
on to sdwan.edge.delivery. CONTROL goes to the control process opened, but requests for missing datagrams,
which sdwan.edge.resending answers; REPAIRs go to sdwan.edge.recover, and what they make whole comes back in
here by the same door; handshake datagrams go as they are.

What an opened datagram says of its path, whatever it carries, is noted in sdwan.edge.witness.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from itertools import repeat
from time import monotonic_ns

import numpy as np
from cryptography.exceptions import InvalidTag

from sdwan.core import wire
from sdwan.core.assemble import SLOT_BYTES, SLOT_LEAD, VNET_BYTES, Run, Slot
from sdwan.core.container import contents
from sdwan.core.inner import segment_bytes
from sdwan.core.messages import Nack
from sdwan.core.session import Session, consume
from sdwan.core.wire import DATA_TYPES, HEADER_BYTES, META_BYTES, META_CLASS_MASK, TAG_BYTES, Type, widen
from sdwan.edge import witness
from sdwan.edge.burst import COUNTER, HEAD, RECEIVER, ROWS_MAX, VERSION, WORD, Burst, Head, cut
from sdwan.edge.delivery import Delivery
from sdwan.edge.peer import Peer
from sdwan.edge.recover import Recoverer
from sdwan.edge.witness import Link
from sdwan.errors import OpenError, WireError
from sdwan.io.udp import ANCILLARY_BYTES, SOL_UDP
from sdwan.model import DropReason

# Specification constants (docs/wire.md) -----------------------------------------------------------

_META = struct.Struct("!BBH")
_SEALED_MIN = HEADER_BYTES + META_BYTES + TAG_BYTES

# Implementation constants -------------------------------------------------------------------------

BURSTS_PER_PUMP = 16
_SLOTS = 16
"""Runs that may be joined before they must be written."""
_STRIDES_KEPT = 64
_RAMP = np.arange(ROWS_MAX + 1, dtype=np.uint32)


class Inward:
    """The receiving half. ``sessions`` and ``peers`` belong to the data plane, which fills them."""

    def __init__(
        self,
        *,
        sessions: dict[int, Session],
        peers: dict[int, Peer],
        delivery: Delivery,
        drop: Callable[[DropReason, int], None],
        confirmed: Callable[[Session], None],
        plain: Callable[[Burst, memoryview], None],
        opened: Callable[[Burst, Session, int, bytes], None],
        asked: Callable[[Peer, Nack, int], None] = lambda *_: None,
        recoverer: Recoverer | None = None,
    ) -> None:
        self._sessions = sessions
        self._peers = peers
        self._delivery = delivery
        self._drop = drop
        self._confirmed = confirmed
        self._plain = plain
        self._opened = opened
        self._asked = asked
        self._recoverer = recoverer or Recoverer(drop)
        self._array = np.zeros(65536 + HEADER_BYTES * 2, dtype=np.uint8)
        self._view = self._array.data
        self._into = [self._view[:65536]]
        self._sealed: dict[int, list[memoryview]] = {}
        self._slots = [Slot() for _ in range(_SLOTS)]
        self._slot = 0
        self._now_ns = 0
        nonces = np.zeros((ROWS_MAX + 1, 12), dtype=np.uint8)
        flat = nonces.reshape(-1).data
        self._nonces = [flat[i * 12 : i * 12 + 12] for i in range(ROWS_MAX + 1)]
        self._nonce_heads = nonces[:, :4]
        self._nonce_words = np.ndarray((ROWS_MAX + 1,), ">u4", nonces, 4, (12,))
        self._nonce_counters = np.ndarray((ROWS_MAX + 1,), ">u4", nonces, 8, (12,))
        self._nonce_receiver = -1

    # 1. receive -------------------------------------------------------------------------------

    def pump(self, sock: socket.socket) -> None:
        """Take what a socket has (at most BURSTS_PER_PUMP bursts) all the way to the TUN."""
        receive, into = sock.recvmsg_into, self._into
        self._now_ns = monotonic_ns()
        for _ in range(BURSTS_PER_PUMP):
            try:
                length, ancillary, _, source = receive(into, ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error of an earlier reply: nothing to read
            stride = length
            for level, _, data in ancillary:
                if level == SOL_UDP:
                    stride = int.from_bytes(data[:2], "little") or length
            if length:
                self._burst(Burst(length, stride, source, ancillary))
            while self._recoverer.whole:
                self._enter(self._recoverer.whole.pop(0))
        self._delivery.settle(self._now_ns)

    def _enter(self, datagram: bytes) -> None:
        """Let a recovered datagram in; its path byte says that no link brought it."""
        self._view[: len(datagram)] = datagram
        self._burst(Burst(len(datagram), len(datagram), (), []))

    # 2. cut into runs ---------------------------------------------------------------------------

    def _burst(self, burst: Burst) -> None:
        if burst.stride < HEADER_BYTES or burst.rows > ROWS_MAX:
            self._drop(DropReason.SHORT, burst.rows)
            return
        if burst.last_bytes < HEADER_BYTES:
            self._drop(DropReason.SHORT, 1)
            burst.leave_last_out()
            if not burst.rows:
                return
        for start, stop in cut(burst, self._array):
            self._run(burst, start, stop, HEAD.unpack_from(self._view, start * burst.stride))

    def _run(self, burst: Burst, start: int, stop: int, head: Head) -> None:
        """Send datagrams ``start..stop-1``, which are of one kind, on their way."""
        kind = head[WORD] >> 24
        if head[VERSION] != wire.VERSION:
            self._drop(DropReason.MALFORMED, 1)
            if stop - start > 1:  # the version is not authenticated: the others may be sound
                self._one_by_one(burst, start + 1, stop)
        elif Type.INIT <= kind <= Type.COOKIE:
            at = start * burst.stride
            self._plain(burst, self._view[at : at + burst.row_bytes(start)])
        elif (session := self._sessions.get(head[RECEIVER])) is None:
            self._drop(DropReason.UNKNOWN_SESSION, stop - start)
        elif burst.row_bytes(stop - 1) < HEADER_BYTES + TAG_BYTES:
            self._drop(DropReason.SHORT, 1)
            if stop - start > 1:
                self._run(burst, start, stop - 1, head)
        elif kind == Type.SUPER:
            self._open_super(burst, start, stop, head, session)
        elif kind in DATA_TYPES:
            self._open_packets(burst, start, head, session, kind)
        elif kind in (Type.CONTROL, Type.REPAIR):
            self._open_control(burst, start, head, session)
        else:
            self._drop(DropReason.UNKNOWN_TYPE, stop - start)

    def _one_by_one(self, burst: Burst, start: int, stop: int) -> None:
        """Look at datagrams alone that are no run after all, so that a bad one costs only itself."""
        for row in range(start, stop):
            self._run(burst, row, row + 1, HEAD.unpack_from(self._view, row * burst.stride))

    # 3. open ----------------------------------------------------------------------------------

    def _open_super(self, burst: Burst, start: int, stop: int, head: Head, session: Session) -> None:
        """Open a run of segments; if one of them is not what it claims, each for itself."""
        rows, stride = stop - start, burst.stride
        prefix = META_BYTES + ((head[WORD] & 0xFF) << 2)
        last_payload = burst.row_bytes(stop - 1) - HEADER_BYTES - TAG_BYTES - prefix
        piece = stride - HEADER_BYTES - TAG_BYTES - prefix if rows > 1 else last_payload
        if last_payload <= 0 or piece <= 0 or SLOT_LEAD + prefix + piece * rows > SLOT_BYTES:
            if rows == 1:
                self._drop(DropReason.BAD_INNER, 1)
            else:
                self._one_by_one(burst, start, stop)
            return
        slot = self._next_slot()
        try:
            self._open_rows(burst, start, stop, head, session, slot, prefix, piece)
        except InvalidTag:
            if rows == 1:
                self._drop(DropReason.FORGED, 1)
            else:
                self._one_by_one(burst, start, stop)
            return
        link = self._authentic(burst, start, stop, head, session)
        end = SLOT_LEAD + prefix + (rows - 1) * piece + last_payload
        run = self._describe(slot.view[:end], head, session, rows, piece)
        self._accept(burst, start, session, run, link)

    def _open_rows(
        self,
        burst: Burst,
        start: int,
        stop: int,
        head: Head,
        session: Session,
        slot: Slot,
        prefix: int,
        piece: int,
    ) -> None:
        """Open rows into a slot, last one first; InvalidTag if any is not authentic."""
        rows, stride, view = stop - start, burst.stride, self._view
        at, size = (stop - 1) * stride, burst.row_bytes(stop - 1)
        into = SLOT_LEAD + (rows - 1) * piece
        last_into = slot.view[into : into + size - HEADER_BYTES - TAG_BYTES]
        if rows == 1:
            session.open_into(view[at + 4 : at + 16], view[at + HEADER_BYTES : at + size], None, last_into)
            return
        if self._nonce_receiver != head[RECEIVER]:
            self._nonce_receiver = head[RECEIVER]
            self._nonce_heads[:] = np.frombuffer(head[RECEIVER].to_bytes(4, "big"), dtype=np.uint8)
        self._nonce_words[:rows] = (_RAMP[:rows] << 16) + np.uint32(head[WORD])
        self._nonce_counters[:rows] = _RAMP[:rows] + np.uint32(head[COUNTER])
        nonces = self._nonces
        session.open_into(nonces[rows - 1], view[at + HEADER_BYTES : at + size], None, last_into)
        out = slot.destinations(prefix, piece)[rows - 2 :: -1]
        sealed = self._sealed_rows(stride)[stop - 2 : start - 1 if start else None : -1]
        consume(map(session.open_into, nonces[rows - 2 :: -1], sealed, repeat(None), out))

    def _describe(self, frame: memoryview, head: Head, session: Session, rows: int, piece: int) -> Run:
        word = head[WORD]
        bucket, flags, sequence = _META.unpack_from(frame, SLOT_LEAD)
        index, segments, head_bytes = word >> 16 & 0xFF, word >> 8 & 0xFF, (word & 0xFF) << 2
        if rows == 1 and index and index + 1 == segments:
            # The short last segment, alone: how long the others are follows from the IP length.
            piece = segment_bytes(frame[VNET_BYTES:], head_bytes, segments)
        window = self._peers[session.peer_number].window
        return Run(
            frame,
            counter=widen(head[COUNTER], max(window.top, 0)),
            bucket=bucket,
            bucket_sequence=sequence,
            flags=flags,
            rows=rows,
            index=index,
            segments=segments,
            head_bytes=head_bytes,
            piece_bytes=piece,
        )

    def _sealed_rows(self, stride: int) -> list[memoryview]:
        """Return the ciphertext views of rows ``stride`` bytes apart."""
        views = self._sealed.get(stride)
        if views is None:
            if len(self._sealed) >= _STRIDES_KEPT:
                self._sealed.clear()
            starts = range(0, 65536 - HEADER_BYTES, stride)[:ROWS_MAX]
            views = self._sealed[stride] = [self._view[at + HEADER_BYTES : at + stride] for at in starts]
        return views

    def _next_slot(self) -> Slot:
        """Return a slot nothing is being joined in: the first one when there is a choice (it is cached)."""
        self._slot = self._slot + 1 if self._delivery.joining else 0
        if self._slot >= _SLOTS:
            self._delivery.write_joined()
            self._slot = 0
        return self._slots[self._slot]

    def _open_packets(self, burst: Burst, row: int, head: Head, session: Session, kind: int) -> None:
        """Open one SINGLE, CONTAINER or BUNDLE datagram."""
        peer = self._peers[session.peer_number]
        at, size = row * burst.stride, burst.row_bytes(row)
        end = SLOT_LEAD + size - HEADER_BYTES - TAG_BYTES
        if size < _SEALED_MIN:
            self._drop(DropReason.SHORT, 1)
            return
        slot = self._next_slot()
        try:
            session.open_into(
                self._view[at + 4 : at + 16],
                self._view[at + HEADER_BYTES : at + size],
                None,
                slot.view[SLOT_LEAD:end],
            )
        except InvalidTag:
            self._drop(DropReason.FORGED, 1)
            return
        link = self._authentic(burst, row, row + 1, head, session)
        counter = widen(head[COUNTER], max(peer.window.top, 0))
        if peer.window.top < 0:
            peer.order.holes.begin(counter)
        if not peer.window.accept(counter):
            self._drop(DropReason.REPLAYED, 1)
            witness.copy(peer, link)
            return
        self._notice_address(burst, session, link)
        self._remember(peer, burst, row, counter, 1, slot.view[SLOT_LEAD + 1])
        self._note(peer, link, counter, 1)
        try:
            for run in contents(slot.view[:end], head[WORD], counter=counter):
                self._delivery.admit(peer, run)
        except WireError:
            self._drop(DropReason.BAD_INNER, 1)

    def _open_control(self, burst: Burst, row: int, head: Head, session: Session) -> None:
        at = row * burst.stride
        try:
            plaintext = session.open_control(self._view[at : at + burst.row_bytes(row)])
        except OpenError as error:
            self._drop(error.reason, 1)  # type: ignore[arg-type]
            return
        link = self._authentic(burst, row, row + 1, head, session)
        if link is None:
            self._drop(DropReason.MALFORMED, 1)
            return
        self._notice_address(burst, session, link)
        peer = self._peers[session.peer_number]
        self._delivery.look_after(peer)
        if head[WORD] >> 24 == Type.REPAIR:
            witness.repair(peer, link)
            self._recoverer.on_repair(peer, session, plaintext, self._now_ns)
            return
        try:
            nack = witness.control(peer, link, plaintext)
        except WireError:
            self._drop(DropReason.BAD_CONTROL, 1)
            return
        if nack is not None:
            self._asked(peer, nack, self._now_ns)
        else:
            self._opened(burst, session, link[0], plaintext)

    # 4. is it fresh -------------------------------------------------------------------------------

    def _accept(self, burst: Burst, start: int, session: Session, run: Run, link: Link | None) -> None:
        """Admit an opened run of segments, or those of its rows that are fresh."""
        peer = self._peers[session.peer_number]
        if peer.window.top < 0:
            peer.order.holes.begin(run.counter)
        if peer.window.accept(run.counter, run.rows):
            self._notice_address(burst, session, link)
            self._remember(peer, burst, start, run.counter, run.rows, run.flags)
            self._note(peer, link, run.counter, run.rows)
            self._delivery.admit(peer, run)
            return
        fresh = [row for row in range(run.rows) if peer.window.accept(run.counter + row)]
        self._drop(DropReason.REPLAYED, run.rows - len(fresh))
        witness.copy(peer, link)
        for row in fresh:
            self._remember(peer, burst, start + row, run.counter + row, 1, run.flags)
            self._delivery.admit(peer, run.row(row))

    # 5. what was opened is believed ---------------------------------------------------------------

    def _authentic(self, burst: Burst, start: int, stop: int, head: Head, session: Session) -> Link | None:
        """Note datagrams that opened, copies included; the first one confirms its session."""
        if not session.confirmed:
            session.confirmed = True
            self._confirmed(session)
        last = head if stop - start == 1 else HEAD.unpack_from(self._view, (stop - 1) * burst.stride)
        size_bytes = (stop - start - 1) * burst.stride + burst.row_bytes(stop - 1)
        return witness.opened(
            self._peers[session.peer_number], head, last, stop - start, size_bytes, self._now_ns
        )

    def _notice_address(self, burst: Burst, session: Session, link: Link | None) -> None:
        if link and witness.moved(self._peers[session.peer_number], link, burst.source, self._now_ns):
            self._opened(burst, session, link[0], b"")

    def _remember(self, peer: Peer, burst: Burst, row: int, counter: int, rows: int, flags: int) -> None:
        """Keep fresh sealed datagrams as long as repairs may come for their neighbours."""
        if peer.mender is not None:
            at, last = row * burst.stride, row + rows - 1
            sealed = self._view[at : last * burst.stride + burst.row_bytes(last)]
            self._recoverer.remember(
                peer, flags & META_CLASS_MASK, counter, sealed, burst.stride, rows, self._now_ns
            )

    def _note(self, peer: Peer, link: Link | None, counter: int, rows: int) -> None:
        self._delivery.look_after(peer)
        witness.fresh(peer, link, counter, rows, self._now_ns)
