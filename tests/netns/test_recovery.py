"""Lose nothing, with the product on a real kernel: links that lose, and a bond that does not.

edge (10.77.1.1) ══ wan0, wan1: emulated, 20 Mbit/s ══ (10.77.2.1) hub
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sdwan.lab.impairment import Impairment
from sdwan.lab.link import EmulatedLink, LinkSpec
from sdwan.lab.traffic import iperf, ping
from tests.netns.edge_world import World, wait_until, world

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

MS = 1_000_000
MBIT = 1_000_000
HUB = "10.77.2.1"
LOSS_PPM = 20_000


@pytest.fixture(scope="module")
def pair() -> Iterator[World]:
    links = [
        LinkSpec.even("emulated", Impairment(rate_bps=20 * MBIT, delay_ns=delay_ns))
        for delay_ns in (5 * MS, 10 * MS)
    ]
    with world(*links) as made:
        made.start()
        yield made


@pytest.fixture(autouse=True)
def clean_links(pair: World) -> Iterator[None]:
    """Links lose nothing before and after a test."""
    yield
    lose(pair, 0)


def lose(pair: World, loss_ppm: int) -> None:
    for link in pair.lab.links:
        assert isinstance(link, EmulatedLink)
        link.change({"loss_ppm": loss_ppm})


def test_no_ping_is_lost_on_links_that_lose(pair: World) -> None:
    lose(pair, LOSS_PPM)
    result = ping(pair.lab.namespace("edge"), HUB, count=500, interval_s=0.01)
    assert (result.sent, result.received) == (500, 500)


def missing(pair: World) -> int:
    """Return how many packets the edge has sent into the tunnel that have not come out of it at the hub."""
    sent, came = (pair[site].status()["peers"][0] for site in ("edge", "hub"))
    return int(sent["sent_packets"] - came["received_packets"])


def test_no_udp_packet_is_lost_on_links_that_lose(pair: World) -> None:
    """Counted at both ends of the tunnel: iperf may be too slow for what a repair sets free at once."""
    wait_until(lambda: missing(pair) == 0, "what was sent before")
    lose(pair, LOSS_PPM)
    edge, hub = (pair.lab.namespace(site) for site in ("edge", "hub"))
    result = iperf(edge, hub, HUB, datagram_bytes=1200, rate_bps=10 * MBIT, duration_s=5)
    assert result.packets > 4000
    wait_until(lambda: missing(pair) == 0, "everything that was sent")
    peer = pair["hub"].status()["peers"][0]
    assert peer["nacks_sent"] > 0 and peer["late_repaired"] > 50, "the links did lose"
