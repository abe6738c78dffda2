"""Packing: what is no super-packet is put together, and comes out as it went in, in the order of its flow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core import wire
from sdwan.core.wire import Header, Type
from tests.unit import packets
from tests.unit.packets import (
    A4,
    A6,
    B4,
    B6,
    by_flow,
    pattern,
    plain,
    tcp,
    tso,
    udp,
    unfinished,
    uso,
    without_identification,
)
from tests.unit.walk import Pair, Road, coalesced, packets_of


def types(datagrams: list[bytes]) -> list[Type]:
    return [Type(Header.unpack(datagram).type) for datagram in datagrams]


def test_large_packets_of_equal_size_share_a_burst_and_small_ones_a_datagram(pair):
    large = [tcp(payload=pattern(1000, i), ports=(i, 80)) for i in range(5)]
    small = [tcp(payload=pattern(50, i), ports=(i, 80)) for i in range(5)]
    assert pair.crossing(*map(plain, large), *map(plain, small)) == large + small
    assert pair.a.senders[1].bursts == [5, 1]


def test_nothing_waits_for_company(pair):
    assert types(pair.a.send(plain(udp(payload=b"one")))) == [Type.CONTAINER]
    assert types(pair.a.send(unfinished(udp(payload=pattern(1000))))) == [Type.SINGLE]
    assert types(pair.a.send(unfinished(udp(payload=pattern(100))))) == [Type.CONTAINER]


# UDP packets that travel as one ----------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(A4, B4), (A6, B6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(("payload_bytes", "kind"), [(100, Type.BUNDLE), (1200, Type.SUPER)])
@pytest.mark.parametrize("count", [2, 13, 14, 63, 64])
def test_a_streak_of_equal_udp_packets_is_sent_and_written_as_one(pair, a, b, payload_bytes, kind, count):
    streak = [udp(a, b, pattern(payload_bytes, i)) for i in range(count)]
    datagrams = pair.a.send(*map(unfinished, streak))
    assert set(types(datagrams)) == {kind}
    frames = pair.b.receive(*coalesced(Road().carry(datagrams)))
    assert len(frames) <= 2
    came = packets_of(frames)
    assert all(map(packets.is_sound, came))
    assert [without_identification(p) for p in came] == [without_identification(p) for p in streak]


@pytest.mark.parametrize(
    "other",
    [
        {"payload": pattern(101)},
        {"ports": (1, 2)},
        {"tos": 0x10},
        {"destination": "10.2.0.9"},
    ],
    ids=["longer", "another flow", "another class", "another address"],
)
def test_only_alike_packets_share_a_header(pair, other):
    fields = {"payload": pattern(100, 1), **other}
    mixed = [udp(payload=pattern(100)), udp(payload=pattern(100)), udp(**fields), udp(payload=pattern(100))]
    came = pair.crossing(*map(unfinished, mixed))
    assert sorted(map(without_identification, came)) == sorted(map(without_identification, mixed))


def test_a_checksum_that_was_broken_elsewhere_is_not_healed(pair):
    broken = [
        packet[:27] + bytes([packet[27] ^ 1]) + packet[28:] for packet in [udp(payload=pattern(100))] * 5
    ]
    assert pair.crossing(*map(plain, broken)) == broken


def test_the_smallest_bundles_on_the_largest_paths():
    pair = Pair(datagram_bytes=8972)
    streak = [udp(payload=bytes([i]) * 21) for i in range(64)]
    came = pair.crossing(*map(unfinished, streak))
    assert [without_identification(p) for p in came] == [without_identification(p) for p in streak]


# Everything together ----------------------------------------------------------------------------------

payload_sizes = st.sampled_from([0, 1, 21, 60, 100, 101, 571, 572, 573, 700, 1000, 1352])
flows = st.integers(0, 2)
singles = st.tuples(
    st.sampled_from([tcp, udp]), st.sampled_from([(A4, B4), (A6, B6)]), flows, payload_sizes, st.booleans(),
)  # fmt: skip
supers = st.tuples(
    st.sampled_from([tso, uso]), st.sampled_from([(A4, B4), (A6, B6)]), flows, st.integers(1, 40),
    st.sampled_from([21, 100, 500, 700, 1000, 1352]),
)  # fmt: skip


def build(items: list[tuple]) -> tuple[list[bytes], list[bytes]]:
    """Return frames and the packets they stand for; each payload is told apart by its number."""
    frames, expected = [], []
    for number, (make, ends, flow, size, last) in enumerate(items):
        ports = (1000 + flow, 80)
        if make in (tso, uso):
            whole = make(pattern(size * last - last // 3, number), last, source=ends[0], destination=ends[1],
                         ports=ports)  # fmt: skip
            frames.append(whole.frame)
            expected += whole.packets
        else:
            size = max(size, 1)  # a bare acknowledgement needs no order
            packet = make(*ends, pattern(size, number), ports=ports)
            frames.append(unfinished(packet) if last else plain(packet))
            expected.append(packet)
    return frames, expected


@settings(deadline=None, max_examples=150)
@given(items=st.lists(st.one_of(singles, supers), min_size=1, max_size=14), burst=st.sampled_from([1, 3, 44]))
def test_whatever_the_tun_hands_over_in_one_round_arrives_once_and_in_order_per_flow(items, burst):
    pair = Pair(burst_segments=burst)
    try:
        frames, expected = build(items)
        datagrams = []
        for start in range(0, len(frames), 3):  # the pipe that plays the TUN holds no more
            with_more = frames[start : start + 3]
            datagrams += pair.a.send(*with_more)
        nonces = [datagram[wire.NONCE] for datagram in datagrams]
        assert len(set(nonces)) == len(nonces), "a nonce was used twice"
        came = packets_of(pair.b.receive(*coalesced(Road().carry(datagrams))))
        came += packets_of(pair.b.settle())
        assert not pair.a.drops
        assert not pair.b.drops
        assert not pair.b.peers[1].order.held, "a flow left in another order than it came"
        assert by_flow(came) == by_flow(expected)
    finally:
        pair.close()


def test_rows_that_wait_are_not_overwritten_by_a_streak_of_the_same_size(pair):
    waiting = [tcp(payload=pattern(960, i)) for i in range(3)]
    streak = [udp(payload=pattern(972, i)) for i in range(3)]
    assert len(waiting[0]) == len(streak[0])
    frames = [plain(packet) for packet in waiting] + [unfinished(packet) for packet in streak]
    assert by_flow(pair.crossing(*frames)) == by_flow(waiting + streak)


@pytest.mark.parametrize("size_bytes", [100, 1000])
@pytest.mark.parametrize("which", [{0}, {3}, {5}, {0, 3}, {1, 4}])
def test_a_flow_keeps_its_order_when_some_of_its_checksums_are_finished(pair, size_bytes, which):
    sent = [udp(payload=pattern(size_bytes, i)) for i in range(6)]
    frames = [(plain if i in which else unfinished)(packet) for i, packet in enumerate(sent)]
    assert by_flow(pair.crossing(*frames)) == by_flow(sent)


def test_bare_acknowledgements_wait_for_nobody() -> None:
    """The first datagram is lost; data behind it waits, acknowledgements do not."""
    pair = Pair()
    try:
        acks = [tcp(A4, B4, b"", ports=(1000, 80), sequence=1000 + number) for number in range(3)]
        sent = [pair.a.send(plain(packet)) for packet in acks]
        _, *rest = [datagram for datagrams in sent for datagram in datagrams]
        assert packets_of(pair.b.receive(*coalesced(Road().carry(rest)))) == acks[1:]
    finally:
        pair.close()
