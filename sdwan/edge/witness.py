"""What an opened datagram bears witness of: life, place and order of the path it came over.

Data-plane process; called by sdwan.edge.inward for every datagram that opened, whatever it carries. Path,
link sequence and send time are the sending kernel's words and not authenticated: they count only beside
what was opened, and jumps only beside what is fresh. Everything that took a link sequence is told to
sdwan.core.holes, for a gap that nobody explains looks like lost DATA.
"""

from __future__ import annotations

from sdwan.core import messages
from sdwan.core.messages import Nack, Report
from sdwan.edge.burst import PATH, SEQUENCE, TIME, Head
from sdwan.edge.peer import Peer
from sdwan.model import PATHS_PER_PEER

# Implementation constants -------------------------------------------------------------------------

_MOVED_INTERVAL_NS = 100_000_000
_JUMP_MAX = 1 << 16
"""Farther than this only a fresh datagram may move a path's link sequence: the field is not authenticated,
and a recorded datagram can be sent again with any number in it."""
_HEEDED = (Nack.KIND, Report.KIND)

Link = tuple[int, int, int]
"""Path, first and last link sequence of a run: the kernel's word, unauthenticated."""


def opened(peer: Peer, first: Head, last: Head, rows: int, size_bytes: int, now_ns: int) -> Link | None:
    """Count opened datagrams of one path, copies included; return where they came, None if that cannot be."""
    path = first[PATH]
    if peer.playout is not None:
        peer.playout.note(last[TIME] if path < PATHS_PER_PEER else None, now_ns)
    if path >= PATHS_PER_PEER:
        return None
    seen = peer.arrivals[path]
    seen.opened += rows
    seen.opened_bytes += size_bytes
    if (last[SEQUENCE] - seen.last_sequence) & 0xFFFFFFFF < _JUMP_MAX or not seen.last_ns:
        seen.last_sequence = last[SEQUENCE]
        seen.last_send_us = last[TIME]
        seen.last_ns = now_ns
    peer.dirty = True
    return path, first[SEQUENCE], last[SEQUENCE]


def moved(peer: Peer, link: Link, source: tuple, now_ns: int) -> bool:
    """Tell, now and then, that *fresh* datagrams come from an address control did not name.

    A recorded datagram can be sent by anyone from anywhere: it says nothing about the peer.
    """
    seen = peer.arrivals[link[0]]
    if seen.endpoint == source[:2] or now_ns - seen.moved_ns <= _MOVED_INTERVAL_NS:
        return False
    seen.moved_ns = now_ns
    return True


def fresh(peer: Peer, link: Link | None, counter: int, rows: int, now_ns: int) -> None:
    """Note fresh DATA; None: it did not come by itself, but was recovered."""
    holes = peer.order.holes
    if now_ns >= holes.next_checkpoint_ns:
        holes.checkpoint(now_ns)
    if link is None:
        return
    holes.note_data(*link, counter, counter + rows - 1)
    seen = peer.arrivals[link[0]]
    if _JUMP_MAX <= (link[2] - seen.last_sequence) & 0xFFFFFFFF < 1 << 31:
        seen.last_sequence, seen.last_ns = link[2], now_ns


def copy(peer: Peer, link: Link | None) -> None:
    """Note DATA that was opened before."""
    if link is not None:
        peer.order.holes.note_copy(*link)


def repair(peer: Peer, link: Link) -> None:
    """Note a REPAIR: it took a link sequence and carries no DATA counter of its own."""
    peer.order.holes.note_other(link[0], link[2])


def control(peer: Peer, link: Link, plaintext: bytes) -> Nack | None:
    """Note a CONTROL message; return it if it asks for missing datagrams.

    Raises:
        WireError: a malformed one of a kind that matters here.
    """
    next_counter = messages.next_counter_of(plaintext)
    if next_counter is not None:
        peer.order.holes.note_next_counter(link[0], link[2], next_counter)
    else:
        peer.order.holes.note_other(link[0], link[2])
    if not plaintext or plaintext[0] not in _HEEDED:
        return None
    message = messages.decode(plaintext)
    if isinstance(message, Report):
        for row in message.paths:
            peer.delivered[row.path] = row.last_sequence
    return message if isinstance(message, Nack) else None
