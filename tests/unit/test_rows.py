"""Rows of the kernel's maps: weights and addresses in and out, with no kernel. Layouts are made up here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.errors import KernelError
from sdwan.io.rows import PathEntry, Weights, address_fields, load_path, load_weights, store_weights
from sdwan.model import SteerMode

WEIGHTS = np.dtype([
    ("mode", "u4"), ("inverse", "u4", (8,)), ("ns_per_kib", "u4", (8,)), ("delay_us", "u4", (8,)),
    ("bound_us", "u4", (8,)),
])  # fmt: skip
PATH = np.dtype([
    ("ifindex", "u4"), ("flags", "u4"), ("mtu", "u4"), ("source_port", "u2"), ("remote_port", "u2"),
    ("source4", "u4"), ("remote4", "u4"), ("source6", "u4", (4,)), ("remote6", "u4", (4,)),
    ("generation", "u4"),
])  # fmt: skip


def stored(weights: Weights) -> np.void:
    row = np.zeros(1, WEIGHTS)[0]
    store_weights(row, weights)
    return row


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8))
def test_shares_survive_to_a_tenth_of_a_percent(shares):
    read = load_weights(stored(Weights(SteerMode.STRIDE, tuple(shares)))).shares
    for share, back in zip(shares, read, strict=False):
        assert back == pytest.approx(share / sum(shares), rel=0.001)


@given(st.lists(st.one_of(st.just(0.0), st.floats(5e-324, 1e308)), max_size=8))
def test_a_path_with_a_share_is_in_and_one_without_is_out(shares):
    inverse = stored(Weights(shares=tuple(shares)))["inverse"]
    for share, number in zip(shares, inverse, strict=False):
        assert (number > 0) == (share > 0)
        assert number <= 2**20
    assert not inverse[len(shares) :].any()


def test_a_ratio_beyond_a_thousand_is_cut_to_it():
    assert list(stored(Weights(shares=(1.0, 1e-9)))["inverse"][:2]) == [1024, 2**20]


def test_all_else_survives_and_is_cut_to_what_the_kernel_holds():
    weights = Weights(SteerMode.EARLIEST, (1.0,), (2**40, -1, 7), (5, 6), (0, 4000))
    read = load_weights(stored(weights))
    assert read.mode is SteerMode.EARLIEST
    assert read.ns_per_kib == (2**32 - 1, 0, 7, 0, 0, 0, 0, 0)
    assert read.delay_us == (5, 6, 0, 0, 0, 0, 0, 0)
    assert read.bound_us == (0, 4000, 0, 0, 0, 0, 0, 0)


def test_nine_paths_are_refused():
    with pytest.raises(KernelError, match="9 paths"):
        stored(Weights(shares=(1.0,) * 9))


@pytest.mark.parametrize(
    ("ipv6", "source", "remote"), [(False, "10.0.0.1", "203.0.113.9"), (True, "fd00::1", "2001:db8::9")]
)
def test_a_path_survives(ipv6, source, remote):
    row = np.zeros(1, PATH)[0]
    for name, value in address_fields(source, remote, ipv6).items():
        row[name] = value
    row["ifindex"], row["flags"], row["mtu"] = 7, 1 | ipv6 << 1, 1400
    row["source_port"], row["remote_port"] = int.from_bytes(b"\x11\x9e", "little"), 0x0100
    assert load_path(row) == PathEntry(7, True, ipv6, 1400, source, 4510, remote, 1, 0)


def test_an_unused_path_is_none():
    assert load_path(np.zeros(1, PATH)[0]) is None


@pytest.mark.parametrize(
    ("source", "remote", "ipv6"),
    [
        ("10.0.0.1", "fd00::1", False),
        ("10.0.0.1", "10.0.0.2", True),
        ("", "10.0.0.2", False),
        ("x", "y", True),
    ],
)
def test_addresses_of_the_wrong_family_or_none_are_refused(source, remote, ipv6):
    with pytest.raises(KernelError, match="not an IPv"):
        address_fields(source, remote, ipv6)


def test_the_zone_of_a_link_local_address_is_the_paths_own_link():
    fields = address_fields("fe80::1%eth0", "fe80::2%eth0", True)
    assert fields["remote6"].tobytes()[-1] == 2
