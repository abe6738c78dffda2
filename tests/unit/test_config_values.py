"""One scalar of a configuration: what is understood, what is refused, and that a refusal helps."""

from __future__ import annotations

import base64
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.config import match, values
from sdwan.config.values import Wrong
from sdwan.model import SteerMode

KEY = base64.b64encode(bytes(range(32))).decode()

UNDERSTOOD = [
    (values.parse_rate, "20mbit", 20_000_000),
    (values.parse_rate, "1.5 gbit", 1_500_000_000),
    (values.parse_rate, "640 Kbit", 640_000),
    (values.parse_rate, "1000bit", 1000),
    (values.parse_duration, "25ms", 25_000_000),
    (values.parse_duration, "0.5s", 500_000_000),
    (values.parse_duration, "2min", 120_000_000_000),
    (values.parse_duration, "100us", 100_000),
    (values.parse_address, "192.0.2.1", ip_address("192.0.2.1")),
    (values.parse_address, "2001:DB8:0::1", ip_address("2001:db8::1")),
    (values.parse_socket_address, "203.0.113.1:4510", ("203.0.113.1", 4510)),
    (values.parse_socket_address, "[2001:DB8:0::1]:1", ("2001:db8::1", 1)),
    (values.parse_inner_interface, "10.77.0.1/24", ip_interface("10.77.0.1/24")),
    (values.parse_inner_interface, "fd77::1/64", ip_interface("fd77::1/64")),
    (values.parse_prefix, "10.0.0.0/8", ip_network("10.0.0.0/8")),
    (values.parse_prefix, "192.0.2.1", ip_network("192.0.2.1/32")),
    (values.parse_prefix, "::/0", ip_network("::/0")),
    (values.parse_public_key, KEY, bytes(range(32))),
    (values.parse_mode, "earliest", SteerMode.EARLIEST),
    (values.parse_mtu, "auto", None),
    (values.parse_mtu, 1400, 1400),
    (values.parse_name, "van-7", "van-7"),
    (values.parse_interface, "enp0s31f6", "enp0s31f6"),
    (values.parse_size, "20GB", 20_000_000_000),
    (values.parse_size, "1.5 tb", 1_500_000_000_000),
    (values.parse_size, "512 kB", 512_000),
    (values.parse_share, "0.01%", 100),
    (values.parse_share, "100 %", 1_000_000),
    (match.parse_dscps, "EF", (46,)),
    (match.parse_dscps, ["af4x", "CS1", 46], (34, 36, 38, 8, 46)),
    (match.parse_dscps, 0, (0,)),
    (match.parse_protocols, "icmp", (1, 58)),
    (match.parse_protocols, ["TCP", 17, "udp"], (6, 17)),
    (match.parse_port_ranges, 443, ((443, 443),)),
    (match.parse_port_ranges, ["5060-5061", "80", 22], ((5060, 5061), (80, 80), (22, 22))),
    (match.parse_prefixes, "10.1.0.0/16", (ip_network("10.1.0.0/16"),)),
    (match.parse_prefixes, ["10.1.0.1", "fd00::/8"], (ip_network("10.1.0.1/32"), ip_network("fd00::/8"))),
    (match.parse_names, "dsl", ("dsl",)),
    (match.parse_names, ["dsl", "lte"], ("dsl", "lte")),
]

