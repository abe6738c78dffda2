"""Queue: who goes first, who is slowed down and who is dropped, in virtual time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.classes import ClassSpec
from sdwan.core.codel import INTERVAL_NS, CoDel, step_ns
from sdwan.core.fairqueue import FLOW_BYTES_MAX, FLOW_ENTRIES_MAX, FLOW_QUEUES, Entry, FairQueue, Grant
from sdwan.core.queue import LIMIT_BURST_NS, PEER_BYTES_MAX, PEER_SEGMENTS_MAX, Budget, Queue
from sdwan.model import DropReason

MS = 10**6
SECOND = 1000 * MS
MTU = 1400
TARGET_NS = 5 * MS
SPECS = (
    ClassSpec("bulk", priority=3, queue_target_ns=TARGET_NS, deadline_ns=SECOND),
    ClassSpec("interactive", priority=1, queue_target_ns=TARGET_NS, deadline_ns=SECOND),
    ClassSpec("other bulk", priority=3, queue_target_ns=TARGET_NS, deadline_ns=SECOND),
    ClassSpec("limited", priority=3, rate_limit_bps=8_000_000, deadline_ns=100 * SECOND),
)
BULK, INTERACTIVE, OTHER, LIMITED = range(4)


class Bench:
    """A queue, its clock, and a link of a given rate that serves it."""

    def __init__(self, rate_bps: int = 8_000_000, quantum_bytes: int = MTU) -> None:
        self.drops: Counter[DropReason] = Counter()
        self.budget = Budget()
        self.queue = Queue(SPECS, self.budget, drop=self._drop)
        self.queue.quantum_bytes = quantum_bytes
        self.rate_bps = rate_bps
        self.now_ns = SECOND
        self.sent: list[tuple[int, Grant]] = []
        """When, and what."""

    def _drop(self, reason: DropReason, count: int) -> None:
        self.drops[reason] += count

    def put(
        self, content: object, size_bytes: int = MTU, *, flow: int = 0, of: int = BULK, segments: int = 1,
        ecn: bool = False,
    ) -> None:  # fmt: skip
        entry = Entry(content, size_bytes=size_bytes, segments=segments, ecn=ecn)
        self.queue.enqueue(of, flow, entry, now_ns=self.now_ns)

    def next(self, segments_max: int = 1) -> Grant | None:
        return self.queue.dequeue(lambda _: True, segments_max=segments_max, now_ns=self.now_ns)

    def serve(self, duration_ns: int, feed=lambda: None) -> None:
        """Send for so long; ``feed`` is called before every datagram."""
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            feed()
            grant = self.next()
            if grant is None:
                self.now_ns += MS // 10
                continue
            self.sent.append((self.now_ns, grant))
            self.now_ns += grant.size_bytes * 8 * SECOND // self.rate_bps

    def shares(self) -> dict[object, float]:
        """What part of the bytes went to each content."""
        per: Counter[object] = Counter()
        for _, grant in self.sent:
            per[grant.entry.content] += grant.size_bytes
        total = sum(per.values())
        return {content: size / total for content, size in per.items()}


def backlogged(bench: Bench, *sources: tuple[object, int, int, int]):
    """Keep two packets of every source (content, flow, class, size) in the queue."""
    waiting: dict[object, list[Entry]] = {content: [] for content, *_ in sources}

    def feed() -> None:
        for content, flow, of, size_bytes in sources:
            waiting[content] = [entry for entry in waiting[content] if entry.left]
            while len(waiting[content]) < 2:
                entry = Entry(content, size_bytes=size_bytes)
                waiting[content].append(entry)
                bench.queue.enqueue(of, flow, entry, now_ns=bench.now_ns)

    return feed


# CoDel -----------------------------------------------------------------------------------------------


def drops_of(codel: CoDel, sojourn_ns: int, duration_ns: int, begin_ns: int = SECOND) -> list[int]:
    """Return when a queue that stands at one delay loses a segment, asked every millisecond."""
    return [
        at - begin_ns
        for at in range(begin_ns, begin_ns + duration_ns, MS)
        if codel.must_drop(sojourn_ns, is_short=False, target_ns=TARGET_NS, now_ns=at)
    ]


def test_a_standing_queue_loses_more_and_more():
    drops = drops_of(CoDel(), 20 * MS, SECOND)
    gaps = [after - before for before, after in pairwise(drops)]
    assert drops[0] == INTERVAL_NS, "a whole interval above the target comes first"
    wanted = [step_ns(count) for count in range(1, len(gaps) + 1)]
    assert all(abs(gap - want) <= 2 * MS for gap, want in zip(gaps, wanted, strict=True))


@pytest.mark.parametrize(("count", "of_interval"), [(1, 1), (4, 1 / 2), (16, 1 / 4), (100, 1 / 10)])
def test_the_step_is_the_interval_over_the_square_root(count, of_interval):
    assert step_ns(count) == pytest.approx(INTERVAL_NS * of_interval, rel=0.01)


def test_a_delay_below_the_target_and_a_short_queue_lose_nothing():
    assert drops_of(CoDel(), TARGET_NS - 1, 10 * SECOND) == []
    codel = CoDel()
    asked = [
        codel.must_drop(SECOND, is_short=True, target_ns=TARGET_NS, now_ns=SECOND + i * MS)
        for i in range(999)
    ]
    assert not any(asked)


def test_one_dip_below_the_target_ends_it():
    codel = CoDel()
    assert len(drops_of(codel, 20 * MS, 300 * MS)) == 3
    assert drops_of(codel, MS, MS, SECOND + 300 * MS) == []
    assert drops_of(codel, 20 * MS, 99 * MS, SECOND + 301 * MS) == []


def test_a_queue_that_stands_again_soon_is_met_with_its_former_frequency():
    codel = CoDel()
    often = len(drops_of(codel, 20 * MS, 2 * SECOND))
    drops_of(codel, MS, MS, 3 * SECOND)
    again = drops_of(codel, 20 * MS, 300 * MS, 3 * SECOND + MS)
    assert often > 20
    assert again[1] - again[0] < INTERVAL_NS / 3


# Fairness --------------------------------------------------------------------------------------------


def test_flows_share_by_bytes_not_by_packets():
    bench = Bench()
    bench.serve(3 * SECOND, backlogged(bench, ("large", 1, BULK, 1400), ("small", 2, BULK, 200)))
    assert bench.shares()["small"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("quantum_bytes", [MTU, 16 * MTU])
def test_super_packets_take_turns_a_quantum_each(quantum_bytes):
    bench = Bench(quantum_bytes=quantum_bytes)
    for flow in (1, 2):
        bench.put(f"flow {flow}", 44 * MTU, segments=44, flow=flow)
    grants = []
    while (grant := bench.next(16)) is not None:
        grants.append((grant.entry.content, grant.first, grant.segments))
    step = quantum_bytes // MTU
    assert grants[:4] == [
        ("flow 1", 0, step), ("flow 2", 0, step), ("flow 1", step, step), ("flow 2", step, step),
    ]  # fmt: skip
    assert sum(count for _, _, count in grants) == 88


def test_a_sparse_flow_waits_for_one_datagram_at_most():
    """Beside ten flows with full queues, a packet every 20 ms is the next to go, once those are not new."""
    bench = Bench(rate_bps=10_000_000)
    full = backlogged(bench, *((f"full {i}", i, BULK, MTU) for i in range(10)))
    put: list[int] = []

    def feed() -> None:
        full()
        if not put or bench.now_ns - put[-1] >= 20 * MS:
            put.append(bench.now_ns)
            bench.put("sparse", 100, flow=99)

    bench.serve(2 * SECOND, feed)
    gone = [at for at, grant in bench.sent if grant.entry.content == "sparse"]
    one_datagram_ns = MTU * 8 * SECOND // bench.rate_bps
    waits = [leaves - came for came, leaves in zip(put, gone, strict=False)]
    assert len(waits) >= 99
    assert max(waits[2:]) <= one_datagram_ns


def test_a_flow_that_empties_and_comes_back_is_not_new_for_ever():
    """Else a flow of one packet at a time would pass the others each time (RFC 8290 section 4.2)."""
    bench = Bench()
    waiting = backlogged(bench, ("full", 1, BULK, MTU), ("other", 2, BULK, MTU))
    one: list[Grant] = []

    def feed() -> None:
        waiting()
        if not one or not one[-1].left:
            one.append(Entry("one at a time", size_bytes=MTU))
            bench.queue.enqueue(BULK, 3, one[-1], now_ns=bench.now_ns)

    bench.serve(2 * SECOND, feed)
    assert bench.shares()["one at a time"] == pytest.approx(1 / 3, abs=0.03)


# A queue that stands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ecn", [False, True])
def test_codel_takes_or_marks_one_segment_never_a_super_packet(ecn):
    """One flow, twice as fast as its link."""
    bench = Bench(rate_bps=8_000_000)
    due = [bench.now_ns]

    def feed() -> None:
        while due[0] <= bench.now_ns:
            bench.put("flood", 20 * 1000, segments=20, ecn=ecn)
            due[0] += 10 * MS

    bench.serve(600 * MS, feed)
    fair = bench.queue.lanes[BULK].fair
    signals = (fair.marked, fair.dropped) if ecn else (fair.dropped, fair.marked)
    assert signals[0] > 5
    assert signals[1] == 0
    assert bench.drops == ({} if ecn else {DropReason.QUEUE_CODEL: fair.dropped})
    marked = [grant for _, grant in bench.sent if grant.marked]
    assert [grant.segments for grant in marked] == ([1] * fair.marked if ecn else [])
    gone: dict[int, list[int]] = {}
    for _, grant in bench.sent:
        gone.setdefault(id(grant.entry), []).extend(range(grant.first, grant.first + grant.segments))
    whole = [segments for segments in gone.values() if segments == list(range(20))]
    assert len(whole) < len(gone) or ecn
    assert all(len(segments) >= 18 for segments in list(gone.values())[:-1]), (
        "more than a segment or two lost"
    )


def test_what_has_waited_for_two_deadlines_is_of_no_use_any_more():
    bench = Bench()
    bench.put("old", 40 * MTU, segments=40)
    bench.now_ns += 2 * SECOND + 1
    bench.put("young")
    assert bench.next().entry.content == "young"
    assert bench.drops == {DropReason.QUEUE_CODEL: 40}
    assert (bench.queue.size_bytes, bench.queue.segments) == (0, 0)


# Between classes -------------------------------------------------------------------------------------


def test_the_higher_class_goes_first():
    bench = Bench()
    bench.put("bulk", of=BULK)
    bench.put("interactive", of=INTERACTIVE)
    assert [bench.next().entry.content for _ in range(2)] == ["interactive", "bulk"]


@pytest.mark.parametrize("quantum_bytes", [MTU, 16 * MTU])
def test_nobody_starves(quantum_bytes):
    bench = Bench(quantum_bytes=quantum_bytes)
    bench.serve(10 * SECOND, backlogged(bench, ("high", 1, INTERACTIVE, MTU), ("low", 2, BULK, MTU)))
    assert 0.03 < bench.shares()["low"] < 0.07


def test_classes_of_one_priority_share_by_bytes_whenever_they_come():
    bench = Bench()
    feed_one = backlogged(bench, ("one", 1, BULK, MTU))
    bench.serve(SECOND, feed_one)
    bench.sent.clear()
    bench.queue.clear(DropReason.QUEUE_FULL)
    bench.serve(4 * SECOND, backlogged(bench, ("one", 1, BULK, MTU), ("two", 2, OTHER, 300)))
    assert bench.shares()["two"] == pytest.approx(0.5, abs=0.03)


def test_a_class_whose_paths_are_full_lets_another_go():
    bench = Bench()
    bench.put("interactive", of=INTERACTIVE)
    bench.put("bulk", of=BULK)
    grant = bench.queue.dequeue(lambda number: number == BULK, segments_max=1, now_ns=bench.now_ns)
    assert grant.entry.content == "bulk"
    assert bench.queue.dequeue(lambda _: False, segments_max=1, now_ns=bench.now_ns) is None
    assert bench.queue.waiting == [INTERACTIVE]


def test_a_rate_limit_holds_and_others_use_the_rest():
    bench = Bench(rate_bps=80_000_000)
    sources = backlogged(bench, ("limited", 1, LIMITED, MTU), ("bulk", 2, BULK, MTU))
    bench.serve(4 * SECOND, sources)
    saved = LIMIT_BURST_NS / (4 * SECOND) * 0.1
    assert bench.shares()["limited"] == pytest.approx(0.1 + saved, abs=0.005)
    assert bench.queue.free_ns(LIMITED) > 0


def test_another_policy_applies_to_what_waits_already():
    bench = Bench()
    bench.put("first", of=OTHER)
    bench.put("second", of=BULK)
    bench.queue.adopt((SPECS[0], SPECS[1], ClassSpec("urgent", priority=0)))
    assert bench.next().entry.content == "first"


# Bounds ----------------------------------------------------------------------------------------------


def test_a_hundred_thousand_flows_stay_within_their_bounds():
    bench = Bench()
    for flow in range(100_000):
        bench.put(flow, 200, flow=flow)
    assert bench.queue.segments <= PEER_SEGMENTS_MAX
    assert bench.queue.size_bytes <= PEER_BYTES_MAX
    assert bench.queue.lanes[BULK].fair.flows <= FLOW_QUEUES
    lost = bench.drops[DropReason.QUEUE_FULL]
    assert lost == bench.queue.lanes[BULK].overflowed
    assert lost + bench.queue.segments == 100_000


def test_flows_that_are_gone_take_no_memory():
    bench = Bench(rate_bps=10**9)
    for flow in range(900):
        bench.put(flow, 200, flow=flow)
    bench.serve(100 * MS)
    assert len(bench.sent) == 900
    assert len(bench.queue.lanes[BULK].fair._flows) <= 1


def test_the_fattest_flow_pays():
    bench = Bench()
    bench.put("thin", flow=1)
    for flow in range(2, 8):
        for _ in range(3000):
            bench.put("fat", flow=flow)
    assert bench.drops[DropReason.QUEUE_FULL] > 0
    contents = set()
    while (grant := bench.next()) is not None:
        contents.add(grant.entry.content)
    assert contents == {"thin", "fat"}


def test_one_flow_cannot_take_all_the_room():
    bench = Bench()
    for _ in range(FLOW_ENTRIES_MAX * 2):
        bench.put("many", 100)
    assert bench.queue.segments == FLOW_ENTRIES_MAX
    bench = Bench()
    for _ in range(FLOW_BYTES_MAX // 60_000 + 50):
        bench.put("large", 60_000, segments=44)
    assert FLOW_BYTES_MAX - 2000 < bench.queue.size_bytes <= FLOW_BYTES_MAX


def test_peers_share_the_memory_and_a_latecomer_finds_some():
    drops: Counter[DropReason] = Counter()
    budget = Budget(4 << 20)
    greedy, late = (
        Queue(SPECS, budget, drop=lambda reason, count: drops.update({reason: count})) for _ in range(2)
    )
    for i in range(4000):
        greedy.enqueue(BULK, i % 7, Entry("greedy", size_bytes=MTU), now_ns=0)
    assert greedy.size_bytes <= 2 << 20
    for i in range(500):
        late.enqueue(BULK, i % 7, Entry("late", size_bytes=MTU), now_ns=0)
    assert late.segments == 500
    greedy.clear(DropReason.NO_SESSION)
    late.clear(DropReason.NO_SESSION)
    assert budget.free_bytes == 4 << 20


def test_what_a_rate_limit_leaves_no_room_for_is_counted_as_such():
    bench = Bench()
    for _ in range(FLOW_ENTRIES_MAX + 5):
        bench.put("limited", 100, of=LIMITED)
    assert bench.drops == {DropReason.RATE_LIMIT: 5}


# Always ----------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.integers(0, 3), st.integers(1, 60)),
        st.tuples(st.just("next"), st.integers(1, 44), st.integers(0, 15), st.integers(0, 30)),
    ),
    max_size=120,
)


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_order_within_a_flow_and_every_sum_hold(steps):
    bench = Bench(quantum_bytes=4 * MTU)
    put = taken = number = 0
    newest: dict[object, tuple[int, int]] = {}
    for kind, a, b, c in steps:
        if kind == "put":
            number += 1
            bench.put((b, a, number), c * 500, flow=a, of=b, segments=c)
            put += c
        else:
            bench.now_ns += c * MS
            grant = bench.queue.dequeue(lambda n, b=b: bool(b >> n & 1), segments_max=a, now_ns=bench.now_ns)
            if grant is None:
                continue
            assert 1 <= grant.segments <= a
            *flow, number_of = grant.entry.content
            assert newest.get(tuple(flow), (0, 0)) < (number_of, grant.first + 1)
            newest[tuple(flow)] = (number_of, grant.first + grant.segments)
            taken += grant.segments
    queue = bench.queue
    assert queue.segments == put - taken - sum(bench.drops.values())
    assert queue.segments == sum(lane.fair.segments for lane in queue.lanes)
    assert queue.size_bytes == sum(lane.fair.size_bytes for lane in queue.lanes)
    assert bench.budget.free_bytes + queue.size_bytes == Budget().free_bytes
    assert FairQueue().cut_fattest() == 0
