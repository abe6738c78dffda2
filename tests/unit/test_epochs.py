"""Epochs: a session's life in virtual time, alone, in pairs, and over links that lose and reorder.

The upper half drives one ``Epochs`` by hand; the lower half lets whole sites talk (handshake_world).
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.epochs import (
    ACTIVE_MAX,
    CANDIDATE_LIFETIME_NS,
    CANDIDATES_MAX,
    FORGET_AFTER_NS,
    KEEPALIVES_INITIATOR,
    REJECT_AFTER_NS,
    REKEY_AFTER_NS,
    REKEY_DATAGRAMS,
    REKEY_SPREAD_NS,
    RESPONDER_MARGIN_NS,
    RETRY_JITTER_NS,
    RETRY_NS,
    Action,
    Epochs,
    Forget,
    Initiate,
    Install,
    Retire,
    SendKeepalive,
)
from sdwan.core.handshake import INDICES_PER_PEER_MAX, SessionKeys
from sdwan.core.wire import REKEY_AFTER_DATAGRAMS
from tests.unit.handshake_world import MS, SECOND, Site, World, broken, rough, steady

START_NS = 50 * SECOND


def keys(index: int, *, initiator: bool, incarnation: int = 1) -> SessionKeys:
    return SessionKeys(
        b"peer", index, index + 1000, b"s%d" % index, b"r%d" % index, incarnation, initiator=initiator
    )


def make(*, connects: bool = True, seed: int = 1) -> Epochs:
    return Epochs(connects=connects, entropy=random.Random(seed).randbytes)


def with_session(
    *, initiator: bool = True, connects: bool = True, proven: bool = True, seed: int = 1
) -> Epochs:
    """An Epochs whose first session, index 1, was established at START_NS."""
    epochs = make(connects=connects, seed=seed)
    epochs.on_established(keys(1, initiator=initiator), now_ns=START_NS)
    if proven:
        epochs.on_confirmed(1, now_ns=START_NS)
    return epochs


def play(epochs: Epochs, until_ns: int) -> list[tuple[int, Action]]:
    """Fire every timer up to ``until_ns``, exactly when it is due; returns (moment, action)."""
    log: list[tuple[int, Action]] = []
    now_ns = 0
    for _ in range(10_000):
        due_ns = epochs.next_timer_ns()
        if due_ns is None or due_ns > until_ns:
            return log
        now_ns = max(now_ns, due_ns)
        log += [(now_ns, action) for action in epochs.on_timer(now_ns=now_ns)]
    raise AssertionError("timers never come to rest")


def moments(log: list[tuple[int, Action]], kind: type) -> list[int]:
    return [moment for moment, action in log if isinstance(action, kind)]


# Beginning -----------------------------------------------------------------------------------------------


def test_who_connects_begins_at_once_and_tries_again_every_five_seconds() -> None:
    tries = moments(play(make(), 60 * SECOND), Initiate)
    assert tries[0] == 0
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert len(gaps) >= 10
    assert all(RETRY_NS <= gap < RETRY_NS + RETRY_JITTER_NS for gap in gaps)
    assert len(set(gaps)) > 1, "jittered"


def test_who_does_not_connect_waits_even_when_traffic_asks() -> None:
    epochs = make(connects=False)
    assert epochs.next_timer_ns() is None
    epochs.on_wanted()
    assert epochs.next_timer_ns() is None
    assert epochs.on_timer(now_ns=START_NS) == []


def test_an_initiator_seals_at_once_and_repeats_its_keepalive_until_something_comes_back() -> None:
    epochs = make()
    mine = keys(1, initiator=True)
    assert epochs.on_established(mine, now_ns=START_NS) == [Install(mine, active=True), SendKeepalive(1)]
    assert epochs.sealing == mine
    assert not epochs.is_proven
    log = play(epochs, START_NS + SECOND)
    assert [moment - START_NS for moment in moments(log, SendKeepalive)] == [250 * MS, 750 * MS]
    assert epochs.on_confirmed(1, now_ns=START_NS + SECOND) == []
    assert epochs.is_proven
    assert play(epochs, START_NS + 60 * SECOND) == []


def test_an_initiator_that_hears_nothing_begins_again_but_keeps_its_session() -> None:
    epochs = with_session(proven=False)
    log = play(epochs, START_NS + 10 * SECOND)
    assert len(moments(log, SendKeepalive)) == KEEPALIVES_INITIATOR - 1
    assert [moment - START_NS for moment in moments(log, Initiate)] == [7750 * MS]
    assert epochs.sealing == keys(1, initiator=True)


# Candidates ----------------------------------------------------------------------------------------------


def test_a_responders_session_seals_nothing_before_something_was_opened_under_it() -> None:
    epochs = make(connects=False)
    theirs = keys(1, initiator=False)
    assert epochs.on_established(theirs, now_ns=START_NS) == [Install(theirs, active=False)]
    assert epochs.sealing is None
    assert epochs.on_confirmed(1, now_ns=START_NS) == [SendKeepalive(1)]
    assert epochs.sealing == theirs


def test_a_candidate_that_nobody_confirms_is_forgotten_and_displaced_nothing() -> None:
    epochs = with_session()
    before = epochs.sealing
    assert epochs.on_established(keys(2, initiator=False), now_ns=START_NS) == [
        Install(keys(2, initiator=False), active=False)
    ]
    assert epochs.sealing == before
    log = play(epochs, START_NS + CANDIDATE_LIFETIME_NS)
    assert log == [(START_NS + CANDIDATE_LIFETIME_NS, Forget(2))]
    assert epochs.sealing == before


def test_candidates_of_one_incarnation_replace_only_each_other() -> None:
    epochs = make()
    epochs.on_established(keys(1, initiator=False, incarnation=7), now_ns=START_NS)
    for index in range(2, 20):
        actions = epochs.on_established(keys(index, initiator=False, incarnation=8), now_ns=START_NS)
        expected = [] if index == 2 else [Forget(index - 1)]
        assert actions[1:] == expected
    assert epochs.indices() == (1, 19)


def test_candidates_of_many_incarnations_are_bounded() -> None:
    epochs = with_session()
    for index in range(2, 50):
        epochs.on_established(keys(index, initiator=False, incarnation=index), now_ns=START_NS)
        assert len(epochs.indices()) <= 1 + CANDIDATES_MAX
    assert epochs.sealing == keys(1, initiator=True)


def test_confirming_what_is_unknown_or_known_already_changes_nothing() -> None:
    epochs = with_session()
    assert epochs.on_confirmed(99, now_ns=START_NS) == []
    assert epochs.on_confirmed(1, now_ns=START_NS) == []


# Ageing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("initiator", "margin_ns"), [(True, 0), (False, RESPONDER_MARGIN_NS)])
def test_the_initiator_rekeys_by_120_s_and_the_responder_only_when_it_did_not(
    initiator: bool, margin_ns: int, seed: int
) -> None:
    log = play(with_session(initiator=initiator, seed=seed), START_NS + 170 * SECOND)
    age_ns = moments(log, Initiate)[0] - START_NS - margin_ns
    assert REKEY_AFTER_NS - REKEY_SPREAD_NS < age_ns <= REKEY_AFTER_NS


def test_without_a_successor_a_session_stops_sealing_at_180_s_and_opening_at_240_s() -> None:
    epochs = with_session(connects=False)
    log = play(epochs, START_NS + 1000 * SECOND)
    assert moments(log, Retire) == [START_NS + REJECT_AFTER_NS]
    assert moments(log, Forget) == [START_NS + FORGET_AFTER_NS]
    assert epochs.sealing is None
    assert max(moments(log, Initiate)) < START_NS + REJECT_AFTER_NS, "without a session, who answers waits"


def test_who_connects_goes_on_trying_after_the_last_session_ended() -> None:
    log = play(with_session(connects=True), START_NS + 400 * SECOND)
    assert len(moments(log, Initiate)) > 50
    assert len(moments(log, Forget)) == 1


def test_the_old_session_seals_until_the_new_one_is_active_and_opens_after_that() -> None:
    epochs = with_session(initiator=False)
    later_ns = START_NS + REKEY_AFTER_NS
    epochs.on_established(keys(2, initiator=False), now_ns=later_ns)
    assert epochs.sealing == keys(1, initiator=False)
    epochs.on_confirmed(2, now_ns=later_ns + SECOND)
    assert epochs.sealing == keys(2, initiator=False)
    assert epochs.indices() == (1, 2)


def test_a_rekey_of_the_peer_in_time_makes_our_own_needless() -> None:
    epochs = with_session(initiator=False)
    play(epochs, START_NS + SECOND)
    epochs.on_established(keys(2, initiator=False), now_ns=START_NS + REKEY_AFTER_NS)
    epochs.on_confirmed(2, now_ns=START_NS + REKEY_AFTER_NS)
    log = play(epochs, START_NS + REKEY_AFTER_NS + 100 * SECOND)
    assert moments(log, Initiate) == []


def test_many_datagrams_bring_the_rekey_forward_in_time_for_the_limit() -> None:
    assert REKEY_DATAGRAMS < REKEY_AFTER_DATAGRAMS
    epochs = with_session()
    epochs.on_datagrams(REKEY_DATAGRAMS - 1)
    assert epochs.on_timer(now_ns=START_NS + SECOND) == []
    epochs.on_datagrams(1)
    assert epochs.on_timer(now_ns=START_NS + SECOND) == [Initiate()]
    assert epochs.on_timer(now_ns=START_NS + 2 * SECOND) == [], "and not again at once"


def test_a_wanted_session_is_asked_for_once_and_at_the_usual_pace() -> None:
    epochs = with_session()
    for second in range(1, 60):
        epochs.on_wanted()
        actions = epochs.on_timer(now_ns=START_NS + second * SECOND)
        assert actions == [] or actions == [Initiate()]
        assert epochs.sealing is not None
    assert len(moments(play(epochs, START_NS + 65 * SECOND), Initiate)) <= 1


def test_a_late_confirmation_of_an_older_session_does_not_turn_back() -> None:
    epochs = make()
    epochs.on_established(keys(1, initiator=False), now_ns=START_NS)
    epochs.on_established(keys(2, initiator=True), now_ns=START_NS)
    assert epochs.on_confirmed(1, now_ns=START_NS + SECOND) == [SendKeepalive(1)]
    assert epochs.sealing == keys(2, initiator=True)


def test_active_sessions_are_bounded_and_the_unproven_go_first() -> None:
    epochs = with_session()
    for index in range(2, 30):
        epochs.on_established(keys(index, initiator=True), now_ns=START_NS + index)
        assert len(epochs.indices()) <= ACTIVE_MAX
    assert epochs.indices()[0] == 1, "the one that surely works stays"
    assert epochs.sealing == keys(29, initiator=True)


# Another process -----------------------------------------------------------------------------------------


def test_a_new_incarnation_ends_the_sessions_of_the_old_one_when_it_is_confirmed_and_not_before() -> None:
    epochs = with_session()
    reborn = keys(2, initiator=False, incarnation=2)
    assert epochs.on_established(reborn, now_ns=START_NS) == [Install(reborn, active=False)]
    assert epochs.indices() == (1, 2)
    assert epochs.on_confirmed(2, now_ns=START_NS) == [Forget(1), SendKeepalive(2)]
    assert epochs.indices() == (2,)


def test_a_candidate_of_an_incarnation_that_is_over_is_forgotten() -> None:
    epochs = make()
    epochs.on_established(keys(1, initiator=False, incarnation=1), now_ns=START_NS)
    epochs.on_established(keys(2, initiator=True, incarnation=2), now_ns=START_NS)
    assert epochs.indices() == (2,)
    assert epochs.on_confirmed(1, now_ns=START_NS) == []


def test_a_goodbye_ends_all_sessions_and_is_not_answered_by_asking_at_once() -> None:
    epochs = with_session()
    assert epochs.on_closed(now_ns=START_NS) == [Forget(1)]
    assert epochs.sealing is None
    assert START_NS + RETRY_NS <= (epochs.next_timer_ns() or 0) < START_NS + RETRY_NS + RETRY_JITTER_NS


def test_our_own_new_data_plane_begins_anew_at_once() -> None:
    epochs = with_session()
    assert epochs.restart() == [Forget(1)]
    assert epochs.on_timer(now_ns=START_NS) == [Initiate()]


# Whole sites ---------------------------------------------------------------------------------------------


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
