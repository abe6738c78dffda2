"""Probes of one path in virtual time: pace, answers, losses."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.probe import SLOTS, WAIT_FIRST_NS, WAIT_MAX_NS, WAIT_MIN_NS, Prober, RoundTrip

MS = 10**6
START = 10**12
INTERVAL = 100 * MS


def prober(seed: int = 1) -> Prober:
    return Prober(entropy=random.Random(seed).randbytes, now_ns=START)


def test_the_first_rtt_sets_the_estimate_and_later_ones_move_it() -> None:
    rtt = RoundTrip()
    rtt.on_sample(100 * MS)
    assert (rtt.smoothed_ns, rtt.variation_ns, rtt.jitter_ns) == (100 * MS, 50 * MS, 0)
    rtt.on_sample(180 * MS)  # RFC 6298: + 1/8 and 1/4 of the difference; RFC 3550: 1/16
    assert (rtt.smoothed_ns, rtt.variation_ns, rtt.jitter_ns) == (110 * MS, 57_500_000, 5 * MS)


@given(st.lists(st.integers(0, 10**10), max_size=50))
def test_the_wait_for_an_answer_is_always_bounded(samples: list[int]) -> None:
    rtt = RoundTrip()
    assert rtt.wait_ns == WAIT_FIRST_NS
    for sample in samples:
        rtt.on_sample(sample)
        assert WAIT_MIN_NS <= rtt.wait_ns <= WAIT_MAX_NS


def test_a_probe_is_due_at_once_and_then_once_an_interval() -> None:
    path = prober()
    assert path.on_timer(now_ns=START, interval_ns=INTERVAL) is not None
    assert path.on_timer(now_ns=START + 1, interval_ns=INTERVAL) is None
    assert path.next_timer_ns() == START + INTERVAL
    assert path.on_timer(now_ns=START + INTERVAL, interval_ns=INTERVAL) is not None


def test_tokens_name_their_slot_and_are_never_zero() -> None:
    path = Prober(entropy=bytes, now_ns=START)  # the worst dice: all zero
    tokens = [path.on_timer(now_ns=START + n * INTERVAL, interval_ns=INTERVAL) for n in range(SLOTS)]
    assert [token % SLOTS for token in tokens if token] == list(range(SLOTS))


def test_no_slot_is_used_again_before_its_probe_is_answered_or_lost() -> None:
    path = prober()
    sent = [path.on_timer(now_ns=START + n * MS, interval_ns=MS) for n in range(100)]
    assert sum(token is not None for token in sent) == SLOTS
    assert path.on_timer(now_ns=START + WAIT_FIRST_NS + 100 * MS, interval_ns=MS) is not None


def test_an_answer_counts_once_and_only_for_its_token() -> None:
    path = prober()
    token = path.on_timer(now_ns=START, interval_ns=INTERVAL)
    assert token is not None
    path.on_reply(token ^ (1 << 40), 5 * MS)
    assert path.rtt.smoothed_ns is None
    path.on_reply(token, 20 * MS)
    path.on_reply(token, 90 * MS)
    assert path.rtt.smoothed_ns == 20 * MS
    assert path.tokens == []


def test_losses_in_a_row_are_counted_until_an_answer() -> None:
    path = prober()
    now = START
    for lost in range(1, 4):
        path.on_timer(now_ns=now, interval_ns=INTERVAL)
        now += WAIT_FIRST_NS
        path.on_timer(now_ns=now, interval_ns=10 * INTERVAL)
        assert path.unanswered >= lost
    token = path.tokens[-1]
    path.on_reply(token, MS)
    assert path.unanswered == 0
    assert 0 < (path.loss_ppm or 0) < 200_000


def test_a_round_trip_that_suddenly_exceeds_the_wait_is_learned_from_late_answers() -> None:
    path = prober()
    now = START
    for _ in range(20):
        path.on_reply(path.on_timer(now_ns=now, interval_ns=INTERVAL) or 0, 20 * MS)
        now += INTERVAL
    for _ in range(30):
        token = path.on_timer(now_ns=now, interval_ns=2 * INTERVAL)
        assert path.on_timer(now_ns=now + 170 * MS, interval_ns=2 * INTERVAL) is None  # by now it is late
        path.on_reply(token or 0, 180 * MS)
        now += 2 * INTERVAL
    assert (path.rtt.smoothed_ns or 0) > 170 * MS
    assert path.unanswered == 0


def test_an_answer_that_is_later_than_any_wait_teaches_nothing() -> None:
    path = prober()
    token = path.on_timer(now_ns=START, interval_ns=INTERVAL)
    path.on_timer(now_ns=START + WAIT_FIRST_NS, interval_ns=INTERVAL)
    path.on_reply(token or 0, WAIT_MAX_NS + 1)
    assert path.rtt.smoothed_ns is None
    assert path.unanswered == 1


def test_a_path_that_leads_elsewhere_expects_no_old_answers() -> None:
    path = prober()
    token = path.on_timer(now_ns=START, interval_ns=INTERVAL)
    assert token is not None
    path.restart(now_ns=START + MS)
    path.on_reply(token, 20 * MS)
    assert path.rtt.smoothed_ns is None
    assert path.on_timer(now_ns=START + MS, interval_ns=INTERVAL) is not None
