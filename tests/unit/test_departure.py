"""Departure: what the paths have no room for waits, and leaves in order, whole and under its class.

The kernel is played by ``Link``, one path of a given rate: what is sent makes it busy, as the steer program
does. What leaves is opened by the other site, so "arrives" has walked the whole way.
"""

from __future__ import annotations

from collections.abc import Iterator
from socket import AF_INET, AF_INET6
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core import ecn
from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.classify import Classifier
from sdwan.core.queue import PEER_BYTES_MAX
from sdwan.core.rules import Rule
from sdwan.core.wire import FLAG_DUPLICATE, Header, Type
from sdwan.edge.board import Board
from sdwan.edge.gate import Room
from sdwan.model import DropReason
from tests.unit import packets
from tests.unit.packets import ACK, FIN, PSH, pattern, plain, tcp, tso, udp, unfinished
from tests.unit.walk import MS, Pair, Road, Sender, coalesced, packets_of

BOUND_NS = 4 * MS
MINUTE_NS = 60_000 * MS
EF = 46


class Link(Sender):
    """One path: busy for as long as its rate takes for what it was sent."""

    def __init__(self, rate_bps: int = 50_000_000) -> None:
        super().__init__()
        self.rate_bps = rate_bps
        self.until_ns = 0
        self.is_up = True
        self.is_free = False
        self.clock = lambda: 0

    def sendmsg(self, buffers, ancillary=(), *rest):
        size_bytes = super().sendmsg(buffers, ancillary, *rest)
        self.until_ns = max(self.until_ns, self.clock()) + size_bytes * 8 * 10**9 // self.rate_bps
        return size_bytes


