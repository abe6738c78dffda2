"""Recovering: lost datagrams made whole from repairs, and handed to the door that all others come through.

Data-plane process, receiving side; called by sdwan.edge.inward. Nothing is kept, and nothing costs anything,
until a first REPAIR of a peer opens (``peer.mender`` is None); from then on copies of the sealed rows of the
repaired classes are kept for a second. What is made whole waits in ``whole`` for inward, which opens it,
checks it for replay and delivers it in its order, as if it had come over a link.

A hole in a protected class is not asked for at once: ``patience_ns`` says how long its block usually takes.
"""

from __future__ import annotations

from collections.abc import Callable

from sdwan.core.mending import Decoder
from sdwan.core.repair import class_of
from sdwan.core.session import Session
from sdwan.edge.peer import Peer
from sdwan.errors import WireError
from sdwan.model import DropReason

# Implementation constants -------------------------------------------------------------------------

IDLE_NS = 10_000_000_000
"""A class without repairs for so long is protected no more: control's hold time."""
PATIENCE_NS_MAX = 100_000_000
SLACK_NS = 2_000_000
"""Two rounds of a busy data plane."""
_PATIENCE_GAIN_LOG2 = 3


class Mender:
    """What one peer's repairs can make whole."""

    def __init__(self, peer: Peer) -> None:
        self.decoder = Decoder(peer.window.is_fresh)
        self._repaired_ns: dict[int, int] = {}
        """When the last repair of each protected class came."""
        self._patience_ns: dict[int, int] = {}

    def protects(self, traffic_class: int) -> bool:
        """Tell whether rows of this class are worth keeping."""
        return traffic_class in self._repaired_ns

    def patience_ns(self, traffic_class: int) -> int:
        """Return how long after its neighbours a lost row of this class usually comes back."""
        return self._patience_ns.get(traffic_class, 0)

    def on_repair(self, plaintext: bytes, receiver: int, *, top: int, now_ns: int) -> list[bytes]:
        """Take a repair; return the datagrams it makes whole.

        Raises:
            WireError: it is none, or contradicts its block.
        """
        whole = self.decoder.on_repair(plaintext, receiver, top=top, now_ns=now_ns)
        number = class_of(plaintext)
        self._repaired_ns[number] = now_ns
        if self.decoder.span_ns is not None:
            needed_ns = self.decoder.span_ns + SLACK_NS
            known_ns = self._patience_ns.get(number, needed_ns)
            slowly_ns = known_ns + ((needed_ns - known_ns) >> _PATIENCE_GAIN_LOG2)
            self._patience_ns[number] = min(max(needed_ns, slowly_ns), PATIENCE_NS_MAX)
        return whole

    def expire(self, now_ns: int) -> bool:
        """Forget what is old; tell whether anything is protected still."""
        self.decoder.expire(now_ns=now_ns)
        for number, at_ns in list(self._repaired_ns.items()):
            if now_ns - at_ns > IDLE_NS:
                del self._repaired_ns[number]
                self._patience_ns.pop(number, None)
        return bool(self._repaired_ns)


class Recoverer:
    """The menders of all peers. ``whole`` holds what was recovered and not opened yet."""

    def __init__(self, drop: Callable[[DropReason, int], None]) -> None:
        self.whole: list[bytes] = []
        self._drop = drop

    def on_repair(self, peer: Peer, session: Session, plaintext: bytes, now_ns: int) -> None:
        """Take an opened REPAIR."""
        mender = peer.mender
        if mender is None:
            mender = peer.mender = Mender(peer)
        peer.repairs_received += 1
        peer.dirty = True
        try:
            self._enter(peer, mender.on_repair(
                plaintext, session.local_index, top=peer.window.top, now_ns=now_ns
            ))  # fmt: skip
        except WireError:
            self._drop(DropReason.REPAIR_MALFORMED, 1)

    def remember(
        self, peer: Peer, traffic_class: int, counter: int, datagrams: memoryview, stride: int, rows: int,
        now_ns: int,
    ) -> None:  # fmt: skip
        """Keep sealed datagrams that opened and were fresh, if their class is protected."""
        mender = peer.mender
        if mender is None:
            return
        peer.order.holes.patience_ns = mender.patience_ns(traffic_class)
        if mender.protects(traffic_class):
            self._enter(peer, mender.decoder.note(counter, datagrams, stride, rows, now_ns=now_ns))

    def settle(self, peer: Peer, now_ns: int) -> None:
        """Forget what is old, and the mender with it when nothing is protected any more."""
        mender = peer.mender
        if mender is None:
            return
        is_needed = mender.expire(now_ns)
        self._count(peer, mender)
        if not is_needed:
            peer.mender = None
            peer.order.holes.patience_ns = 0

    def _enter(self, peer: Peer, whole: list[bytes]) -> None:
        self.whole += whole
        if whole and peer.mender is not None:
            self._count(peer, peer.mender)

    def _count(self, peer: Peer, mender: Mender) -> None:
        """Move the decoder's counts to the peer's, which outlive it."""
        decoder = mender.decoder
        if decoder.useless:
            self._drop(DropReason.REPAIR_USELESS, decoder.useless)
        if decoder.recovered or decoder.unrecovered:
            peer.recovered += decoder.recovered
            peer.unrecovered += decoder.unrecovered
            peer.dirty = True
        decoder.recovered = decoder.unrecovered = decoder.useless = 0
