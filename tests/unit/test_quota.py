"""A month's count: new periods, lying clocks, restarts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.quota import Quota
from sdwan.errors import ConfigError

GB = 10**9


def test_a_quota_is_used_up_and_comes_anew() -> None:
    quota = Quota(2 * GB)
    assert quota.on_bytes(GB, today=(2024, 1, 10))
    assert (quota.left_bytes, quota.is_exhausted) == (GB, False)
    assert not quota.on_bytes(3 * GB, today=(2024, 1, 31))
    assert (quota.left_bytes, quota.is_exhausted) == (0, True)
    assert quota.on_bytes(1, today=(2024, 2, 1))
    assert quota.left_bytes == 2 * GB - 1


@pytest.mark.parametrize(
    ("today", "period"),
    [
        ((2024, 3, 14), (2024, 2)),
        ((2024, 3, 15), (2024, 3)),
        ((2024, 1, 14), (2023, 12)),
        ((2024, 12, 31), (2024, 12)),
    ],
)
def test_the_period_begins_on_its_day(today: tuple[int, int, int], period: tuple[int, int]) -> None:
    quota = Quota(GB, day=15)
    quota.on_bytes(1, today=today)
    assert quota.period == period


def test_a_clock_that_jumps_back_gives_nothing_back() -> None:
    quota = Quota(GB)
    quota.on_bytes(GB, today=(2024, 5, 3))
    for today in ((1970, 1, 1), (2024, 4, 30), (2024, 5, 4)):
        assert not quota.on_bytes(0, today=today)
        assert quota.is_exhausted


def test_a_restart_goes_on_counting_under_new_limits() -> None:
    quota = Quota(GB)
    quota.on_bytes(700, today=(2024, 5, 3))
    again = Quota.from_json(quota.to_json(), 1000, day=1)
    again.on_bytes(100, today=(2024, 5, 4))
    assert again.left_bytes == 200
    again.configure(500, day=1)
    assert again.is_exhausted


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"period": [2024], "used_bytes": 1}', '{"period": [2024, 13], "used_bytes": 1}',
             '{"period": [2024, 1], "used_bytes": -1}', '{"period": [2024, 1], "used_bytes": "1"}',
             "[" * 100000],
)  # fmt: skip
def test_a_count_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Quota.from_json(text, GB)


DATES = st.tuples(st.integers(1970, 2100), st.integers(1, 12), st.integers(1, 31))


@given(st.lists(st.tuples(st.integers(-GB, GB), DATES)), st.integers(1, 28))
def test_periods_only_go_forward_and_the_count_only_up_within_one(
    story: list[tuple[int, tuple[int, int, int]]], day: int
) -> None:
    quota = Quota(GB, day=day)
    for size_bytes, today in story:
        before = quota.period, quota.used_bytes
        quota.on_bytes(size_bytes, today=today)
        assert (quota.period, quota.used_bytes) >= before
        assert 0 <= quota.left_bytes <= GB
