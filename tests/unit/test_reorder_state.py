"""The reorder window against a machine that sends, loses, delays, repeats and repairs in any order it likes.

Whatever happens: what arrives comes out exactly once, what was waited for comes out in the order of its
bucket, nothing waits longer than its class allows, every lost counter is asked for, and the books balance.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sdwan.core.holes import ASKS_MAX
from tests.unit.test_reorder import BRIEF, CHECKPOINT_NS, MS, REPAIR_NS, REPAIRED, WAIT_NS, D, Receiver, asked

PATHS, BUCKETS = 3, 2
LONGEST_NS = WAIT_NS + (ASKS_MAX + 1) * (REPAIR_NS + 2 * CHECKPOINT_NS)


class Links(RuleBasedStateMachine):
    """``under_way`` are datagrams between the sites; each may arrive, again and again, or never."""

    @initialize(first=st.sampled_from([0, 3, 5000, (1 << 32) - 20]), sequence=st.sampled_from([0, 0xFFF0]))
    def begin(self, first, sequence):
        self.receiver = Receiver()
        self.counter = first
        beginning = sequence if first >= 5000 else 0
        self.sequences = [beginning] * BUCKETS
        self.links = [0] * PATHS
        self.under_way: list[D] = []
        self.arrived: set[int] = set()
        self.missed: set[int] = set()
        for bucket in range(BUCKETS):  # a late joiner knows a bucket by what comes first
            self.send(bucket, 0, 1, REPAIRED)
            self.arrive(0, False)

    @rule(
        bucket=st.integers(0, BUCKETS - 1),
        path=st.integers(0, PATHS - 1),
        rows=st.sampled_from([1, 1, 3]),
        flags=st.sampled_from([REPAIRED, REPAIRED, BRIEF]),
    )
    def send(self, bucket, path, rows, flags):
        d = D(self.counter, bucket, self.sequences[bucket], path, self.links[path], rows, flags=flags)
        self.under_way.append(d)
        self.counter += rows
        self.sequences[bucket] = self.sequences[bucket] + rows & 0xFFFF
        self.links[path] += rows

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 30), again=st.booleans())
    def arrive(self, which, again):
        d = self.under_way[which % len(self.under_way)]
        if not again:
            self.under_way.remove(d)
        fresh = self.receiver.arrive(
            D(d.counter, d.bucket, d.bucket_sequence, d.path, d.link, d.rows, flags=d.flags)
        )
        assert fresh == (d.counter not in self.arrived)
        self.arrived.add(d.counter)

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 30))
    def lose(self, which):
        del self.under_way[which % len(self.under_way)]

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 30), path=st.integers(0, PATHS - 1))
    def send_again(self, which, path):
        d = self.under_way[which % len(self.under_way)]
        d.path, d.link = path, self.links[path]
        self.links[path] += d.rows

    @rule(path=st.integers(0, PATHS - 1))
    def say_how_far(self, path):
        self.receiver.holes.note_next_counter(path, self.links[path], self.counter)
        self.links[path] += 1

    @rule(ms=st.integers(1, 60))
    def pass_time(self, ms):
        for _ in range(ms):
            self.receiver.pass_time(MS)
            self.missed.update(
                c for first, count in asked(self.receiver) for c in range(first, first + count)
            )

    @invariant()
    def nothing_comes_twice_or_from_nowhere(self):
        counters = [d.counter for d in self.receiver.out]
        assert len(set(counters)) == len(counters)
        assert set(counters) <= self.arrived
        assert self.receiver.order.held_now == len(self.arrived) - len(counters)
        assert self.receiver.held_bytes.total == 100 * self.receiver.order.held_now

    @invariant()
    def what_waited_came_out_in_order(self):
        newest: dict[int, int] = {}
        for d in self.receiver.out:
            waited_ns = d.went_ns - d.came_ns
            assert waited_ns <= LONGEST_NS
            assert not waited_ns or d.counter > newest.get(d.bucket, -1)
            newest[d.bucket] = max(d.counter, newest.get(d.bucket, -1))

    def teardown(self):
        if not hasattr(self, "receiver"):
            return
        self.say_how_far(0)
        self.pass_time(LONGEST_NS // MS + 50)
        assert {d.counter for d in self.receiver.out} == self.arrived
        assert not self.receiver.holes.busy
        never = {d.counter + row for d in self.under_way for row in range(d.rows)} - {
            d.counter + row for d in self.receiver.out for row in range(d.rows)
        }
        assert never <= self.missed, "everything that did not come was asked for"


TestLinks = Links.TestCase
TestLinks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