class LinkGate:
    """The gate before a link; ``leads`` is the address family it says has room."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.leads: int = AF_INET

    def room(self, peer: int, traffic_class: int, *, datagram_bytes: int, now_ns: int) -> Room:
        link = self.link
        if link.is_free:
            return Room.FREE
        return Room.BURST if link.is_up and link.until_ns - now_ns <= BOUND_NS else Room.CLOSED

    def family(self, *_: int, **__: int) -> int:
        return self.leads

    def next_ns(self, peer: int, traffic_class: int, *, datagram_bytes: int, now_ns: int) -> int:
        link = self.link
        return now_ns if link.is_free else link.until_ns - BOUND_NS if link.is_up else now_ns + MS


class Uphill(Pair):
    """Site a sends to b over one link."""

    def __init__(self, link: Link | None = None, burst_segments: int = 4, **wanted: int) -> None:
        self.link = link or Link()
        self.gate = LinkGate(self.link)
        super().__init__(burst_segments=burst_segments, gate=self.gate, **wanted)  # type: ignore[arg-type]
        self.link.clock = self.clock
        self.peer = self.a.peers[1]
        self.peer.senders.clear()
        self.peer.add_sender(self.link)  # type: ignore[arg-type]
        self.a.senders[1] = self.link
        self.road = Road()
        self.came: list[bytes] = []

    @property
    def backlogged(self) -> bool:
        return self.a.outward.is_backlogged

    def put(self, *frames: bytes) -> None:
        """Give the TUN frames; deliver what leaves."""
        self.deliver(self.a.send(*frames))

    def deliver(self, datagrams: list[bytes]) -> None:
        self.came += packets_of(self.b.receive(*coalesced(self.road.carry(datagrams))))

    def step(self) -> None:
        """Let time run to when something may leave, as the loop does."""
        wait_ns = self.a.outward.wait_ns()
        assert wait_ns < 10**9
        self.clock.now_ns += max(wait_ns, 0)
        self.a.outward.drain()
        sent, self.link.datagrams = self.link.datagrams, []
        self.deliver(sent)

    def empty(self) -> list[bytes]:
        """Let everything leave; return all packets that came."""
        for _ in range(100_000):
            if not self.backlogged:
                return self.came
            self.step()
        raise AssertionError("it never ends")


@pytest.fixture
def uphill() -> Iterator[Uphill]:
    pair = Uphill()
    yield pair
    pair.close()


def flow(number: int) -> tuple[int, int]:
    return (5000 + number, 80)


# The bound -------------------------------------------------------------------------------------------


def test_no_more_is_sent_than_the_path_takes(uphill):
    """Ten super-packets at once: 80 ms of the link. Its queue never exceeds bound and one burst."""
    burst_ns = 4 * 1472 * 8 * 10**9 // uphill.link.rate_bps
    uphill.put(*[tso(pattern(50_000, i), 1300, ports=flow(i), flags=ACK).frame for i in range(10)])
    assert uphill.backlogged
    while uphill.backlogged:
        assert uphill.link.until_ns - uphill.clock.now_ns <= BOUND_NS + burst_ns
        uphill.step()


def test_while_nothing_waits_nothing_is_copied_and_all_leaves_at_once(uphill):
    uphill.link.is_free = True
    whole = tso(pattern(50_000), 1300)
    uphill.put(whole.frame, plain(udp()))
    assert not uphill.backlogged
    assert uphill.came == [*whole.packets, udp()]


def test_no_time_is_lost_the_link_is_busy_throughout(uphill):
    begin_ns = uphill.clock.now_ns
    uphill.put(*[tso(pattern(50_000, i), 1300, flags=ACK).frame for i in range(10)])
    uphill.empty()
    sent_bytes = sum(map(len, uphill.came))
    assert uphill.link.until_ns - begin_ns == pytest.approx(sent_bytes * 8 / 50e6 * 1e9, rel=0.08)


def test_while_every_path_is_down_it_waits_within_its_bounds(uphill):
    uphill.link.is_up = False
    for round_ in range(60):
        uphill.put(*[tso(pattern(60_000, i), 1300, ports=flow(i)).frame for i in range(9)])
        uphill.clock.now_ns += MS * (round_ > 0)
    assert uphill.came == []
    queue = uphill.a.outward._departure._queues[1][1]
    assert PEER_BYTES_MAX / 2 < queue.size_bytes <= PEER_BYTES_MAX
    assert set(uphill.a.drops) == {DropReason.QUEUE_FULL}
    uphill.link.is_up = True
    uphill.step()
    assert uphill.came


def test_with_both_address_families_the_burst_goes_where_there_is_room(uphill):
    other = Link()
    other.family = AF_INET6
    uphill.peer.add_sender(other)  # type: ignore[arg-type]
    for leads, link in ((AF_INET6, other), (AF_INET, uphill.link), (AF_INET6, other)):
        uphill.gate.leads = leads
        before = len(link.bursts)
        uphill.a.send(plain(udp(payload=bytes(1000))))
        assert len(link.bursts) == before + 1


# Order and wholeness ---------------------------------------------------------------------------------


def test_order_of_a_flow_holds_from_the_fast_path_into_the_queue_and_back(uphill):
    """Small ones, large ones and super-packets of one flow, faster than the link for a while."""
    sent: list[bytes] = []
    for i in range(40):
        small = [tcp(payload=pattern(50 + i, j), ports=flow(0), flags=ACK) for j in range(3)]
        large = tcp(payload=pattern(900 + i, i), ports=flow(0), flags=ACK)
        whole = tso(pattern(9000 + i, i), 1300, ports=flow(0), flags=ACK)
        uphill.put(*map(plain, small), whole.frame, plain(large))
        sent += [*small, *whole.packets, large]
        uphill.clock.now_ns += MS // 2
        uphill.step()
        if i > 20:
            uphill.empty()
    assert uphill.empty() == sent
    assert not uphill.a.drops


@pytest.mark.parametrize("burst_segments", [1, 3, 8, 44])
def test_interleaved_super_packets_arrive_unmixed(burst_segments):
    """Equal ones of several flows take turns burst by burst: none may seem to continue another."""
    pair = Uphill(burst_segments=burst_segments)
    wholes = [
        tso(pattern(40_000, seed), 1000, ports=flow(seed % 4), flags=ACK | PSH, sequence=seed << 20)
        for seed in range(12)
    ]
    pair.put(*[whole.frame for whole in wholes])
    came = packets.by_flow(pair.empty())
    assert came == packets.by_flow([packet for whole in wholes for packet in whole.packets])
    assert all(map(packets.is_sound, pair.came))
    pair.close()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=25),
    burst_segments=st.integers(1, 10),
    drops=st.sets(st.integers(0, 200)),
)
def test_whatever_is_dropped_within_super_packets_nothing_is_ever_mixed(sizes, burst_segments, drops):
    """CoDel is replaced by a throw of dice: any segment may go."""
    pair = Uphill(Link(20_000_000), burst_segments=burst_segments)
    thrown = iter(range(10**6))
    with mock.patch("sdwan.core.codel.CoDel.must_drop", lambda *_, **__: next(thrown) in drops):
        wholes = [
            tso(pattern(500 * count, seed), 500, ports=flow(of), flags=ACK | PSH | FIN)
            for seed, (of, count) in enumerate(sizes)
        ]
        pair.put(*[whole.frame for whole in wholes])
        pair.empty()
    sent = packets.by_flow([packet for whole in wholes for packet in whole.packets])
    for key, came in packets.by_flow(pair.came).items():
        rest = iter(sent[key])
        assert all(any(bare(packet) == bare(other) for other in rest) for packet in came), "not a subsequence"
    lost = sum(len(all_of) for all_of in sent.values()) - len(pair.came)
    assert lost == pair.a.drops[DropReason.QUEUE_CODEL]
    assert all(map(packets.is_sound, pair.came))
    pair.close()


def bare(packet: bytes) -> bytes:
    """Leave out what a lost neighbour changes: flags and checksums; sequence and payload count."""
    return packet[24:28] + packet[40:]


# Marks -----------------------------------------------------------------------------------------------


def test_a_mark_reaches_the_far_end_on_one_packet_and_nothing_is_lost():
    """A capable flow at twice the link's rate: some packets say so, and all arrive in order."""
    pair = Uphill(Link(20_000_000))
    sent = []
    for i in range(60):
        whole = tso(pattern(25_000, i), 1250, ports=flow(0), flags=ACK, tos=ecn.ECN_MASK & 2)
        pair.put(whole.frame)
        sent += whole.packets
        pair.clock.now_ns += 5 * MS
        if pair.backlogged:
            pair.a.outward.drain()
            sent_now, pair.link.datagrams = pair.link.datagrams, []
            pair.deliver(sent_now)
    came = pair.empty()
    marks = sum(packet[1] & 3 == 3 for packet in came)
    assert 3 < marks < len(sent) / 10
    assert [bare(packet) for packet in came] == [bare(packet) for packet in sent]
    assert all(map(packets.is_sound, came))
    assert not pair.a.drops
    pair.close()


