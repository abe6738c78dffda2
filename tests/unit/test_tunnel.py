"""A pair of tunnels in virtual time: they come up, follow their links, and survive what happens to them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sdwan.core.path import Pace
from sdwan.model import PathState
from tests.unit.control_world import MS, SECOND, Side, World

UP, DEGRADED, DOWN, PROBING = PathState.UP, PathState.DEGRADED, PathState.DOWN, PathState.PROBING


def connected(links: int = 2, **link: object) -> World:
    """Two sites whose paths are all up and whose path MTUs are found."""
    world = World(links, **link)
    world.connect()
    for side in (world.edge, world.hub):
        world.run_until(lambda side=side: is_settled(side, links))
    return world


def is_settled(side: Side, links: int) -> bool:
    paths = side.tunnel.paths.values()
    return len(paths) == links and all(p.state is UP and p.mtu.is_complete for p in paths)


def longest_gap_ns(side: Side, since_ns: int) -> int:
    times = [since_ns] + [when for when, _ in side.received_data if when >= since_ns]
    return max(b - a for a, b in pairwise(times))


def test_both_sides_come_up_and_the_hub_learns_every_path() -> None:
    world = World(3)
    world.connect()
    took_ns = world.run_until(lambda: is_settled(world.edge, 3) and is_settled(world.hub, 3))
    assert took_ns < 500 * MS
    assert {p.place.whereabouts.remote for p in world.hub.tunnel.paths.values()} == {
        world.edge.remote_of[path] for path in range(3)
    }
    assert world.edge.shares[:4] == (1.0, 1.0, 1.0, 0.0)


def test_idle_sites_fall_silent_but_for_probes_and_keepalives() -> None:
    world = connected()
    world.run(3 * SECOND)
    opened = sum(a.opened for a in world.hub.arrived.values())
    world.run(20 * SECOND)
    assert sum(a.opened for a in world.hub.arrived.values()) == opened
    world.run(30 * SECOND)
    assert opened < sum(a.opened for a in world.hub.arrived.values()) < opened + 30


@pytest.mark.parametrize("interval_ms", [1, 5, 20])
def test_a_blackholed_link_loses_its_share_within_100_ms(interval_ms: int) -> None:
    world = connected(delay_ns=10 * MS)
    world.stream(world.edge, interval_ms * MS, 3 * SECOND)
    world.run(1 * SECOND)
    world.out[0].is_black = world.back[0].is_black = True
    took_ns = world.run_until(lambda: world.edge.shares[0] == 0)
    assert took_ns <= 100 * MS
    cut_ns = world.now_ns - took_ns
    world.run(1 * SECOND)
    assert longest_gap_ns(world.hub, cut_ns) <= 100 * MS
    world.run(1 * SECOND)
    assert world.edge.state(0) is DOWN
    assert world.edge.state(1) is UP


def test_a_link_dead_in_one_direction_is_left_by_that_direction_only() -> None:
    world = connected()
    for side in (world.edge, world.hub):
        world.stream(side, 5 * MS, 2 * SECOND)
    world.run(SECOND // 2)
    world.out[0].is_black = True
    world.run(SECOND // 2)
    assert world.edge.shares[0] == 0
    assert world.edge.shares[1] == 1
    assert world.hub.state(1) is UP


def test_a_steady_link_raises_no_alarm_under_a_saturating_load() -> None:
    world = connected(rate_bps=20_000_000, buffer_ns=50 * MS)
    world.stream(world.edge, 200_000, 5 * SECOND)  # 48 Mbit/s into 40
    world.run(5 * SECOND)
    assert [event for when, event in world.edge.log if event.fields.get("state") == "degraded"] == []


def test_jitter_and_a_little_loss_raise_few_alarms() -> None:
    world = connected(delay_ns=20 * MS, loss=0.01)
    for link in (*world.out, *world.back):
        link.jitter_ns = 3 * MS
    world.stream(world.edge, 2 * MS, 20 * SECOND)
    world.run(20 * SECOND)
    alarms = [event for _, event in world.edge.log if event.fields.get("state") == "degraded"]
    assert len(alarms) <= 4
    assert all(world.edge.state(path) is UP for path in range(2))


def test_the_only_path_is_used_even_while_it_is_suspect() -> None:
    world = connected(links=1)
    world.stream(world.edge, 5 * MS, 2 * SECOND)
    world.run(SECOND // 2)
    world.out[0].is_black = world.back[0].is_black = True
    world.run(SECOND)
    assert world.edge.state(0) is not UP
    assert world.edge.shares[0] == 1.0


def test_a_path_comes_back_after_two_proofs_and_with_growing_patience() -> None:
    world = connected()
    world.stream(world.edge, 5 * MS, 60 * SECOND)
    world.run(SECOND)
    times_ns = []
    for _ in range(3):
        world.out[0].is_black = world.back[0].is_black = True
        world.run_until(lambda: world.edge.state(0) is DOWN)
        world.out[0].is_black = world.back[0].is_black = False
        times_ns.append(world.run_until(lambda: world.edge.state(0) is UP))
        world.run(SECOND)
    assert times_ns[0] < times_ns[1] < times_ns[2] < 4 * SECOND


def test_a_short_stall_costs_a_suspicion_and_is_forgiven_within_two_round_trips() -> None:
    world = connected()
    world.stream(world.edge, 5 * MS, 3 * SECOND)
    world.run(SECOND)
    world.out[0].is_black = True
    world.run_until(lambda: world.edge.state(0) is DEGRADED)
    world.out[0].is_black = False
    assert world.run_until(lambda: world.edge.state(0) is UP) <= 100 * MS


def test_carrier_loss_takes_the_share_at_once() -> None:
    world = connected()
    place = world.place(world.edge, 0, link_up=False)
    world.do(world.edge, world.edge.tunnel.set_place(0, place, now_ns=world.now_ns))
    assert world.edge.shares[:2] == (0.0, 1.0)
    place = world.place(world.edge, 0)
    world.do(world.edge, world.edge.tunnel.set_place(0, place, now_ns=world.now_ns))
    assert world.run_until(lambda: world.edge.state(0) is UP) < SECOND


def test_an_idle_path_that_dies_is_noticed_by_its_probes() -> None:
    world = connected()
    world.run(SECOND)
    world.out[1].is_black = True
    assert world.run_until(lambda: world.edge.shares[1] == 0) < 6 * SECOND


def test_the_hub_follows_an_edge_that_moves() -> None:
    world = connected()
    world.stream(world.hub, 5 * MS, 2 * SECOND)
    world.edge.remote_of[0] = ("192.0.2.77", 1024)
    place = world.place(world.edge, 0)
    world.do(world.edge, world.edge.tunnel.set_place(0, place, now_ns=world.now_ns))
    took_ns = world.run_until(
        lambda: world.hub.tunnel.paths[0].place.whereabouts.remote == ("192.0.2.77", 1024)
    )
    assert took_ns < 100 * MS
    assert world.hub.state(0) is UP


def test_path_mtu_follows_the_narrowest_point_and_a_black_hole() -> None:
    world = World(2)
    world.out[1].mtu = 1412
    world.connect()
    world.run_until(lambda: is_settled(world.edge, 2), 20 * SECOND)
    assert 1404 <= world.edge.path_mtu[1] <= 1412
    assert world.edge.path_mtu[0] == 1500
    assert world.edge.shape is not None
    assert world.edge.shape.datagram_bytes == world.edge.path_mtu[1] - 28
    world.stream(world.edge, 50 * MS, 40 * SECOND, size_bytes=300)
    world.out[0].mtu = 1300
    world.run(40 * SECOND)
    assert 1292 <= world.edge.path_mtu[0] <= 1300


@pytest.mark.parametrize(("fast", "slow"), [(100, 100), (100, 50), (50, 10)])
def test_shares_find_the_rates_of_unlike_links(fast: int, slow: int) -> None:
    world = connected(delay_ns=5 * MS)
    for rate, link in zip((fast, slow), world.out, strict=True):
        link.rate_bps = rate * 10**6
    interval_ns = int(1242 * 8 * SECOND / ((fast + slow) * 10**6 * 1.05))
    world.stream(world.edge, interval_ns, 3 * SECOND)
    world.run(3 * SECOND)
    ratio = world.edge.shares[0] / world.edge.shares[1]
    assert ratio == pytest.approx(fast / slow, rel=0.12)
    segments = (fast + slow) * 10**6 * 0.0005 / 12000
    assert world.edge.shape is not None
    assert world.edge.shape.burst_segments == pytest.approx(segments, rel=0.35)


def test_configured_rates_give_the_shares_at_once() -> None:
    world = World(2)
    for path, rate in enumerate((50, 10)):
        place = world.place(world.edge, path, rate_up_bps=rate * 10**6)
        world.edge.tunnel.set_place(path, place, now_ns=world.now_ns)
    decision = world.edge.tunnel.shape.decisions[0]
    assert decision is not None
    assert decision.shares[:2] == (1.0, 0.2)


def test_reports_slow_down_on_slow_paths() -> None:
    world = connected(pace=Pace())
    for path in world.hub.tunnel.paths.values():
        path.estimator.configure(1_000_000)
    world.stream(world.edge, 5 * MS, SECOND)
    world.run(SECOND // 2)
    assert world.hub.tunnel.reporter.interval_ns == 100 * MS


def test_a_restart_of_the_data_plane_forgets_sessions_but_keeps_the_paths() -> None:
    world = connected()
    world.do(world.edge, world.edge.tunnel.restart(now_ns=world.now_ns))
    assert world.edge.tunnel.epochs.sealing is None
    assert set(world.edge.tunnel.paths) == {0, 1}


def test_an_edge_whose_peer_lost_the_session_shakes_hands_again() -> None:
    world = connected()
    world.run(6 * SECOND)  # past the pause between two handshakes
    before = len(world.edge.initiated)
    world.hub.is_deaf = True
    world.stream(world.edge, 20 * MS, 5 * SECOND)
    took_ns = world.run_until(lambda: len(world.edge.initiated) > before)
    assert took_ns < 1500 * MS
    world.run(4 * SECOND)
    assert len(world.edge.initiated) - before <= 2  # at the pace of retries, not of the loop


def test_an_idle_edge_notices_a_deaf_peer_by_its_keepalives() -> None:
    world = connected()
    before = len(world.edge.initiated)
    world.hub.is_deaf = True
    assert world.run_until(lambda: len(world.edge.initiated) > before, 40 * SECOND) < 30 * SECOND


def test_a_hub_that_lost_its_session_calls_the_edges_it_knows() -> None:
    world = connected()
    world.do(world.hub, world.hub.tunnel.restart(now_ns=world.now_ns))
    world.do(world.hub, world.hub.tunnel.on_timer(now_ns=world.now_ns))
    assert len(world.hub.initiated) == 1
    world.run(120 * SECOND)
    assert world.hub.initiated[-1] - world.hub.initiated[0] <= 95 * SECOND
    assert not world.hub.tunnel.epochs.connects


def test_a_path_under_suspicion_gets_no_large_datagrams_until_their_size_is_confirmed() -> None:
    world = connected()
    world.stream(world.edge, 5 * MS, 3 * SECOND, size_bytes=1472)
    world.run(SECOND)
    world.out[0].mtu = 1300
    world.run_until(lambda: world.edge.state(0) is DEGRADED)
    assert world.edge.path_mtu == {0: 1200, 1: 1500}
    world.run_until(lambda: world.edge.state(0) is UP)
    assert world.edge.path_mtu == {0: 1200, 1: 1500}


def test_the_only_path_keeps_its_size_under_suspicion() -> None:
    world = connected(links=1)
    world.stream(world.edge, 5 * MS, 3 * SECOND)
    world.run(SECOND)
    world.out[0].is_black = True
    world.run_until(lambda: world.edge.state(0) is DEGRADED)
    assert world.edge.path_mtu == {0: 1500}


def test_a_path_too_narrow_for_the_least_inner_mtu_does_not_shrink_the_others() -> None:
    world = World(2)
    world.out[0].mtu = 1300
    world.connect()
    world.run_until(lambda: is_settled(world.edge, 2), 20 * SECOND)
    assert world.edge.path_mtu[0] <= 1300
    assert world.edge.shape is not None
    assert world.edge.shape.datagram_bytes == 1472
