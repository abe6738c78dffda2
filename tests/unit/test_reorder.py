"""The reorder window: a packet waits for its predecessor in its own flow, and no longer than it must.

``Receiver`` uses window and order as the data plane does, in virtual time. A datagram is written down as
``D(counter, bucket, sequence)``, with the path it came over and its link sequence there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.reorder import HeldBytes, Reorder
from sdwan.core.replay import ReplayWindow

MS = 1_000_000
REPAIR_NS = 40 * MS
PLAIN, REPAIRED, COPIED, BRIEF = range(4)
CLASSES = (
    ClassSpec("plain", recovery=Recovery.NONE),
    ClassSpec("repaired", recovery=Recovery.RESEND),
    ClassSpec("copied", recovery=Recovery.DUPLICATE, deadline_ns=80 * MS),
    ClassSpec("brief", recovery=Recovery.FEC, deadline_ns=20 * MS),
)
LATE_JOIN = 5000
"""A first counter so high that what came before it is nobody's loss."""
WAIT_NS = 30 * MS
TICK_NS = MS
CHECKPOINT_NS = 2 * MS


@dataclass
class D:
    """One datagram, of one packet or (``rows``) several neighbours."""

    counter: int
    bucket: int = 1
    bucket_sequence: int = 0
    path: int = 0
    link: int = 0
    rows: int = 1
    size_bytes: int = 100
    flags: int = PLAIN
    came_ns: int = -1
    went_ns: int = -1


@dataclass
class Receiver:
    """What inward and delivery do with an opened datagram, and nothing more."""

    limit_bytes: int = 1 << 20
    now_ns: int = 1_000 * MS
    out: list[D] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held_bytes = HeldBytes(self.limit_bytes)
        self.window = ReplayWindow(1 << 12)
        self.order = Reorder(self.window, self.held_bytes, WAIT_NS, REPAIR_NS, CLASSES)
        self.holes = self.order.holes

    def arrive(self, d: D) -> bool:
        """Take one datagram; tell whether it was fresh."""
        if self.window.top < 0:
            self.holes.begin(d.counter)
        if not self.window.accept(d.counter, d.rows):
            self.holes.note_copy(d.path, d.link, d.link + d.rows - 1)
            return False
        d.came_ns = self.now_ns
        if self.now_ns >= self.holes.next_checkpoint_ns:
            self.holes.checkpoint(self.now_ns)
        self.holes.note_data(d.path, d.link, d.link + d.rows - 1, d.counter, d.counter + d.rows - 1)
        if self.order.in_turn(d.bucket, d.counter, d.bucket_sequence, d.rows):
            self._deliver([d, *self.order.followers(d.bucket)])
        else:
            self._deliver(self.order.hold(d))
        return True

    def settle(self) -> None:
        """Do what the loop does at the end of a round."""
        self._deliver(self.order.close_holes(self.now_ns))

    def pass_time(self, duration_ns: int) -> None:
        """Let time pass, tick by tick."""
        for _ in range(duration_ns // TICK_NS):
            self.now_ns += TICK_NS
            self.settle()

    def _deliver(self, items: list) -> None:
        for item in items:
            item.went_ns = self.now_ns
            self.out.append(item)

    def came(self, bucket: int = 1) -> list[int]:
        """Return the bucket sequences delivered so far."""
        return [d.bucket_sequence for d in self.out if d.bucket == bucket]


def after(*datagrams: D) -> Receiver:
    """Let datagrams arrive in one round, without time passing."""
    receiver = Receiver()
    for d in datagrams:
        receiver.arrive(d)
    receiver.settle()
    return receiver


# In turn ------------------------------------------------------------------------------------------


def test_what_comes_in_order_passes_untouched():
    receiver = Receiver()
    for n in range(5):
        receiver.arrive(D(n, bucket_sequence=n, link=n))
        assert receiver.came() == list(range(n + 1))
    assert receiver.order.held == 0


def test_a_packet_waits_for_its_predecessor():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, path=1))
    assert receiver.came() == [0]
    receiver.arrive(D(1, bucket_sequence=1, link=1))
    assert receiver.came() == [0, 1, 2]
    assert (receiver.order.held, receiver.order.held_now, receiver.held_bytes.total) == (1, 0, 0)


def test_a_packet_waits_for_no_other_flow():
    receiver = after(D(0), D(1, bucket=2, link=1), D(3, bucket=2, bucket_sequence=1, path=1))
    assert receiver.came(2) == [0, 1], "counter 2 is missing, but not from this bucket"


