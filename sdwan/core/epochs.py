"""Which sessions with one peer exist, which one seals, and when a handshake begins.

Pure; the control process keeps one ``Epochs`` per peer. In come completed handshakes
(``sdwan.core.handshake``), word from the data plane (confirmed, datagrams sealed, session wanted) and time;
out come actions that control carries out in the order given. Names match ``sdwan.edge.channel``.

A session's life:

    initiator   established ──────────────────> active ──> retired (180 s) ──> forgotten (240 s)
    responder   established as a *candidate* ─┬─> active        as above
                                              └─> forgotten (15 s, or replaced)

  - A candidate seals nothing and takes nothing: an old INIT, played again, can make one. It becomes active
    when the first datagram under it was opened: only somebody with the keys can have sealed that.
  - The newest active session seals. Its initiator replaces it after 120 s, its responder only
    when that has not happened 10 to 15 s later. Until the successor is active, the old one goes on.
  - The initiator sends a keepalive at once, again until it opens something in return. The responder
    answers the first.
  - When a session with a new incarnation of the peer becomes active, the older sessions of other
    incarnations are forgotten at once: the peer's process that sealed with them is gone, and what its
    counters proved about replay went with it.

Times follow WireGuard (Donenfeld, NDSS 2017, section 6) where a reason below does not say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdwan.core.handshake import SessionKeys
from sdwan.core.noise import Entropy
from sdwan.core.wire import REKEY_AFTER_DATAGRAMS

# Specification constants (docs/wire.md) ----------------------------------------------------------

SECOND_NS = 10**9

REKEY_AFTER_NS = 120 * SECOND_NS
REJECT_AFTER_NS = 180 * SECOND_NS
"""Age at which a session stops sealing, successor or not."""

FORGET_AFTER_NS = REJECT_AFTER_NS + 60 * SECOND_NS
"""Age at which a session stops opening. The peer's clock of the session runs at most one round trip late and
no path holds a datagram for a minute, so nothing sealed before 180 s can still arrive."""

RETRY_NS = 5 * SECOND_NS
RETRY_JITTER_NS = 334_000_000

# Implementation constants ------------------------------------------------------------------------

REKEY_SPREAD_NS = 5 * SECOND_NS
"""A rekey comes up to this much early. Two handshakes that crossed leave both sides in the same role; longer
than any round trip, the spread lets one of them be first the next time."""

RESPONDER_MARGIN_NS = 15 * SECOND_NS
"""How much later than the initiator a responder rekeys: two attempts of the initiator fit before."""

REKEY_DATAGRAMS = REKEY_AFTER_DATAGRAMS // 4 * 3
"""Datagrams after which a session is replaced; the last quarter leaves a minute at a million a second."""

CANDIDATE_LIFETIME_NS = 15 * SECOND_NS
"""Longer than the initiator's keepalives last, on the slowest path."""

CANDIDATES_MAX = 4
"""Candidates kept per peer, one per incarnation: replays of one old process push out only each other."""

ACTIVE_MAX = 6
"""Active sessions kept per peer: an epoch lasts half a session's life, and crossed handshakes make two."""

KEEPALIVE_FIRST_NS = SECOND_NS // 4
"""First repetition of a confirming keepalive; the pause doubles."""

KEEPALIVES_INITIATOR = 6
"""Sent within 7.75 s; still no answer: the handshake is begun again."""

KEEPALIVES_RESPONDER = 3
"""Sent blindly: one in a thousand is lost entirely at 10 % loss."""


@dataclass(frozen=True, slots=True)
class Initiate:
    """Begin a handshake (``Handshaker.initiate``) and send its INIT."""


@dataclass(frozen=True, slots=True)
class Install:
    """Give the session to kernel and data plane, before its RESPONSE leaves."""

    keys: SessionKeys
    active: bool
    """It may seal now; otherwise once a datagram under it was opened."""


@dataclass(frozen=True, slots=True)
class Retire:
    """Seal no more with this session, but open."""

    local_index: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the session from data plane and kernel and release its index."""

    local_index: int


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Send a keepalive sealed with this very session."""

    local_index: int


