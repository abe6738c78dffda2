"""Epochs and handshakes of whole sites, in virtual time, over links that lose, copy, reorder and break.

``handshake_world`` joins the parts; what one ``Epochs`` does by itself stands in ``test_epochs``.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.epochs import REJECT_AFTER_NS
from sdwan.core.handshake import INDICES_PER_PEER_MAX
from tests.unit.handshake_world import MS, SECOND, Site, World, broken, rough, steady


def agree(left: Site, right: Site) -> bool:
    """Whether what each seals, the other opens."""
    ours, theirs = left.planes[right.public], right.planes[left.public]
    return all(
        (keys := a.sealing()) is not None
        and (other := b.installed.get(keys.remote_index)) is not None
        and other.receive_key == keys.send_key
        for a, b in ((ours, theirs), (theirs, ours))
    )


def bounded(site: Site) -> bool:
    return all(len(plane.installed) < INDICES_PER_PEER_MAX for plane in site.planes.values())


def test_a_session_is_up_one_and_a_half_round_trips_after_the_start() -> None:
    world = World()
    edge, hub = world.pair()
    world.run(29 * MS)
    assert not agree(edge, hub)
    world.run(2 * MS)
    assert agree(edge, hub)
    assert edge.initiated == 1


@pytest.mark.parametrize("delay_ms", [1, 50, 299])
def test_nothing_sent_over_links_of_unlike_delay_is_lost_to_a_rekey(delay_ms: int) -> None:
    """Two links 300 ms apart, taken in turn: every epoch's last datagrams arrive out of order and late."""
    world = World()
    edge, hub = world.pair()
    world.run(SECOND)
    turns = 0

    def alternate() -> list[int]:
        nonlocal turns
        turns += 1
        return [(delay_ms if turns % 2 else 300 + delay_ms) * MS]

    world.fate = alternate
    upward = world.stream(edge, hub, every_ns=10 * MS, duration_ns=400 * SECOND)
    downward = world.stream(hub, edge, every_ns=10 * MS, duration_ns=400 * SECOND)
    world.run(402 * SECOND)
    assert edge.epochs[hub.public].established_total >= 4
    assert sorted(hub.opened) == upward == list(range(1, 40_002))
    assert sorted(edge.opened) == downward == list(range(1, 40_002))
    assert edge.initiated + hub.initiated == edge.epochs[hub.public].established_total


def test_beginning_at_once_ends_in_one_common_rhythm() -> None:
    world = World(seed=3)
    left, right = world.pair(both_connect=True)
    world.run(SECOND)
    assert agree(left, right)
    world.run(1200 * SECOND)
    assert agree(left, right)
    assert bounded(left) and bounded(right)
    began = left.initiated + right.initiated
    assert 11 <= began <= 14, "ten rekeys and a few that crossed, not two for every epoch"


def test_a_restarted_hub_is_found_again_as_soon_as_silence_is_noticed() -> None:
    world = World()
    edge, hub = world.pair()
    world.run(30 * SECOND)
    hub.restart()
    world.run(SECOND)
    assert not agree(edge, hub)
    edge.epochs[hub.public].on_wanted()
    world.run(SECOND)
    assert agree(edge, hub)
    assert len(edge.planes[hub.public].installed) == 1, "sessions of the dead process are gone"


def test_a_restarted_edge_is_answered_at_once() -> None:
    world = World()
    edge, hub = world.pair()
    world.run(30 * SECOND)
    edge.restart()
    world.run(SECOND)
    assert agree(edge, hub)
    assert len(hub.planes[edge.public].installed) == 1


def test_replaying_everything_ever_said_displaces_nothing() -> None:
    world = World()
    edge, hub = world.pair()
    world.run(500 * SECOND)
    recorded = list(world.carried)
    sealing = hub.epochs[edge.public].sealing
    for sender, receiver, datagram in recorded * 3:
        receiver.receive(sender, datagram)
    assert hub.epochs[edge.public].sealing == sealing
    assert agree(edge, hub)
    assert hub.refused, "older ones were recognised"
    assert bounded(hub) and bounded(edge)