REFUSED = [
    (values.parse_rate, 20, "no number with a unit"),
    (values.parse_rate, "20", "no number with a unit"),
    (values.parse_rate, "20mbps", "no number with a unit"),
    (values.parse_rate, "-1mbit", "no number with a unit"),
    (values.parse_rate, "1e3mbit", "no number with a unit"),
    (values.parse_rate, "0mbit", "out of range"),
    (values.parse_rate, "999gbit", "out of range"),
    (values.parse_duration, 25, "no number with a unit"),
    (values.parse_duration, True, "no number with a unit"),
    (values.parse_duration, "25 seconds", "no number with a unit"),
    (values.parse_address, "hub.example", "no IP address"),
    (values.parse_address, "224.0.0.1", "not the address of one host"),
    (values.parse_address, "0.0.0.0", "not the address of one host"),
    (values.parse_address, "fe80::1%eth0", "not the address of one host"),
    (values.parse_address, "::ffff:192.0.2.1", "in disguise"),
    (values.parse_socket_address, "203.0.113.1", "no address with a port"),
    (values.parse_socket_address, "2001:db8::1:4510", "no address with a port"),
    (values.parse_socket_address, "203.0.113.1:0", "port 0"),
    (values.parse_socket_address, "203.0.113.1:65536", "port 65536"),
    (values.parse_socket_address, "[203.0.113.1]:x", "no address with a port"),
    (values.parse_socket_address, 4510, "not text"),
    (values.parse_inner_interface, "10.77.0.1", "no valid prefix length"),
    (values.parse_inner_interface, "10.77.0.1/33", "no valid prefix length"),
    (values.parse_prefix, "10.0.0.1/8", "bits set beyond its length"),
    (values.parse_prefix, "10.0.0.0/33", "no prefix"),
    (values.parse_prefix, "224.0.0.0/4", "not a prefix of hosts"),
    (values.parse_public_key, "short", "not base64"),
    (values.parse_public_key, "c2hvcnQ=", "holds 5 bytes"),
    (values.parse_public_key, base64.b64encode(bytes(32)).decode(), "nobody's key"),
    (values.parse_public_key, KEY + "=", "not base64"),
    (values.parse_public_key, "ä" * 44, "not base64"),
    (values.parse_mode, "STRIDE", "no steering mode"),
    (values.parse_mode, 0, "no steering mode"),
    (values.parse_mtu, 1279, "no usable MTU"),
    (values.parse_mtu, True, "no usable MTU"),
    (values.parse_mtu, "1400", "no usable MTU"),
    (values.parse_name, "", "no valid name"),
    (values.parse_name, "../etc", "no valid name"),
    (values.parse_name, "-x", "no valid name"),
    (values.parse_name, "a" * 33, "no valid name"),
    (values.parse_name, 12, "not text"),
    (values.parse_interface, "a" * 16, "16 characters"),
    (values.parse_interface, "eth/0", "no interface name may have"),
    (values.parse_interface, "eth 0", "no interface name may have"),
    (values.parse_interface, "..", "no interface name may have"),
    (values.parse_directory, "run/sdwan", "no absolute path"),
    (values.parse_size, 20, "no number with a unit"),
    (values.parse_size, "20GiB", "no number with a unit"),
    (values.parse_size, "0GB", "out of range"),
    (values.parse_share, "1", "no number with a unit"),
    (values.parse_share, "101%", "out of range"),
    (match.parse_dscps, "AF51", "no DSCP"),
    (match.parse_dscps, 64, "no DSCP"),
    (match.parse_dscps, True, "no DSCP"),
    (match.parse_dscps, None, "no DSCP"),
    (match.parse_dscps, [], "empty list"),
    (match.parse_protocols, "http", "no protocol"),
    (match.parse_protocols, 256, "no protocol"),
    (match.parse_protocols, [[6]], "no protocol"),
    (match.parse_port_ranges, 0, "no port"),
    (match.parse_port_ranges, 65536, "no port"),
    (match.parse_port_ranges, True, "no port"),
    (match.parse_port_ranges, 80.5, "no port"),
    (match.parse_port_ranges, "90-80", "is empty"),
    (match.parse_port_ranges, "80-", "no port"),
    (match.parse_port_ranges, [], "empty list"),
    (match.parse_prefixes, "10.1.0.1/16", "bits set beyond its length"),
    (match.parse_prefixes, [["10.0.0.0/8"]], "not text"),
    (match.parse_names, ["dsl", "dsl"], "stands here twice"),
]


@pytest.mark.parametrize(
    ("parse", "written", "meant"), UNDERSTOOD, ids=lambda v: getattr(v, "__name__", None)
)
def test_understood(parse: Any, written: Any, meant: Any) -> None:
    assert parse(written) == meant


@pytest.mark.parametrize(("parse", "written", "why"), REFUSED, ids=lambda v: getattr(v, "__name__", None))
def test_refused_with_a_reason_and_what_would_be_right(parse: Any, written: Any, why: str) -> None:
    with pytest.raises(Wrong) as refusal:
        parse(written)
    assert why in refusal.value.why
    assert refusal.value.right


@settings(deadline=None)
@given(st.integers(min_value=1000, max_value=400 * 10**9))
def test_rates_survive_writing_and_parsing(rate_bps: int) -> None:
    assert values.parse_rate(values.write_rate(rate_bps)) == rate_bps


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=10**9))
def test_durations_of_whole_microseconds_survive(duration_us: int) -> None:
    text = values.write_duration(duration_us * 1000)
    assert values.parse_duration(text) == duration_us * 1000


@given(st.integers(1, 10**16), st.integers(0, 10**6))
def test_sizes_and_shares_survive(size_bytes: int, share_ppm: int) -> None:
    assert values.parse_size(values.write_size(size_bytes)) == size_bytes
    assert values.parse_share(values.write_share(share_ppm)) == share_ppm


@given(
    st.lists(st.integers(0, 63), min_size=1, unique=True).map(tuple),
    st.lists(st.integers(0, 255), min_size=1, unique=True).map(tuple) | st.just((1, 58)),
    st.lists(st.tuples(st.integers(1, 99), st.integers(99, 65535)), min_size=1).map(tuple),
)
def test_conditions_of_a_rule_survive(
    dscps: tuple[int, ...], protocols: tuple[int, ...], ports: tuple[tuple[int, int], ...]
) -> None:
    assert match.parse_dscps(yaml.safe_load(match.write_dscps(dscps))) == dscps
    assert match.parse_protocols(yaml.safe_load(match.write_protocols(protocols))) == protocols
    assert match.parse_port_ranges(yaml.safe_load(match.write_port_ranges(ports))) == ports


def test_a_wrong_value_is_shown_short_and_never_if_it_may_be_a_key() -> None:
    assert len(values.show("x" * 10_000)) <= values.SHOWN_CHARS
    assert KEY not in values.show(KEY)
    assert KEY not in values.show([KEY])
