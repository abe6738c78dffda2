"""An adversary with full power over the network between two sites that shake hands.

It may hold back, repeat, redirect, alter and invent datagrams; it knows both public keys and makes right
MACs. What must hold whatever it does:

  - only WireError and HandshakeError escape ``receive``;
  - whoever is told that a session exists shares its keys with the configured peer and nobody else;
  - an initiator's session exists only if the peer answered that very INIT, and the peer's true answer counts
    however many false ones came before it;
  - an INIT makes a session once;
  - state stays bounded;
  - once the adversary rests, the next handshake succeeds.
"""

from __future__ import annotations

from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sdwan.core.cookie import mac, mac1_key
from sdwan.core.handshake import (
    INDICES_PER_PEER_MAX,
    Established,
    Handshaker,
    Reply,
    SessionKeys,
)
from sdwan.core.handshake_form import COOKIE_DATAGRAM_BYTES, INIT_BYTES, RESPONSE_BYTES
from sdwan.core.wire import Header, Type
from sdwan.errors import HandshakeError, WireError

SITES = st.integers(0, 1)
SOURCES = st.sampled_from([b"here", b"there", b""])
LENGTHS = {Type.INIT: INIT_BYTES, Type.RESPONSE: RESPONSE_BYTES, Type.COOKIE: COOKIE_DATAGRAM_BYTES}
TRAILING = {Type.INIT: 16, Type.RESPONSE: 0}


def make(number: int) -> Handshaker:
    random = Random(number)
    return Handshaker(private_key=random.randbytes(32), incarnation=number, entropy=random.randbytes)


def with_right_mac1(datagram: bytes, receiver: Handshaker) -> bytes:
    """Repair MAC1 of an altered INIT or RESPONSE, as everybody can who knows the receiver's public key."""
    kind = datagram[8] if len(datagram) > 8 else 0
    if kind not in TRAILING or len(datagram) != LENGTHS[Type(kind)]:
        return datagram
    end = len(datagram) - TRAILING[Type(kind)] - 16
    return datagram[:end] + mac(mac1_key(receiver.public), datagram, end) + datagram[end + 16 :]


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans())
@example(b"", False)
@example(Header(0, 0, 0, Type.INIT).pack(), True)
def test_any_bytes_are_refused_with_our_own_errors(datagram: bytes, under_load: bool) -> None:
    site = make(1)
    try:
        site.receive(datagram, b"here", now_ns=1, under_load=under_load)
    except (WireError, HandshakeError):
        return
    raise AssertionError("accepted a datagram from nobody")


@settings(deadline=None)
@given(st.sampled_from(list(LENGTHS)), st.data(), st.booleans())
def test_invented_datagrams_of_the_right_form_are_refused(
    kind: Type, data: st.DataObject, load: bool
) -> None:
    left, right = make(1), make(2)
    left.set_peer(right.public)
    left.initiate(right.public, now_ns=1)
    index = data.draw(st.sampled_from([left.pending_index(right.public) or 0, 0, 1]))
    head = Header(0, 0, index, kind).pack()
    body = data.draw(st.binary(min_size=LENGTHS[kind] - 24, max_size=LENGTHS[kind] - 24))
    datagram = with_right_mac1(head + body, left)
    try:
        outcome = left.receive(datagram, b"here", now_ns=1, under_load=load)
    except (WireError, HandshakeError):
        return
    assert kind == Type.INIT and load, "only a cookie may be given to somebody unknown"
    assert isinstance(outcome, Reply)
    assert outcome.datagram[8] == Type.COOKIE


