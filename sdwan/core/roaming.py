"""Roaming: a path's far end moves only after the new address has proved to be the peer's (RFC 9000 section
8.2).

Pure; one ``Roaming`` per peer. In comes word that something opened under the peer's session came from an
address that is not the path's. That alone proves little: path byte and source are not authenticated, and a
copy of a datagram, raced from elsewhere, opens as well as the original. So a sealed challenge with a random
token goes to the new address, and only the sealed answer, from that very address, moves the path.

A hub learns all paths of an edge in this way. Bounded: one candidate per path, a challenge at most every
``CHALLENGE_INTERVAL_NS``; a later address replaces an earlier candidate only when that has had its time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdwan.model import PATHS_PER_PEER

# Implementation constants ------------------------------------------------------------------------

CHALLENGE_INTERVAL_NS = 200 * 10**6
"""Pause between challenges to one candidate: five a second and path reach nobody as a flood."""

CANDIDATE_NS = 3 * 10**9
"""How long a candidate may take to answer; a satellite's round trip fits several times."""

Entropy = Callable[[int], bytes]
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """One way to reach the peer, as seen on a datagram: its source, and where it arrived here."""

    remote: Address
    local: str
    ifindex: int


@dataclass(slots=True)
class _Candidate:
    whereabouts: Whereabouts
    token: int
    since_ns: int
    challenged_ns: int


class Roaming:
    """Addresses of one peer that are not proven yet."""

    def __init__(self, *, entropy: Entropy) -> None:
        self._entropy = entropy
        self._candidates: dict[int, _Candidate] = {}

    def on_seen(self, path: int, whereabouts: Whereabouts, *, now_ns: int) -> int | None:
        """Take a sign of the peer from a new address; return the token of a challenge to send there, if
        any."""
        if not 0 <= path < PATHS_PER_PEER:
            return None
        candidate = self._candidates.get(path)
        if candidate is None or (
            candidate.whereabouts != whereabouts and now_ns - candidate.since_ns > CHALLENGE_INTERVAL_NS
        ):
            token = int.from_bytes(self._entropy(8), "big")
            self._candidates[path] = _Candidate(whereabouts, token, now_ns, now_ns)
            return token
        if candidate.whereabouts != whereabouts or now_ns - candidate.challenged_ns < CHALLENGE_INTERVAL_NS:
            return None
        if now_ns - candidate.since_ns > CANDIDATE_NS:
            candidate.since_ns = now_ns
            candidate.token = int.from_bytes(self._entropy(8), "big")
        candidate.challenged_ns = now_ns
        return candidate.token

    def on_response(self, path: int, token: int, whereabouts: Whereabouts, *, now_ns: int) -> bool:
        """Take an opened answer; tell whether it proves that the path may move to ``whereabouts``."""
        candidate = self._candidates.get(path)
        if (
            candidate is None
            or candidate.token != token
            or candidate.whereabouts != whereabouts
            or now_ns - candidate.since_ns > CANDIDATE_NS
        ):
            return False
        del self._candidates[path]
        return True

    def forget(self) -> None:
        """Give up all candidates: the session they were challenged under is gone."""
        self._candidates.clear()
