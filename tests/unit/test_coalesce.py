"""Coalescing: only UDP packets that differ in nothing but payload and identification become one."""

from __future__ import annotations

import pytest

from sdwan.core.coalesce import PACKETS_MAX, Coalescer
from tests.unit import packets
from tests.unit.packets import A4, A6, B4, B6, pattern, udp

FLOW = object()


def view(packet: bytes) -> memoryview:
    return memoryview(packets.with_pseudo_sum(packet))


def streak(*some: bytes, owner: object = FLOW) -> tuple[Coalescer, list[bool]]:
    """Begin with the first packet, add the others; return the answers too."""
    coalescer = Coalescer()
    answers = [coalescer.begin(owner, view(some[0]))]
    answers += [coalescer.add(owner, view(packet)) for packet in some[1:]]
    return coalescer, answers


@pytest.mark.parametrize(("a", "b", "head"), [(A4, B4, 28), (A6, B6, 48)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("count", [1, 2, 64])
def test_alike_packets_become_one_super_packet(a, b, head, count):
    some = [udp(a, b, pattern(100, i)) for i in range(count)]
    coalescer, answers = streak(*some)
    assert all(answers)
    assert (coalescer.count, coalescer.head_bytes, coalescer.piece_bytes) == (count, head, 100)
    whole = bytes(coalescer.joined())
    field = packets.checksum_field(whole)
    assert int.from_bytes(whole[field : field + 2], "big") == packets.pseudo_sum(
        whole, 17, len(whole) - head + 8
    )
    cut = packets.segments(whole, 100)
    assert [packets.payload_of(packet) for packet in cut] == [packets.payload_of(packet) for packet in some]
    assert all(map(packets.is_sound, cut))


def test_identification_may_differ():
    some = [udp(payload=pattern(100, i), identification=7 * i) for i in range(3)]
    assert streak(*some)[1] == [True] * 3


@pytest.mark.parametrize(
    "other",
    [
        udp(payload=pattern(101)),
        udp(payload=pattern(99)),
        udp(payload=pattern(100), tos=8),
        udp(payload=pattern(100), fragment=0),
    ],
    ids=["longer", "shorter", "another class", "may be fragmented"],
)
def test_what_differs_in_its_header_does_not_join(other):
    coalescer, answers = streak(udp(payload=pattern(100)), other)
    assert answers == [True, False]
    assert bytes(coalescer.only()) == bytes(view(udp(payload=pattern(100)))), "and leaves it as it was"


def test_another_flow_does_not_join():
    coalescer, _ = streak(udp(payload=pattern(100)))
    assert not coalescer.add(object(), view(udp(payload=pattern(100))))


def test_a_streak_is_bounded_in_packets():
    _, answers = streak(*[udp(payload=pattern(100))] * (PACKETS_MAX + 1))
    assert answers == [True] * PACKETS_MAX + [False]


def test_a_streak_is_bounded_in_bytes():
    coalescer, answers = streak(*[udp(payload=pattern(1400))] * PACKETS_MAX)
    assert not all(answers)
    assert len(coalescer.joined()) <= 65_535


@pytest.mark.parametrize(
    "packet",
    [
        packets.tcp(payload=pattern(100)),
        packets.ip(A4, B4, 17, packets.udp(payload=pattern(100))[20:], options=bytes([1] * 4)),
        udp(payload=pattern(100), fragment=0x2000),
        udp(payload=pattern(100), fragment=0x0010),
        packets.ip(A6, B6, 17, udp()[20:] + bytes(40), extensions=bytes([17, 0, 1, 4, 0, 0, 0, 0])),
        udp(payload=b"x"),
    ],
    ids=["TCP", "IP options", "first fragment", "last fragment", "IPv6 extension", "hardly any payload"],
)
def test_what_does_not_qualify_begins_nothing(packet):
    coalescer = Coalescer()
    assert not coalescer.begin(FLOW, memoryview(packet))
    assert coalescer.count == 0


def test_after_a_streak_the_next_begins_afresh():
    coalescer, _ = streak(udp(payload=pattern(100)), udp(payload=pattern(100)))
    coalescer.joined()
    assert not coalescer.add(FLOW, view(udp(payload=pattern(100)))), "the former streak has ended"
    assert coalescer.begin(FLOW, view(udp(payload=pattern(50))))
    assert (coalescer.count, coalescer.packet_bytes) == (1, 78)