class Adversary(RuleBasedStateMachine):
    """Two sites that know each other, and everything they ever sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = [make(1), make(2)]
        self.now_ns = 10**12
        self.seen: list[tuple[int, bytes]] = []
        """Datagrams with the number of the site they are meant for."""
        self.answers: dict[tuple[int, int], bytes] = {}
        """True RESPONSEs by (site, receiver index) they are meant for."""
        self.sessions: list[list[SessionKeys]] = [[], []]
        self.released: list[set[int]] = [set(), set()]

    @initialize(psk=st.sampled_from([None, bytes([9]) * 32]))
    def introduce(self, psk: bytes | None) -> None:
        self.introduced = True
        for number in (0, 1):
            self.sites[number].set_peer(self.sites[1 - number].public, psk)

    def hand_over(self, to: int, datagram: bytes, source: bytes, load: bool) -> bool:
        """Deliver one datagram, note what comes of it, and tell whether it made a session."""
        try:
            outcome = self.sites[to].receive(datagram, source, now_ns=self.now_ns, under_load=load)
        except (WireError, HandshakeError):
            return False
        if isinstance(outcome, Reply):
            self.seen.append((1 - to, outcome.datagram))
        elif isinstance(outcome, Established):
            self.sessions[to].append(outcome.keys)
            self.released[to].discard(outcome.keys.local_index)
            if outcome.reply:
                self.seen.append((1 - to, outcome.reply))
                self.answers[1 - to, outcome.keys.remote_index] = outcome.reply
        return isinstance(outcome, Established)

    def some(self, data: st.DataObject) -> tuple[int, bytes]:
        """Choose one of everything seen, the latest ones rather than the rest."""
        back = data.draw(st.integers(0, 2) | st.integers(0, len(self.seen) - 1))
        return self.seen[-1 - back % len(self.seen)]

    @rule(number=SITES, passed_ns=st.integers(0, 300 * 10**9))
    def begin(self, number: int, passed_ns: int) -> None:
        self.now_ns += passed_ns
        site = self.sites[number]
        try:
            self.seen.append((1 - number, site.initiate(self.sites[1 - number].public, now_ns=self.now_ns)))
        except HandshakeError:
            assert len(site._owners) == INDICES_PER_PEER_MAX, "the only reason not to begin"

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), source=SOURCES, load=st.booleans())
    def deliver(self, data: st.DataObject, source: bytes, load: bool) -> None:
        """Deliver one to whom it is meant for, for the first time or again."""
        self.hand_over(*self.some(data), source, load)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), load=st.booleans())
    def redirect(self, data: st.DataObject, load: bool) -> None:
        to, datagram = self.some(data)
        self.hand_over(1 - to, datagram, b"here", load)

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), position=st.integers(4, 171), mask=st.integers(1, 255), load=st.booleans())
    def alter(self, data: st.DataObject, position: int, mask: int, load: bool) -> None:
        """Change one byte and make MAC1 right again: nobody may believe it."""
        to, datagram = self.some(data)
        at = 4 + (position - 4) % (len(datagram) - 4)
        altered = bytearray(datagram)
        altered[at] ^= mask
        repaired = with_right_mac1(bytes(altered), self.sites[to])
        if repaired[4:16] + repaired[24:-16] != datagram[4:16] + datagram[24:-16] and not 16 <= at < 24:
            assert not self.hand_over(to, repaired, b"here", load)

    @precondition(lambda self: len(self.seen) > 1)
    @rule(data=st.data(), cut=st.integers(0, 200), load=st.booleans())
    def splice(self, data: st.DataObject, cut: int, load: bool) -> None:
        """Join the head of one datagram to the tail of another."""
        (to, head), (_, tail) = self.some(data), self.some(data)
        self.hand_over(to, with_right_mac1(head[:cut] + tail[cut:], self.sites[to]), b"here", load)

    @rule(number=SITES)
    def the_true_answer_counts(self, number: int) -> None:
        """If the pending handshake was answered, that answer completes it, whatever came before."""
        pending = self.sites[number].pending_index(self.sites[1 - number].public)
        answer = self.answers.get((number, pending or 0))
        if answer:
            assert self.hand_over(number, answer, b"there", False)

    @rule(number=SITES)
    def forget_sessions(self, number: int) -> None:
        """What Epochs does in time."""
        for keys in self.sessions[number]:
            if keys.local_index not in self.released[number]:
                self.released[number].add(keys.local_index)
                self.sites[number].release_index(keys.local_index)

    @rule(number=SITES, incarnation=st.integers(3, 2**64 - 1))
    def lose_the_data_plane(self, number: int, incarnation: int) -> None:
        self.sites[number].restart(incarnation)
        self.released[number] = {keys.local_index for keys in self.sessions[number]}

    @invariant()
    def every_session_is_shared_with_the_peer(self) -> None:
        for number in (0, 1):
            answered = {(keys.send_key, keys.receive_key) for keys in self.sessions[1 - number]}
            for keys in self.sessions[number]:
                assert keys.peer_public == self.sites[1 - number].public
                if keys.initiator:
                    assert (keys.receive_key, keys.send_key) in answered

    @invariant()
    def an_init_makes_a_session_once(self) -> None:
        for sessions in self.sessions:
            answered = [keys.remote_index for keys in sessions if not keys.initiator]
            assert len(set(answered)) == len(answered)

    @invariant()
    def live_indices_are_distinct(self) -> None:
        for number in (0, 1):
            indices = [keys.local_index for keys in self.sessions[number]]
            live = [index for index in indices if index not in self.released[number]]
            assert len(set(live)) == len(live)

    @invariant()
    def no_key_is_ever_made_twice(self) -> None:
        for sessions in self.sessions:
            keys = [key for session in sessions for key in (session.send_key, session.receive_key)]
            assert len(set(keys)) == len(keys)

    @invariant()
    def state_is_bounded(self) -> None:
        for site in self.sites:
            assert len(site._owners) <= INDICES_PER_PEER_MAX

    def teardown(self) -> None:
        """The adversary rests: a handshake begun now succeeds."""
        if not getattr(self, "introduced", False):
            return
        for number in (0, 1):
            self.forget_sessions(number)
        left, right = self.sites
        self.now_ns += 1
        init = left.initiate(right.public, now_ns=self.now_ns)
        at_right = right.receive(init, b"here", now_ns=self.now_ns, under_load=False)
        assert isinstance(at_right, Established) and at_right.reply
        at_left = left.receive(at_right.reply, b"there", now_ns=self.now_ns, under_load=False)
        assert isinstance(at_left, Established)
        assert at_left.keys.send_key == at_right.keys.receive_key


TestAdversary = Adversary.TestCase
TestAdversary.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
