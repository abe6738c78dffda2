"""Paths and their numbers follow from the file alone, so that both ends can mean the same path."""

from __future__ import annotations

import base64
from typing import Any

from sdwan.config.paths import PathConfig, paths_of, peer_numbers
from sdwan.config.schema import SiteConfig

HUB4, HUB6 = "203.0.113.1:4510", "[2001:db8::1]:4510"


def site(links: list[str], *peers: list[dict[str, str]]) -> SiteConfig:
    """Build a site with these links and, per peer, these endpoints."""
    return SiteConfig.model_validate({
        "site": "berlin",
        "private_key": "k",
        "tun": {"addresses": ["10.77.1.1/24"]},
        "links": [{"name": name, "interface": f"if-{name}"} for name in links],
        "peers": [peer(number, endpoints) for number, endpoints in enumerate(peers, start=1)],
    })  # fmt: skip


def peer(number: int, endpoints: list[dict[str, str]]) -> dict[str, Any]:
    public_key = base64.b64encode(bytes([number]) * 32).decode()
    name = f"peer{number}"
    return {
        "name": name,
        "public_key": public_key,
        "prefixes": [f"10.{number}.0.0/16"],
        "endpoints": endpoints,
    }


def test_every_endpoint_over_every_link_is_a_path_links_first() -> None:
    config = site(["dsl", "lte"], [{"address": HUB4}, {"address": HUB6}])
    assert paths_of(config) == [
        PathConfig(1, 0, "dsl", ("203.0.113.1", 4510)),
        PathConfig(1, 1, "dsl", ("2001:db8::1", 4510)),
        PathConfig(1, 2, "lte", ("203.0.113.1", 4510)),
        PathConfig(1, 3, "lte", ("2001:db8::1", 4510)),
    ]


def test_an_endpoint_bound_to_a_link_is_a_path_there_only() -> None:
    config = site(["dsl", "lte"], [{"address": HUB4, "link": "lte"}, {"address": HUB6, "link": "dsl"}])
    assert [(p.path_number, p.link_name, p.remote[0]) for p in paths_of(config)] == [
        (0, "dsl", "2001:db8::1"),
        (1, "lte", "203.0.113.1"),
    ]


def test_a_hub_numbers_its_peers_but_no_paths() -> None:
    config = site(["uplink"], [], [], [])
    assert paths_of(config) == []
    assert peer_numbers(config) == {"peer1": 1, "peer2": 2, "peer3": 3}


def test_numbers_count_per_peer() -> None:
    config = site(["dsl"], [{"address": HUB4}], [], [{"address": HUB6}])
    assert [(p.peer_number, p.path_number) for p in paths_of(config)] == [(1, 0), (3, 0)]


def test_never_more_than_eight_paths_of_a_peer() -> None:
    config = site(["a", "b", "c"], [{"address": f"203.0.113.{n}:1"} for n in range(1, 5)])
    assert [p.path_number for p in paths_of(config)] == list(range(8))
