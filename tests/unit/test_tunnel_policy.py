"""What one site says of its links holds in both directions: a pair of tunnels in virtual time."""

from __future__ import annotations

import pytest

from sdwan.core.classes import READY, ClassSpec, SlaLimits
from sdwan.model import PathState
from tests.unit.control_world import MS, SECOND, Side, World


def connected(**edge_places: object) -> World:
    """Two links; the second one of the edge is as told."""
    world = World(2, delay_ns=10 * MS)
    world.connect()
    world.run_until(lambda: all(up(side) == {0, 1} for side in (world.edge, world.hub)))
    set_place(world, 1, **edge_places)
    world.run(SECOND)
    return world


def set_place(world: World, path: int, **changes: object) -> None:
    place = world.place(world.edge, path, **changes)
    world.do(world.edge, world.edge.tunnel.set_place(path, place, now_ns=world.now_ns))


def up(side: Side) -> set[int]:
    return {number for number, path in side.tunnel.paths.items() if path.state is PathState.UP}


def used(side: Side) -> set[int]:
    """Return the paths that carry the default class."""
    return {path for path, share in enumerate(side.shares) if share}


@pytest.mark.parametrize("wish", [{"is_backup": True}, {"is_used_up": True}])
def test_a_link_kept_for_need_is_spared_by_both_ends_and_there_when_needed(wish: dict[str, bool]) -> None:
    world = connected(**wish)
    for side in (world.edge, world.hub):
        world.stream(side, 5 * MS, 5 * SECOND)
    world.run(SECOND)
    assert used(world.edge) == used(world.hub) == {0}
    world.out[0].is_black = world.back[0].is_black = True
    world.run_until(lambda: used(world.edge) == used(world.hub) == {1}, limit_ns=SECOND)
    world.out[0].is_black = world.back[0].is_black = False
    world.run_until(lambda: used(world.edge) == used(world.hub) == {0}, limit_ns=3 * SECOND)


def test_a_metered_link_is_used_unless_a_class_avoids_it() -> None:
    world = connected(metered=True)
    assert used(world.edge) == used(world.hub) == {0, 1}
    for side in (world.edge, world.hub):
        assert [path.view().metered for path in side.tunnel.paths.values()] == [False, True]


def test_an_sla_is_judged_from_what_was_measured_and_told_with_its_reason() -> None:
    world = connected()
    world.edge.tunnel.specs = (*READY[:3], ClassSpec("voice", sla=SlaLimits(latency_ns=150 * MS)))
    for link in (world.out[1], world.back[1]):
        link.delay_ns = 90 * MS
    world.run_until(lambda: world.edge.tunnel.sla.paths_out(3) == {1}, limit_ns=40 * SECOND)
    (reason,) = (str(event.fields["reason"]) for _, event in world.edge.log if event.name == "sla")
    assert reason.startswith("wan1 out for voice: rtt 1") and reason.endswith(" ms > 150 ms for 1 s")
    assert 1 in used(world.edge)  # bulk does not care
