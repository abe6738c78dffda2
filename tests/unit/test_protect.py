"""Protection at work: real sites, lossy links, virtual time; what is lost comes back unasked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.fec import Encoder
from sdwan.core.wire import FLAG_DUPLICATE, HEADER_BYTES, Header, Type
from sdwan.edge import channel
from sdwan.edge.channel import SetRecovery
from sdwan.edge.protect import BACKLOG_NS_MAX, Protector
from sdwan.edge.recover import IDLE_NS, PATIENCE_NS_MAX
from sdwan.model import PATH_CHOOSE, PATH_PIN, PATHS_PER_PEER, DropReason
from tests.unit.lossy_world import Link, View, World
from tests.unit.packets import by_flow, pattern, plain, tso, udp, without_identification
from tests.unit.plane_world import Child
from tests.unit.walk import KEYS, MS, PREFIXES, Pair, Road, Site, header, packets_of, seal

REST_NS = 400 * MS
BULK = 0


class Protected(World):
    """A world whose site a protects what it sends, and whose kernel copies what asks for it."""

    def __init__(self, *links: Link, **more: Any) -> None:
        super().__init__(*links, **more)
        self.protector = Protector(segmentation=True, drop=self.pair.a._drop)
        self.kinds: Counter[int] = Counter()

    def protect(self, sources: int, repairs: int, close_us: int = 5000, traffic_class: int = BULK) -> None:
        message = SetRecovery(1, traffic_class, sources, repairs, close_us)
        self.protector.obey(self.pair.a.peers[1], message, self.now_ns)

    def _take(self, site: Site, batch: list[bytes] | None) -> None:
        if site is self.pair.a and batch is None:
            self.protector.pump(self.now_ns)
        super()._take(site, batch)
        if batch is None:
            site.inward._recoverer.settle(site.peers[1], self.now_ns)

    def _carry(self, site: Site, datagrams: list[bytes]) -> None:
        for datagram in datagrams:
            self.kinds[datagram[8]] += site is self.pair.a
            if datagram[1] == PATH_CHOOSE and datagram[2] & FLAG_DUPLICATE:
                for path in range(len(self.links)):
                    super()._carry(site, [datagram[:1] + bytes([PATH_PIN | path]) + datagram[2:]])
            else:
                super()._carry(site, [datagram])


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for world in made:
        world.close()


def lossy(worlds: list[World], loss: float, **more: Any) -> Protected:
    world = Protected(Link(10 * MS, loss), Link(10 * MS, loss), datagram_bytes=1472, **more)
    worlds.append(world)
    for site in world.sites:
        site.peers[1].set_waits(30 * MS, 40 * MS)
    return world


def full_size(world: World, rounds: int, pace_ns: int = MS) -> list[bytes]:
    """Let a TCP flow send super-packets that fill datagrams to the last byte."""
    sent = []
    for number in range(rounds):
        big = tso(pattern(4 * 1388, number), 1388, ports=(7, 80))
        world.send(big.frame)
        sent += big.packets
        world.pass_time(pace_ns)
    return sent


def are_same(came: list[bytes], sent: list[bytes]) -> bool:
    return list(map(without_identification, came)) == list(map(without_identification, sent))


class TestMending:
    @pytest.mark.parametrize("seed", range(3))
    def test_full_size_rows_come_back_without_being_asked_for(self, worlds: list[World], seed: int) -> None:
        world = lossy(worlds, 0.05, seed=seed)
        world.protect(16, 8)
        sent = full_size(world, 100)
        world.pass_time(REST_NS)
        a, b = (site.peers[1] for site in world.sites)
        assert are_same(world.came, sent), "complete, and in order"
        assert b.recovered >= 10 and b.repairs_received > 0
        assert a.resent <= 5, "only what the first block misses, before its repairs are known, is asked for"
        assert a.repairs_sent == world.kinds[Type.REPAIR] == 2 * 8 * len(sent) // 16

    def test_repairs_close_what_resends_would_stall(self, worlds: list[World]) -> None:
        """The flow arrives sooner than the round trip a resend needs."""
        world = lossy(worlds, 0.0)
        world.protect(4, 1)
        full_size(world, 20)
        world.pass_time(REST_NS)
        before = len(world.came)
        road_lost = world.links[0]
        road_lost.is_dark = True  # for one datagram
        big = tso(pattern(4 * 1388, 99), 1388, ports=(7, 80))
        datagrams = world.pair.a.send(big.frame)
        world._carry(world.pair.a, datagrams[:1])
        road_lost.is_dark = False
        world._carry(world.pair.a, datagrams[1:])
        world.pass_time(11 * MS)
        assert world.pair.b.peers[1].recovered + len(world.came) - before >= 4

    def test_small_packets_of_many_flows_and_unlike_sizes(self, worlds: list[World]) -> None:
        world = lossy(worlds, 0.08, seed=4)
        world.protect(8, 4)
        sent = []
        for number in range(150):
            some = [
                udp(payload=pattern(40 + (number * 37 + flow * 211) % 1350, number), ports=(flow, 9))
                for flow in range(3)
            ]
            world.send(*map(plain, some))
            sent += some
            world.pass_time(2 * MS)
        world.pass_time(REST_NS)
        assert by_flow(world.came) == by_flow(sent)
        assert world.pair.b.peers[1].recovered > 10

    def test_copies_and_repairs_of_copies_leave_next_to_nothing(self, worlds: list[World]) -> None:
        world = lossy(worlds, 0.15, seed=2)
        for site in world.sites:
            site.peers[1].set_classes([ClassSpec("voice", recovery=Recovery.DUPLICATE, deadline_ns=80 * MS)])
        world.protect(3, 1, close_us=50_000)
        sent = []
        for number in range(600):
            packet = udp(payload=pattern(172, number), ports=(1, 9))
            datagrams = world.pair.a.send(plain(packet))
            for datagram in datagrams:
                copied = datagram[:2] + bytes([datagram[2] | FLAG_DUPLICATE]) + datagram[3:]
                world._carry(world.pair.a, [copied])
            sent.append(packet)
            world.pass_time(20 * MS)
        world.pass_time(REST_NS)
        missing = len(sent) - len(world.came)
        assert world.pair.b.peers[1].recovered > 5 and missing <= 2, "2.25 % without repairs: 13"


class TestSending:
    def repairs_of(self, pair: Pair, protector: Protector, frames: list[bytes]) -> list[bytes]:
        datagrams = pair.a.send(*frames)
        return [d for d in datagrams if d[8] == Type.REPAIR]

    @pytest.fixture
    def pair(self) -> Iterator[Pair]:
        pair = Pair()
        yield pair
        pair.close()

    def guarded(self, pair: Pair, view: object = None, **wanted: int) -> Protector:
        protector = Protector(segmentation=True, drop=pair.a._drop, view=view)  # type: ignore[arg-type]
        wanted = {"sources": 4, "repairs": 2, "close_us": 5000} | wanted
        protector.obey(pair.a.peers[1], SetRecovery(1, BULK, **wanted), 0)
        return protector

    frames = [tso(pattern(4 * 1388, 5), 1388).frame]

    def test_nothing_protected_costs_and_sends_nothing(self, pair: Pair) -> None:
        assert self.repairs_of(pair, Protector(segmentation=True, drop=pair.a._drop), self.frames) == []
        assert pair.a.peers[1].guard is None

    def test_protection_ends_with_zero_repairs_and_the_open_block_gets_its_own(self, pair: Pair) -> None:
        protector = self.guarded(pair, sources=20, repairs=5)
        assert self.repairs_of(pair, protector, self.frames) == []
        protector.obey(pair.a.peers[1], SetRecovery(1, BULK, 0, 0), 0)
        assert [d[8] for d in pair.a.senders[1].datagrams] == [Type.REPAIR] * 2
        assert pair.a.peers[1].guard is None and not protector.is_busy

    def test_no_repair_is_longer_than_its_path_takes(self, pair: Pair) -> None:
        repairs = self.repairs_of(pair, self.guarded(pair), self.frames)
        assert len(repairs) == 4 and max(map(len, repairs)) <= 1472

    def test_repairs_of_copies_are_copied(self, pair: Pair) -> None:
        self.guarded(pair)
        peer = pair.a.peers[1]
        (datagram,) = pair.a.send(plain(udp()))
        row = memoryview(datagram[:2] + bytes([FLAG_DUPLICATE]) + datagram[3:])
        for counter in range(1, 5):
            peer.next_counter = counter + 1
            numbered = bytes(row[:12]) + counter.to_bytes(4, "big") + bytes(row[16:])
            peer.guard.on_sent(memoryview(numbered), 1, len(numbered), 0)
        repairs = [Header.unpack(d) for d in pair.a.senders[1].datagrams]
        assert repairs and all((r.path, r.class_flags) == (PATH_CHOOSE, FLAG_DUPLICATE) for r in repairs)

    def test_a_block_is_closed_by_time(self, pair: Pair) -> None:
        protector = self.guarded(pair, sources=20, repairs=5)
        assert self.repairs_of(pair, protector, self.frames) == []
        due_ns = protector.next_ns()
        assert due_ns == pair.clock.now_ns + 5 * MS
        protector.pump(due_ns - 1)
        assert pair.a.senders[1].datagrams == []
        protector.pump(due_ns)
        assert len(pair.a.senders[1].datagrams) == 2

    def test_a_rekey_closes_the_block_under_the_session_of_its_rows(self, pair: Pair) -> None:
        self.guarded(pair, sources=20, repairs=5)
        pair.a.send(*self.frames)
        pair.install(17, 19, keys=(KEYS[1], KEYS[0]))
        repairs = self.repairs_of(pair, Protector(segmentation=True, drop=pair.a._drop), self.frames)
        assert {Header.unpack(d).receiver for d in repairs} == {9}

    def test_each_repair_goes_where_least_of_its_block_travels(self, pair: Pair) -> None:
        view = View([10 * MS, 10 * MS])
        view.ring.find = lambda _, counters: dict.fromkeys(counters, (1, 0, 0))  # type: ignore[method-assign]
        repairs = self.repairs_of(pair, self.guarded(pair, view), self.frames)
        assert {d[1] for d in repairs} == {PATH_PIN | 0}

    def test_a_path_with_a_long_queue_gets_none_and_where_all_have_the_kernel_chooses(
        self, pair: Pair
    ) -> None:
        view = View([10 * MS, 10 * MS])
        view.ring.find = lambda _, counters: dict.fromkeys(counters, (1, 0, 0))  # type: ignore[method-assign]
        protector = self.guarded(pair, view)
        view.busy["until_ns"][PATHS_PER_PEER] = pair.clock.now_ns + BACKLOG_NS_MAX + 1
        assert {d[1] for d in self.repairs_of(pair, protector, self.frames)} == {PATH_PIN | 1}
        view.busy["until_ns"][PATHS_PER_PEER + 1] = pair.clock.now_ns + BACKLOG_NS_MAX + 1
        assert {d[1] for d in self.repairs_of(pair, protector, self.frames)} == {PATH_CHOOSE}

    def test_a_path_too_narrow_for_a_repair_gets_none(self, pair: Pair) -> None:
        view = View([10 * MS, 10 * MS])
        view.ring.find = lambda _, counters: dict.fromkeys(counters, (1, 0, 0))  # type: ignore[method-assign]
        view.paths["mtu"][PATHS_PER_PEER] = 700
        assert {d[1] for d in self.repairs_of(pair, self.guarded(pair, view), self.frames)} == {PATH_PIN | 1}

    def test_a_slow_path_takes_no_more_of_a_block_than_its_queue_may_hold(self, pair: Pair) -> None:
        view = View([10 * MS, 10 * MS])
        view.ring.find = lambda _, counters: dict.fromkeys(counters, (1, 0, 0))  # type: ignore[method-assign]
        view.weights["ns_per_kib"][:, 0] = 4 * BACKLOG_NS_MAX
        paths = [d[1] for d in self.repairs_of(pair, self.guarded(pair, view), self.frames)]
        assert sorted(paths) == [PATH_PIN | 0, PATH_PIN | 1, PATH_PIN | 1, PATH_PIN | 1]

    def test_a_socket_that_refuses_costs_the_repairs_only(self, pair: Pair) -> None:
        self.guarded(pair)
        pair.a.senders[1].broken = True
        pair.a.send(*self.frames)
        assert pair.a.peers[1].repairs_sent == 0
        assert pair.a.drops[DropReason.SEND_FAILED] >= 4


class TestReceiving:
    @pytest.fixture
    def pair(self) -> Iterator[Pair]:
        pair = Pair()
        yield pair
        pair.close()

    def repair(self, pair: Pair, plaintext: bytes) -> bytes:
        session = pair.a.sessions[7]
        return Road(1).stamp(session.seal_control(plaintext, PATH_CHOOSE, kind=Type.REPAIR))

    def test_nonsense_is_counted(self, pair: Pair) -> None:
        pair.b.receive([self.repair(pair, b"\xff" * 40)])
        assert pair.b.drops == {DropReason.REPAIR_MALFORMED: 1}

    def test_a_repair_shares_the_replay_window_of_control(self, pair: Pair) -> None:
        datagram = self.repair(pair, b"\xff" * 40)
        pair.b.receive([datagram], [datagram])
        assert pair.b.drops == {DropReason.REPAIR_MALFORMED: 1, DropReason.REPLAYED: 1}

    def test_forged_repairs_reach_no_decoder(self, pair: Pair) -> None:
        pair.b.receive([header(Type.REPAIR) + bytes(60)])
        assert pair.b.drops == {DropReason.FORGED: 1}
        assert pair.b.peers[1].mender is None

    def test_what_comes_out_of_a_lying_block_must_open(self, pair: Pair) -> None:
        """A peer codes other bytes than it sent: the tag of what comes out does not fit."""
        protector = Protector(segmentation=True, drop=pair.a._drop)
        protector.obey(pair.a.peers[1], SetRecovery(1, BULK, 2, 1), 0)
        (first,) = pair.a.send(plain(udp(payload=b"first")))
        peer = pair.a.peers[1]
        lie = bytearray(seal(peer.session, 1, Type.SINGLE, bytes(40)))
        lie[-1] ^= 1
        peer.next_counter = 2
        peer.guard.on_sent(memoryview(bytes(lie)), 1, len(lie), 0)
        (repair,) = pair.a.senders[1].datagrams
        road = Road(0)
        pair.b.receive([road.stamp(repair)])
        pair.b.receive([road.stamp(first)])
        assert pair.b.drops == {DropReason.FORGED: 1}

    def test_keeping_ends_when_repairs_do(self, pair: Pair) -> None:
        protector = Protector(segmentation=True, drop=pair.a._drop)
        protector.obey(pair.a.peers[1], SetRecovery(1, BULK, 2, 1), 0)
        road = Road(0)
        for number in range(4):
            pair.b.receive(*([d] for d in road.carry(pair.a.send(plain(udp(payload=bytes([number])))))))
        peer, recoverer = pair.b.peers[1], pair.b.inward._recoverer
        recoverer.settle(peer, pair.clock.now_ns)
        assert peer.mender is not None
        recoverer.settle(peer, pair.clock.now_ns + IDLE_NS + 1)
        assert peer.mender is None and peer.order.holes.patience_ns == 0

    def test_another_process_at_the_far_side_begins_with_nothing(self, pair: Pair) -> None:
        pair.b.receive([self.repair(pair, bytes([0, 0, 0, 0, 2, 1, 0, 0, 0]) + bytes(60))])
        assert pair.b.peers[1].mender is not None
        pair.b.peers[1].begin_anew(5)
        assert pair.b.peers[1].mender is None

    def test_patience_is_bounded(self, pair: Pair) -> None:
        protector = Protector(segmentation=True, drop=pair.a._drop)
        protector.obey(pair.a.peers[1], SetRecovery(1, BULK, 2, 1, 900_000), 0)
        road = Road(0)
        for number in range(40):
            pair.b.receive(*([d] for d in road.carry(pair.a.send(plain(udp(payload=bytes([number])))))))
            pair.clock.now_ns += 300 * MS
        assert 0 < pair.b.peers[1].order.holes.patience_ns <= PATIENCE_NS_MAX


def test_a_repair_covers_nothing_the_kernel_writes() -> None:
    """Rows that differ only in kernel bytes have the same repair."""
    rows = np.zeros((2, 100), dtype=np.uint8)
    made = []
    for noise in (0, 255):
        rows[:, :4] = rows[:, 16:HEADER_BYTES] = noise
        (block,) = Encoder(0, datagram_bytes=1472, sources=2, repairs=1).add(rows, 100, 0, now_ns=0)
        made.append(block.plaintexts)
    assert made[0] == made[1]


def test_two_processes_mend_what_is_lost_between_them_and_tell_the_board() -> None:
    a, b = Child(), Child()
    try:
        for child, prefixes, keys in ((a, PREFIXES["b"], KEYS), (b, PREFIXES["a"], KEYS[::-1])):
            child.hear(channel.Ready)
            child.set_up(*prefixes)
            child.tell(channel.Install(1, 7 if child is a else 9, 9 if child is a else 7, True, 5, *keys))
        a.tell(SetRecovery(1, BULK, 4, 1, 1_000_000))
        a.obeyed()
        b.obeyed()
        road, payloads = Road(), [bytes([n]) * 700 for n in range(8)]
        for start in (0, 4):
            for payload in payloads[start : start + 4]:
                a.tun.put(plain(udp(payload=payload)))
            datagrams = [d for d in a.sent(5) if d[8] != Type.CONTROL]
            is_repair = [d[8] == Type.REPAIR for d in datagrams]
            assert is_repair == [False] * 4 + [True], "a block of four and its repair"
            lost = 2 if start else -1
            b.receive(*road.carry(d for n, d in enumerate(datagrams) if n != lost))
            came = {packet[28:] for packet in packets_of(b.written(4))}
            assert came == set(payloads[start : start + 4])
        assert a.counted("repairs_sent", 2) == b.counted("repairs_received", 2) == 2
        assert a.counted("repair_bytes", 1) > 2 * 700
        assert b.counted("recovered", 1) == 1
    finally:
        a.close()
        b.close()
