"""Departure: what may leave now leaves, what may not waits its turn; then it is staged, sealed and sent.

Data-plane process; the second half of sdwan.edge.outward. Packets and super-packets come in as the TUN gave
them. While nothing waits for a peer and the gate (sdwan.edge.gate) is open, they are sent straight from the
read buffer; else they go into the peer's queue (sdwan.core.queue) and leave it burst by burst, drained
whenever the gate opens. Counters and bucket sequences are given out here and nowhere earlier, so they stand
in the order of sending. Nothing passes the queue while something waits: order within a flow holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sdwan.core import ecn, wire
from sdwan.core.classes import READY, ClassSpec
from sdwan.core.fairqueue import Entry, Grant
from sdwan.core.queue import Budget, Lane, Queue
from sdwan.core.staging import ROW_OVERHEAD_BYTES, Stage
from sdwan.edge.flows import Flow
from sdwan.edge.gate import Gate, Room
from sdwan.edge.packing import SMALL_BYTES, Packing
from sdwan.edge.peer import Peer
from sdwan.edge.sender import Sender
from sdwan.edge.waiting import Packet, SuperPacket
from sdwan.errors import WireError
from sdwan.model import CLASSES, DropReason

# Implementation constants -------------------------------------------------------------------------

TURNS_MAX = 32
"""Bursts of one peer in one round: gives the other descriptors their turn."""
FREE_BYTES = 1 << 20
"""What may go before the gate is asked again where it knows no bound."""


class Departure:
    """Everything on its way from the TUN to the sockets. ``clock`` is monotonic; ``drop`` counts drops."""

    def __init__(
        self, *, segmentation: bool, drop: Callable[[DropReason, int], None], gate: Gate | None,
        clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self._sender = Sender(segmentation=segmentation, drop=drop)
        self._packing = Packing(self._sender, drop=drop)
        self._stage = Stage()
        self._drop = drop
        self._gate = gate
        self._clock = clock
        self._specs: Sequence[ClassSpec] = READY
        self._limited: frozenset[int] = frozenset()
        self._budget = Budget()
        self._queues: dict[int, tuple[Peer, Queue]] = {}
        """By peer number, as long as the peer exists."""
        self._backlogged: set[int] = set()
        """Peers with something waiting."""
        self._untold: set[int] = set()
        """Peers that had something waiting since ``news``."""
        self._credit: dict[tuple[int, int], int] = {}
        """Bytes that may go, by peer and class, before the gate must be asked again."""
        self._tails: dict[int, tuple[int, int]] = {}
        """By peer: the super-packet sent last (its serial) and the index that would continue it."""

    def obey(self, specs: Sequence[ClassSpec]) -> None:
        """Set what is wanted of each class."""
        self._specs = specs
        self._limited = frozenset(number for number, spec in enumerate(specs) if spec.rate_limit_bps)
        for _, queue in self._queues.values():
            queue.adopt(specs)

    def forget(self, peer: int) -> None:
        """Forget a peer that is removed, with what waits for it."""
        _, queue = self._queues.pop(peer, (None, None))
        if queue is not None:
            queue.clear(DropReason.NO_ROUTE)
        self._backlogged.discard(peer)
        self._tails.pop(peer, None)

    # in: straight on, or into the queue -------------------------------------------------------------

    def begin(self) -> None:
        """Begin a round of reading: what the gate said before does not count any more."""
        self._credit.clear()

    def take(self, flow: Flow, packet: memoryview, *, needs_csum: bool) -> None:
        """Take one whole packet (the memory may be used again afterwards)."""
        if self._may_pass(flow, len(packet)):
            self._packing.take(flow, packet, needs_csum=needs_csum)
        else:
            self._enqueue(flow, Packet(flow, packet, needs_csum=needs_csum).entry())

    def take_super(self, whole: SuperPacket) -> None:
        """Take one super-packet (its memory may be used again afterwards)."""
        flow, gone = whole.flow, 0
        self._packing.flush()  # what came first leaves first
        burst = flow.peer.burst_segments
        while gone < whole.segments and flow.peer.number not in self._backlogged:
            room = self._room(flow)
            if room is Room.CLOSED:
                break
            count = whole.segments - gone if room is Room.FREE else min(burst, whole.segments - gone)
            self._send_chunk(whole, gone, count)
            gone += count
        if gone < whole.segments:
            self._enqueue(flow, whole.entry(gone))

    def flush(self) -> None:
        """Send what was taken and did not have to wait."""
        self._packing.flush()

    def _may_pass(self, flow: Flow, size_bytes: int) -> bool:
        """Tell whether a packet may go straight on, and count it."""
        peer, traffic_class = flow.peer, flow.bearer.traffic_class
        if peer.number in self._backlogged:
            return False
        key = (peer.number, traffic_class)
        credit = self._credit.get(key, 0)
        if credit <= 0:
            self._packing.flush()  # the gate must know of it
            room = self._room(flow)
            if room is Room.CLOSED:
                return False
            credit = FREE_BYTES if room is Room.FREE else peer.burst_segments * peer.datagram_bytes
        self._credit[key] = credit - size_bytes
        return True

    def _room(self, flow: Flow) -> Room:
        traffic_class = flow.bearer.traffic_class
        if traffic_class in self._limited:
            return Room.CLOSED  # its clock is in the queue
        if self._gate is None:
            return Room.FREE
        return self._ask(self._gate, flow.peer, traffic_class, self._clock())

    @staticmethod
    def _ask(gate: Gate, peer: Peer, traffic_class: int, now_ns: int) -> Room:
        """Ask the gate; with paths of both address families, the next burst goes to one that has room."""
        size = peer.datagram_bytes
        room = gate.room(peer.number, traffic_class, datagram_bytes=size, now_ns=now_ns)
        if room is Room.BURST and len(peer.turns) > 1:
            peer.lead_with(gate.family(peer.number, traffic_class, datagram_bytes=size, now_ns=now_ns))
        return room

    def _enqueue(self, flow: Flow, entry: Entry) -> None:
        peer = flow.peer
        known = self._queues.get(peer.number)
        if known is None:
            queue = Queue(self._specs, self._budget, drop=self._drop)
            known = self._queues[peer.number] = (peer, queue)
        self._backlogged.add(peer.number)
        self._untold.add(peer.number)
        known[1].enqueue(flow.bearer.traffic_class, flow.queue_hash, entry, now_ns=self._clock())

    # out of the queue -----------------------------------------------------------------------------

    @property
    def is_backlogged(self) -> bool:
        """Tell whether anything waits."""
        return bool(self._backlogged)

    def drain(self) -> None:
        """Send what waits, as far as the gate lets it (a bounded amount)."""
        for number in tuple(self._backlogged):
            peer, queue = self._queues[number]
            session = peer.session
            if session is None or session.sealed >= wire.REKEY_AFTER_DATAGRAMS:
                queue.clear(DropReason.COUNTER_LIMIT if session else DropReason.NO_SESSION)
            queue.quantum_bytes = peer.burst_segments * peer.datagram_bytes
            for _ in range(TURNS_MAX):
                if not self._turn(peer, queue):
                    break
            if not queue.segments:
                self._backlogged.discard(number)

    def next_ns(self) -> int:
        """Return when ``drain`` has something to do again; the present or past if it has already."""
        now_ns = self._clock()
        return min(
            (
                max(queue.free_ns(number), self._opens_ns(peer, number, now_ns))
                for peer, queue in map(self._queues.__getitem__, self._backlogged)
                for number in queue.waiting
            ),
            default=now_ns,
        )

    def _opens_ns(self, peer: Peer, traffic_class: int, now_ns: int) -> int:
        if self._gate is None:
            return now_ns
        return self._gate.next_ns(
            peer.number, traffic_class, datagram_bytes=peer.datagram_bytes, now_ns=now_ns
        )  # fmt: skip

    def _turn(self, peer: Peer, queue: Queue) -> bool:
        """Send at most one burst's bytes; tell whether there was anything to send."""
        now_ns, gate = self._clock(), self._gate
        asked: list[bool | None] = [None] * CLASSES

        def may_go(traffic_class: int) -> bool:
            answer = asked[traffic_class]
            if answer is None:
                answer = gate is None or self._ask(gate, peer, traffic_class, now_ns) > Room.CLOSED
                asked[traffic_class] = answer
            return answer

        left_bytes = queue.quantum_bytes
        while left_bytes >= SMALL_BYTES:  # or some large one would go beyond the burst
            most = max(min(left_bytes // peer.datagram_bytes, peer.burst_segments), 1)
            grant = queue.dequeue(may_go, segments_max=most, now_ns=now_ns)
            if grant is None:
                break
            left_bytes -= grant.size_bytes + grant.segments * ROW_OVERHEAD_BYTES
            self._send(grant)
        self._packing.flush()
        return left_bytes < queue.quantum_bytes

    def _send(self, grant: Grant) -> None:
        content = grant.entry.content
        if isinstance(content, Packet):
            if grant.marked:
                ecn.mark(content.view)
            self._packing.take(content.flow, content.view, needs_csum=content.needs_csum)
            return
        assert isinstance(content, SuperPacket)
        if not grant.marked:
            self._packing.flush()
            self._send_chunk(content, grant.first, grant.segments)
            return
        try:
            packet = content.piece(grant.first, 1)
        except WireError:
            self._drop(DropReason.BAD_OFFLOAD, 1)
            return
        ecn.mark(packet)
        self._packing.take(content.flow, packet, needs_csum=True)

    # stage, seal, send ------------------------------------------------------------------------------

    def _send_chunk(self, whole: SuperPacket, first: int, segments: int) -> None:
        """Send some segments of a super-packet, in bursts."""
        flow = whole.flow
        peer, session, bearer = flow.peer, flow.peer.session, flow.bearer
        assert session is not None
        if whole.row_bytes > peer.datagram_bytes:  # the paths have become narrower meanwhile
            self._drop(DropReason.TOO_BIG, segments)
            return
        try:
            index = self._index(whole, first, segments)
        except WireError:
            self._drop(DropReason.BAD_OFFLOAD, segments)
            return
        rows = self._stage.rows(whole.row_bytes)
        count, last_bytes = rows.stage_super(
            whole.array, whole.template_bytes, receiver=session.remote_index,
            class_flags=bearer.class_flags, meta_flags=whole.meta_flags | bearer.traffic_class,
            bucket=flow.bucket, bucket_sequence=peer.bucket_sequences[flow.bucket],
            counter=peer.next_counter, first=index, rows_max=segments,
        )  # fmt: skip
        flow.advance(datagrams=count, packets=count, size_bytes=whole.chunk_bytes(first, segments))
        session.seal_rows(rows, count, last_bytes)
        self._sender.send_rows(peer, rows, count, last_bytes, bearer.extra)

    def _index(self, whole: SuperPacket, first: int, segments: int) -> int:
        """Return the index of the first segment, such that nobody can join what does not belong together.

        Receivers take datagrams whose counter and index both go up by one for neighbours in one super-packet.
        Where one super-packet would seem to continue another, what is left of it becomes one of its own.
        """
        index, peer = first - whole.base, whole.flow.peer.number
        serial, continued = self._tails.get(peer, (-1, -1))
        if index and index == continued and serial != whole.serial:
            whole.cut(first)
            index = 0
        self._tails[peer] = (whole.serial, index + segments)
        return index

    # what is told ---------------------------------------------------------------------------------

    def news(self) -> list[tuple[int, Lane]]:
        """Return peer number and lane of every class whose queue may have changed since the last call."""
        numbers, self._untold = self._untold, set(self._backlogged)
        return [
            (number, lane)
            for number in numbers
            if number in self._queues
            for lane in self._queues[number][1].lanes
            if lane.fair.is_used
        ]
