"""Asking for what is missing: named holes become sealed requests to the peer.

Data-plane process; called by sdwan.edge.delivery at the end of a round. The data plane asks by itself: a
detour through control would cost what a repair has least of, time. The kernel chooses the path of a request.
"""

from __future__ import annotations

from sdwan.core import messages
from sdwan.core.messages import NACK_RANGES_MAX
from sdwan.edge.peer import Peer
from sdwan.model import PATH_CHOOSE

# Specification constants (docs/wire.md) -----------------------------------------------------------

_COUNT_MAX = 0xFFFF


def ask_for_missing(peer: Peer, now_ns: int) -> None:
    """Send what the peer is to be asked for at present, if anything; a request that is lost is made again."""
    while asks := peer.order.holes.take_asks(now_ns, NACK_RANGES_MAX):
        if peer.session is None:
            continue
        proven, ranges = asks
        nack = messages.Nack(0, proven, tuple((first, min(count, _COUNT_MAX)) for first, count in ranges))
        datagram = peer.session.seal_control(messages.encode(nack), PATH_CHOOSE)
        try:
            peer.send([datagram])
        except OSError:
            continue
        peer.nacks_sent += 1
        peer.dirty = True
