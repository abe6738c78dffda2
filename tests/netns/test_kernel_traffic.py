"""Real datagrams through the real kernel: steered, rewritten, delivered, accounted; no daemon involved."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sdwan.core.wire import FLAG_DUPLICATE, Type
from sdwan.io import netlink
from sdwan.io.attach import Hook
from sdwan.model import PATH_PIN, SteerMode
from tests.netns.kernel_world import (
    LINKS,
    PEER,
    Site,
    collect,
    datagram,
    nothing_more,
    send_burst,
    sequences,
    two_sites,
    until,
)

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

Sites = tuple[Site, Site]


@pytest.fixture(scope="module")
def built(unique_name: Callable[[str], str]) -> Iterator[Sites]:
    """Build both sites once."""
    with two_sites(unique_name) as sites:
        yield sites


@pytest.fixture
def sites(built: Sites) -> Sites:
    """Give both sites with fresh paths and weights; counters and link sequences go on."""
    first, second = built
    for site, other in ((first, second), (second, first)):
        site.maps.close()
        site.configure(other)
        site.offloads(on=True)
    return built


# Rewriting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offloads", [True, False], ids=["offloads on", "offloads off"])
@pytest.mark.parametrize(
    ("description", "ipv6", "checksum", "segments"),
    [
        ("ipv4", False, True, 1),
        ("ipv4 without checksum", False, False, 1),
        ("ipv4 bursts", False, True, 10),
        ("ipv4 bursts of 44", False, True, 44),
        ("ipv6", True, True, 1),
        ("ipv6 bursts", True, True, 10),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_datagram_is_delivered_with_a_good_sum(sites, offloads, description, ipv6, checksum, segments):
    """With offloads off the sums are computed before the link, and the receiving kernel verifies them."""
    first, second = sites
    first.offloads(offloads)
    paths = (2, 3) if ipv6 else (0, 1)
    begins = {path: int(first.maps.tx_state[PEER * 8 + path]["next_sequence"]) for path in paths}
    with first.sender(ipv6, checksum=checksum) as sender, second.receiver(ipv6) as receiver:
        for number in range(0, 400, segments):
            if segments == 1:
                sender.send(datagram(number, size=1200))
            else:
                send_burst(sender, number, segments, 1200)
        sent = -(-400 // segments) * segments
        headers = collect(receiver, sent)
    assert sorted(header.counter for header in headers) == list(range(sent)), description
    for path in paths:
        numbers = sequences(headers, path)
        assert numbers == list(range(begins[path], begins[path] + len(numbers)))
        # On each CPU a path may be a burst ahead.
        assert len(numbers) == pytest.approx(sent / 2, abs=4 * segments)


def test_steering_needs_no_neighbour_but_the_taken_links(sites):
    """Path 0's remote does not answer to ARP: what goes over path 1 arrives all the same."""
    first, second = sites
    link = netlink_index(first, LINKS[0])
    first.maps.set_path(
        PEER, 0, ifindex=link, up=True, ipv6=False, mtu=1500,
        source="10.91.0.1", source_port=4510, remote="10.91.0.77", remote_port=4510,
    )  # fmt: skip
    with first.sender() as sender, second.receiver() as receiver:
        for number in range(200):
            sender.send(datagram(number, size=1200))
        headers = collect(receiver, 50)
        assert [header.path for header in headers] == [1] * 50


def test_with_one_link_down_the_other_carries_everything(sites):
    first, second = sites
    first.namespace.run(["ip", "link", "set", LINKS[0], "down"])
    try:
        first.maps.set_path_up(PEER, 0, False)
        with first.sender() as sender, second.receiver() as receiver:
            for number in range(20):
                sender.send(datagram(number))
            assert [header.path for header in collect(receiver, 20)] == [1] * 20
    finally:
        first.namespace.run(["ip", "link", "set", LINKS[0], "up"])


def test_a_control_message_as_long_as_the_link_allows_passes_and_a_longer_one_does_not(sites):
    first, second = sites
    with first.sender() as sender, second.receiver() as receiver:
        for size in (1472, 1473):
            sender.send(datagram(size, size=size, path=PATH_PIN | 1, kind=Type.CONTROL))
        assert [header.counter for header in collect(receiver, 1)] == [1472]
        assert nothing_more(receiver)


# Modes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "flags", "segments"),
    [(SteerMode.DUPLICATE, 0, 1), (SteerMode.DUPLICATE, 0, 5), (SteerMode.STRIDE, FLAG_DUPLICATE, 1)],
    ids=["by mode", "by mode, a burst", "by flag"],
)
def test_a_duplicated_datagram_arrives_once_on_every_path(sites, mode, flags, segments):
    first, second = sites
    first.weigh(1, 1, mode=mode)
    before = first.maps.tx_stats()
    with first.sender() as sender, second.receiver() as receiver:
        if segments == 1:
            sender.send(datagram(7, flags=flags))
        else:
            send_burst(sender, 7, segments, 200)
        headers = collect(receiver, 2 * segments)
        assert nothing_more(receiver)
    expected = [(number, path) for number in range(7, 7 + segments) for path in (0, 1)]
    assert sorted((header.counter, header.path) for header in headers) == expected
    after = first.maps.tx_stats()
    row = PEER * 8
    assert list((after["datagrams"] - before["datagrams"])[row : row + 2]) == [segments, segments]
    assert list((after["copies"] - before["copies"])[row : row + 2]) == [segments, 0]