def test_neighbours_that_came_together_count_for_all_of_them():
    receiver = after(
        D(0, rows=4),
        D(9, bucket_sequence=9, path=1),
        D(4, bucket_sequence=4, rows=5, link=4),
    )
    assert receiver.came() == [0, 4, 9]


@pytest.mark.parametrize("start", [0, 0x7FFE, 0xFFFD])
def test_bucket_sequences_wrap(start):
    receiver = Receiver()
    for n in (0, 2, 1, 4, 5, 3, 6):
        receiver.arrive(D(LATE_JOIN + n, bucket_sequence=start + n & 0xFFFF, path=n))
    assert receiver.came() == [start + n & 0xFFFF for n in range(7)]


# Holes: proof --------------------------------------------------------------------------------------


def test_a_jump_of_the_only_link_proves_the_loss_at_once():
    receiver = after(D(0, link=10), D(2, bucket_sequence=2, link=12))
    assert receiver.came() == [0, 2]
    assert (receiver.holes.proven, receiver.holes.expired) == (1, 0)


def test_the_link_sequence_wraps_too():
    receiver = after(D(0, link=0xFFFFFFFF), D(2, bucket_sequence=2, link=1))
    assert receiver.came() == [0, 2]


def test_a_hole_that_another_link_may_still_fill_is_waited_for():
    """Path 0 lost one datagram, path 1 holds one back: two are missing, one is lost, but which?"""
    receiver = after(
        D(0, link=0),
        D(3, bucket_sequence=3, link=2),
    )
    assert receiver.came() == [0]
    receiver.arrive(D(2, bucket_sequence=2, path=1, link=0))
    receiver.settle()
    assert receiver.came() == [0, 2, 3], "now only one is missing, and path 0 has lost one"
    assert receiver.holes.proven == 1


def test_no_jump_no_proof():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, link=1))
    assert receiver.came() == [0], "counter 1 went over another path"


def test_a_link_sequence_from_the_past_proves_nothing():
    receiver = after(D(0, link=10), D(2, bucket_sequence=2, link=5))
    assert receiver.came() == [0]


def test_a_link_sequence_from_the_past_changes_nothing_for_the_next():
    """Whoever repeats an old stamp must not make the next honest one look like a jump."""
    receiver = after(
        D(0, link=10),
        D(1, bucket_sequence=1, link=3),
        D(3, bucket_sequence=3, link=11),
        D(9, bucket=2, path=1),
    )
    assert receiver.came() == [0, 1], "path 0 has lost nothing; counter 2 is on its way elsewhere"


def test_what_is_sent_again_does_not_widen_the_next_gap():
    """Counter 1 comes late over path 0; the jump behind it still speaks of what follows counter 5 alone."""
    receiver = after(
        D(0, link=0),
        D(5, bucket=2, link=1),
        D(1, bucket_sequence=1, link=2),
        D(7, bucket=2, bucket_sequence=2, link=4),
    )
    assert receiver.window.unknown_between(6, 6) == 0, "counter 6 is named at once"
    assert receiver.window.unknown_between(2, 4) == 3, "2 to 4 may come over another path"


def test_a_jump_too_large_to_be_honest_proves_nothing():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, link=1 << 17))
    assert receiver.came() == [0]


def test_an_idle_path_closes_a_hole_by_naming_the_next_counter():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, path=1, link=0))
    assert receiver.came() == [0]
    receiver.holes.note_next_counter(0, sequence=2, next_counter=3)
    receiver.settle()
    assert receiver.came() == [0, 2], "path 0 jumped by one: it had carried counter 1"


def test_an_idle_path_that_lost_nothing_closes_nothing():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, path=1, link=0))
    receiver.holes.note_next_counter(0, sequence=1, next_counter=3)
    receiver.settle()
    assert receiver.came() == [0]


@pytest.mark.parametrize("next_counter", [1 << 20, (1 << 64) - 1, 0])
def test_a_next_counter_that_cannot_be_changes_nothing(next_counter):
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, path=1, link=0))
    receiver.holes.note_next_counter(0, sequence=5, next_counter=next_counter)
    receiver.settle()
    assert receiver.came() == [0]


# Holes: time ---------------------------------------------------------------------------------------


def test_without_proof_a_hole_is_waited_for_and_given_up():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, path=1))
    receiver.pass_time(WAIT_NS - MS)
    assert receiver.came() == [0]
    receiver.pass_time(MS + CHECKPOINT_NS + TICK_NS)
    assert receiver.came() == [0, 2]
    assert (receiver.holes.proven, receiver.holes.expired) == (0, 1)


