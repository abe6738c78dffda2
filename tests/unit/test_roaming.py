"""A path moves only to an address that has answered a challenge sent there."""

from __future__ import annotations

import random
from dataclasses import replace

from sdwan.core.roaming import CANDIDATE_NS, CHALLENGE_INTERVAL_NS, Roaming, Whereabouts

START = 10**12
HOME = Whereabouts(("192.0.2.1", 4510), "203.0.113.1", 2)
CAFE = Whereabouts(("198.51.100.9", 1024), "203.0.113.1", 2)


def roaming() -> Roaming:
    return Roaming(entropy=random.Random(1).randbytes)


def test_the_answer_from_the_challenged_address_moves_the_path() -> None:
    r = roaming()
    token = r.on_seen(1, CAFE, now_ns=START)
    assert token is not None
    assert r.on_response(1, token, CAFE, now_ns=START + 10**8)
    assert not r.on_response(1, token, CAFE, now_ns=START + 10**8), "an answer counts once"


def test_an_answer_from_elsewhere_for_another_path_or_with_another_token_moves_nothing() -> None:
    r = roaming()
    token = r.on_seen(1, CAFE, now_ns=START)
    assert token is not None
    assert not r.on_response(1, token, HOME, now_ns=START)
    assert not r.on_response(1, token, replace(CAFE, remote=("198.51.100.9", 1025)), now_ns=START)
    assert not r.on_response(2, token, CAFE, now_ns=START)
    assert not r.on_response(1, token ^ 1, CAFE, now_ns=START)
    assert r.on_response(1, token, CAFE, now_ns=START), "the candidate itself is unharmed"


def test_a_late_answer_moves_nothing() -> None:
    r = roaming()
    token = r.on_seen(1, CAFE, now_ns=START)
    assert token is not None
    assert not r.on_response(1, token, CAFE, now_ns=START + CANDIDATE_NS + 1)


def test_challenges_are_rate_limited_and_repeat_the_token() -> None:
    r = roaming()
    token = r.on_seen(1, CAFE, now_ns=START)
    sent = [r.on_seen(1, CAFE, now_ns=START + n * 10**6) for n in range(1000)]
    assert [t for t in sent if t] == [token] * 4


def test_addresses_that_alternate_get_no_more_challenges_than_one() -> None:
    r = roaming()
    sent = [
        r.on_seen(1, replace(CAFE, remote=("198.51.100.9", 1024 + n)), now_ns=START + n * 10**6)
        for n in range(1000)
    ]
    assert sum(t is not None for t in sent) <= 1000 * 10**6 // CHALLENGE_INTERVAL_NS


def test_a_path_number_out_of_range_is_ignored() -> None:
    assert roaming().on_seen(8, CAFE, now_ns=START) is None


def test_a_stale_candidate_gets_a_new_token() -> None:
    r = roaming()
    first = r.on_seen(1, CAFE, now_ns=START)
    second = r.on_seen(1, CAFE, now_ns=START + CANDIDATE_NS + 1)
    assert second not in (None, first)