# Classes ---------------------------------------------------------------------------------------------

SPECS = (
    ClassSpec("bulk", priority=3),
    ClassSpec("voice", priority=0, recovery=Recovery.DUPLICATE, copy_dscp=True),
    ClassSpec("slow", priority=3, rate_limit_bps=8_000_000, deadline_ns=MINUTE_NS, queue_target_ns=MINUTE_NS),
)


@pytest.fixture
def classed(uphill: Uphill) -> Uphill:
    rules = (Rule(traffic_class=1, dscp=(EF,)), Rule(traffic_class=2, dscp=(8,)))
    uphill.a.outward.obey(Classifier(SPECS, rules))
    return uphill


def test_class_flags_and_outer_dscp_tell_the_kernel_what_it_carries(classed):
    voice, other = udp(tos=EF << 2, payload=b"voice"), udp(payload=b"other")
    for packet, class_flags in ((voice, 1 | FLAG_DUPLICATE), (other, 0)):
        (datagram,) = classed.a.send(plain(packet))
        assert Header.unpack(datagram).class_flags == class_flags
        assert packets_of(classed.b.receive([datagram])) == [packet]
    assert classed.link.tos == [EF << 2]


@pytest.mark.parametrize("size_bytes", [100, 1000])
def test_classes_never_share_a_datagram_or_a_burst(classed, size_bytes):
    mixed = [udp(tos=tos, payload=pattern(size_bytes, i)) for i, tos in enumerate([EF << 2, 0] * 4)]
    classed.link.is_free = True
    datagrams = classed.a.send(*map(unfinished, mixed))
    assert len(datagrams) == 8
    assert {Header.unpack(d).class_flags for d in datagrams} == {1 | FLAG_DUPLICATE, 0}
    assert classed.link.bursts == [1] * 8