def test_what_comes_late_is_delivered_at_once():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, link=2))
    receiver.arrive(D(1, bucket_sequence=1, path=1))
    assert receiver.came() == [0, 2, 1]
    assert not receiver.arrive(D(1, bucket_sequence=1, path=2)), "but not twice"
    receiver.arrive(D(3, bucket_sequence=3, link=3))
    assert receiver.came() == [0, 2, 1, 3], "and order goes on as if it had been there"


def test_a_later_hole_has_its_own_wait():
    receiver = after(D(0, link=0), D(2, bucket_sequence=2, path=1))
    receiver.pass_time(20 * MS)
    receiver.arrive(D(4, bucket_sequence=4, path=2))
    receiver.pass_time(20 * MS)
    assert receiver.came() == [0, 2]
    receiver.pass_time(20 * MS)
    assert receiver.came() == [0, 2, 4]


def test_a_new_wait_is_kept_from_now_on():
    receiver = Receiver()
    receiver.order.set_waits(5 * MS, REPAIR_NS)
    receiver.arrive(D(0))
    receiver.arrive(D(2, bucket_sequence=2, path=1))
    receiver.pass_time(9 * MS)
    assert receiver.came() == [0, 2]


def test_order_returns_after_losing_more_than_half_of_the_sequence_numbers():
    receiver = after(D(0))
    numbers = range(40_000, 70_000, 50)
    for n in numbers:
        receiver.arrive(D(n, bucket_sequence=n & 0xFFFF, link=n, rows=50))
        receiver.now_ns += MS
        receiver.settle()
    assert receiver.came() == [0] + [n & 0xFFFF for n in numbers]
    receiver.arrive(D(70_002, bucket_sequence=70_002 & 0xFFFF, path=1))
    receiver.arrive(D(70_001, bucket_sequence=70_001 & 0xFFFF, path=2))
    receiver.arrive(D(70_000, bucket_sequence=70_000 & 0xFFFF, link=70_000))
    assert receiver.came()[-3:] == [n & 0xFFFF for n in (70_000, 70_001, 70_002)]


# Bounds ---------------------------------------------------------------------------------------------


def test_what_waits_is_bounded_and_the_oldest_goes_first():
    receiver = Receiver(limit_bytes=1000)
    for bucket in (1, 2):
        receiver.arrive(D(bucket - 1, bucket=bucket, link=bucket - 1))
    for n in range(2, 30):
        receiver.arrive(D(n * 2, bucket=1 + n % 2, bucket_sequence=n, path=n % 7 + 1))
        assert receiver.held_bytes.total <= 1000
    assert receiver.order.overflows > 0
    assert receiver.order.held_now == 10
    for bucket in (1, 2):
        assert receiver.came(bucket) == sorted(receiver.came(bucket))


def test_the_bound_holds_for_all_peers_together():
    shared = HeldBytes(1000)
    peers = [Reorder(ReplayWindow(1 << 10), shared) for _ in range(3)]
    for turn in range(20):
        for order in peers:
            order.window.accept(turn * 2)
            if not order.in_turn(1, turn * 2, turn * 2, 1):
                order.hold(D(turn * 2, bucket_sequence=turn * 2))
            assert shared.total <= 1000


def test_two_packets_that_claim_the_same_place_are_both_delivered():
    """Only a hostile peer numbers so; it must not upset the books."""
    receiver = after(D(0), *[D(n, bucket_sequence=9, path=n) for n in range(2, 7)])
    receiver.pass_time(3 * WAIT_NS)
    assert sorted(d.counter for d in receiver.out) == [0, 2, 3, 4, 5, 6]
    assert (receiver.order.held_now, receiver.held_bytes.total) == (0, 0)


def test_forgetting_gives_the_memory_back():
    receiver = after(D(0), *[D(n, bucket_sequence=n, path=1) for n in range(2, 7)])
    assert receiver.held_bytes.total == 500
    receiver.order.drop_all()
    assert (receiver.order.held_now, receiver.held_bytes.total) == (0, 0)
    receiver.settle()
    assert receiver.came() == [0]


# Repair --------------------------------------------------------------------------------------------


def asked(receiver: Receiver) -> list[tuple[int, int]]:
    """Take what is to be asked for now: first counter and how many."""
    ranges: list[tuple[int, int]] = []
    while asks := receiver.holes.take_asks(receiver.now_ns, 128):
        ranges += asks[1]
    return ranges


