"""Path MTU discovery (RFC 8899) against links of every width, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.mtu import BASE_BYTES, CONFIRM_NS, RAISE_NS, STEP_BYTES, TRIES, MtuSearch

START = 10**12
WAIT = 200 * 10**6


class Search:
    """A search on a path that takes packets up to ``width``."""

    def __init__(self, width: int, *, link_mtu: int = 1500, ipv6: bool = False) -> None:
        self.width = width
        self.now_ns = START
        self.search = MtuSearch(ipv6=ipv6, link_mtu=link_mtu, now_ns=START)
        self.probes: list[int] = []

    def run(self, duration_ns: int, *, is_busy: bool = False) -> None:
        end_ns = self.now_ns + duration_ns
        while self.search.next_timer_ns() <= end_ns:
            self.now_ns = max(self.now_ns, self.search.next_timer_ns())
            probe = self.search.on_timer(is_busy=is_busy, wait_ns=WAIT, now_ns=self.now_ns)
            if probe is None:
                continue
            self.probes.append(probe.size_bytes)
            if probe.size_bytes <= self.width:
                self.search.on_ack(probe.size_bytes, now_ns=self.now_ns + 1)
        self.now_ns = end_ns

    @property
    def found(self) -> int:
        return self.search.size_bytes


def test_an_ordinary_link_needs_one_probe() -> None:
    path = Search(1500)
    path.run(WAIT)
    assert (path.found, path.search.is_complete, path.probes) == (1500, True, [1500])


@given(width=st.integers(1200, 9000), link_mtu=st.integers(1280, 9000))
def test_whatever_the_width_it_is_found_to_a_step_and_never_exceeded(width: int, link_mtu: int) -> None:
    path = Search(width, link_mtu=link_mtu)
    path.run(30 * 10**9)
    limit = min(width, link_mtu)
    assert limit - STEP_BYTES <= path.found <= limit
    assert path.search.is_complete
    assert max(path.probes) <= link_mtu


def test_a_size_is_given_up_only_after_all_tries() -> None:
    path = Search(1499)
    path.run(WAIT * (TRIES - 1))
    assert path.probes == [1500] * TRIES
    path.run(WAIT)
    assert path.probes[TRIES] < 1500


@pytest.mark.parametrize(("ipv6", "base"), [(False, 1200), (True, 1280)])
def test_a_search_begins_with_the_base(ipv6: bool, base: int) -> None:
    assert MtuSearch(ipv6=ipv6, link_mtu=1500, now_ns=START).size_bytes == base == BASE_BYTES[ipv6]


def test_a_black_hole_under_traffic_is_found_by_confirmation() -> None:
    path = Search(1500)
    path.run(WAIT)
    path.width = 1400
    path.run(CONFIRM_NS + 30 * 10**9, is_busy=True)
    assert 1392 <= path.found <= 1400


def test_an_idle_path_is_not_confirmed_every_ten_seconds() -> None:
    path = Search(1500)
    path.run(RAISE_NS // 2)
    assert len(path.probes) == 1


def test_suspicion_confirms_at_once_and_trusts_only_the_base_meanwhile() -> None:
    path = Search(1500)
    path.run(WAIT)
    path.search.on_suspicion(now_ns=path.now_ns)
    assert (path.search.trusted_bytes, path.found) == (1200, 1500)
    path.run(WAIT)
    assert path.probes == [1500, 1500]
    assert path.search.trusted_bytes == 1500


def test_doubt_that_proves_right_ends_at_the_base_until_the_limit_is_found() -> None:
    path = Search(1500)
    path.run(WAIT)
    path.width = 1300
    path.search.on_suspicion(now_ns=path.now_ns)
    path.run(WAIT * (TRIES + 1))
    assert path.search.trusted_bytes == 1200
    assert not path.search.is_complete
    path.run(30 * 10**9)
    assert 1292 <= path.found <= 1300


def test_once_in_ten_minutes_it_asks_whether_the_way_became_wider() -> None:
    path = Search(1400)
    path.run(30 * 10**9)
    assert path.found <= 1400
    path.width = 1500
    path.run(RAISE_NS + 30 * 10**9)
    assert path.found == 1500


def test_the_local_link_bounds_it_at_once() -> None:
    path = Search(1500)
    path.run(WAIT)
    path.search.on_link_mtu(1400, now_ns=path.now_ns)
    assert path.found == 1400


def test_another_address_begins_with_the_base_again() -> None:
    path = Search(1500)
    path.run(WAIT)
    path.search.on_moved(now_ns=path.now_ns)
    assert path.found == 1200
    path.run(WAIT)
    assert path.found == 1500


def test_an_ack_nobody_asked_for_changes_nothing() -> None:
    path = Search(1500)
    path.search.on_ack(9000, now_ns=START)
    assert path.found == 1200
