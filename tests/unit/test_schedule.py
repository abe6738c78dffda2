"""What the kernel is told of every class as a function of what is known of the paths; and families' turns."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.classes import READY, VOICE, ClassSpec, Preference, Recovery, SlaLimits
from sdwan.core.schedule import (
    BURST_SEGMENTS_MAX,
    SPILL_US,
    Decision,
    PathView,
    decide,
    decide_all,
    is_worth_writing,
    quality,
    turns,
)
from sdwan.core.sla import SlaWatch
from sdwan.model import PathState, SteerMode

UP, DEGRADED, DOWN, PROBING = PathState.UP, PathState.DEGRADED, PathState.DOWN, PathState.PROBING
MBIT = 10**6


def view(path: int, state: PathState = UP, **known: object) -> PathView:
    """A path of a link that is up, with a preference of 1."""
    return PathView(**{"path": path, "state": state, "link_up": True, "preference": 1.0} | known)  # type: ignore[arg-type]


def shares(*views: PathView) -> tuple[float, ...]:
    return decide(views).shares[: len(views)]


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ([view(0), view(1)], (1.0, 1.0)),
        ([view(0, capacity_bps=50 * MBIT), view(1, capacity_bps=10 * MBIT)], (1.0, 0.2)),
        ([view(0, capacity_bps=50 * MBIT), view(1)], (1.0, 1.0)),  # unknown counts like the largest known
        ([view(0), view(1, preference=0.5)], (1.0, 0.5)),
        ([view(0), view(1, preference=0.0)], (1.0, 0.0)),
        ([view(0), view(1, loss_ppm=110_000)], (1.0, 0.5)),
        ([view(0, preference=5e-324, loss_ppm=110_000)], (1.0,)),
        ([view(0), view(1, DEGRADED)], (1.0, 0.0)),
        ([view(0), view(1, PROBING)], (1.0, 0.0)),
        ([view(0, DEGRADED), view(1, PROBING)], (1.0, 0.0)),
        ([view(0, DEGRADED), view(1, DEGRADED)], (1.0, 1.0)),
        ([view(0, DOWN), view(1, DOWN)], (1.0, 1.0)),  # all silent: perhaps we are wrong, so go on
        ([view(0, DOWN, link_up=False), view(1, DOWN)], (0.0, 1.0)),
        ([view(0, DOWN, link_up=False)], (0.0,)),
    ],
)
def test_shares(views: list[PathView], expected: tuple[float, ...]) -> None:
    assert shares(*views) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rates_mbit", "segments"),
    [([None, None], 44), ([10, None], 1), ([100, 100], 8), ([400], 16), ([2000], 44), ([1, 1], 1)],
)
def test_a_burst_lasts_half_a_millisecond_of_the_bond(rates_mbit: list[int | None], segments: int) -> None:
    views = [view(n, capacity_bps=rate * MBIT if rate else None) for n, rate in enumerate(rates_mbit)]
    assert decide(views).burst_segments == segments


def test_delays_are_relative_to_the_fastest_path() -> None:
    decision = decide([view(0, delay_us=1_000_030), view(1, delay_us=1_000_005), view(2)])
    assert decision.delay_us[:3] == (25, 0, 0)


def test_time_per_kibibyte_follows_the_rate() -> None:
    assert decide([view(0, capacity_bps=8_192_000), view(1)]).ns_per_kib[:2] == (1_000_000, 0)


DSL = {"link": "dsl", "capacity_bps": 20 * MBIT, "delay_us": 10_000}
LTE = {"link": "lte", "capacity_bps": 50 * MBIT, "delay_us": 30_000, "metered": True}
SAT = {"link": "sat", "capacity_bps": 90 * MBIT, "delay_us": 300_000, "is_backup": True}


def used(spec: ClassSpec, *paths: dict[str, object], out: tuple[int, ...] = ()) -> set[str]:
    """Return the links a class uses."""
    views = [view(n, **{"link": ""} | path) for n, path in enumerate(paths)]
    decision = decide(views, spec, out)
    return {views[n].link for n, share in enumerate(decision.shares) if share}


ANY, ORDERED = ClassSpec("any"), ClassSpec("pin", preference=Preference.ORDERED, links=("lte", "sat"))
CHEAP = ClassSpec("cheap", avoid_metered=True)
QUICK = ClassSpec("quick", preference=Preference.LOWEST_LATENCY)
ONLY = ClassSpec("only", links=("dsl",), backup_links=("lte",))
DOWN_DSL, FULL_LTE = DSL | {"state": DOWN}, LTE | {"quota_left_bytes": 0}


@pytest.mark.parametrize(
    ("spec", "paths", "links"),
    [
        (ANY, [DSL, LTE, SAT], {"dsl", "lte"}),  # sat is a backup
        (ANY, [DOWN_DSL, LTE, SAT], {"lte"}),
        (ANY, [DOWN_DSL, LTE | {"link_up": False}, SAT], {"sat"}),
        (ANY, [DSL | {"state": DEGRADED}, SAT], {"sat"}),  # a backup that is up beats a suspect path
        (ANY, [DSL, LTE | {"is_drained": True}], {"dsl"}),
        (ANY, [LTE | {"is_drained": True}], set()),  # the operator said so
        (ANY, [DSL, FULL_LTE], {"dsl"}),
        (ANY, [DOWN_DSL, FULL_LTE], {"lte"}),  # needed
        (ANY, [FULL_LTE, SAT], {"sat"}),
        (CHEAP, [DSL, LTE], {"dsl"}),
        (CHEAP, [DOWN_DSL, LTE], {"lte"}),
        (CHEAP, [DOWN_DSL, LTE, SAT], {"lte"}),  # metered before backup
        (ORDERED, [DSL, LTE, SAT], {"lte"}),
        (ORDERED, [DSL, LTE | {"state": DOWN}, SAT], {"sat"}),  # named, so meant, backup or not
        (ORDERED, [DSL, LTE | {"state": DOWN}], {"dsl"}),  # better than nothing
        (ONLY, [DSL, LTE], {"dsl"}),
        (ONLY, [DOWN_DSL, LTE], {"lte"}),
        (ONLY, [LTE | {"link": "other"}], set()),  # nothing else is allowed, ever
        (QUICK, [DSL, LTE | {"delay_us": 50_000}], {"dsl", "lte"}),  # dsl's queue + 40 ms of waiting
        (QUICK, [DSL, LTE | {"delay_us": 55_000}], {"dsl"}),
        (QUICK, [DSL, LTE | {"delay_us": None}], {"dsl"}),
        (READY[VOICE], [DSL, LTE], {"dsl", "lte"}),
        (READY[VOICE], [DSL, LTE | {"delay_us": 95_000}], {"dsl"}),  # beyond the deadline of 80 ms
    ],
)
def test_the_links_a_class_uses(spec: ClassSpec, paths: list[dict[str, object]], links: set[str]) -> None:
    assert used(spec, *paths) == links


def test_paths_out_by_sla_are_used_only_when_nothing_else_is_left() -> None:
    assert used(ANY, DSL, LTE, out=(0,)) == {"lte"}
    assert used(ANY, DSL, LTE, out=(0, 1)) == {"dsl", "lte"}
    assert used(ANY, DSL, FULL_LTE, out=(0,)) == {"dsl"}  # an exhausted quota is dearer than a broken limit


def test_the_widest_link_is_taken_until_it_is_full() -> None:
    """The others seem later than the widest with a full queue in front: the kernel takes them only then."""
    wide = ClassSpec("wide", preference=Preference.HIGHEST_BANDWIDTH)
    decision = decide([view(0, **DSL), view(1, **LTE)], wide)
    assert all(decision.shares[:2])
    fullest_us = decision.delay_us[1] + decision.bound_us[1]
    assert decision.delay_us[0] >= fullest_us + SPILL_US
    stride = replace(wide, steering=SteerMode.STRIDE)
    assert decide([view(0, **DSL), view(1, **LTE)], stride).shares[:2] == (0.0, 1.0)
    copies = replace(stride, recovery=Recovery.DUPLICATE)
    assert all(decide([view(0, **DSL), view(1, **LTE)], copies).shares[:2])


def test_capacities_that_waver_do_not_move_the_preference() -> None:
    wide = ClassSpec("wide", preference=Preference.HIGHEST_BANDWIDTH)
    for one, other in ((50, 49), (49, 50), (50, 60)):
        decision = decide([view(0, capacity_bps=one * MBIT), view(1, capacity_bps=other * MBIT)], wide)
        assert decision.delay_us[0] < decision.delay_us[1]


def test_urgent_classes_may_queue_behind_the_others() -> None:
    views = [view(0, capacity_bps=MBIT, queue_target_ns=4_000_000)]
    bulk, interactive, video, voice, *rest = (decision.bound_us[0] for decision in decide_all(views))
    assert (bulk, interactive, video, voice) == (4000, 34_000, 4000, 34_000)
    assert rest == [bulk] * 4


@pytest.mark.parametrize(
    ("wanted", "other", "told"),
    [
        (SteerMode.EARLIEST, view(1, capacity_bps=MBIT), SteerMode.EARLIEST),
        (SteerMode.EARLIEST, view(1), SteerMode.STRIDE),
        (SteerMode.EARLIEST, view(1, DOWN), SteerMode.EARLIEST),  # not in use
        (SteerMode.STRIDE, view(1, capacity_bps=MBIT), SteerMode.STRIDE),
        (SteerMode.DUPLICATE, view(1), SteerMode.DUPLICATE),
    ],
)
def test_earliest_delivery_needs_the_capacity_of_every_path_in_use(
    wanted: SteerMode, other: PathView, told: SteerMode
) -> None:
    spec = ClassSpec("any", steering=wanted)
    assert decide([view(0, capacity_bps=MBIT), other], spec).mode is told


def test_every_class_obeys_its_own_sla() -> None:
    specs = (ClassSpec("bulk"), ClassSpec("calls", sla=SlaLimits(latency_ns=150_000_000)))
    views = [view(0, rtt_ns=20_000_000), view(1, rtt_ns=180_000_000)]
    watch = SlaWatch()
    watch.update(views, specs, now_ns=0)
    watch.update(views, specs, now_ns=1_000_000_000)
    decisions = decide_all(views, specs, watch)
    assert len(decisions) == 8
    assert [decision.shares[:2] for decision in decisions[:3]] == [(1, 1), (1, 0), (1, 1)]


@given(st.integers(0, 1_000_000), st.integers(0, 1_000_000))
def test_more_loss_is_never_better(one_ppm: int, other_ppm: int) -> None:
    low, high = sorted((one_ppm, other_ppm))
    assert quality(low) >= quality(high) > 0


@given(
    st.lists(
        st.builds(
            PathView,
            path=st.just(0),
            state=st.sampled_from(PathState),
            link_up=st.booleans(),
            preference=st.just(0.0) | st.floats(0.001, 1000),
            capacity_bps=st.none() | st.integers(1, 10**11),
            delivered_bps=st.integers(0, 10**11),
            loss_ppm=st.integers(0, 10**6),
            delay_us=st.none() | st.integers(0, 1 << 40),
            metered=st.booleans(),
            is_backup=st.booleans(),
            is_drained=st.booleans(),
            quota_left_bytes=st.none() | st.integers(0, 2),
        ),
        max_size=8,
    )
)
def test_whatever_is_known_the_decision_is_sound(views: list[PathView]) -> None:
    numbered = [replace(view, path=n) for n, view in enumerate(views)]
    for decision in decide_all(numbered):
        assert_sound(decision, numbered)


def assert_sound(decision: Decision, numbered: list[PathView]) -> None:
    assert len(decision.shares) == len(decision.ns_per_kib) == len(decision.delay_us) == 8
    assert all(0 <= share <= 1 for share in decision.shares)
    assert 1 <= decision.burst_segments <= BURST_SEGMENTS_MAX
    assert all(delay >= 0 for delay in decision.delay_us)
    usable = any(v.link_up and v.preference > 0 and not v.is_drained for v in numbered)
    assert (max(decision.shares) == 1) == usable
    assert all(numbered[n].link_up for n, share in enumerate(decision.shares) if share)


def test_small_changes_are_not_worth_a_write() -> None:
    before = decide([view(0, capacity_bps=100 * MBIT), view(1, capacity_bps=50 * MBIT)])
    near = decide([view(0, capacity_bps=100_500_000), view(1, capacity_bps=50 * MBIT)])
    far = decide([view(0, capacity_bps=120 * MBIT), view(1, capacity_bps=50 * MBIT)])
    gone = decide([view(0, capacity_bps=100 * MBIT), view(1, DEGRADED, capacity_bps=50 * MBIT)])
    assert is_worth_writing(None, before)
    assert not is_worth_writing(before, before)
    assert not is_worth_writing(before, near)
    assert is_worth_writing(before, far)
    assert is_worth_writing(before, gone)
    assert is_worth_writing(before, replace(before, mode=SteerMode.STRIDE))
    assert is_worth_writing(before, replace(before, bound_us=(1000,) * 8))


@pytest.mark.parametrize(
    ("shares", "order"),
    [
        ({}, ()),
        ({4: 1.0}, (4,)),
        ({4: 1.0, 6: 0.0}, (4,)),
        ({4: 1.0, 6: 1.0}, (4, 6) * 4),
        ({4: 3.0, 6: 1.0}, (4, 4, 6, 4) * 2),
        ({4: 100.0, 6: 1.0}, (4,) * 7 + (6,)),  # nobody is forgotten
    ],
)
def test_address_families_take_turns_by_their_shares(
    shares: dict[int, float], order: tuple[int, ...]
) -> None:
    assert turns(shares) == order
