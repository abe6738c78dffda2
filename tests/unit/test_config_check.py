"""Rules across keys: each broken alone, in a configuration that is otherwise fine."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from sdwan.config import check
from sdwan.config.document import dotted
from sdwan.config.schema import SiteConfig

Data = dict[str, Any]


def key(letter: str) -> str:
    return base64.b64encode(letter.encode() * 32).decode()


def good() -> Data:
    return {
        "site": "berlin",
        "private_key": "/etc/sdwan/edge.key",
        "tun": {"addresses": ["10.77.1.1/24", "fd77:1::1/64"]},
        "links": [{"name": "dsl", "interface": "eth0"}, {"name": "lte", "interface": "wwan0"}],
        "peers": [
            {
                "name": "hub", "public_key": key("h"), "prefixes": ["10.77.0.0/16"],
                "endpoints": [
                    {"address": "203.0.113.1:4510"},
                    {"address": "[2001:db8::1]:4510", "link": "dsl"},
                ],
            },
            {"name": "van", "public_key": key("v"), "prefixes": ["10.88.0.0/16"]},
        ],
    }  # fmt: skip


def told(data: Data, rules: Callable[[SiteConfig], Any] = check.errors) -> list[str]:
    config = SiteConfig.model_validate(data)
    return [f"{dotted(p.location)}: {p.why}; {p.right}" for p in rules(config)]


def test_a_good_configuration_has_no_problem() -> None:
    assert told(good()) == []
    assert told(good(), check.warnings) == []


def edit(path: str, value: Any) -> Callable[[Data], None]:
    """Return a change: ``peers.0.name`` becomes ``value``."""

    def apply(data: Data) -> None:
        *around, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        at: Any = data
        for step in around:
            at = at[step] if isinstance(step, int) else at.setdefault(step, {})
        at[last] = value

    return apply


def edit_both(one: str, value: Any, other: str, second: Any) -> Callable[[Data], None]:
    def apply(data: Data) -> None:
        edit(one, value)(data)
        edit(other, second)(data)

    return apply


ERRORS = [
    (edit("links.1.name", "dsl"), "links[1].name: this link name is used above already"),
    (edit("links.1.interface", "eth0"), "links[1].interface: this interface is used above already"),
    (edit("links.1.interface", "sdwan01"), "links[1].interface: is the TUN itself"),
    (edit("peers.1.name", "hub"), "peers[1].name: this peer name is used above already"),
    (edit("peers.1.public_key", key("h")), "peers[1].public_key: this public key is used above already"),
    (edit("tun.addresses", ["10.1.0.1/24", "10.1.0.1/16"]), "tun.addresses[1]: this address is used above"),
    (edit("bpf.peers_max", 2), "peers: 2 peers, but the maps have room for 1; set bpf.peers_max to 3"),
    (
        edit("runtime_dir", "/" + "r" * 100),
        "runtime_dir: the status socket's path has 113 bytes, at most 107",
    ),
    (
        edit("peers.0.endpoints.1.link", "sat"),
        "peers[0].endpoints[1].link: no link is called 'sat'; links: dsl, lte",
    ),
    (
        edit("peers.0.endpoints.1.address", "203.0.113.1:4510"),
        "peers[0].endpoints[1].address: this endpoint ",
    ),
    (edit("peers.1.endpoints", [{"address": "203.0.113.1:4510"}]), "endpoint belongs to peer 'hub' already"),
    (
        edit("peers.0.endpoints", [{"address": f"203.0.113.{n}:1"} for n in range(1, 6)]),
        "10 paths (links times",
    ),
    (edit("peers.1.prefixes", ["10.77.0.0/16"]), "peers[1].prefixes[0]: this prefix is used above already"),
    (edit("peers.1.prefixes", ["10.77.1.1/32"]), "peers[1].prefixes[0]: is this site's own TUN address"),
    (
        edit("peers.1.prefixes", ["198.18.3.0/24"]),
        "198.18.3.0/24 lies in the range of virtual peer addresses",
    ),
    (edit("tun.addresses", ["198.19.0.1/24"]), "tun.addresses[0]: 198.19.0.1 lies in the range of virtual"),
    (edit("peers.0.endpoints.0.address", "[fd5d:8a3e:77c1::1]:1"), "fd5d:8a3e:77c1::1 lies in the range of"),
    (
        edit("peers.0.preshared_key", "/etc/sdwan/edge.key"),
        "peers[0].preshared_key: is the file of the private",
    ),
    (edit("classes", {f"c{n}": {} for n in range(5)}), "classes: 9 classes; at most 8 are possible"),
    (edit("classes", {"a": {"links": ["sat"]}}), "classes.a.links: no link is called 'sat'; known: dsl, lte"),
    (edit("classes", {"a": {"backup_links": "ite"}}), "no link is called 'ite'; did you mean 'lte'?"),
    (edit("classes", {"a": {"prefer": "ordered"}}), "classes.a.prefer: an order of links is wanted"),
    (edit("rules", [{"class": "voise"}]), "no class is called 'voise'; did you mean 'voice'?"),
    (edit("rules", [{"class": "bulk", "link": "sat"}]), "rules[0].link: no link is called 'sat'"),
    (
        edit("rules", [{"class": name, "link": link}
                       for name in ("bulk", "video", "voice") for link in ("dsl", "lte")]),
        "rules: 4 classes and 6 more for rules with a link of their own; at most 8",
    ),
    (
        edit("rules", [{"class": "bulk", "protocol": "icmp", "ports": 80}]),
        "rules[0].protocol: ports are asked of a protocol without ports",
    ),
    (
        edit("rules", [{"class": "bulk", "source": "10.1.0.0/16", "destination": "fd00::/8"}]),
        "rules[0]: no packet can match: `source` and `destination` have no address family in common",
    ),
]  # fmt: skip

WARNINGS = [
    (edit("peers", []), "peers: no peers"),
    (edit("links", [{"name": "dsl", "interface": "a", "weight": 0.0}]), "links: every link has weight 0"),
    (edit("metrics.listen", "192.0.2.1:9105"), "metrics.listen: metrics are served without authentication"),
    (edit("peers.1.prefixes", ["10.77.9.0/24"]), "10.77.9.0/24 is cut out of a prefix of peer 'hub'"),
    (
        edit("peers.0.prefixes", ["0.0.0.0/0"]),
        "203.0.113.1 lies inside 0.0.0.0/0, which goes through the tunnel",
    ),
    (edit("peers.1.prefixes", ["10.77.1.0/24"]), "10.77.1.0/24 holds this site's own TUN address 10.77.1.1"),
    (
        edit("links", [{"name": "dsl", "interface": "a", "only_when_needed": True}]),
        "links: every link is only a backup",
    ),
    (edit_both("classes", {"a": {}}, "rules", [{"class": "bulk"}]), "classes.a: no rule puts anything into"),
    (
        edit("rules", [{"class": "voice"}, {"class": "bulk", "dscp": "CS1"}]),
        "rules[1]: never gets its turn: rule 1 takes everything it could match; move it up, or drop it",
    ),
]


@pytest.mark.parametrize(("change", "why"), ERRORS, ids=[why for _, why in ERRORS])
def test_refused(change: Callable[[Data], None], why: str) -> None:
    data = good()
    change(data)
    found = told(data)
    assert len(found) == 1 and why in found[0]


@pytest.mark.parametrize(("change", "why"), WARNINGS, ids=[why for _, why in WARNINGS])
def test_warned(change: Callable[[Data], None], why: str) -> None:
    data = good()
    change(data)
    assert told(data) == []
    assert any(why in warning for warning in told(data, check.warnings))


def test_a_default_route_may_be_nested_into_without_a_warning() -> None:
    data = good()
    data["peers"][1]["prefixes"] = ["0.0.0.0/0"]
    assert not any("cut out" in warning for warning in told(data, check.warnings))


SHADOWED = [
    ({"ports": "80-90"}, {"ports": 85}, True),
    ({"ports": "80-90"}, {"destination_ports": [80, "88-90"]}, True),
    ({"ports": "80-90"}, {"ports": "85-91"}, False),
    ({"ports": ["80-85", "86-90"]}, {"ports": "80-90"}, True),
    ({"destination_ports": 80}, {"ports": 80}, True),  # in both directions it is the same
    ({"destination_ports": 80, "direction": "out"}, {"destination_ports": 80}, False),
    ({"destination_ports": 80}, {"destination_ports": 80, "direction": "in"}, True),
    ({"destination_ports": 80, "direction": "in"}, {"source_ports": 80, "direction": "out"}, True),
    ({"protocol": ["tcp", "udp"]}, {"ports": 80}, True),  # only they have ports
    ({"protocol": "tcp"}, {"ports": 80}, False),
    ({"protocol": "icmp"}, {"protocol": 58}, True),
    ({"dscp": "AF4x"}, {"dscp": ["AF41", "AF43"], "protocol": "udp"}, True),
    ({"dscp": "EF"}, {"dscp": ["EF", "VA"]}, False),
    ({"prefixes": ["10.0.0.0/9", "10.128.0.0/9"]}, {"source": "10.0.0.0/8"}, True),
    ({"prefixes": "10.0.0.0/8"}, {"prefixes": ["10.1.0.0/16", "fd00::/8"]}, False),
    ({"source": "::/0"}, {"source": "fd00::/8", "destination": "fd01::/16"}, True),
    ({"source": "0.0.0.0/0"}, {"protocol": "tcp"}, False),
]


@pytest.mark.parametrize(("above", "below", "is_shadowed"), SHADOWED)
def test_a_rule_that_never_gets_its_turn_is_told(above: Data, below: Data, is_shadowed: bool) -> None:
    data = good()
    data["rules"] = [{"class": "voice", **above}, {"class": "bulk", **below}]
    assert told(data) == []
    assert bool(told(data, check.warnings)) == is_shadowed