def test_voice_passes_what_waits(classed):
    classed.put(*[tso(pattern(50_000, i), 1300, ports=flow(i)).frame for i in range(5)])
    before = len(classed.came)
    classed.put(plain(udp(tos=EF << 2, payload=b"voice")))
    classed.step()
    assert udp(tos=EF << 2, payload=b"voice") in classed.came[before : before + 12]


def test_a_class_with_a_rate_limit_keeps_to_it_on_an_idle_link(classed):
    begin_ns = classed.clock.now_ns
    sent = [udp(tos=8 << 2, payload=pattern(1200, i)) for i in range(200)]
    for packet in sent:
        classed.put(plain(packet))
    assert classed.empty() == sent
    spent_ns = classed.clock.now_ns - begin_ns
    assert spent_ns == pytest.approx(200 * 1228 * 8 / 8e6 * 1e9 - 20 * MS, rel=0.05)


def test_the_board_tells_what_waits_and_what_went(uphill):
    board = Board.create(4)
    uphill.put(*[tso(pattern(50_000, i), 1300, ports=flow(i)).frame for i in range(5)])
    uphill.a.outward.report(board.classes, now_ns=uphill.clock.now_ns)
    row = board.classes[8]
    assert row["tx_packets"] + row["queued_packets"] == 5 * 39
    assert (row["flows"], row["dropped"], row["overflowed"]) == (5, 0, 0)
    assert row["queued_bytes"] > 200_000
    uphill.empty()
    uphill.a.outward.report(board.classes, now_ns=uphill.clock.now_ns)
    assert (board.classes[8]["tx_packets"], board.classes[8]["queued_packets"]) == (195, 0)
    assert board.classes[8]["queue_delay_us"] > 20_000


# What changes meanwhile ------------------------------------------------------------------------------


def test_what_waits_is_sealed_with_the_session_of_the_hour(uphill):
    whole = tso(pattern(60_000), 1300)
    uphill.put(whole.frame)
    uphill.install(17, 19, (bytes(32), bytes(range(32))))
    assert uphill.empty() == whole.packets
    assert uphill.b.sessions[19].open_into is not uphill.b.sessions[9].open_into


def test_without_a_session_any_more_what_waits_is_counted_as_such(uphill):
    uphill.put(tso(pattern(60_000), 1300).frame)
    gone = uphill.peer.tx_packets
    uphill.peer.session = None
    uphill.step()
    assert not uphill.backlogged
    assert uphill.a.drops == {DropReason.NO_SESSION: 47 - gone}


def test_what_has_become_too_big_is_counted_and_the_rest_goes_on(uphill):
    uphill.put(tso(pattern(60_000), 1300).frame, plain(udp(payload=b"small", ports=flow(1))))
    gone = uphill.peer.tx_packets
    uphill.peer.datagram_bytes = 1200
    uphill.empty()
    assert uphill.a.drops == {DropReason.TOO_BIG: 47 - gone}
    assert udp(payload=b"small", ports=flow(1)) in uphill.came


def test_a_peer_that_is_removed_takes_along_what_waits(uphill):
    uphill.put(tso(pattern(60_000), 1300).frame)
    uphill.a.outward.forget(1)
    assert not uphill.backlogged
    assert set(uphill.a.drops) == {DropReason.NO_ROUTE}


def test_counters_are_given_out_in_the_order_of_sending(uphill):
    datagrams: list[bytes] = []
    uphill.deliver = datagrams.extend  # type: ignore[method-assign]
    uphill.put(
        *[tso(pattern(20_000, i), 1300, ports=flow(i)).frame for i in range(4)],
        *[plain(udp(payload=pattern(i * 60), ports=flow(i))) for i in range(20)],
    )
    uphill.empty()
    assert [Header.unpack(d).counter for d in datagrams] == list(range(len(datagrams)))
    assert {Header.unpack(d).type for d in datagrams} >= {Type.SUPER, Type.CONTAINER}