Action = Initiate | Install | Retire | Forget | SendKeepalive


@dataclass(slots=True)
class _Session:
    keys: SessionKeys
    number: int
    """Order of establishment."""
    established_ns: int
    rekey_ns: int
    active: bool
    proven: bool = False
    """A datagram under it was opened."""
    retired: bool = False
    sealed: int = 0
    keepalives_left: int = 0
    keepalive_ns: int = 0
    keepalive_pause_ns: int = KEEPALIVE_FIRST_NS

    @property
    def forget_ns(self) -> int:
        return self.established_ns + (FORGET_AFTER_NS if self.active else CANDIDATE_LIFETIME_NS)

    @property
    def retire_ns(self) -> int:
        return self.established_ns + REJECT_AFTER_NS


class Epochs:
    """The sessions with one peer."""

    def __init__(self, *, connects: bool, entropy: Entropy) -> None:
        """Begin without a session.

        Args:
            connects: we know where the peer is and keep a session up; otherwise we answer, and rekey
                what exists. May be changed at any time.
            entropy: for jitter.
        """
        self.connects = connects
        self.established_total = 0
        """Sessions ever made active."""
        self._entropy = entropy
        self._handshakes = 0
        self._sessions: dict[int, _Session] = {}
        self._wanted = False
        self._next_attempt_ns = 0

    # What control asks ----------------------------------------------------------------------------

    @property
    def sealing(self) -> SessionKeys | None:
        """The session that seals: the newest active one, unless it is retired."""
        session = self._newest()
        return session.keys if session else None

    @property
    def is_proven(self) -> bool:
        """The peer has shown that it has the keys of the session that seals."""
        session = self._newest()
        return session is not None and session.proven

    @property
    def sealing_since_ns(self) -> int | None:
        """When the handshake of the session that seals was completed."""
        session = self._newest()
        return session.established_ns if session else None

    def indices(self) -> tuple[int, ...]:
        """Return the receiver indices of all sessions kept, oldest first."""
        return tuple(self._sessions)

    def next_timer_ns(self) -> int | None:
        """Return when ``on_timer`` is next due, possibly in the past; None while nothing is awaited."""
        due = [self._initiate_ns()]
        for session in self._sessions.values():
            due.append(session.forget_ns)
            if session.active and not session.retired:
                due.append(session.retire_ns)
            if session.keepalives_left:
                due.append(session.keepalive_ns)
        return min((moment for moment in due if moment is not None), default=None)

    # What happened --------------------------------------------------------------------------------

    def on_established(self, keys: SessionKeys, *, now_ns: int) -> list[Action]:
        """Take the keys of a completed handshake; as responder, before the RESPONSE is sent."""
        rekey_ns = now_ns + REKEY_AFTER_NS - self._jitter(REKEY_SPREAD_NS)
        if not keys.initiator:
            rekey_ns += RESPONDER_MARGIN_NS
        self._handshakes += 1
        session = _Session(keys, self._handshakes, now_ns, rekey_ns, active=keys.initiator)
        self._sessions[keys.local_index] = session
        actions: list[Action] = [Install(keys, active=keys.initiator)]
        if keys.initiator:
            return actions + self._activate(session, KEEPALIVES_INITIATOR, now_ns)
        return actions + self._limit_candidates(session)

    def on_confirmed(self, local_index: int, *, now_ns: int) -> list[Action]:
        """Note that the first datagram under this session was opened."""
        session = self._sessions.get(local_index)
        if session is None or session.proven:
            return []
        session.proven = True
        if session.active:
            session.keepalives_left = 0
            return []
        session.active = True
        return self._activate(session, KEEPALIVES_RESPONDER, now_ns)

    def on_datagrams(self, count: int) -> None:
        """Count datagrams sealed under the sealing session since the last call."""
        session = self._newest()
        if session:
            session.sealed += count

    def on_wanted(self) -> None:
        """Ask for a handshake as soon as the pace allows; the session that exists goes on meanwhile.

        For traffic without a session, a session near its counter limit, or a peer that has fallen silent.
        """
        self._wanted = True

    def on_closed(self, *, now_ns: int) -> list[Action]:
        """Forget all sessions because the peer says goodbye; ask again one retry interval later."""
        actions = self.restart()
        self._next_attempt_ns = now_ns + self._retry_ns()
        return actions

    def restart(self) -> list[Action]:
        """Forget all sessions because our data plane is another process now; begin anew at once."""
        self._next_attempt_ns = 0
        self._wanted = False
        return [self._forget(session) for session in tuple(self._sessions.values())]

    def on_timer(self, *, now_ns: int) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        for session in tuple(self._sessions.values()):
            actions += self._on_session_timer(session, now_ns)
        due_ns = self._initiate_ns()
        if due_ns is not None and due_ns <= now_ns:
            self._wanted = False
            self._next_attempt_ns = now_ns + self._retry_ns()
            actions.append(Initiate())
        return actions

    # How ------------------------------------------------------------------------------------------

    def _on_session_timer(self, session: _Session, now_ns: int) -> list[Action]:
        index = session.keys.local_index
        if session.forget_ns <= now_ns:
            return [self._forget(session)]
        actions: list[Action] = []
        if session.active and not session.retired and session.retire_ns <= now_ns:
            session.retired = True
            session.keepalives_left = 0
            actions.append(Retire(index))
        if session.keepalives_left and session.keepalive_ns <= now_ns:
            session.keepalives_left -= 1
            session.keepalive_ns = now_ns + session.keepalive_pause_ns
            session.keepalive_pause_ns *= 2
            actions.append(SendKeepalive(index))
            if not session.keepalives_left and not session.proven:
                self._wanted = True
        return actions

    def _activate(self, session: _Session, keepalives: int, now_ns: int) -> list[Action]:
        """Let an active session count: drop dead incarnations, keep the bound, send the first keepalive."""
        self.established_total += 1
        self._wanted = False
        older = [other for other in self._sessions.values() if other.number < session.number]
        actions: list[Action] = [self._forget(other) for other in older if _differ(other, session)]
        active = [other for other in self._sessions.values() if other.active and other is not session]
        if len(active) >= ACTIVE_MAX:
            unproven = [other for other in active if not other.proven]
            actions.append(self._forget((unproven or active)[0]))
        session.keepalives_left, session.keepalive_ns = keepalives, now_ns
        return actions + self._on_session_timer(session, now_ns)

    def _limit_candidates(self, newcomer: _Session) -> list[Action]:
        """Forget the candidate a new one replaces: that of its incarnation, else the oldest of too many."""
        others = [other for other in self._sessions.values() if not other.active and other is not newcomer]
        out = [other for other in others if not _differ(other, newcomer)]
        if not out and len(others) >= CANDIDATES_MAX:
            out = others[:1]
        return [self._forget(other) for other in out]

    def _forget(self, session: _Session) -> Forget:
        del self._sessions[session.keys.local_index]
        return Forget(session.keys.local_index)

    def _newest(self) -> _Session | None:
        for session in reversed(self._sessions.values()):
            if session.active:
                return None if session.retired else session
        return None

    def _initiate_ns(self) -> int | None:
        session = self._newest()
        if session is None:
            return self._next_attempt_ns if self.connects else None
        if self._wanted or session.sealed >= REKEY_DATAGRAMS:
            return self._next_attempt_ns
        return max(session.rekey_ns, self._next_attempt_ns)

    def _retry_ns(self) -> int:
        return RETRY_NS + self._jitter(RETRY_JITTER_NS)

    def _jitter(self, limit_ns: int) -> int:
        return int.from_bytes(self._entropy(4), "big") * limit_ns >> 32


def _differ(left: _Session, right: _Session) -> bool:
    """Tell whether two sessions belong to different processes of the peer."""
    return left.keys.peer_incarnation != right.keys.peer_incarnation
