"""The handshake: INIT, RESPONSE and COOKIE datagrams, and the session keys that come of them.

Pure; the control process is the only user. In come handshake datagrams as they arrived, with their source
address; out come datagrams to send and, at the end, ``SessionKeys``. When to start a handshake, which
session seals and when keys are forgotten is ``sdwan.core.epochs``' business.

What holds here (docs/wire.md, "Handshake"):
  - No wall clock. Every INIT carries its sender's incarnation and a number that only grows within it, so
    an INIT is answered once: a copy of the newest gets the same answer again, an older one a refusal. An INIT
    recorded before *our* start still passes, therefore a session made by an INIT is a candidate
    and takes nothing from the sessions that exist; its first opened datagram makes it count.
  - A forged RESPONSE or COOKIE leaves the pending handshake as it was.
  - Everything kept is bounded: per peer one pending handshake, ``INDICES_PER_PEER_MAX`` receiver indices
    and the numbers of ``INCARNATIONS_MAX`` incarnations; per stranger nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from sdwan.core import handshake_form as form
from sdwan.core.cookie import MAC_BYTES, CookieKeeper, check_mac1, mac1_key, open_cookie
from sdwan.core.noise import KEY_BYTES, Entropy, HandshakeState, public_key
from sdwan.core.wire import Header, Type
from sdwan.errors import HandshakeError

# Specification constants (docs/wire.md) ----------------------------------------------------------

PATTERN = "IKpsk2"
PROLOGUE = b"sdwan-bond wire 1"

NO_PRESHARED_KEY = bytes(KEY_BYTES)
"""Stands in for the key of peers that share none, as in WireGuard."""

# Implementation constants ------------------------------------------------------------------------

INDICES_PER_PEER_MAX = 12
"""One pending handshake and the sessions ``epochs`` keeps, with room for one more; 256 peers fit the kernel's
4096 receivers."""

INCARNATIONS_MAX = 64
"""Incarnations of one peer whose INIT numbers are remembered; forgetting one permits a candidate, no more."""

INDEX_TRIES = 64
"""4096 live indices of 2^32: a second try is rare, a tenth means broken entropy."""

COOKIES_PER_INIT_MAX = 8
"""Copies of one INIT sent again with a cookie: one per path it may have taken."""


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What a completed handshake leaves: one key per direction and the indices that name the session."""

    peer_public: bytes
    local_index: int
    """Ours: datagrams to us carry it."""
    remote_index: int
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    peer_incarnation: int
    initiator: bool
    """We began the handshake."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Send ``datagram`` back to where the received one came from, by the way it came."""

    datagram: bytes


@dataclass(frozen=True, slots=True)
class Established:
    """A session exists. ``reply``, if any, goes out after the keys are installed."""

    keys: SessionKeys
    reply: bytes | None


@dataclass(frozen=True, slots=True)
class Nothing:
    """The datagram was in order and asks for nothing."""


Outcome = Reply | Established | Nothing


@dataclass(slots=True)
class _Pending:
    """A handshake we began."""

    local_index: int
    noise: HandshakeState = field(repr=False)
    datagram: bytes
    cookies_left: int = COOKIES_PER_INIT_MAX

    @property
    def mac1(self) -> bytes:
        return self.datagram[form.MAC1_OF_INIT]


@dataclass(slots=True)
class _Peer:
    public: bytes
    preshared_key: bytes = field(repr=False)
    pending: _Pending | None = None
    indices: set[int] = field(default_factory=set)
    """Receiver indices taken for this peer, the pending one among them."""
    numbers: OrderedDict[int, int] = field(default_factory=OrderedDict)
    """Highest INIT number by incarnation, the least recently used first."""
    last_number: int = 0
    """Of the INITs we sent."""
    answered: tuple[tuple[int, int], bytes] | None = None
    """The newest INIT answered, as (incarnation, number), and the RESPONSE to it."""


