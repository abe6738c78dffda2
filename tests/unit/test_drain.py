"""An administrative drain in virtual time: neither side uses the link, nothing is lost, its end shows."""

from __future__ import annotations

from sdwan.core.drain import cut_off, is_quiet
from sdwan.model import PathState
from tests.unit.control_world import MS, SECOND, Side, World


def connected(links: int = 2, **link: object) -> World:
    world = World(links, **link)
    world.connect()
    world.run_until(lambda: are_up(world.edge, links) and are_up(world.hub, links))
    return world


def are_up(side: Side, links: int) -> bool:
    return [path.state for path in side.tunnel.paths.values()] == [PathState.UP] * links


def drain(world: World, side: Side, path: int, weight: float = 0.0) -> int:
    place = world.place(side, path, weight=weight)
    world.do(side, side.tunnel.set_place(path, place, now_ns=world.now_ns))
    return world.now_ns


def quiet(world: World, side: Side, path: int, since_ns: int) -> bool:
    return is_quiet(side.tunnel.paths[path], since_ns=since_ns, backlog_ns=0, now_ns=world.now_ns)


def test_both_directions_leave_the_link_and_nothing_is_lost() -> None:
    world = connected(delay_ns=20 * MS)
    for side in (world.edge, world.hub):
        world.stream(side, 5 * MS, 4 * SECOND)
    world.run(SECOND)
    since_ns = drain(world, world.edge, 0)
    assert world.edge.shares[0] == 0.0
    world.run_until(lambda: world.hub.shares[0] == 0.0, limit_ns=60 * MS)
    world.run_until(lambda: quiet(world, world.edge, 0, since_ns), limit_ns=2 * SECOND)
    world.run(4 * SECOND)
    assert (world.edge.shares[0], world.hub.shares[0]) == (0.0, 0.0)
    assert len(world.edge.received_data) + len(world.hub.received_data) == world._sent
    assert are_up(world.edge, 2)


def test_it_is_not_quiet_while_something_is_under_way() -> None:
    world = connected(delay_ns=300 * MS)
    world.stream(world.edge, 5 * MS, 10 * SECOND)
    world.run(SECOND)
    since_ns = drain(world, world.edge, 0)
    world.run(500 * MS)
    assert not quiet(world, world.edge, 0, since_ns)
    assert not is_quiet(
        world.edge.tunnel.paths[0], since_ns=0, backlog_ns=1, now_ns=world.now_ns + 100 * SECOND
    )


def test_a_hello_that_is_lost_is_said_again() -> None:
    world = connected(delay_ns=10 * MS)
    world.out[0].is_black = True
    drain(world, world.edge, 0)
    world.run(50 * MS)
    world.out[0].is_black = False
    assert world.hub.tunnel.paths[0].peer_weight_ppm != 0
    world.run_until(lambda: world.hub.tunnel.paths[0].peer_weight_ppm == 0, limit_ns=1100 * MS)


def test_undoing_it_brings_both_directions_back() -> None:
    world = connected()
    drain(world, world.edge, 1)
    world.run(SECOND)
    drain(world, world.edge, 1, weight=1.0)
    world.run(100 * MS)
    assert world.edge.shares[1] > 0
    assert world.hub.shares[1] > 0


def test_who_would_be_cut_off() -> None:
    world = connected()
    paths = {"hub": world.edge.tunnel.paths.values()}
    assert cut_off(paths, "wan0") == []
    drain(world, world.edge, 1)
    assert cut_off(paths, "wan0") == ["hub"]
    assert cut_off(paths, "wan1") == [] and cut_off(paths, "nowhere") == []


def test_a_path_that_is_down_is_quiet() -> None:
    world = connected()
    since_ns = drain(world, world.edge, 0)
    assert not quiet(world, world.edge, 0, since_ns)
    down = world.place(world.edge, 0, link_up=False, weight=0.0)
    world.do(world.edge, world.edge.tunnel.set_place(0, down, now_ns=world.now_ns))
    assert quiet(world, world.edge, 0, since_ns)
