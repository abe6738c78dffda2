"""Capacity discovery on links of all kinds, in virtual time: what docs/control.md promises.

``used`` is the share of what the link could have carried that arrived; queues are the link's true ones.
"""

from __future__ import annotations

import pytest

from tests.unit.bond_sources import Constant, Cubic
from tests.unit.bond_world import BondWorld, Link, Rate, cellular


@pytest.mark.parametrize(
    ("rate", "queue_ms"), [(0.5, 120), (2, 40), (10, 12), (50, 8), (300, 8)]
)  # a datagram takes 24 ms at 0.5 Mbit/s, 6 ms at 2
def test_a_steady_link_is_used_up_with_a_short_queue(rate: float, queue_ms: float) -> None:
    world = BondWorld(Link(rate)).saturate().run(3 if rate > 100 else 6)
    assert world.used(0, 2, world.now) > 0.98
    assert world.queue_ms(0, 2, world.now) < queue_ms


@pytest.mark.parametrize("delay", [0.010, 0.030])
def test_steps_of_the_rate_are_followed_within_a_second(delay: float) -> None:
    world = BondWorld(Link(Rate((0, 50), (4, 5), (8, 50)), delay=delay)).saturate().run(12)
    for since in (0, 4, 8):
        assert world.settled(0, since, since + 4) < 0.7  # when the 300 ms begin that it looks at


@pytest.mark.parametrize("loss", [0.02, 0.10])
def test_random_loss_is_weather(loss: float) -> None:
    world = BondWorld(Link(50, loss=loss)).saturate().run(6)
    assert world.used(0, 2, 6) > 0.98 * (1 - loss)
    assert world.queue_ms(0, 2, 6) < 10
    assert world.paths[0].estimator.weather_ppm > 1e6 * loss / 3


@pytest.mark.parametrize(("enter", "leave"), [(0.001, 0.05), (0.01, 0.25)])
@pytest.mark.parametrize("seed", [1, 2])
def test_loss_in_bursts_is_weather_too(enter: float, leave: float, seed: int) -> None:
    world = BondWorld(Link(50, gilbert=(enter, leave), seed=seed)).saturate().run(8)
    assert world.used(0, 3, 8) > 0.95 * (1 - enter / (enter + leave))
    assert "shallow" not in world.states(0, 3, 8)


@pytest.mark.parametrize("buffer", [0.020, 0.050, 0.100, 0.300])
def test_the_depth_of_the_buffer_does_not_matter(buffer: float) -> None:
    world = BondWorld(Link(50, buffer=buffer)).saturate().run(5)
    assert world.used(0, 2, 5) > 0.98
    assert world.queue_ms(0, 2, 5) < 8
    assert world.paths[0].link.dropped < 0.005 * world.paths[0].sent


@pytest.mark.parametrize("policer", [False, True])
def test_what_drops_before_it_queues_is_found_by_small_steps(policer: bool) -> None:
    link = Link(50, buffer_bytes=15_000, policer=policer)
    world = BondWorld(link).saturate().run(8)
    assert world.used(0, 2, 8) > 0.97
    assert link.dropped < 0.04 * world.paths[0].sent
    assert "shallow" in world.states(0, 2, 8)


@pytest.mark.parametrize("seed", [1, 2])
def test_jitter_is_no_queue(seed: int) -> None:
    world = BondWorld(Link(50, jitter=0.003, seed=seed)).saturate().run(6)
    assert world.used(0, 2, 6) > 0.97
    assert world.queue_ms(0, 2, 6) < 20


def test_a_full_link_shows_its_delay_floor_now_and_then() -> None:
    world = BondWorld(Link(20)).saturate().run(30)
    assert world.queue_ms(0, 20, 30) < 10  # else the queue would be taken for distance, bit by bit
    assert world.used(0, 2, 30) > 0.99


def test_a_link_that_got_longer_is_used_up_again() -> None:
    world = BondWorld(Link(50, longer=(3, 0.020))).saturate().run(14)
    assert world.used(0, 12, 14) > 0.95
    assert world.queue_ms(0, 12, 14) < 10


def test_lost_reports_do_not_matter() -> None:
    world = BondWorld(Link(50), report_loss=0.3).saturate().run(6)
    assert world.used(0, 2, 6) > 0.98
    assert world.queue_ms(0, 2, 6) < 12


