"""What nobody decides but an operator should find among the events: changes in the figures themselves.

Room: edge, control process. ``Watch`` looks at a snapshot about once a second and logs what became different:
the state of a capacity estimator, a storm of requests for missing datagrams. What is decided somewhere is
told by whoever decided it. Each message is limited in rate per thing it speaks of.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdwan.io.logs import get_log
from sdwan.metrics import PathSnapshot, PeerSnapshot, Snapshot

log = get_log(__name__)

# Implementation constants --------------------------------------------------------------------------

SECOND_NS = 10**9
LOOK_NS = SECOND_NS
CAPACITY_PAUSE_NS = 5 * SECOND_NS
"""Between two words about the capacity of one path."""
STORM_PER_SECOND = 100
"""Requests for missing datagrams, both ways; five at a time within a round trip are ordinary loss."""
CALM_PER_SECOND = 20


@dataclass(slots=True)
class _Nacks:
    total: int
    is_storm: bool = False


class Watch:
    """Remembers how things were."""

    def __init__(self) -> None:
        self._looked_ns: int | None = None
        self._capacity: dict[tuple[str, int], tuple[str, int]] = {}
        """State last told of a path, and when."""
        self._nacks: dict[str, _Nacks] = {}

    def is_due(self, now_ns: int) -> bool:
        """Tell whether it is time to look again."""
        return self._looked_ns is None or now_ns - self._looked_ns >= LOOK_NS

    def look(self, snapshot: Snapshot, *, now_ns: int) -> None:
        """Log what changed since the last look."""
        elapsed_ns = now_ns - self._looked_ns if self._looked_ns is not None else 0
        self._looked_ns = now_ns
        for path in snapshot.paths:
            self._look_at_capacity(path, now_ns)
        for peer in snapshot.peers:
            self._look_at_nacks(peer, elapsed_ns)
        self._capacity = {(p.peer, p.path): self._capacity[p.peer, p.path] for p in snapshot.paths
                          if (p.peer, p.path) in self._capacity}  # fmt: skip
        self._nacks = {peer.peer: self._nacks[peer.peer] for peer in snapshot.peers}

    def _look_at_capacity(self, path: PathSnapshot, now_ns: int) -> None:
        if path.capacity_state is None or path.capacity_bps is None:
            return
        known = self._capacity.get((path.peer, path.path))
        if known is not None and (known[0] == path.capacity_state or now_ns - known[1] < CAPACITY_PAUSE_NS):
            return
        self._capacity[path.peer, path.path] = (path.capacity_state, now_ns)
        if known is not None:
            log.info(
                "capacity_state", peer=path.peer, path=path.path, link=path.link, before=known[0],
                state=path.capacity_state, capacity_mbps=round(path.capacity_bps / 1e6, 1),
            )  # fmt: skip

    def _look_at_nacks(self, peer: PeerSnapshot, elapsed_ns: int) -> None:
        total = peer.nacks_sent + peer.nacks_received
        known = self._nacks.setdefault(peer.peer, _Nacks(total))
        fresh, known.total = total - known.total, total
        if elapsed_ns <= 0:
            return
        per_second = fresh * SECOND_NS // elapsed_ns
        if not known.is_storm and per_second >= STORM_PER_SECOND:
            known.is_storm = True
            log.warning("nack_storm", peer=peer.peer, per_second=per_second)
        elif known.is_storm and per_second <= CALM_PER_SECOND:
            known.is_storm = False
            log.info("nack_storm_over", peer=peer.peer, per_second=per_second)