def repaired(counter: int, sequence: int | None = None, **more: int) -> D:
    """Return a packet of a class that may be sent again; a single link unless said."""
    place = counter if sequence is None else sequence
    return D(counter, bucket_sequence=place, flags=REPAIRED, **{"link": counter} | more)


def test_a_proven_hole_is_asked_for_at_once_and_waited_for():
    receiver = after(repaired(0), repaired(2))
    assert asked(receiver) == [(1, 1)]
    receiver.pass_time(REPAIR_NS - MS)
    assert receiver.came() == [0], "its repair is on the way"
    receiver.arrive(repaired(1, link=3))
    assert receiver.came() == [0, 1, 2]
    assert receiver.window.revived == 1
    receiver.pass_time(5 * REPAIR_NS)
    assert asked(receiver) == []
    assert not receiver.holes.busy


def test_what_does_not_come_is_asked_for_thrice_and_then_given_up():
    receiver = after(repaired(0), repaired(2))
    times = []
    start_ns = receiver.now_ns
    for _ in range(4 * REPAIR_NS // MS):
        if asked(receiver):
            times.append((receiver.now_ns - start_ns) // MS)
        receiver.pass_time(MS)
    assert times == [0, 40, 80]
    assert receiver.came() == [0, 2]
    assert (receiver.out[-1].went_ns - start_ns) // MS in range(120, 124)


def test_an_unproven_hole_is_asked_for_when_its_wait_is_over():
    receiver = after(repaired(0), repaired(2, path=1))
    assert asked(receiver) == []
    receiver.pass_time(WAIT_NS + 2 * CHECKPOINT_NS)
    assert asked(receiver) == [(1, 1)]


def test_the_last_of_a_flow_is_asked_for_when_the_sender_says_that_it_sent_it():
    receiver = after(repaired(0))
    receiver.holes.note_next_counter(0, sequence=2, next_counter=2)
    assert asked(receiver) == [(1, 1)], "the link jumped by one, and one datagram is missing"


def test_without_a_jump_the_senders_word_is_waited_for():
    receiver = after(repaired(0))
    receiver.holes.note_next_counter(0, sequence=1, next_counter=2)
    receiver.settle()
    assert receiver.holes.busy
    assert asked(receiver) == []
    receiver.pass_time(WAIT_NS + 2 * CHECKPOINT_NS)
    assert asked(receiver) == [(1, 1)], "it may have gone over another path"


def test_the_very_first_packet_is_waited_for_and_asked_for():
    receiver = after(repaired(1))
    assert receiver.came() == []
    receiver.pass_time(WAIT_NS + 2 * CHECKPOINT_NS)
    assert asked(receiver) == [(0, 1)]
    receiver.arrive(repaired(0, link=2))
    assert receiver.came() == [0, 1]


def test_who_joins_late_misses_nothing_from_before():
    receiver = after(repaired(LATE_JOIN, 77), repaired(LATE_JOIN + 1, 78))
    receiver.pass_time(2 * WAIT_NS)
    assert receiver.came() == [77, 78]
    assert asked(receiver) == []


@pytest.mark.parametrize(
    ("flags", "patience_ms"), [(PLAIN, 0), (COPIED, WAIT_NS // MS), (BRIEF, 20), (REPAIRED, 120)]
)
def test_each_class_waits_for_a_lost_predecessor_as_long_as_it_can_use_it(flags, patience_ms):
    receiver = after(D(0, flags=flags), D(2, bucket_sequence=2, link=2, flags=flags))
    waited_ms = 0
    while receiver.came() == [0]:
        receiver.pass_time(MS)
        waited_ms += 1
        assert waited_ms < 200
    assert patience_ms <= waited_ms <= patience_ms + 4


def test_a_flow_waits_for_no_repair_of_another():
    receiver = after(
        D(0, bucket=1, flags=REPAIRED),
        D(1, bucket=2, link=1, flags=REPAIRED),
        D(3, bucket=2, bucket_sequence=1, link=3, flags=REPAIRED),
    )
    assert receiver.came(2) == [0, 1]


# What is no DATA but takes a link sequence ------------------------------------------------------------


def test_a_control_datagram_between_two_of_data_is_no_gap():
    receiver = after(D(0, link=0))
    receiver.holes.note_other(0, 1)
    receiver.arrive(D(2, bucket_sequence=2, link=2))
    receiver.settle()
    assert receiver.came() == [0], "counter 1 is on its way over another path"


def test_a_jump_met_by_control_counts_for_the_next_data():
    receiver = after(D(0, link=0))
    receiver.holes.note_other(0, 2)
    receiver.arrive(D(2, bucket_sequence=2, link=3))
    receiver.settle()
    assert receiver.came() == [0, 2]


def test_a_jump_met_by_what_was_sent_again_counts_for_the_next_new():
    receiver = after(D(0, link=0), D(2, bucket=2, link=1))
    receiver.arrive(D(1, bucket_sequence=1, link=3))
    receiver.arrive(D(4, bucket=2, bucket_sequence=2, link=4))
    assert receiver.window.unknown_between(3, 3) == 0, "lost before the resend came"


def test_a_copy_moves_the_path_on_and_proves_nothing():
    receiver = after(D(0, path=0, link=0), D(0, path=1, link=0), D(1, bucket_sequence=1, path=1, link=1))
    receiver.arrive(D(1, bucket_sequence=1, path=0, link=1))
    receiver.arrive(D(3, bucket_sequence=3, path=0, link=2))
    receiver.settle()
    assert receiver.came() == [0, 1], "path 0 has no gap: counter 2 went over path 1"


def test_recorded_datagrams_cannot_push_a_path_out_of_sight():
    receiver = after(D(0, link=0), D(1, bucket_sequence=1, link=1))
    for jump in (1 << 15, 1 << 20, 1 << 31, 70):
        assert not receiver.arrive(D(0, link=jump))
    receiver.arrive(D(3, bucket_sequence=3, link=3))
    receiver.settle()
    assert receiver.came() == [0, 1, 3]


@pytest.mark.parametrize("restart", [0, 1 << 20, 1 << 31])
def test_a_path_that_begins_anew_is_believed_after_a_while(restart):
    receiver = Receiver()
    for n in range(50):
        receiver.arrive(D(n, bucket_sequence=n, link=(1 << 28) + n))
    for n in range(50, 80):
        receiver.arrive(D(n, bucket_sequence=n, link=restart + n))
    receiver.arrive(D(81, bucket_sequence=81, link=restart + 81))
    receiver.settle()
    assert receiver.came()[-1] == 81, "its jump proves again"


def test_thousands_that_wait_cost_one_look_each_round(monkeypatch):
    receiver = after(repaired(0))
    for n in range(2, 3_002):
        receiver.arrive(repaired(n, path=1, link=n))
    looks = []
    first_open = ReplayWindow.first_open

    def counted(*args: Any, **named: Any) -> int:
        looks.append(args)
        return first_open(*args, **named)

    monkeypatch.setattr(ReplayWindow, "first_open", counted)
    receiver.settle()
    receiver.settle()
    assert receiver.order.held_now == 3000
    assert len(looks) <= 2 * 2


def test_a_bucket_that_lost_more_than_half_its_numbers_goes_on_in_order():
    """The counter tells which way the 16-bit sequence went."""
    receiver = after(D(0))
    receiver.arrive(D(600, bucket_sequence=40_000, path=1))
    receiver.arrive(D(602, bucket_sequence=40_002, path=2))
    receiver.arrive(D(601, bucket_sequence=40_001, path=3))
    receiver.pass_time(2 * WAIT_NS)
    assert receiver.came() == [0, 40_000, 40_001, 40_002]


def test_a_jump_the_kernel_knows_nothing_of_is_no_loss():
    """A probe took the link sequence: it ends in the receiving kernel."""
    receiver, lost = Receiver(), [7]
    receiver.holes.lost_on = lambda _: lost[0]
    receiver.arrive(D(0, link=0))
    receiver.arrive(D(2, bucket_sequence=2, link=2))
    receiver.settle()
    assert receiver.came() == [0], "counter 1 is on its way over another path"
    receiver.arrive(D(1, bucket_sequence=1, path=1))
    lost[0] += 1
    receiver.arrive(D(4, bucket_sequence=4, link=5))
    receiver.settle()
    assert receiver.came() == [0, 1, 2, 4], "one of these two is missed by the kernel, too"


def test_what_the_kernel_takes_back_is_accounted_anew():
    receiver, lost = Receiver(), [5]
    receiver.holes.lost_on = lambda _: lost[0]
    receiver.arrive(D(0, link=0))
    lost[0] = 3
    receiver.arrive(D(1, bucket_sequence=1, link=3))
    lost[0] = 4
    receiver.arrive(D(3, bucket_sequence=3, link=5))
    receiver.settle()
    assert receiver.came() == [0, 1, 3]


# Links of every kind ---------------------------------------------------------------------------------


@dataclass
class Plan:
    """What is sent, over which link, what is lost, and how late each link is."""

    datagrams: list[D]
    arrivals: list[tuple[int, D]]
    """Time and datagram, of those that are not lost."""
    lag_ns: int


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    rng = draw(st.randoms(use_true_random=False))
    links = draw(st.integers(2, 4))
    loss = draw(st.sampled_from([0.0, 0.02, 0.3]))
    lag_ns = draw(st.sampled_from([0, 5 * MS, 25 * MS, 80 * MS]))
    delays = [rng.randint(0, lag_ns) for _ in range(links)]
    return plan(rng, count=draw(st.integers(1, 80)), delays=delays, loss=loss)


def plan(rng: random.Random, *, count: int, delays: list[int], loss: float) -> Plan:
    datagrams, arrivals = [], []
    link_sequences, busy = [rng.choice([0, 0xFFFFFFF0])] * len(delays), [0] * len(delays)
    sequences = [rng.choice([0, 0xFFF8]) for _ in range(3)]
    counter, sent_ns = LATE_JOIN, 0
    for bucket in range(3):  # where a flow or a link begins is known by what comes first: let that arrive
        first = D(counter, bucket, sequences[bucket], 0, link_sequences[0])
        datagrams.append(first)
        arrivals.append((0, first))
        sequences[bucket] += 1
        link_sequences[0] += 1
        counter += 1
    for _ in range(count):
        sent_ns += rng.choice([0, 10_000, 200_000, 3 * MS])
        bucket, path, rows = rng.randrange(3), rng.randrange(len(delays)), rng.choice([1, 1, 1, 4])
        d = D(counter, bucket, sequences[bucket], path, link_sequences[path], rows)
        counter += rows
        sequences[bucket] = sequences[bucket] + rows & 0xFFFF
        link_sequences[path] = link_sequences[path] + rows & 0xFFFFFFFF
        datagrams.append(d)
        if rng.random() < loss:
            continue
        busy[path] = max(busy[path], sent_ns + delays[path])  # links keep order
        arrivals.append((busy[path], d))
    return Plan(datagrams, sorted(arrivals, key=lambda a: (a[0], a[1].counter)), max(delays) - min(delays))


def played(some: Plan) -> Receiver:
    """Let a plan happen, and let all waits run out."""
    receiver = Receiver()
    start_ns = receiver.now_ns
    for at_ns, d in some.arrivals:
        while start_ns + at_ns >= receiver.now_ns + TICK_NS:
            receiver.pass_time(TICK_NS)
        receiver.now_ns = start_ns + at_ns
        assert receiver.arrive(d)
        receiver.settle()
    receiver.pass_time(2 * WAIT_NS)
    return receiver


@settings(deadline=None, max_examples=80)
@given(plans())
def test_every_fresh_packet_comes_out_once_in_bucket_order_and_soon(some):
    receiver = played(some)
    assert sorted(d.counter for d in receiver.out) == sorted(d.counter for _, d in some.arrivals)
    assert (receiver.order.held_now, receiver.held_bytes.total) == (0, 0)
    newest: dict[int, int] = {}
    for d in receiver.out:
        waited_ns = d.went_ns - d.came_ns
        is_late = d.counter < newest.get(d.bucket, -1)
        assert not is_late or waited_ns == 0, "what was held came out of order"
        assert waited_ns <= WAIT_NS + 2 * CHECKPOINT_NS + 2 * TICK_NS  # begun ticks count whole
        newest[d.bucket] = max(newest.get(d.bucket, -1), d.counter)


@settings(deadline=None, max_examples=80)
@given(plans())
def test_links_less_apart_than_the_wait_never_break_the_order(some):
    if some.lag_ns >= WAIT_NS:
        return
    receiver = played(some)
    for bucket in range(3):
        counters = [d.counter for d in receiver.out if d.bucket == bucket]
        assert counters == sorted(counters), "a packet was given up that was still on its way"


@settings(deadline=None, max_examples=50)
@given(st.randoms(use_true_random=False), st.sampled_from([0.02, 0.3]))
def test_on_a_single_link_no_loss_is_ever_waited_for(rng, loss):
    receiver = played(plan(rng, count=60, delays=[0], loss=loss))
    assert all(d.went_ns == d.came_ns for d in receiver.out)
