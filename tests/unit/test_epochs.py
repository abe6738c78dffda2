"""Epochs: a session's life in virtual time, one ``Epochs`` driven by hand.

How two of them get along stands in ``test_epochs_pair``.
"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

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
from sdwan.core.handshake import SessionKeys
from sdwan.core.wire import REKEY_AFTER_DATAGRAMS
from tests.unit.handshake_world import MS, SECOND

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
