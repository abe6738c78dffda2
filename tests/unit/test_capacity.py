"""Capacity discovery, in virtual time: what docs/control.md promises, link by link."""

from __future__ import annotations

import pytest

from tests.unit.bond_world import BondWorld, Link, Rate


@pytest.mark.parametrize("rate", [2, 10, 50, 300])
def test_a_steady_link_is_used_up_with_a_short_queue(rate: float) -> None:
    world = BondWorld(Link(rate, delay=0.010)).saturate().run(4)
    assert world.used(0, 2, 4) > 0.98
    assert world.queue_ms(0, 2, 4) < (25 if rate == 2 else 8)  # a datagram takes 6 ms at 2 Mbit/s


@pytest.mark.parametrize("delay", [0.010, 0.030])
def test_steps_are_followed_within_a_second(delay: float) -> None:
    world = BondWorld(Link(Rate((0, 50), (4, 5), (8, 50)), delay=delay)).saturate().run(12)
    for since in (0, 4, 8):
        assert world.settled(0, since, since + 4) < 0.7  # plus the 300 ms it looks at
