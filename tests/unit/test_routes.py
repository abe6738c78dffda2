"""Routes: the longest matching prefix names the peer, for IPv4 and IPv6 alike."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.routes import Routes


def find(routes: Routes[str], address: str) -> str | None:
    return routes.find(ipaddress.ip_address(address).packed)


def routes_of(**prefixes: str) -> Routes[str]:
    routes: Routes[str] = Routes()
    routes.replace([(prefix, peer) for peer, text in prefixes.items() for prefix in text.split()])
    return routes


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.1.2.3", "host"),
        ("10.1.2.4", "office"),
        ("10.1.3.0", "region"),
        ("10.255.255.255", "region"),
        ("11.0.0.0", None),
        ("fd00:1::5", "office"),
        ("fd00:2::5", "region"),
        ("fe80::1", None),
        ("::a01:203", None),
    ],
)
def test_the_longest_prefix_wins(address, peer):
    routes = routes_of(host="10.1.2.3/32", region="10.0.0.0/8 fd00::/16", office="10.1.2.0/24 fd00:1::/48")
    assert find(routes, address) == peer


def test_a_default_route_takes_the_rest_of_its_own_family():
    routes = routes_of(hub="0.0.0.0/0")
    assert find(routes, "203.0.113.9") == "hub"
    assert find(routes, "2001:db8::1") is None


def test_replacing_forgets_what_was_there():
    routes = routes_of(old="10.0.0.0/8")
    routes.replace([("192.168.0.0/16", "new")])
    assert (find(routes, "10.0.0.1"), find(routes, "192.168.1.1")) == (None, "new")


def test_a_bad_prefix_changes_nothing():
    routes = routes_of(old="10.0.0.0/8")
    with pytest.raises(ValueError):
        routes.replace([("192.168.0.0/16", "new"), ("10.0.0.1/8", "host bits set")])
    assert find(routes, "10.0.0.1") == "old"


@pytest.mark.parametrize("address", [b"", b"\x0a", bytes(5), bytes(17)])
def test_what_is_no_address_belongs_to_nobody(address):
    assert routes_of(hub="0.0.0.0/0 ::/0").find(address) is None


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 16)), max_size=20), st.integers(0, 0xFFFF))
def test_finding_agrees_with_asking_every_prefix(prefixes, low):
    networks = {
        ipaddress.ip_network((0x0A000000 | bits, 16 + length), strict=False) for bits, length in prefixes
    }
    routes: Routes[str] = Routes()
    routes.replace([(str(network), str(network)) for network in networks])
    address = ipaddress.ip_address(0x0A000000 | low)
    matching = [network for network in networks if address in network]
    best = max(matching, key=lambda network: network.prefixlen, default=None)
    assert routes.find(address.packed) == (str(best) if best else None)
