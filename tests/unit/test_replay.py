"""The replay window does what RFC 6479 asks, and remembers what was presumed lost.

A numbered table tells the rules; a state machine compares it with a model that is slow and obviously right: a
dictionary of every counter ever seen or presumed lost.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sdwan.core.replay import CONTROL_WINDOW, DATA_WINDOW, ReplayWindow

SIZE = 64

TABLE = [
    # number, what, counters asked one after the other, answers
    (1, "the first counter is fresh", [0], [True]),
    (2, "the same again is not", [0, 0], [True, False]),
    (3, "counters may come in any order", [9, 3, 5, 4], [True] * 4),
    (4, "an old one within the window is fresh once", [63, 1, 1], [True, True, False]),
    (5, "the oldest of the window is still in", [64, 1], [True, True]),
    (6, "one below the window is out, seen or not", [64, 0], [True, False]),
    (7, "the window slides; what falls out stays out", [0, 64, 0, 65, 1], [True, True, False, True, False]),
    (8, "a jump of exactly the window forgets the ring", [5, 5 + SIZE, 5, 6], [True, True, False, True]),
    (9, "a jump of twice the window too", [5, 5 + 2 * SIZE, 5 + SIZE, 6 + SIZE], [True, True, False, True]),
    (10, "a huge jump is no burden", [1, 1 << 62, 1, (1 << 62) - 1], [True, True, False, True]),
    (11, "a ring position used again is fresh", [0, 1, 64, 65], [True] * 4),
    (12, "32-bit borders mean nothing", [0xFFFFFFFF, 1 << 32, 0xFFFFFFFF], [True, True, False]),
    (13, "a gap that was skipped is fresh", [0, 50, *range(1, 50)], [True] * 51),
]


@pytest.mark.parametrize(
    ("counters", "answers"), [row[2:] for row in TABLE], ids=[f"{n}: {t}" for n, t, *_ in TABLE]
)
def test_rules_of_the_window(counters, answers):
    window = ReplayWindow(SIZE)
    assert [window.accept(counter) for counter in counters] == answers


def test_the_windows_are_as_large_as_the_design_asks():
    assert DATA_WINDOW >= 1 << 17
    assert CONTROL_WINDOW >= 1 << 10


@pytest.mark.parametrize("size", [3, 100, (1 << 17) - 1])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(ValueError, match="power of two"):
        ReplayWindow(size)


def test_a_burst_is_taken_whole_or_not_at_all():
    window = ReplayWindow(SIZE)
    assert window.accept(10, 5)
    assert not window.accept(8, 4)  # 10 and 11 were seen
    assert window.accept(8, 2), "the refused burst must have marked nothing"
    assert window.accept(15, 5)
    assert window.top == 19


def test_a_burst_may_begin_below_the_top_and_end_above_it():
    window = ReplayWindow(SIZE)
    window.accept(10)
    window.accept(14)
    assert window.accept(11, 3)
    assert not window.accept(13, 5)
    assert window.accept(15, 3)
    assert window.first_open(10, 17, named_too=False) == -1


def test_the_top_moves_only_forward():
    window = ReplayWindow(SIZE)
    assert window.top == -1
    window.accept(7)
    window.accept(3)
    assert window.top == 7


def test_presumed_lost_is_known_and_yet_fresh():
    window = ReplayWindow(SIZE)
    window.accept(0)
    window.accept(5)
    assert window.unknown_between(1, 4) == 4
    window.name_lost(1, 4)
    assert window.unknown_between(1, 4) == 0
    assert window.first_open(0, 5, named_too=False) == -1
    assert window.first_open(0, 5, named_too=True) == 1
    assert window.lost_between(0, 5) == [(1, 4)]
    assert window.is_fresh(3)
    assert window.accept(3), "late, but never opened before"
    assert not window.accept(3)


def test_presuming_does_not_unsee():
    window = ReplayWindow(SIZE)
    window.accept(0, 3)
    window.name_lost(0, 2)
    assert not window.accept(1)


class Counters(RuleBasedStateMachine):
    """The window against a dictionary: counter → seen or lost; absent = unknown."""

    @initialize(base=st.sampled_from([0, 1, 60, (1 << 32) - 70, 1 << 50]))
    def begin(self, base):
        self.window = ReplayWindow(SIZE)
        self.known: dict[int, str] = {}
        self.base = base

    @property
    def top(self) -> int:
        return max((c for c, state in self.known.items() if state == "seen"), default=-1)

    def model_accepts(self, first: int, count: int) -> bool:
        oldest = self.top - SIZE
        return all(c > oldest and self.known.get(c) != "seen" for c in range(first, first + count))

    def take(self, first: int, count: int) -> None:
        expected = self.model_accepts(first, count)
        assert self.window.is_fresh(first) == self.model_accepts(first, 1)
        assert self.window.accept(first, count) == expected
        if expected:
            self.known.update((c, "seen") for c in range(first, first + count))
            floor = self.top - SIZE
            self.known = {c: state for c, state in self.known.items() if c > floor}

    @rule(offset=st.integers(0, 3 * SIZE), count=st.integers(1, 20))
    def burst_near_the_base(self, offset, count):
        self.take(self.base + offset, count)

    @precondition(lambda self: self.top >= 0)
    @rule(back=st.integers(-10, SIZE + 10), count=st.integers(1, SIZE // 2))
    def burst_near_the_top(self, back, count):
        self.take(max(self.top - back, 0), count)

    @precondition(lambda self: self.top >= 0)
    @rule(jump=st.integers(1, 5 * SIZE))
    def jump(self, jump):
        self.take(self.top + jump, 1)

    @precondition(lambda self: self.top >= 0)
    @rule(a=st.integers(0, SIZE - 1), b=st.integers(0, SIZE - 1))
    def give_up(self, a, b):
        first, last = max(self.top - max(a, b), 0), max(self.top - min(a, b), 0)
        unknown = [c for c in range(first, last + 1) if c not in self.known]
        named = self.window.name_lost(first, last)
        assert [c for start, count in named for c in range(start, start + count)] == unknown
        for counter in range(first, last + 1):
            self.known.setdefault(counter, "lost")

    @precondition(lambda self: self.top >= 0)
    @rule(a=st.integers(0, SIZE - 1), b=st.integers(0, SIZE - 1))
    def expect_no_more(self, a, b):
        first, last = max(self.top - max(a, b), 0), max(self.top - min(a, b), 0)
        self.window.give_up(first, last)
        gone = [c for c in range(first, last + 1) if self.known.get(c) == "lost"]
        self.known.update((c, "given up") for c in gone)

    @invariant()
    def what_is_unknown_agrees(self):
        top = self.top
        assert self.window.top == top
        oldest = max(top - SIZE + 1, 0)
        unknown = [c for c in range(oldest, top + 1) if c not in self.known]
        assert self.window.unknown_between(oldest, top) == len(unknown)
        middle = oldest + (top - oldest) // 2
        assert self.window.unknown_between(middle, top) == sum(c >= middle for c in unknown)
        for start in (oldest, middle):
            named_too = [c for c in range(start, top + 1) if self.known.get(c, "lost") == "lost"]
            expected = next((c for c in unknown if c >= start), -1)
            assert self.window.first_open(start, top, named_too=False) == expected
            assert self.window.first_open(start, top, named_too=True) == (named_too[0] if named_too else -1)
            ranges = self.window.lost_between(start, top)
            lost = [c for first, count in ranges for c in range(first, first + count)]
            assert lost == [c for c in named_too if c in self.known]
        assert all(self.window.is_open(c, named_too=False) == (c in set(unknown)) for c in range(oldest, top))


TestCounters = Counters.TestCase
TestCounters.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
