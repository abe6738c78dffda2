"""Lose nothing: over links that lose, repeat and go dark, what was sent comes out, in order per flow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sdwan.core import messages
from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.wire import Header, Type
from sdwan.edge.resending import NACKED_MAX
from sdwan.model import PATH_PIN
from tests.unit.lossy_world import Link, World
from tests.unit.packets import by_flow, pattern, plain, tso, udp, without_identification
from tests.unit.walk import MS, REPAIR_WAIT_NS, Road

REST_NS = 400 * MS
"""After this nothing is under way any more."""


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


def traffic(world: World, rounds: int, pace_ns: int = 2 * MS) -> list[bytes]:
    """Let three flows of packets and super-packets cross, a round at a time; return what was sent."""
    sent: list[bytes] = []
    for number in range(rounds):
        some = [
            udp(payload=pattern(200 + number % 7, number * 8 + flow), ports=(flow, 9)) for flow in range(2)
        ]
        big = tso(pattern(5 * 1000 - 7, number), 1000, ports=(7, 80))
        world.send(*map(plain, some), big.frame)
        sent += [*some, *big.packets]
        world.pass_time(pace_ns)
    return sent


def keepalive(world: World) -> None:
    """Let site a say how far it has come, on each link."""
    a = world.pair.a
    for path in range(len(world.links)):
        word = messages.encode(messages.Keepalive(path, a.peers[1].next_counter))
        world._carry(a, [a.sessions[7].seal_control(word, PATH_PIN | path)])


def is_complete(world: World, sent: list[bytes]) -> bool:
    came = [without_identification(packet) for packet in world.came]
    return sorted(came) == sorted(map(without_identification, sent))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("loss", "delays_ms"),
    [(0.02, (10, 10)), (0.1, (10, 12)), (0.1, (5, 25))],
    ids=["2 %", "10 %", "10 %, 5/25 ms"],
)
def test_what_links_lose_is_sent_again_and_comes_out_in_order(worlds, seed, loss, delays_ms):
    world = World(*(Link(ms * MS, loss, repeats=0.01) for ms in delays_ms), seed=seed, burst_segments=3)
    worlds.append(world)
    for site in world.sites:
        site.peers[1].set_waits(30 * MS, 40 * MS)
    sent = traffic(world, 150)
    keepalive(world)
    world.pass_time(REST_NS)
    a, b = (site.peers[1] for site in world.sites)
    assert a.resent > 0 and b.nacks_sent > 0 and b.window.revived > 0
    if loss <= 0.02:
        assert is_complete(world, sent)
        assert by_flow(world.came) == by_flow(sent)
    missing = len(sent) - len(world.came)
    assert missing <= len(sent) * loss**3 * 2 + 1, "three times asked for, three times lost"
    assert a.resent <= 3 * loss * len(sent) * 1.5


def test_clean_links_cost_nothing(worlds):
    world = World(Link(10 * MS), Link(10 * MS))
    worlds.append(world)
    sent = traffic(world, 50)
    world.pass_time(REST_NS)
    assert is_complete(world, sent)
    assert (world.pair.a.peers[1].resent, world.pair.b.peers[1].nacks_sent) == (0, 0)
    assert not world.pair.b.delivery.anything_waits, "and nobody is woken for it"


def test_the_last_packet_of_all_is_missed_when_the_sender_tells_of_it(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    first, last = (udp(payload=bytes([n]) * 50) for n in range(2))
    world.send(plain(first))
    world.links[0].is_dark = True
    world.send(plain(last))
    world.links[0].is_dark = False
    world.pass_time(100 * MS)
    assert world.came == [first]
    keepalive(world)
    world.pass_time(100 * MS)
    assert world.came == [first, last]


@pytest.mark.parametrize("ends_ms", [60, 150])
def test_a_blackout_that_control_notices_loses_nothing(worlds, ends_ms):
    world = World(Link(10 * MS), Link(15 * MS), burst_segments=4)
    worlds.append(world)
    a = world.pair.a
    for site in world.sites:
        site.peers[1].set_waits(30 * MS, 60 * MS)
    sent = traffic(world, 30)
    world.links[0].is_dark = True
    last_named = world._roads["a"][0].sequence - 1
    sent += traffic(world, ends_ms // 2)
    a.resender.view.weights["inverse"][:, 0] = 0
    before = len(a.resender.view.ring.sent)
    a.resender.suspect(a.peers[1], 0, last_named, world.now_ns)
    world._take(a, None)
    at_once = [s.counter for s in a.resender.view.ring.sent[before:]]
    world._choose = lambda: 1  # the kernel, too, has new weights
    sent += traffic(world, 30)
    world.pass_time(REST_NS)
    assert is_complete(world, sent)
    lost = {s.counter for s in a.resender.view.ring.sent if s.path == 0 and s.sequence > last_named}
    again = [s for s in a.resender.view.ring.sent if s.path == 1 and s.counter in lost]
    assert {s.counter for s in again} == lost
    assert at_once and at_once == sorted(at_once), "in the order it left"


def test_a_class_without_recovery_is_neither_kept_nor_waited_for(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    for site in world.sites:
        site.peers[1].set_classes((ClassSpec("plain", recovery=Recovery.NONE),))
    packets = [udp(payload=bytes([n]) * 700) for n in range(3)]
    world.send(plain(packets[0]))
    world.links[0].is_dark = True
    world.send(plain(packets[1]))
    world.links[0].is_dark = False
    world.send(plain(packets[2]))
    world.pass_time(11 * MS)
    assert world.came == [packets[0], packets[2]]
    assert world.pair.a.peers[1].kept.size_bytes == 0
    world.pass_time(REST_NS)
    assert world.pair.a.peers[1].resent == 0


# Which path ---------------------------------------------------------------------------------------------


def lose_one(world: World) -> None:
    """Let one datagram on path 1 be lost, and others around it arrive."""
    world._choose = lambda: 1
    world.send(plain(udp(payload=bytes(700))))
    world.links[1].is_dark = True
    world.send(plain(udp(payload=bytes(701))))
    world.links[1].is_dark = False


def resends_of(world: World, counter: int) -> list[int]:
    return [s.path for s in world.pair.a.resender.view.ring.sent if s.counter == counter][1:]


def test_a_path_proven_to_go_on_may_carry_what_it_lost(worlds):
    world = World(Link(50 * MS), Link(10 * MS))
    worlds.append(world)
    lose_one(world)
    world.send(plain(udp(payload=bytes(702))))
    world.pass_time(60 * MS)
    assert resends_of(world, 1) == [1], "it is the faster one, and has delivered counter 2"
    assert len(world.came) == 3


def test_a_path_that_has_delivered_nothing_since_does_not(worlds):
    world = World(Link(50 * MS), Link(10 * MS))
    worlds.append(world)
    world._choose = lambda: 0
    world.send(plain(udp(payload=bytes(699))))
    world.pass_time(51 * MS)
    lose_one(world)
    world.links[1].is_dark = True
    world._choose = lambda: 0
    world.send(plain(udp(payload=bytes(702))))
    world.pass_time(300 * MS)
    assert resends_of(world, 2)[0] == 0
    assert len(world.came) == 4


def test_resends_wait_while_the_path_has_a_long_queue(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    a = world.pair.a
    world.links[0].is_dark = True
    world.send(plain(udp(payload=bytes(700))))
    a.resender.view.busy["until_ns"][:] = world.now_ns + 50 * MS
    a.resender.asked(a.peers[1], messages.Nack(0, True, ((0, 1),)), world.now_ns)
    assert (a.peers[1].resent, a.resender.waiting) == (0, True)
    world.pass_time(31 * MS)
    assert (a.peers[1].resent, a.resender.waiting) == (1, False)


# A peer that lies ----------------------------------------------------------------------------------------


def test_what_is_sent_again_are_the_same_sealed_bytes_pinned(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    a = world.pair.a
    original = a.send(tso(pattern(5000), 1000).frame)
    a.resender.asked(a.peers[1], messages.Nack(0, True, ((1, 3),)), world.now_ns)
    again = a.senders[1].datagrams
    assert a.senders[1].bursts[-1] == 3, "neighbours leave as one burst"
    assert [d[4:16] + d[24:] for d in again] == [d[4:16] + d[24:] for d in original[1:4]]
    assert {d[1] for d in again} == {PATH_PIN | 0}


def test_requests_without_end_cost_no_more_than_was_sent(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    a = world.pair.a
    sent_bytes = sum(map(len, a.send(*[tso(pattern(60_000, n), 1200).frame for n in range(20)])))
    top = a.peers[1].next_counter
    for _ in range(200):
        for ranges in (((0, 0xFFFF),) * 128, ((top, 0xFFFF),), ((0x8000_0000, 5), (0xFFFF_FFF0, 0xFFFF))):
            a.resender.asked(a.peers[1], messages.Nack(0, True, ranges), world.now_ns)
        world.pair.clock.now_ns += REPAIR_WAIT_NS
        a.resender.pump(world.now_ns)
    assert 0 < a.peers[1].resent_bytes <= sent_bytes
    assert NACKED_MAX <= 1 << 13


def test_a_malformed_request_is_counted_and_goes_nowhere(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    a, b = world.sites
    b.receive([Road().stamp(a.sessions[7].seal_control(bytes([messages.Nack.KIND, 0, 0, 9]), 0xFF))])
    assert b.control in ([], [(0, b"")])
    assert sum(b.drops.values()) == 1


def test_requests_do_not_reach_control(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    a, b = world.sites
    a.peers[1].arrivals[0].endpoint = ("192.0.2.1", 4510)
    nack = messages.encode(messages.Nack(0, True, ((0, 1),)))
    a.receive([Road().stamp(b.sessions[9].seal_control(nack, 0xFF))])
    assert a.control == []
    assert a.peers[1].nacks_received == 1


def test_the_kernel_chooses_where_its_maps_cannot_be_seen(worlds):
    world = World(Link(10 * MS))
    worlds.append(world)
    a = world.pair.a
    a.send(plain(udp(payload=bytes(700))))
    a.resender.view = None
    a.resender.asked(a.peers[1], messages.Nack(0, False, ((0, 1),)), world.now_ns)
    header = Header.unpack(a.senders[1].datagrams[0])
    assert (header.path, header.type) == (0xFF, Type.SINGLE)
