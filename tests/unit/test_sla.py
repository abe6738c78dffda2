"""Hysteresis in virtual time: when a path goes out for a class, when it is back, and with which words."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.classes import ClassSpec, SlaLimits
from sdwan.core.eligible import PathView, eligible
from sdwan.core.sla import STALE_NS, SlaWatch
from sdwan.model import PathState

MS, SECOND = 10**6, 10**9
VOICE = ClassSpec("voice", sla=SlaLimits(latency_ns=150 * MS, jitter_ns=30 * MS, loss_ppm=10_000))
SPECS = (ClassSpec("bulk"), VOICE)
DSL = PathView(0, PathState.UP, True, 1.0, link="dsl", rtt_ns=20 * MS, jitter_ns=MS)
LTE = PathView(1, PathState.UP, True, 1.0, link="lte", rtt_ns=60 * MS, jitter_ns=MS)
SLOW = replace(LTE, rtt_ns=180 * MS)


class World:
    """A watch, its clock, and the sentences it said."""

    def __init__(self) -> None:
        self.watch = SlaWatch()
        self.now_ns = 0

    def after(self, time_ns: int, *views: PathView, specs: tuple[ClassSpec, ...] = SPECS) -> list[str]:
        """Let time pass in steps of 100 ms; return what was said meanwhile."""
        said = []
        for _ in range(max(time_ns // (100 * MS), 1)):
            said += [v.reason for v in self.watch.update(views, specs, now_ns=self.now_ns)]
            self.now_ns += 100 * MS
        return said

    @property
    def out(self) -> frozenset[int]:
        return self.watch.paths_out(1)


def test_a_path_goes_out_after_a_second_and_is_back_after_ten() -> None:
    world = World()
    assert world.after(1 * SECOND, DSL, SLOW) == []
    assert world.after(0, DSL, SLOW) == ["lte out for voice: rtt 180 ms > 150 ms for 1 s"]
    assert world.out == {1} and world.watch.paths_out(0) == frozenset()
    assert world.after(10 * SECOND, DSL, replace(LTE, rtt_ns=120 * MS)) == []
    assert world.after(0, DSL, replace(LTE, rtt_ns=120 * MS)) == [
        "lte back for voice: rtt 120 ms <= 150 ms, jitter 1 ms <= 30 ms, loss 0 % <= 1 % for 10 s"
    ]
    assert not world.out


def test_a_break_starts_both_clocks_anew() -> None:
    world = World()
    for _ in range(5):
        assert world.after(900 * MS, DSL, SLOW) == []
        assert world.after(0, DSL, LTE) == []
    world.after(2 * SECOND, DSL, SLOW)
    for _ in range(3):
        assert world.after(9 * SECOND, DSL, LTE) == []
        assert world.after(0, DSL, SLOW) == []
    assert world.out == {1}


def test_jitter_and_loss_count_like_delay_and_the_worst_is_named() -> None:
    assert World().after(2 * SECOND, DSL, replace(LTE, jitter_ns=45 * MS)) == [
        "lte out for voice: jitter 45 ms > 30 ms for 1 s"
    ]
    assert World().after(2 * SECOND, DSL, replace(SLOW, loss_ppm=52_000)) == [
        "lte out for voice: loss 5.2 % > 1 % for 1 s"
    ]


def test_the_last_usable_path_is_kept_and_that_is_said_once() -> None:
    world = World()
    down = replace(DSL, state=PathState.DOWN)
    told = ["lte kept for voice: rtt 180 ms > 150 ms for 1 s, but no other link is usable"]
    assert world.after(5 * SECOND, down, SLOW) == told
    assert not world.out
    assert world.after(0, DSL, SLOW) == ["lte out for voice: rtt 180 ms > 150 ms for 1 s"]


def test_of_two_bad_paths_the_worse_goes_and_the_better_stays() -> None:
    world = World()
    said = world.after(2 * SECOND, replace(DSL, rtt_ns=160 * MS), SLOW)
    assert said == [
        "lte out for voice: rtt 180 ms > 150 ms for 1 s",
        "dsl kept for voice: rtt 160 ms > 150 ms for 1 s, but no other link is usable",
    ]


def test_a_path_that_is_out_is_called_back_when_the_others_fail() -> None:
    world = World()
    world.after(2 * SECOND, DSL, SLOW)
    assert world.after(0, replace(DSL, link_up=False), SLOW) == [
        "lte back for voice: no other link is usable"
    ]
    assert not world.out
    assert world.after(2 * SECOND, DSL, SLOW) == ["lte out for voice: rtt 180 ms > 150 ms for 1 s"]


def test_loss_that_is_not_measured_any_more_keeps_nothing_out() -> None:
    world = World()
    lossy = replace(LTE, loss_ppm=52_000)
    world.after(2 * SECOND, DSL, lossy)
    assert world.out == {1}
    said = world.after(STALE_NS + 11 * SECOND, DSL, lossy)
    assert said == ["lte back for voice: rtt 60 ms <= 150 ms, jitter 1 ms <= 30 ms for 10 s"]


def test_two_paths_over_one_link_are_told_apart() -> None:
    said = World().after(2 * SECOND, DSL, SLOW, replace(LTE, path=2))
    assert said == ["lte path 1 out for voice: rtt 180 ms > 150 ms for 1 s"]


def test_what_is_gone_is_forgotten() -> None:
    world = World()
    world.after(2 * SECOND, DSL, SLOW)
    world.after(0, DSL)
    assert not world.out
    world.after(2 * SECOND, DSL, SLOW)
    world.after(0, DSL, SLOW, specs=(ClassSpec("bulk"), ClassSpec("voice")))  # limits taken back by a reload
    assert not world.out


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.sampled_from(PathState), st.booleans(), st.none() | st.integers(0, 300 * MS)),
                max_size=4,
            ),
            st.integers(-5 * SECOND, 5 * SECOND),
        ),
        max_size=30,
    )
)
def test_whatever_happens_and_wherever_the_clock_jumps_a_usable_path_is_left(
    story: list[tuple[list[tuple[PathState, bool, int | None]], int]],
) -> None:
    watch, now_ns = SlaWatch(), 0
    for paths, step_ns in story:
        views = [
            PathView(n, state, link_up, 1.0, rtt_ns=rtt_ns, link=f"l{n}")
            for n, (state, link_up, rtt_ns) in enumerate(paths)
        ]
        now_ns += step_ns
        watch.update(views, SPECS, now_ns=now_ns)
        chosen = eligible(views, VOICE)
        assert not chosen or any(view.path not in watch.paths_out(1) for view in chosen)
