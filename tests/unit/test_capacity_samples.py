"""What an estimator believes: untrue samples, jumping clocks, lying peers, pauses, moves and caps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.capacity import Estimator, State
from sdwan.core.delayfloor import DelayFloor
from sdwan.core.sample import Sample
from sdwan.core.window import PATIENCE, History
from tests.unit.bond_world import BondWorld, Link, WorldPath

MS = 10**6
SECOND = 10**9
START = 10**12


def sample(number: int, **changes: int) -> Sample:
    """The state of a path of 10 Mbit/s, used up, at report ``number``."""
    sent = 20 * number
    plain = Sample(
        now_ns=START + number * 25 * MS,
        sent_ns=START + number * 25 * MS - 20 * MS,
        delay_ns=10 * MS,
        delay_min_ns=10 * MS,
        jitter_ns=0,
        received=sent,
        received_bytes=sent * 1500,
        lost=0,
        sent=sent,
        sent_bytes=sent * 1500,
        idle_ns=0,
        backlog_ns=0,
        sent_total_bytes=sent * 1500,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"now_ns": START},
        {"sent_ns": START},
        {"sent_ns": START + SECOND},
        {"delay_ns": 60 * SECOND},
        {"delay_min_ns": 11 * MS},
        {"received": 0},
        {"received_bytes": 0},
        {"received_bytes": 1 << 40},
        {"lost": 1 << 30},
        {"sent": 0},
        {"sent_total_bytes": 0},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_sample_that_cannot_be_true_is_refused_and_counted(changes: dict[str, int]) -> None:
    history = History()
    assert history.take(sample(1))
    assert history.take(sample(2))
    assert not history.take(sample(3, **changes))
    assert history.refused == 1
    assert history.newest == sample(2)


def test_a_peer_that_begins_anew_is_believed_after_a_while() -> None:
    history = History()
    history.take(sample(100))
    answers = [history.take(sample(100 + n, received=n, received_bytes=n)) for n in range(1, 6)]
    assert answers == [False] * (PATIENCE - 1) + [True, True]
    assert history.refused == PATIENCE


@given(
    st.lists(
        st.fixed_dictionaries({
            name: st.integers(-(2**40), 2**66) for name in Sample.__slots__
        }),
        max_size=30,
    ),
    st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_whatever_a_peer_says_the_estimate_stays_in_bounds(
    rows: list[dict[str, int]], is_mixed: bool
) -> None:
    estimator = Estimator(cap_bps=50_000_000)
    for number, row in enumerate(rows, start=1):
        if is_mixed:
            estimator.on_sample(sample(number))
        estimator.on_sample(Sample(**row))
        assert 100_000 <= estimator.capacity_bps <= 50_000_000
        assert estimator.queue_ns >= 0
        assert 0 <= estimator.loss_ppm <= 1_000_000


class Liar(WorldPath):
    """A path whose peer claims to have received ten times as much, without any delay."""

    def sample(self, row: dict[str, int], now: float) -> Sample:
        honest = super().sample(row, now)
        return replace(honest, received_bytes=10 * honest.received_bytes, lost=0, delay_ns=0, delay_min_ns=0)


def test_a_liar_cannot_raise_the_estimate_above_twice_of_what_was_sent() -> None:
    world = BondWorld(Link(5), sender=20)
    world.paths = [Liar(world.paths[0].link, Estimator())]
    world.saturate().run(10)
    assert world.paths[0].estimator.capacity_bps <= 2.1 * 20e6


# What the owner of an estimator may say ----------------------------------------------------------


def test_a_cap_is_an_upper_bound_for_ever() -> None:
    world = BondWorld(Link(50)).saturate()
    world.paths[0].estimator.configure(20_000_000)
    world.run(3)
    assert all(moment.capacity <= 20 for moment in world.moments(0, 0, 3))
    assert world.delivered(0, 1, 3) == pytest.approx(20, rel=0.02)
    world.paths[0].estimator.configure(None)
    world.run(6)
    assert world.used(0, 5, 6) > 0.98


def test_nothing_is_known_before_anything_was_measured() -> None:
    estimator = Estimator(start_bps=7_000_000)
    assert (estimator.capacity_bps, estimator.is_known, estimator.base_delay_ns) == (7_000_000, False, None)
    assert (estimator.state, estimator.until_ns, estimator.loss_ppm) == (State.STARTUP, None, 0)
    assert BondWorld(Link(50)).saturate().run(1).paths[0].estimator.is_known


def test_a_path_that_moved_begins_again_with_its_capacity_as_start() -> None:
    estimator = BondWorld(Link(50)).saturate().run(2).paths[0].estimator
    estimator.on_moved()
    assert estimator.state is State.STARTUP
    assert estimator.base_delay_ns is None
    assert estimator.capacity_bps == pytest.approx(50e6, rel=0.1)


def test_a_pause_forgets_windows_and_keeps_the_estimate() -> None:
    world = BondWorld(Link(50)).saturate(0, 2).saturate(4).run(3)
    estimator = world.paths[0].estimator
    before_bps = estimator.capacity_bps
    estimator.on_pause(START + 3 * SECOND)
    assert estimator.capacity_bps == before_bps
    world.run(6)
    assert world.used(0, 4.1, 6) > 0.98


# The delay floor ---------------------------------------------------------------------------------


def test_the_floor_is_the_least_delay_of_ten_seconds() -> None:
    floor = DelayFloor()
    floor.on_delay(5 * MS, now_ns=START)
    for tenth in range(1, 95):
        floor.on_delay(20 * MS, now_ns=START + tenth * SECOND // 10, is_full=True)
    assert floor.ns == 5 * MS
    assert floor.is_stale
    for tenth in range(95, 130):
        floor.on_delay(20 * MS, now_ns=START + tenth * SECOND // 10, is_full=True)
    assert floor.ns == 20 * MS


@pytest.mark.parametrize(("is_full", "believed"), [(False, True), (True, False)])
def test_a_delay_that_lies_still_is_distance_unless_we_fill_the_path(is_full: bool, believed: bool) -> None:
    floor = DelayFloor()
    floor.on_delay(5 * MS, now_ns=START)
    for report in range(1, 160):  # four seconds
        floor.on_delay(40 * MS, now_ns=START + report * 25 * MS, is_full=is_full)
    assert (floor.ns == 40 * MS) is believed


def test_a_held_floor_may_only_fall() -> None:
    floor = DelayFloor()
    floor.on_delay(5 * MS, now_ns=START)
    for second in range(1, 30):
        floor.on_delay(40 * MS, now_ns=START + second * SECOND, is_held=True)
    assert floor.ns == 5 * MS
    assert floor.on_delay(3 * MS, now_ns=START + 31 * SECOND, is_held=True) == 3 * MS
