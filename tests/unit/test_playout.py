"""Playout delay: evenly, so long after sending; what links do to the time between is smoothed away."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.playout import BASE_NS, Playout
from sdwan.core.reorder import HeldBytes
from tests.unit.lossy_world import Link, World
from tests.unit.packets import plain, udp

MS = 1_000_000
PLAYOUT_NS = 50 * MS
CLASSES = (ClassSpec("even", playout_ns=PLAYOUT_NS), ClassSpec("plain"))
OFFSET_US = 3_000_000_000
"""The sender's clock is somewhere else, and wraps."""


@dataclass
class Packet:
    counter: int
    bucket: int = 1
    bucket_sequence: int = 0
    rows: int = 1
    flags: int = 0
    size_bytes: int = 100


def playout(limit: int = 1 << 20) -> Playout:
    return Playout(CLASSES, HeldBytes(limit))


def stamp(sent_ns: int) -> int:
    return (sent_ns // 1000 + OFFSET_US) & 0xFFFFFFFF


def take(some: Playout, counter: int, sent_ns: int, came_ns: int, flags: int = 0) -> int:
    """Let a datagram come; return when it is due."""
    some.note(stamp(sent_ns), came_ns)
    due_ns = some.due_ns(flags, counter)
    if due_ns:
        some.hold(Packet(counter), due_ns)
    return due_ns


def test_jitter_is_smoothed_away():
    some = playout()
    dues = [take(some, n, n * 20 * MS, n * 20 * MS + (10 + n * 7 % 30) * MS) for n in range(20)]
    assert dues == [n * 20 * MS + 10 * MS + PLAYOUT_NS for n in range(20)]


def test_what_comes_too_late_goes_at_once():
    some = playout()
    take(some, 0, 0, 10 * MS)
    assert take(some, 1, 20 * MS, 200 * MS) == 200 * MS
    assert [item.counter for item in some.take_due(200 * MS)] == [0, 1]


def test_another_class_does_not_wait():
    some = playout()
    assert take(some, 0, 0, 10 * MS, flags=1) == 0
    assert some.held_now == 0


def test_what_was_sent_again_goes_before_its_successor():
    some = playout()
    take(some, 0, 0, 10 * MS)
    behind = take(some, 2, 40 * MS, 50 * MS)
    some.note(stamp(70 * MS), 80 * MS)
    again = some.due_ns(0, 1)
    assert again == behind


def test_what_was_made_whole_has_no_stamp_and_is_due_like_its_successor():
    some = playout()
    take(some, 0, 0, 10 * MS)
    behind = take(some, 2, 40 * MS, 50 * MS)
    some.note(None, 60 * MS)
    assert some.due_ns(0, 1) == behind
    some.note(None, 60 * MS)
    assert some.due_ns(0, 3) == 60 * MS + PLAYOUT_NS


def test_a_longer_way_becomes_the_least_after_a_while():
    some = playout()
    take(some, 0, 0, 10 * MS)
    later_ns = 2 * BASE_NS
    take(some, 1, later_ns, later_ns + 40 * MS)
    assert take(some, 2, later_ns + MS, later_ns + 41 * MS) == later_ns + 41 * MS + PLAYOUT_NS


@pytest.mark.parametrize("lie_us", [1, 1 << 20, 1 << 31, (1 << 32) - 1])
def test_a_wrong_stamp_delays_nothing_beyond_the_playout_delay(lie_us):
    some = playout()
    for n in range(50):
        came_ns = n * 20 * MS
        some.note((stamp(came_ns) + (lie_us if n % 3 else 0)) & 0xFFFFFFFF, came_ns)
        assert came_ns <= some.due_ns(0, n) <= came_ns + PLAYOUT_NS


def test_too_much_goes_before_its_time_and_the_memory_comes_back():
    some = playout(limit=500)
    for n in range(8):
        take(some, n, n * MS, n * MS)
    assert [item.counter for item in some.take_due(10 * MS)] == [0, 1, 2]
    some.drop_all()
    assert (some.held_now, some._held_bytes.total) == (0, 0)


@settings(deadline=None, max_examples=50)
@given(st.randoms(use_true_random=False))
def test_a_flow_keeps_its_order_whatever_the_stamps_say(rng: random.Random):
    some, held, came = playout(), [], []
    for n in range(60):
        now_ns = n * 10 * MS
        some.note(rng.randrange(1 << 32), now_ns)
        some.hold(Packet(n, bucket=n % 2), some.due_ns(0, n))
        held.append(n)
        came += some.take_due(now_ns)
    came += some.take_due(10**12)
    assert sorted(item.counter for item in came) == held
    for bucket in range(2):
        counters = [item.counter for item in came if item.bucket == bucket]
        assert counters == sorted(counters)


def test_over_links_of_unlike_delay_packets_come_out_as_evenly_as_they_went_in():
    world = World(Link(10 * MS), Link(30 * MS), burst_segments=1)
    spec = ClassSpec("even", recovery=Recovery.RESEND, playout_ns=60 * MS)
    start_ns, moments = world.now_ns, []
    for site in world.sites:
        site.peers[1].set_classes((spec,))
    for road in world._roads["a"]:
        road.stamp = lambda datagram, road=road, stamp=road.stamp: _at(world, stamp(datagram))
    for n in range(30):
        world.send(plain(udp(payload=bytes([n]) * 700)))
        for _ in range(10):
            world.pass_time(MS)
            moments += [world.now_ns] * (len(world.came) - len(moments))
    for _ in range(150):
        world.pass_time(MS)
        moments += [world.now_ns] * (len(world.came) - len(moments))
    assert len(moments) == 30
    gaps_ms = {(b - a) // MS for a, b in pairwise(moments[1:])}
    assert gaps_ms <= {9, 10, 11}, "once the least delay is known"
    assert (moments[-1] - start_ns) // MS in range(290 + 70 - 2, 290 + 70 + 3)
    world.close()


def _at(world: World, datagram: bytes) -> bytes:
    """Put the present time into a datagram's send stamp."""
    return datagram[:20] + (world.now_ns // 1000 & 0xFFFFFFFF).to_bytes(4, "big") + datagram[24:]
