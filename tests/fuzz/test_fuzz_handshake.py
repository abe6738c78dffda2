"""An adversary with full power over the network between two sites that shake hands.

It may hold back, repeat, redirect, alter and invent datagrams; it knows both public keys and makes right MACs.
What must hold whatever it does:

  - only WireError and HandshakeError escape ``receive``;
  - whoever is told that a session exists shares its keys with the configured peer and nobody else;
  - an initiator's session exists only if the peer answered that very INIT;
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
    COOKIE_DATAGRAM_BYTES,
    INDICES_PER_PEER_MAX,
    INIT_BYTES,
    RESPONSE_BYTES,
    Established,
    Handshaker,
    Reply,
    SessionKeys,
)
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
        self.seen: list[bytes] = []
        self.sessions: list[list[SessionKeys]] = [[], []]

    @initialize(psk=st.sampled_from([None, bytes([9]) * 32]))
    def introduce(self, psk: bytes | None) -> None:
        self.psk = psk
        for number in (0, 1):
            self.sites[number].set_peer(self.sites[1 - number].public, psk)

    def hand_over(self, to: int, datagram: bytes, source: bytes, load: bool) -> None:
        """Deliver one datagram; note what comes of it."""
        try:
            outcome = self.sites[to].receive(datagram, source, now_ns=self.now_ns, under_load=load)
        except (WireError, HandshakeError):
            return
        if isinstance(outcome, Reply):
            self.seen.append(outcome.datagram)
        elif isinstance(outcome, Established):
            self.sessions[to].append(outcome.keys)
            if outcome.reply:
                self.seen.append(outcome.reply)

    @rule(number=SITES, passed_ns=st.integers(0, 300 * 10**9))
    def begin(self, number: int, passed_ns: int) -> None:
        self.now_ns += passed_ns
        site = self.sites[number]
        try:
            self.seen.append(site.initiate(self.sites[1 - number].public, now_ns=self.now_ns))
        except HandshakeError:
            assert len(site._owners) == INDICES_PER_PEER_MAX, "the only reason not to begin"

    @precondition(lambda self: self.seen)
    @rule(to=SITES, back=st.integers(0, 5), source=SOURCES, load=st.booleans())
    def deliver(self, to: int, back: int, source: bytes, load: bool) -> None:
        """Deliver one of the latest, possibly again, possibly to its own sender."""
        self.hand_over(to, self.seen[-1 - back % len(self.seen)], source, load)

    @precondition(lambda self: self.seen)
    @rule(to=SITES, data=st.data(), source=SOURCES, load=st.booleans())
    def replay(self, to: int, data: st.DataObject, source: bytes, load: bool) -> None:
        self.hand_over(to, data.draw(st.sampled_from(self.seen)), source, load)

    @precondition(lambda self: self.seen)
    @rule(
        to=SITES, data=st.data(), position=st.integers(0, 171), mask=st.integers(1, 255), load=st.booleans()
    )
    def alter(self, to: int, data: st.DataObject, position: int, mask: int, load: bool) -> None:
        datagram = bytearray(data.draw(st.sampled_from(self.seen)))
        datagram[position % len(datagram)] ^= mask
        self.hand_over(to, with_right_mac1(bytes(datagram), self.sites[to]), b"here", load)

    @precondition(lambda self: len(self.seen) > 1)
    @rule(to=SITES, data=st.data(), cut=st.integers(0, 200), load=st.booleans())
    def splice(self, to: int, data: st.DataObject, cut: int, load: bool) -> None:
        """Join the head of one datagram to the tail of another."""
        head, tail = (data.draw(st.sampled_from(self.seen)) for _ in range(2))
        self.hand_over(to, with_right_mac1(head[:cut] + tail[cut:], self.sites[to]), b"here", load)

    @rule(number=SITES)
    def forget_sessions(self, number: int) -> None:
        """What Epochs does in time."""
        for keys in self.sessions[number]:
            self.sites[number].release_index(keys.local_index)

    @rule(number=SITES, incarnation=st.integers(3, 2**64 - 1))
    def lose_the_data_plane(self, number: int, incarnation: int) -> None:
        self.sites[number].restart(incarnation)

    @invariant()
    def every_session_is_shared_with_the_peer(self) -> None:
        for number in (0, 1):
            answered = {(keys.send_key, keys.receive_key) for keys in self.sessions[1 - number]}
            for keys in self.sessions[number]:
                assert keys.peer_public == self.sites[1 - number].public
                if keys.initiator:
                    assert (keys.receive_key, keys.send_key) in answered

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
        if not hasattr(self, "psk"):
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
TestAdversary.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