def test_every_copy_finds_its_own_links_neighbour(sites):
    """Copies leave through the entry again, so a link that was never used resolves its own neighbour."""
    first, second = sites
    for name in LINKS:
        first.namespace.run(["ip", "neighbour", "flush", "dev", name])
    first.weigh(1, 1, mode=SteerMode.DUPLICATE)
    with first.sender() as sender, second.receiver() as receiver:
        sender.send(datagram(1))
        assert {header.path for header in collect(receiver, 2)} == {0, 1}


# Accounting and probes -----------------------------------------------------------------------------


def test_the_far_kernel_counts_what_arrived_and_misses_nothing(sites):
    first, second = sites
    rows = slice(PEER * 8, PEER * 8 + 2)
    before = second.maps.rx_state[rows].copy()
    with first.sender() as sender, second.receiver() as receiver:
        for number in range(0, 200, 5):
            send_burst(sender, number, 5, 300)
            sender.send(datagram(1000 + number))
        collect(receiver, 240)
    after = second.maps.rx_state[rows]
    assert int((after["received"] - before["received"]).sum()) == 240
    for name in ("lost", "late", "duplicate", "suspect"):
        assert int((after[name] - before[name]).sum()) == 0, name
    assert int(after["delay_last_us"].max()) < 1_000_000


def probe_once(first: Site, path: int, token: int, *, ipv6: bool = False) -> int:
    """Send one probe and return its round trip in µs."""
    first.maps.expect_probe(PEER, path, token)
    body = token.to_bytes(8, "big") + bytes(8)
    with first.sender(ipv6) as sender:
        sender.send(datagram(0, size=24, path=PATH_PIN | path, kind=Type.PROBE) + body)
    until(lambda: first.maps.probe_rtt_us(PEER, path, token) is not None, "the probe's reply")
    return first.maps.probe_rtt_us(PEER, path, token) or 0


@pytest.mark.parametrize(("path", "ipv6"), [(0, False), (1, False), (2, True), (3, True)])
@pytest.mark.parametrize("offloads", [True, False], ids=["offloads on", "offloads off"])
def test_a_probe_is_reflected_by_the_far_kernel_with_nobody_listening(sites, path, ipv6, offloads):
    first, second = sites
    for site in sites:
        site.offloads(offloads)
    stats = second.maps.rx_stats()["probes"][PEER * 8 + path]
    assert 0 < probe_once(first, path, 0x1234500 + path, ipv6=ipv6) < 1_000_000
    assert second.maps.rx_stats()["probes"][PEER * 8 + path] == stats + 1


def test_traffic_is_counted_per_link_ours_and_foreign(sites):
    first, second = sites
    first.weigh(1)
    ours, theirs = netlink_index(first, LINKS[0]), netlink_index(second, LINKS[0])
    before = first.maps.link_stats()[ours], second.maps.link_stats()[theirs]
    with first.sender() as sender, second.receiver() as receiver:
        send_burst(sender, 0, 10, 500)
        collect(receiver, 10)
    first.namespace.run(["ping", "-c", "1", "-W", "2", second.address(0)])
    after = first.maps.link_stats()[ours], second.maps.link_stats()[theirs]
    assert after[0].tx_tunnel_packets - before[0].tx_tunnel_packets == 10
    assert after[0].tx_tunnel_bytes - before[0].tx_tunnel_bytes == 10 * (14 + 28 + 500)
    assert after[1].rx_tunnel_packets - before[1].rx_tunnel_packets == 10
    assert after[1].rx_tunnel_bytes - before[1].rx_tunnel_bytes == 10 * (14 + 28 + 500)
    assert after[1].rx_packets - before[1].rx_packets >= 11


# XDP -----------------------------------------------------------------------------------------------


def test_with_native_xdp_everything_works_as_with_tc(sites):
    """On both ends: a veth sends back from XDP only to an end that has XDP, too."""
    first, second = sites
    for site in sites:
        assert [link.hook for link in site.attach(Hook.XDP)] == [Hook.XDP, Hook.XDP]
    try:
        row = second.maps.rx_state[PEER * 8]
        received = int(row["received"])
        first.weigh(1)
        with first.sender() as sender, second.receiver() as receiver:
            send_burst(sender, 0, 10, 500)
            assert len(collect(receiver, 10)) == 10
        assert int(row["received"]) == received + 10
        assert probe_once(first, 0, 0x7788) > 0
    finally:
        for site in sites:
            assert [link.hook for link in site.attach(Hook.TC)] == [Hook.TC, Hook.TC]


def netlink_index(site: Site, name: str) -> int:
    """Return the index of an interface of a site."""
    with site.here():
        return netlink.need_link(name).index