# What the application does -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["slow", "bursts", "short flows"])
def test_a_period_limited_by_the_application_changes_nothing(kind: str) -> None:
    world = BondWorld(Link(50, delay=0.015)).saturate(0, 3).saturate(9)
    if kind == "slow":
        Constant(world, 5, begin=3, end=9)
    elif kind == "bursts":
        Constant(world, 100, begin=3, end=9, period=0.5, duty=0.05)
    else:
        for begin in (3, 5, 7):
            Cubic(world, None, way_back=0.015, begin=begin, end=begin + 0.5)
    world.run(11)
    assert all(48 < moment.capacity < 75 for moment in world.moments(0, 3.5, 9))
    assert world.used(0, 9.05, 10) > 0.98
    assert world.queue_ms(0, 9, 11, percentile=100) < 25


def test_a_quiet_link_that_gets_longer_keeps_its_estimate() -> None:
    world = BondWorld(Link(50, delay=0.015, longer=(5, 0.030), stalls=0.005)).saturate(0, 3)
    Constant(world, 3, begin=3, end=12)
    world.run(12)
    assert all(moment.capacity > 45 for moment in world.moments(0, 3.5, 12))
    assert world.states(0, 4, 12) == {"track"}


def test_a_tcp_through_the_tunnel_fills_it() -> None:
    world = BondWorld(Link(50, delay=0.015), start=None)
    flow = Cubic(world, None, way_back=0.015)
    world.run(6)
    assert flow.mbit(2, 6) > 0.9 * 50
    assert world.queue_ms(0, 2, 6) < 12


# Several links -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rates_and_delays",
    [((50, 0.010), (50, 0.030)), ((50, 0.010), (10, 0.010)), ((100, 0.010), (5, 0.010))],
    ids=["50+50", "50+10", "100+5"],
)
def test_unlike_links_are_used_up_together(rates_and_delays: tuple[tuple[float, float], ...]) -> None:
    world = BondWorld(*(Link(rate, delay=delay) for rate, delay in rates_and_delays)).saturate().run(5)
    for path, (rate, _) in enumerate(rates_and_delays):
        assert world.used(path, 2, 5) > 0.98
        assert world.queue_ms(path, 2, 5) < (15 if rate < 10 else 10)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_cellular_link_beside_a_steady_one(seed: int) -> None:
    world = BondWorld(
        Link(cellular(25, seed=seed), delay=0.025, buffer_bytes=300_000), Link(20, delay=0.015)
    ).saturate()
    world.run(20)
    could = world.paths[0].link.rate.mean(2, 20) + 20
    assert world.delivered(0, 2, 20) + world.delivered(1, 2, 20) > 0.95 * could
    assert world.queue_ms(0, 2, 20) < 100


# Somebody else -----------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [0.050, 0.100, 0.200])
def test_a_rival_tcp_neither_starves_nor_starves_us(buffer: float) -> None:
    shared = Link(20, delay=0.015, buffer=buffer)
    world = BondWorld(shared, Link(10, delay=0.015)).saturate()
    rival = Cubic(world, shared, way_back=0.015, begin=3, end=33)
    world.run(42)
    assert world.delivered(0, 8, 33) > 0.2 * 20
    assert rival.mbit(8, 33) > 0.2 * 20
    assert world.delivered(1, 3, 33) > 0.98 * 10
    assert world.used(0, 40, 42) > 0.97  # the rival left
    assert world.queue_ms(0, 40, 42) < 20


# Gigabits, and processors that are late ----------------------------------------------------------


@pytest.mark.parametrize("noise", ["naps of 2 ms", "naps of 5 ms", "jitter of 1 ms"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_sender_at_the_end_of_its_processor_is_not_limited_by_the_estimate(noise: str, seed: int) -> None:
    link = {
        "naps of 2 ms": Link(40_000, delay=0.001, stalls=0.002, seed=seed),
        "naps of 5 ms": Link(40_000, delay=0.001, stalls=0.005, seed=seed),
        "jitter of 1 ms": Link(40_000, delay=0.001, jitter=0.001, seed=seed),
    }[noise]
    world = BondWorld(link, start=None, burst=44, sender=3000).saturate().run(3)
    assert world.delivered(0, 1, 3) > 0.98 * 3000
    assert all(moment.capacity > 3000 for moment in world.moments(0, 0.6, 3))
    assert not world.states(0, 0, 3) & {"compete", "shallow", "test"}


@pytest.mark.parametrize("rate", [50, 300, 1000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_napping_receiver_is_no_queue(rate: float, seed: int) -> None:
    link = Link(rate, delay=0.001, buffer=0.050, stalls=0.005, seed=seed)
    world = BondWorld(link, start=None, burst=44).saturate().run(4)
    assert world.used(0, 1, 4) > 0.97
