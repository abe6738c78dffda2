"""Shares, bursts and turns as functions of what is known of the paths; and the mode the kernel is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.schedule import (
    BURST_SEGMENTS_MAX,
    Decision,
    PathView,
    decide,
    is_worth_writing,
    mode_in_force,
    quality,
    turns,
)
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
            preference=st.floats(0, 1000),
            capacity_bps=st.none() | st.integers(1, 10**11),
            delivered_bps=st.integers(0, 10**11),
            loss_ppm=st.integers(0, 10**6),
            delay_us=st.none() | st.integers(0, 1 << 40),
        ),
        max_size=8,
    )
)
def test_whatever_is_known_the_decision_is_sound(views: list[PathView]) -> None:
    numbered = [PathView(n, *(getattr(v, f) for f in PathView.__slots__[1:])) for n, v in enumerate(views)]
    decision = decide(numbered)
    assert len(decision.shares) == len(decision.ns_per_kib) == len(decision.delay_us) == 8
    assert all(0 <= share <= 1 for share in decision.shares)
    assert 1 <= decision.burst_segments <= BURST_SEGMENTS_MAX
    assert all(delay >= 0 for delay in decision.delay_us)
    usable = any(v.link_up and v.preference > 0 for v in numbered)
    assert (max(decision.shares) == 1) == usable
    assert all(numbered[n].link_up for n, share in enumerate(decision.shares) if share)


def test_small_changes_are_not_worth_a_write() -> None:
    before = decide([view(0, capacity_bps=100 * MBIT), view(1, capacity_bps=50 * MBIT)])
    near = decide([view(0, capacity_bps=102 * MBIT), view(1, capacity_bps=50 * MBIT)])
    far = decide([view(0, capacity_bps=120 * MBIT), view(1, capacity_bps=50 * MBIT)])
    gone = decide([view(0, capacity_bps=100 * MBIT), view(1, DEGRADED, capacity_bps=50 * MBIT)])
    assert is_worth_writing(None, before)
    assert not is_worth_writing(before, before)
    assert not is_worth_writing(before, near)
    assert is_worth_writing(before, far)
    assert is_worth_writing(before, gone)


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


def _decision(shares: tuple[float, ...], ns_per_kib: tuple[int, ...]) -> Decision:
    return Decision(shares, ns_per_kib, (0,) * len(shares), burst_segments=1)


@pytest.mark.parametrize(
    ("wanted", "shares", "ns_per_kib", "told"),
    [
        (SteerMode.EARLIEST, (1.0, 0.5), (80, 160), SteerMode.EARLIEST),
        (SteerMode.EARLIEST, (1.0, 0.5), (80, 0), SteerMode.STRIDE),
        (SteerMode.EARLIEST, (1.0, 0.0), (80, 0), SteerMode.EARLIEST),
        (SteerMode.STRIDE, (1.0, 0.5), (80, 160), SteerMode.STRIDE),
        (SteerMode.DUPLICATE, (1.0, 0.5), (0, 0), SteerMode.DUPLICATE),
    ],
)
def test_earliest_delivery_needs_the_capacity_of_every_path_in_use(
    wanted: SteerMode, shares: tuple[float, ...], ns_per_kib: tuple[int, ...], told: SteerMode
) -> None:
    assert mode_in_force(wanted, _decision(shares, ns_per_kib)) is told
