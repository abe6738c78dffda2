"""Inward: what opened datagrams tell: control messages, life and address of each path, end of a session."""

from __future__ import annotations

import pytest

from sdwan.core import messages
from sdwan.core.replay import CONTROL_WINDOW
from sdwan.core.wire import Type
from sdwan.model import PATHS_PER_PEER, DropReason
from tests.unit.packets import pattern, plain, tso, udp
from tests.unit.walk import HOLE_WAIT_NS, MS, SOURCE, Pair, Road, coalesced, flipped, header, packets_of

# CONTROL ------------------------------------------------------------------------------------------------


def control(pair: Pair, message: messages.Message, path: int = 3) -> bytes:
    """Seal a message at site a and stamp it with a path."""
    return Road(path).stamp(pair.a.sessions[7].seal_control(messages.encode(message), 0xFF))


def test_control_goes_up_opened_once(pair):
    keepalive = messages.Keepalive(3, 0)
    datagram = control(pair, keepalive)
    pair.b.peers[1].arrivals[3].endpoint = SOURCE
    pair.b.receive([datagram])
    pair.b.receive([datagram])
    assert pair.b.control == [(3, messages.encode(keepalive))]
    assert pair.b.drops == {DropReason.REPLAYED: 1}


def test_control_and_data_count_for_themselves(pair):
    pair.b.receive(pair.a.send(plain(udp())))
    pair.b.receive([control(pair, messages.Close(0))])
    assert not pair.b.drops, "both carry counter 0"


def test_control_from_a_path_that_cannot_be_is_counted(pair):
    pair.b.receive([control(pair, messages.Close(0), path=PATHS_PER_PEER)])
    assert pair.b.control == []
    assert pair.b.drops == {DropReason.MALFORMED: 1}


def test_a_control_counter_far_back_is_replayed(pair):
    old = control(pair, messages.Close(0))
    pair.a.sessions[7].control_counter += CONTROL_WINDOW
    pair.b.receive([control(pair, messages.Close(0))])
    pair.b.receive([old])
    assert pair.b.drops == {DropReason.REPLAYED: 1}


# Who is there, and where ----------------------------------------------------------------------------------


def test_the_first_opened_datagram_confirms_a_session_once(pair):
    pair.b.receive([header(Type.SINGLE) + bytes(40)])
    assert pair.b.confirmed == []
    pair.b.receive(pair.a.send(tso(pattern(3000), 1000).frame))
    pair.b.receive(pair.a.send(plain(udp())))
    assert pair.b.confirmed == [9]


def test_what_was_opened_is_counted_per_path(pair):
    road = Road(path=2, sequence=100)
    datagrams = road.carry(pair.a.send(tso(pattern(3000), 1000).frame, plain(udp())))
    pair.clock.now_ns += 5
    pair.b.receive(*coalesced(datagrams))
    seen = pair.b.peers[1].arrivals[2]
    assert (seen.opened, seen.opened_bytes) == (4, sum(map(len, datagrams)))
    assert (seen.last_sequence, seen.last_send_us, seen.last_ns) == (103, 1030, pair.clock.now_ns)
    assert not any(a.opened for path, a in enumerate(pair.b.peers[1].arrivals) if path != 2)


def test_a_forged_datagram_is_a_sign_of_no_life(pair):
    pair.b.receive([flipped(datagram, 30) for datagram in Road(1).carry(pair.a.send(plain(udp())))])
    assert pair.b.peers[1].arrivals[1].opened == 0


def test_the_newest_link_sequence_stays_when_an_older_one_comes_late(pair):
    first, second = Road(0, sequence=0xFFFFFFFF).carry(pair.a.send(plain(udp())) + pair.a.send(plain(udp())))
    pair.b.receive([second])
    pair.b.receive([first])
    assert pair.b.peers[1].arrivals[0].last_sequence == 0


def test_a_new_address_is_reported_now_and_then(pair):
    peer = pair.b.peers[1]
    peer.arrivals[0].endpoint = SOURCE
    road, moved = Road(), ("203.0.113.7", 9)

    def arrive(source):
        pair.b.control.clear()
        pair.b.receive(road.carry(pair.a.send(plain(udp()))), source=source)
        return pair.b.control

    assert arrive(SOURCE) == []
    assert arrive(moved) == [(0, b"")]
    assert arrive(moved) == [], "not for every datagram"
    pair.clock.now_ns += 101 * MS
    assert arrive(moved) == [(0, b"")]


def test_a_replayed_datagram_is_no_word_of_a_new_address(pair):
    """Anyone can send a recorded datagram from anywhere; it must not use up the right to be reported."""
    pair.b.peers[1].arrivals[0].endpoint = SOURCE
    old = Road().carry(pair.a.send(plain(udp()), tso(pattern(3000), 1000).frame))
    pair.b.receive(*coalesced(old))
    pair.b.receive(*coalesced(old), source=("203.0.113.66", 6))
    assert pair.b.control == []


# Counters and epochs ----------------------------------------------------------------------------------------


def test_order_and_replay_go_on_over_the_end_of_32_bits(pair):
    pair.a.peers[1].next_counter = (1 << 32) - 20
    pair.b.peers[1].window.accept((1 << 32) - 21)
    whole = [tso(pattern(9500, i), 1000) for i in range(5)]
    datagrams = [datagram for one in whole for datagram in pair.a.send(one.frame)]
    assert packets_of(pair.b.receive(*coalesced(datagrams, 7))) == [p for one in whole for p in one.packets]
    assert pair.b.receive(*coalesced(datagrams)) == []
    assert pair.b.drops == {DropReason.REPLAYED: 50}
    assert pair.b.peers[1].window.top == (1 << 32) + 29


@pytest.mark.parametrize("lag_ms", [0, 25, 300])
def test_a_rekey_between_unlike_paths_loses_nothing(lag_ms):
    """Path 1 is ``lag_ms`` slower; the key changes while both are full. Old and new arrive mixed."""
    pair = Pair(burst_segments=4)
    roads, arriving, expected = [Road(0), Road(1)], [], []
    for tick in range(40):
        if tick == 20:
            pair.install(70, 90, (bytes(32), bytes(range(1, 33))))
        whole = tso(pattern(8000, tick), 1000)
        expected += whole.packets
        bursts = coalesced(pair.a.send(whole.frame), rows_max=4)
        for path, burst in enumerate(bursts):
            arriving.append((tick * 10 + lag_ms * path, roads[path].carry(burst)))
    came, start_ns = [], pair.clock.now_ns
    for at_ms, burst in sorted(arriving, key=lambda item: item[0]):
        pair.clock.now_ns = max(pair.clock.now_ns, start_ns + at_ms * MS)
        came += packets_of(pair.b.settle()) + packets_of(pair.b.receive(burst))
    pair.clock.now_ns += 100 * MS
    for _ in range(20):
        pair.clock.now_ns += 2 * MS
        came += packets_of(pair.b.settle())
    assert sorted(came) == sorted(expected)
    assert not pair.b.drops
    if lag_ms < HOLE_WAIT_NS // MS:
        assert came == expected, "and in order, when the wait for holes covers the lag"
    pair.close()


def test_a_session_that_was_forgotten_is_unknown(pair):
    datagrams = pair.a.send(tso(pattern(3000), 1000).frame)
    del pair.b.sessions[9]
    assert pair.b.receive(datagrams) == []
    assert pair.b.drops == {DropReason.UNKNOWN_SESSION: 3}
