"""The site's links as netlink tells of them, and the places paths get."""

from __future__ import annotations

from sdwan.config.schema import LinkConfig
from sdwan.core.roaming import Whereabouts
from sdwan.edge.links import Links
from sdwan.io.monitor import Change, LinkEvent
from sdwan.io.netlink import Link

HUB4, HUB6 = ("203.0.113.1", 4510), ("2001:db8::1", 4510)


def config(name: str = "dsl", interface: str = "eth0", **more: object) -> LinkConfig:
    return LinkConfig.model_validate({"name": name, "interface": interface, **more})


def interface(
    name: str = "eth0", index: int = 2, *addresses: str, carrier: bool = True, mtu: int = 1500
) -> Link:
    return Link(name, index, mtu, True, carrier, "", "e1000", True, addresses, "")


def test_a_path_leads_from_the_links_address_of_the_remotes_family() -> None:
    links = Links([config()])
    links.refresh([interface("eth0", 2, "192.0.2.9/24", "2001:db8:9::9/64")])
    four, six = links.place("dsl", HUB4, None), links.place("dsl", HUB6, None)
    assert four is not None
    assert six is not None
    assert four.whereabouts == Whereabouts(HUB4, "192.0.2.9", 2)
    assert six.whereabouts == Whereabouts(HUB6, "2001:db8:9::9", 2)
    assert (four.ipv6, six.ipv6) == (False, True)


def test_an_address_on_the_remotes_own_subnet_is_preferred() -> None:
    links = Links([config()])
    links.refresh([interface("eth0", 2, "192.0.2.9/24", "203.0.113.77/24")])
    place = links.place("dsl", HUB4, None)
    assert place is not None
    assert place.whereabouts.local == "203.0.113.77"


def test_a_link_that_never_had_an_address_has_no_place_and_one_that_lost_it_is_down() -> None:
    links = Links([config()])
    links.refresh([interface("eth0", 2)])
    assert links.place("dsl", HUB4, None) is None
    links.refresh([interface("eth0", 2, "192.0.2.9/24")])
    before = links.place("dsl", HUB4, None)
    links.refresh([interface("eth0", 2)])
    after = links.place("dsl", HUB4, before)
    assert after is not None
    assert before is not None
    assert (before.link_up, after.link_up) == (True, False)
    assert after.whereabouts == before.whereabouts


def test_the_operators_wishes_ride_along() -> None:
    wishes = {"rate": {"up": "20mbit", "down": "100mbit"}, "weight": 0.5, "metered": True}
    links = Links([config(**wishes)])
    links.refresh([interface("eth0", 2, "192.0.2.9/24", mtu=1492)])
    place = links.place("dsl", HUB4, None)
    assert place is not None
    assert (place.rate_up_bps, place.rate_down_bps, place.weight, place.metered, place.link_mtu) == (
        20_000_000, 100_000_000, 0.5, True, 1492,
    )  # fmt: skip


def test_refreshing_names_only_what_changed() -> None:
    links = Links([config(), config("lte", "wwan0")])
    eth, lte = interface("eth0", 2, "192.0.2.9/24"), interface("wwan0", 3, "198.51.100.3/30")
    assert links.refresh([eth, lte]) == {"dsl", "lte"}
    assert links.refresh([eth, lte]) == set()
    assert links.refresh([eth]) == {"lte"}


def test_a_carrier_counts_at_once() -> None:
    links = Links([config()])
    links.refresh([interface("eth0", 2, "192.0.2.9/24")])
    assert links.on_event(LinkEvent(Change.LINK, 2, carrier=False)) == {"dsl"}
    assert not links.states["dsl"].up
    assert links.on_event(LinkEvent(Change.LINK, 2, carrier=False)) == set()
    assert links.on_event(LinkEvent(Change.LINK, 9, carrier=False)) == set()


def test_a_learned_path_belongs_to_the_link_its_datagrams_arrive_on() -> None:
    links = Links([config()])
    links.refresh([interface("eth0", 2, "203.0.113.1/24")])
    here = links.place_at(Whereabouts(("192.0.2.1", 4510), "203.0.113.1", 2))
    assert (here.link, here.link_up) == ("dsl", True)
    gone = links.place_at(Whereabouts(("192.0.2.1", 4510), "203.0.113.200", 2))
    assert not gone.link_up
    elsewhere = links.place_at(Whereabouts(("192.0.2.1", 4510), "10.0.0.1", 7))
    assert elsewhere.link == "if7"
