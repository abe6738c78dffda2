"""The handshake: who gets keys, who does not, and what a flood, a replay or a forgery leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from random import Random

import pytest

from sdwan.core.cookie import mac, mac1_key
from sdwan.core.handshake import (
    COOKIES_PER_INIT_MAX,
    INCARNATIONS_MAX,
    INDICES_PER_PEER_MAX,
    Established,
    Handshaker,
    Nothing,
    Reply,
)
from sdwan.core.handshake_form import COOKIE_DATAGRAM_BYTES, RESPONSE_BYTES
from sdwan.core.wire import Header, Type
from sdwan.errors import HandshakeError, WireError

EDGE_AT, HUB_AT, STRANGER_AT = b"192.0.2.1:4510", b"198.51.100.1:4510", b"203.0.113.9:7"
EDGE_INCARNATION, HUB_INCARNATION = 0xE0E1E2E3E4E5E6E7, 0xA0A1A2A3A4A5A6A7
NOW_NS = 10**12


def make(number: int, incarnation: int, entropy: Callable[[int], bytes] | None = None) -> Handshaker:
    entropy = entropy or Random(number).randbytes
    return Handshaker(
        private_key=Random(1000 + number).randbytes(32), incarnation=incarnation, entropy=entropy
    )


def pair(*, edge_psk: bytes | None = None, hub_psk: bytes | None = None) -> tuple[Handshaker, Handshaker]:
    edge, hub = make(1, EDGE_INCARNATION), make(2, HUB_INCARNATION)
    edge.set_peer(hub.public, edge_psk)
    hub.set_peer(edge.public, hub_psk)
    return edge, hub


def receive(
    site: Handshaker,
    datagram: bytes,
    source: bytes = EDGE_AT,
    *,
    at_ns: int = NOW_NS,
    under_load: bool = False,
) -> Established | Reply | Nothing:
    return site.receive(datagram, source, now_ns=at_ns, under_load=under_load)


def established(site: Handshaker, datagram: bytes, source: bytes = EDGE_AT) -> Established:
    outcome = receive(site, datagram, source)
    assert isinstance(outcome, Established)
    return outcome


def complete(edge: Handshaker, hub: Handshaker, at_ns: int = NOW_NS) -> tuple[Established, Established]:
    """Run one handshake begun by ``edge``."""
    at_hub = established(hub, edge.initiate(hub.public, now_ns=at_ns))
    assert at_hub.reply is not None
    return established(edge, at_hub.reply, HUB_AT), at_hub


# In order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("psk", [None, bytes(range(32))])
def test_two_messages_give_both_sides_matching_keys(psk: bytes | None) -> None:
    edge, hub = pair(edge_psk=psk, hub_psk=psk)
    at_edge, at_hub = complete(edge, hub)
    ours, theirs = at_edge.keys, at_hub.keys
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
    assert ours.send_key != ours.receive_key
    assert (ours.local_index, ours.remote_index) == (theirs.remote_index, theirs.local_index)
    assert (ours.peer_public, theirs.peer_public) == (hub.public, edge.public)
    assert (ours.peer_incarnation, theirs.peer_incarnation) == (HUB_INCARNATION, EDGE_INCARNATION)
    assert (ours.initiator, theirs.initiator) == (True, False)
    assert at_edge.reply is None


def test_bytes_the_kernel_stamps_may_change_on_the_way() -> None:
    edge, hub = pair()

    def stamp(datagram: bytes) -> bytes:
        return datagram[:1] + b"\x03" + datagram[2:16] + os.urandom(8) + datagram[24:]

    at_hub = established(hub, stamp(edge.initiate(hub.public, now_ns=NOW_NS)))
    assert at_hub.reply
    established(edge, stamp(at_hub.reply))


def test_every_handshake_has_keys_and_indices_of_its_own() -> None:
    edge, hub = pair()
    seen: set[bytes | int] = set()
    for number in range(5):
        at_edge, at_hub = complete(edge, hub, NOW_NS + number)
        seen |= {at_edge.keys.send_key, at_edge.keys.receive_key, at_edge.keys.local_index}
        seen |= {at_hub.keys.local_index}
        edge.release_index(at_edge.keys.local_index)
        hub.release_index(at_hub.keys.local_index)
    assert len(seen) == 20


def test_both_sides_may_begin_at_once() -> None:
    edge, hub = pair()
    from_edge = edge.initiate(hub.public, now_ns=NOW_NS)
    from_hub = hub.initiate(edge.public, now_ns=NOW_NS)
    at_hub, at_edge = established(hub, from_edge), established(edge, from_hub)
    assert at_hub.reply and at_edge.reply
    assert established(edge, at_hub.reply).keys.send_key == at_hub.keys.receive_key
    assert established(hub, at_edge.reply).keys.send_key == at_edge.keys.receive_key


# Strangers and forgeries ---------------------------------------------------------------------------


def test_who_does_not_know_our_public_key_is_turned_away_by_mac1() -> None:
    edge, hub = pair()
    stranger = make(3, 3)
    stranger.set_peer(edge.public)
    with pytest.raises(HandshakeError, match="MAC1"):
        receive(hub, stranger.initiate(edge.public, now_ns=NOW_NS))


def test_who_is_not_configured_is_refused() -> None:
    _, hub = pair()
    stranger = make(3, 3)
    stranger.set_peer(hub.public)
    with pytest.raises(HandshakeError, match="no peer is configured"):
        receive(hub, stranger.initiate(hub.public, now_ns=NOW_NS))


def test_a_removed_peer_is_a_stranger_and_leaves_no_index() -> None:
    edge, hub = pair()
    complete(edge, hub)
    init = edge.initiate(hub.public, now_ns=NOW_NS + 1)
    hub.remove_peer(edge.public)
    assert repr(hub) == "Handshaker(peers=0, indices=0)"
    with pytest.raises(HandshakeError, match="no peer is configured"):
        receive(hub, init)
    hub.remove_peer(edge.public)


def test_a_wrong_preshared_key_gives_the_initiator_nothing() -> None:
    edge, hub = pair(edge_psk=bytes([1]) * 32, hub_psk=bytes([2]) * 32)
    at_hub = established(hub, edge.initiate(hub.public, now_ns=NOW_NS))
    assert at_hub.reply
    with pytest.raises(HandshakeError, match="tag"):
        receive(edge, at_hub.reply)


def test_a_new_preshared_key_ends_the_pending_handshake_and_the_same_one_does_not() -> None:
    edge, hub = pair()
    edge.initiate(hub.public, now_ns=NOW_NS)
    edge.set_peer(hub.public, None)
    assert edge.pending_index(hub.public)
    edge.set_peer(hub.public, bytes([7]) * 32)
    assert edge.pending_index(hub.public) is None


def test_the_senders_index_cannot_be_exchanged_on_the_way() -> None:
    """MAC1 alone would not stop somebody who knows the public key: the prologue does."""
    edge, hub = pair()
    init = bytearray(edge.initiate(hub.public, now_ns=NOW_NS))
    init[24] ^= 1
    init[-32:-16] = mac(mac1_key(hub.public), bytes(init), len(init) - 32)
    with pytest.raises(HandshakeError, match="tag"):
        receive(hub, bytes(init))


@pytest.mark.parametrize("position", [*range(4, 16), *range(24, RESPONSE_BYTES)])
def test_a_forged_response_changes_nothing_and_the_real_one_still_counts(position: int) -> None:
    edge, hub = pair()
    at_hub = established(hub, edge.initiate(hub.public, now_ns=NOW_NS))
    assert at_hub.reply
    forged = bytearray(at_hub.reply)
    forged[position] ^= 0x40
    with pytest.raises((HandshakeError, WireError)):
        receive(edge, bytes(forged))
    assert established(edge, at_hub.reply).keys.send_key == at_hub.keys.receive_key


def test_a_forged_response_with_a_right_mac1_changes_nothing_either() -> None:
    """Who has seen the INIT and knows our public key gets past MAC1, but no further."""
    edge, hub = pair()
    at_hub = established(hub, edge.initiate(hub.public, now_ns=NOW_NS))
    assert at_hub.reply
    forged = at_hub.reply[:24] + Random(5).randbytes(RESPONSE_BYTES - 24 - 16)
    forged += mac(mac1_key(edge.public), forged, len(forged))
    with pytest.raises(HandshakeError, match="tag"):
        receive(edge, forged)
    established(edge, at_hub.reply)


def test_a_response_counts_once() -> None:
    edge, hub = pair()
    at_hub = established(hub, edge.initiate(hub.public, now_ns=NOW_NS))
    assert at_hub.reply
    established(edge, at_hub.reply)
    with pytest.raises(HandshakeError, match="none is pending"):
        receive(edge, at_hub.reply)


def test_a_response_to_an_earlier_attempt_is_too_late() -> None:
    edge, hub = pair()
    late = established(hub, edge.initiate(hub.public, now_ns=NOW_NS))
    edge.initiate(hub.public, now_ns=NOW_NS + 1)
    assert late.reply
    with pytest.raises(HandshakeError, match="none is pending"):
        receive(edge, late.reply)


def test_beginning_with_an_unknown_or_senseless_peer_is_refused_without_a_trace() -> None:
    edge, _ = pair()
    with pytest.raises(HandshakeError, match="unknown peer"):
        edge.initiate(bytes([5]) * 32, now_ns=NOW_NS)
    edge.set_peer(bytes(32))
    with pytest.raises(HandshakeError, match="all-zero"):
        edge.initiate(bytes(32), now_ns=NOW_NS)
    assert repr(edge) == "Handshaker(peers=2, indices=0)"


# Replays -----------------------------------------------------------------------------------------------


def test_a_copy_of_the_newest_init_gets_the_same_answer_and_makes_no_session() -> None:
    edge, hub = pair()
    init = edge.initiate(hub.public, now_ns=NOW_NS)
    first = established(hub, init)
    for source in (EDGE_AT, STRANGER_AT):
        assert receive(hub, init, source) == Reply(first.reply or b"")
    assert repr(hub) == "Handshaker(peers=1, indices=1)"


def test_an_older_init_is_refused() -> None:
    edge, hub = pair()
    old = edge.initiate(hub.public, now_ns=NOW_NS)
    established(hub, old)
    complete(edge, hub, NOW_NS + 1)
    with pytest.raises(HandshakeError, match="replayed"):
        receive(hub, old)


def test_an_init_overtaken_by_a_newer_one_is_refused() -> None:
    edge, hub = pair()
    overtaken = edge.initiate(hub.public, now_ns=NOW_NS)
    newer = edge.initiate(hub.public, now_ns=NOW_NS + 1)
    established(hub, newer)
    with pytest.raises(HandshakeError, match="replayed"):
        receive(hub, overtaken)


def test_a_clock_that_stands_still_or_runs_back_stops_no_handshake() -> None:
    edge, hub = pair()
    for now_ns in (NOW_NS, NOW_NS, NOW_NS - 10**9, 0):
        complete(edge, hub, now_ns)


def test_a_restarted_peer_is_heard_though_its_clock_began_anew() -> None:
    edge, hub = pair()
    complete(edge, hub)
    reborn = make(1, EDGE_INCARNATION + 1)
    reborn.set_peer(hub.public)
    assert complete(reborn, hub, 5)[1].keys.peer_incarnation == EDGE_INCARNATION + 1


def test_replay_memory_survives_our_own_new_data_plane_and_the_new_incarnation_is_told() -> None:
    edge, hub = pair()
    init = edge.initiate(hub.public, now_ns=NOW_NS)
    established(hub, init)
    hub.restart(77)
    assert repr(hub) == "Handshaker(peers=1, indices=0)"
    with pytest.raises(HandshakeError, match="replayed"):
        receive(hub, init)
    assert complete(edge, hub, NOW_NS + 1)[0].keys.peer_incarnation == 77


def test_many_incarnations_fill_a_bounded_memory() -> None:
    hub = make(2, HUB_INCARNATION)
    for incarnation in range(INCARNATIONS_MAX + 10):
        edge = make(1, incarnation)
        edge.set_peer(hub.public)
        hub.set_peer(edge.public)
        at_hub = complete(edge, hub)[1]
        hub.release_index(at_hub.keys.local_index)
    (peer,) = hub._peers.values()
    assert list(peer.numbers) == list(range(10, INCARNATIONS_MAX + 10))


# Bounds ------------------------------------------------------------------------------------------------


def test_releasing_an_index_nobody_has_changes_nothing() -> None:
    edge, hub = pair()
    edge.initiate(hub.public, now_ns=NOW_NS)
    edge.release_index(1)
    assert repr(edge) == "Handshaker(peers=1, indices=1)"


def test_indices_per_peer_are_bounded_and_one_released_is_one_free() -> None:
    edge, hub = pair()
    taken = [complete(edge, hub, NOW_NS + number)[1].keys for number in range(INDICES_PER_PEER_MAX)][-1]
    for index in list(edge._owners):
        edge.release_index(index)
    init = edge.initiate(hub.public, now_ns=NOW_NS + 100)
    with pytest.raises(HandshakeError, match="kept already"):
        receive(hub, init)
    hub.release_index(taken.local_index)
    established(hub, init)


def test_a_new_data_plane_has_all_indices_to_give_again() -> None:
    edge, hub = pair()
    for number in range(2 * INDICES_PER_PEER_MAX):
        if number == INDICES_PER_PEER_MAX:
            edge.restart(1)
            hub.restart(2)
        complete(edge, hub, NOW_NS + number)


def test_beginning_again_and_again_takes_one_index() -> None:
    edge, hub = pair()
    for number in range(100):
        edge.initiate(hub.public, now_ns=NOW_NS + number)
    assert repr(edge) == "Handshaker(peers=1, indices=1)"


def test_a_flood_of_strangers_leaves_nothing_behind() -> None:
    edge, hub = pair()
    before = repr(hub)
    for number in range(50):
        stranger = make(100 + number, number)
        stranger.set_peer(hub.public)
        with pytest.raises(HandshakeError):
            receive(hub, stranger.initiate(hub.public, now_ns=NOW_NS))
    assert repr(hub) == before
    complete(edge, hub)


def test_indices_are_never_zero_and_never_twice() -> None:
    offers = iter([0, 5, 5, 0, 6])
    filler = count()

    def entropy(size: int) -> bytes:
        return next(offers).to_bytes(4, "big") if size == 4 else next(filler).to_bytes(size, "big")

    site = make(9, 9, entropy)
    one, two = make(1, 1), make(2, 2)
    site.set_peer(one.public)
    site.set_peer(two.public)
    site.initiate(one.public, now_ns=NOW_NS)
    site.initiate(two.public, now_ns=NOW_NS)
    assert (site.pending_index(one.public), site.pending_index(two.public)) == (5, 6)


def test_broken_entropy_is_an_error_and_no_endless_loop() -> None:
    site = make(9, 9, bytes)
    site.set_peer(make(1, 1).public)
    with pytest.raises(HandshakeError, match="entropy is broken"):
        site.initiate(make(1, 1).public, now_ns=NOW_NS)


# Under load --------------------------------------------------------------------------------------------


def test_under_load_an_init_costs_a_cookie_first_and_then_completes() -> None:
    edge, hub = pair()
    init = edge.initiate(hub.public, now_ns=NOW_NS)
    cookie = receive(hub, init, under_load=True)
    assert isinstance(cookie, Reply)
    assert repr(hub) == "Handshaker(peers=1, indices=0)", "nothing is kept for an unproven address"
    again = receive(edge, cookie.datagram, HUB_AT)
    assert isinstance(again, Reply)
    assert again.datagram[:-16] == init[:-16], "the same INIT, with MAC2"
    at_hub = receive(hub, again.datagram, under_load=True)
    assert isinstance(at_hub, Established) and at_hub.reply
    assert established(edge, at_hub.reply).keys.send_key == at_hub.keys.receive_key


def test_a_cookie_of_one_address_is_worth_nothing_at_another() -> None:
    edge, hub = pair()
    cookie = receive(hub, edge.initiate(hub.public, now_ns=NOW_NS), under_load=True)
    assert isinstance(cookie, Reply)
    again = receive(edge, cookie.datagram)
    assert isinstance(again, Reply)
    elsewhere = receive(hub, again.datagram, STRANGER_AT, under_load=True)
    assert isinstance(elsewhere, Reply)
    assert Header.unpack(elsewhere.datagram).type == Type.COOKIE


def test_each_path_of_an_init_may_bring_a_cookie_but_no_more_than_that() -> None:
    edge, hub = pair()
    init = edge.initiate(hub.public, now_ns=NOW_NS)
    answers = []
    for number in range(COOKIES_PER_INIT_MAX + 1):
        cookie = receive(hub, init, b"path %d" % number, under_load=True)
        assert isinstance(cookie, Reply)
        answers.append(receive(edge, cookie.datagram))
    assert [type(answer) for answer in answers] == [Reply] * COOKIES_PER_INIT_MAX + [Nothing]


def test_a_forged_cookie_or_one_for_an_earlier_init_is_refused() -> None:
    edge, hub = pair()
    cookie = receive(hub, edge.initiate(hub.public, now_ns=NOW_NS), under_load=True)
    assert isinstance(cookie, Reply)
    for position in range(24, COOKIE_DATAGRAM_BYTES):
        forged = bytearray(cookie.datagram)
        forged[position] ^= 1
        with pytest.raises(HandshakeError):
            receive(edge, bytes(forged))
    edge.initiate(hub.public, now_ns=NOW_NS + 1)
    with pytest.raises(HandshakeError, match="none is pending"):
        receive(edge, cookie.datagram)


def test_index_zero_is_refused_from_a_peer_that_makes_right_macs() -> None:
    edge, hub = pair()
    init = bytearray(edge.initiate(hub.public, now_ns=NOW_NS))
    init[24:28] = bytes(4)
    init[-32:-16] = mac(mac1_key(hub.public), bytes(init), len(init) - 32)
    with pytest.raises(WireError, match="index 0"):
        receive(hub, bytes(init))


def test_no_key_shows_in_a_repr() -> None:
    edge, hub = pair(edge_psk=bytes([0x5A]) * 32, hub_psk=bytes([0x5A]) * 32)
    at_edge, _ = complete(edge, hub)
    edge.initiate(hub.public, now_ns=NOW_NS + 1)
    shown = repr(edge) + repr(at_edge) + repr(list(edge._peers.values()))
    for secret in (edge._private, bytes([0x5A]) * 32, at_edge.keys.send_key, at_edge.keys.receive_key):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