class Handshaker:
    """All handshakes of one site, as initiator and as responder."""

    def __init__(self, *, private_key: bytes, incarnation: int, entropy: Entropy) -> None:
        """Take the site's key.

        Args:
            private_key: X25519, 32 bytes.
            incarnation: random u64 of the data-plane process our keys are for.
            entropy: unpredictable bytes, ``os.urandom`` outside of tests.
        """
        self.public = public_key(private_key)
        self._private, self._entropy = private_key, entropy
        self._incarnation = incarnation
        self._mac1_key = mac1_key(self.public)
        self._cookies = CookieKeeper(own_public=self.public, entropy=entropy)
        self._peers: dict[bytes, _Peer] = {}
        self._owners: dict[int, _Peer] = {}

    def __repr__(self) -> str:
        return f"Handshaker(peers={len(self._peers)}, indices={len(self._owners)})"

    # What the configuration says ------------------------------------------------------------------

    def set_peer(self, public: bytes, preshared_key: bytes | None = None) -> None:
        """Know a peer, or change its preshared key (which ends a pending handshake)."""
        psk = preshared_key or NO_PRESHARED_KEY
        peer = self._peers.setdefault(public, _Peer(public, psk))
        if peer.preshared_key != psk:
            peer.preshared_key = psk
            self._end_pending(peer)

    def remove_peer(self, public: bytes) -> None:
        """Forget a peer and all its indices."""
        peer = self._peers.pop(public, None)
        for index in tuple(peer.indices) if peer else ():
            self.release_index(index)

    def restart(self, incarnation: int) -> None:
        """Begin anew for a new data-plane process: nothing is pending, no index is taken."""
        self._incarnation = incarnation
        self._owners.clear()
        for peer in self._peers.values():
            peer.indices.clear()
            peer.pending = peer.answered = None

    # Receiver indices -----------------------------------------------------------------------------

    def pending_index(self, public: bytes) -> int | None:
        """Return the receiver index RESPONSE and COOKIE of the pending handshake will carry."""
        pending = self._peers[public].pending if public in self._peers else None
        return pending.local_index if pending else None

    def release_index(self, local_index: int) -> None:
        """Give back the index of a session that was forgotten or never wanted."""
        owner = self._owners.pop(local_index, None)
        if owner:
            owner.indices.discard(local_index)

    def _take_index(self, peer: _Peer) -> int:
        if len(peer.indices) >= INDICES_PER_PEER_MAX:
            raise HandshakeError(f"handshake: {INDICES_PER_PEER_MAX} sessions of this peer are kept already")
        for _ in range(INDEX_TRIES):
            index = int.from_bytes(self._entropy(form.INDEX.size), "big")
            if index and index not in self._owners:
                self._owners[index] = peer
                peer.indices.add(index)
                return index
        raise HandshakeError("handshake: no free receiver index found, the source of entropy is broken")

    def _end_pending(self, peer: _Peer) -> None:
        if peer.pending:
            self.release_index(peer.pending.local_index)
            peer.pending = None

    # Initiator ------------------------------------------------------------------------------------

    def initiate(self, public: bytes, *, now_ns: int) -> bytes:
        """Begin a handshake, in place of a pending one, and return the INIT datagram.

        The same datagram may be sent on several paths; byte 1, the path, may be overwritten.

        Raises:
            HandshakeError: the peer is unknown, its public key is of small order, or too many of its
                indices are taken.
        """
        peer = self._peers.get(public)
        if peer is None:
            raise HandshakeError("handshake: cannot begin with an unknown peer, set_peer comes first")
        self._end_pending(peer)
        index = self._take_index(peer)
        peer.last_number = max(peer.last_number + 1, now_ns)
        sender = form.INDEX.pack(index)
        try:
            noise = self._noise(sender, initiator=True, peer=peer)
            message = noise.write_message(form.INIT_PAYLOAD.pack(self._incarnation, peer.last_number))
        except HandshakeError:
            self.release_index(index)
            raise
        peer.pending = _Pending(index, noise, form.build_init(sender, message, public))
        return peer.pending.datagram

    def _noise(self, sender: bytes, *, initiator: bool, peer: _Peer | None = None) -> HandshakeState:
        return HandshakeState(
            pattern=PATTERN,
            initiator=initiator,
            prologue=PROLOGUE + sender,
            static_key=self._private,
            ephemeral_key=self._entropy(KEY_BYTES),
            remote_static=peer.public if peer else None,
            preshared_key=peer.preshared_key if peer else None,
        )

    # Whatever arrives -----------------------------------------------------------------------------

    def receive(self, datagram: bytes, source: bytes, *, now_ns: int, under_load: bool) -> Outcome:
        """Take one handshake datagram.

        Args:
            datagram: the whole UDP payload.
            source: address and port it came from, in any fixed encoding.
            under_load: answer an INIT whose source is not proven with a cookie.

        Raises:
            WireError: no handshake datagram of this version, or of the wrong length.
            HandshakeError: forged, replayed, from an unknown peer or for a handshake that is over.
        """
        header = form.check_form(datagram)
        if header.type == Type.INIT:
            return self._receive_init(datagram, source, now_ns=now_ns, under_load=under_load)
        if header.type == Type.RESPONSE:
            return self._receive_response(datagram, self._pending_of(header))
        return self._receive_cookie(datagram, self._pending_of(header))

    def _receive_init(self, datagram: bytes, source: bytes, *, now_ns: int, under_load: bool) -> Outcome:
        mac1 = check_mac1(datagram, key=self._mac1_key, trailing_bytes=MAC_BYTES)
        sender = datagram[form.SENDER]
        remote_index = form.check_index(*form.INDEX.unpack(sender))
        if under_load and not self._cookies.is_proven(datagram, source=source, now_ns=now_ns):
            cookie = self._cookies.reply(source=source, mac1=mac1, now_ns=now_ns)
            return Reply(form.build_cookie(remote_index, cookie))

        noise = self._noise(sender, initiator=False)
        payload = noise.read_message(datagram[form.NOISE_1])
        peer = self._peers.get(noise.remote_static or b"")
        if peer is None:
            raise HandshakeError("handshake: INIT from a public key that no peer is configured with")
        incarnation, number = form.INIT_PAYLOAD.unpack(payload)
        if peer.answered and peer.answered[0] == (incarnation, number):
            return Reply(peer.answered[1])
        if number <= peer.numbers.get(incarnation, -1):
            raise HandshakeError("handshake: INIT replayed, a newer one of the same process was seen")
        established = self._respond(peer, noise, remote_index, incarnation)
        _remember(peer.numbers, incarnation, number)
        peer.answered = ((incarnation, number), established.reply or b"")
        return established

    def _respond(
        self, peer: _Peer, noise: HandshakeState, remote_index: int, incarnation: int
    ) -> Established:
        local_index = self._take_index(peer)
        noise.preshared_key = peer.preshared_key
        message = noise.write_message(form.RESPONSE_PAYLOAD.pack(local_index, self._incarnation))
        send_key, receive_key = noise.split()
        keys = SessionKeys(
            peer.public, local_index, remote_index, send_key, receive_key, incarnation, initiator=False
        )
        return Established(keys, form.build_response(remote_index, message, peer.public))

    def _pending_of(self, header: Header) -> tuple[_Peer, _Pending]:
        peer = self._owners.get(header.receiver)
        if peer is None or peer.pending is None or peer.pending.local_index != header.receiver:
            raise HandshakeError(f"handshake: none is pending under receiver index {header.receiver:#010x}")
        return peer, peer.pending

    def _receive_response(self, datagram: bytes, owner: tuple[_Peer, _Pending]) -> Outcome:
        peer, pending = owner
        check_mac1(datagram, key=self._mac1_key, trailing_bytes=0)
        noise = pending.noise.fork()
        payload = noise.read_message(datagram[form.NOISE_2])
        remote_index, incarnation = form.RESPONSE_PAYLOAD.unpack(payload)
        form.check_index(remote_index)
        send_key, receive_key = noise.split()
        peer.pending = None
        keys = SessionKeys(
            peer.public, pending.local_index, remote_index, send_key, receive_key, incarnation, initiator=True
        )
        return Established(keys, None)

    def _receive_cookie(self, datagram: bytes, owner: tuple[_Peer, _Pending]) -> Outcome:
        peer, pending = owner
        cookie = open_cookie(datagram[form.COOKIE_BODY], receiver_public=peer.public, mac1=pending.mac1)
        if not pending.cookies_left:
            return Nothing()
        pending.cookies_left -= 1
        return Reply(form.with_mac2(pending.datagram, cookie))


def _remember(numbers: OrderedDict[int, int], incarnation: int, number: int) -> None:
    numbers[incarnation] = number
    numbers.move_to_end(incarnation)
    if len(numbers) > INCARNATIONS_MAX:
        numbers.popitem(last=False)