def test_replays_against_a_restarted_hub_neither_displace_nor_delay_the_real_peer() -> None:
    """Nothing tells an old INIT from a new one now: it makes a candidate, and that is all it does."""
    world = World()
    edge, hub = world.pair()
    world.run(1000 * SECOND)
    old_inits = [datagram for _, receiver, datagram in world.carried if receiver is hub]
    assert len(old_inits) >= 8
    hub.restart()
    for datagram in old_inits:
        hub.receive(edge, datagram)
    assert bounded(hub)
    assert hub.epochs[edge.public].sealing is None
    edge.epochs[hub.public].on_wanted()
    for number, datagram in enumerate(old_inits * 5):
        world.at(world.now_ns + number * MS, lambda datagram=datagram: hub.receive(edge, datagram))
    world.run(SECOND)
    assert agree(edge, hub)


def test_under_load_a_session_comes_up_through_a_cookie() -> None:
    world = World()
    edge, hub = world.pair()
    hub.under_load = True
    world.run(60 * MS)
    assert agree(edge, hub)
    assert edge.initiated == 1


def test_a_wrong_preshared_key_never_makes_a_session_and_never_more_than_one_candidate() -> None:
    world = World()
    edge, hub = world.site("edge"), world.site("hub")
    edge.know(hub, connects=True, preshared_key=bytes([1]) * 32)
    hub.know(edge, connects=False, preshared_key=bytes([2]) * 32)
    world.run(100 * SECOND)
    assert edge.planes[hub.public].sealing() is None
    assert hub.planes[edge.public].sealing() is None
    assert len(hub.planes[edge.public].installed) <= 1


def test_one_way_links_never_make_a_session_and_a_healed_link_does() -> None:
    world = World()
    edge, hub = world.pair()
    world.fates["hub", "edge"] = broken
    world.run(60 * SECOND)
    assert not agree(edge, hub) and bounded(hub)
    world.fates["hub", "edge"] = steady()
    world.run(6 * SECOND)
    assert agree(edge, hub)


def test_an_outage_longer_than_a_session_stops_sealing_and_ends_with_a_new_one() -> None:
    world = World()
    edge, hub = world.pair(both_connect=True)
    world.run(SECOND)
    world.fate = broken
    sent = world.stream(edge, hub, every_ns=SECOND, duration_ns=400 * SECOND)
    world.run(400 * SECOND)
    assert len(sent) in (179, 180), "sealing ended at 180 s"
    world.fate = steady()
    world.run(6 * SECOND)
    assert agree(edge, hub)
    assert edge.oldest_sealed_ns < REJECT_AFTER_NS


def test_a_hub_keeps_its_edges_apart() -> None:
    world = World()
    hub = world.site("hub")
    edges = [world.site(f"edge{number}") for number in range(3)]
    for edge in edges:
        edge.know(hub, connects=True)
        hub.know(edge, connects=False)
    world.run(300 * SECOND)
    assert all(agree(edge, hub) for edge in edges)
    edges[1].restart()
    before = [hub.planes[edges[number].public].sealing() for number in (0, 2)]
    world.run(SECOND)
    assert [hub.planes[edges[number].public].sealing() for number in (0, 2)] == before
    assert agree(edges[1], hub)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    both=st.booleans(),
    under_load=st.booleans(),
    restarts=st.lists(st.tuples(st.integers(1, 250), st.booleans()), max_size=3),
)
def test_whatever_the_links_do_a_healed_pair_agrees_and_state_stays_bounded(
    seed: int, loss: float, both: bool, under_load: bool, restarts: list[tuple[int, bool]]
) -> None:
    world = World(seed)
    edge, hub = world.pair(both_connect=both)
    hub.under_load = under_load
    world.fate = rough(world.rng, loss=loss)
    for second, of_hub in restarts:
        world.at(world.now_ns + second * SECOND, (hub if of_hub else edge).restart)
    for _ in range(10):
        world.run(30 * SECOND)
        assert bounded(edge) and bounded(hub)
    world.fate = steady()
    world.run(6 * SECOND)
    for site, peer in ((edge, hub), (hub, edge)):
        site.epochs[peer.public].on_wanted()
    world.run(6 * SECOND)
    assert agree(edge, hub)
    sent = world.stream(edge, hub, every_ns=100 * MS, duration_ns=10 * SECOND)
    before = len(hub.opened)
    world.run(11 * SECOND)
    assert hub.opened[before:] == sent
    assert len(sent) == 101
