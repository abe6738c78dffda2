"""Devices as the kernel side sees them: TUN, entry, monitor, addresses, routes."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator

import pytest

from sdwan.core.wire import Header, Type
from sdwan.errors import KernelError
from sdwan.io import attach, bpf, entry, netlink
from sdwan.io.maps import Maps
from sdwan.io.monitor import Change, LinkMonitor
from tests.netns.kernel_world import LINKS, PEER, PORT, RECEIVER, Site, datagram, lone_site, until
from tests.packet.frames import Frame, unpack

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]


@pytest.fixture
def alone(unique_name: Callable[[str], str]) -> Iterator[Site]:
    """One namespace with two idle links and nothing attached."""
    with lone_site(unique_name) as site:
        yield site


# Links of other kinds ------------------------------------------------------------------------------

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@pytest.fixture
def tun(alone: Site) -> Iterator[int]:
    """A TUN: a link whose packets have no Ethernet header, as those of PPP and of raw-IP modems."""
    with alone.here():
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"ppp9", IFF_TUN | IFF_NO_PI))
        netlink.add_address("ppp9", "10.95.0.1/24")
        netlink.set_up("ppp9")
    yield descriptor
    os.close(descriptor)


def test_a_link_without_ethernet_header_is_steered_to_counted_and_reflects_probes(alone, tun):
    bpf.build(alone.pin_root, peers_max=4)
    with alone.here():
        attached = attach.attach(["ppp9"], alone.pin_root)
        index = netlink.need_link("ppp9").index
    assert [(link.link, link.hook) for link in attached] == [("ppp9", attach.Hook.TC)]
    alone.maps = maps = Maps.open(alone.pin_root)
    maps.config["mark"] = 0x5D
    maps.set_port(PORT)
    maps.set_receiver(RECEIVER, PEER)
    maps.set_path(
        PEER, 0, ifindex=index, up=True, ipv6=False, mtu=1500,
        source="10.95.0.1", source_port=PORT, remote="10.95.0.2", remote_port=PORT,
    )  # fmt: skip
    alone.weigh(1)
    with alone.sender() as sender:
        sender.send(datagram(5))
        out = read_udp(tun)
    assert (out.source, out.destination, Header.unpack(out.payload).path) == ("10.95.0.1", "10.95.0.2", 0)
    probe = datagram(0, size=24, path=0, kind=Type.PROBE) + bytes(7) + b"\x09" + bytes(8)
    os.write(tun, Frame("10.95.0.2", "10.95.0.1", PORT, PORT, probe, link_header=False).pack())
    reply = read_udp(tun)
    assert (reply.source, reply.destination) == ("10.95.0.1", "10.95.0.2")
    assert Header.unpack(reply.payload).type == Type.PROBE_REPLY
    stats = maps.link_stats()[index]
    assert (stats.tx_tunnel_packets, stats.rx_tunnel_packets) == (2, 1)
    assert stats.rx_tunnel_bytes == 20 + 8 + 40
    assert int(maps.rx_stats()[PEER * 8]["probes"]) == 1


def read_udp(tun: int) -> Frame:
    """Read packets until one is UDP."""
    found: list[Frame] = []

    def got() -> bool:
        try:
            packet = os.read(tun, 2048)
        except BlockingIOError:
            return False
        if packet[0] == 0x45 and packet[9] == 17:
            found.append(unpack(packet, link_header=False))
        return bool(found)

    until(got, "a datagram on the TUN")
    return found[0]


# The entry device and the monitor ------------------------------------------------------------------


def test_the_entry_device_is_made_once_completed_and_removed(alone):
    with alone.here():
        index = entry.create_entry()
        netlink.delete_address(entry.DEFAULT_NAME, f"{entry.ADDRESS4}/32")
        netlink.set_up(entry.DEFAULT_NAME, False)
        assert entry.create_entry() == index
        link = netlink.need_link(entry.DEFAULT_NAME)
        assert link.carrier
        assert f"{entry.ADDRESS4}/32" in link.addresses
        assert f"{entry.ADDRESS6}/128" in link.addresses
        routes = alone.namespace.run(["ip", "route"]) + alone.namespace.run(["ip", "-6", "route"])
        assert entry.PREFIX4 in routes
        assert entry.PREFIX6 in routes
        assert entry.delete_entry()
        assert not entry.delete_entry()


def test_a_device_of_that_name_that_is_not_ours_is_left_alone(alone):
    with alone.here():
        alone.namespace.run(["ip", "link", "add", entry.DEFAULT_NAME, "type", "bridge"])
        with pytest.raises(KernelError, match="bridge"):
            entry.create_entry()
        assert not entry.delete_entry()
        assert netlink.find_link(entry.DEFAULT_NAME) is not None


def test_the_monitor_tells_of_links_and_addresses(alone):
    with alone.here(), LinkMonitor() as monitor:
        index = netlink.need_link(LINKS[0]).index
        events: list[object] = []

        def seen(wanted: tuple[Change, bool, bool]) -> bool:
            events.extend(
                (event.change, event.carrier, event.present)
                for event in monitor.read()
                if event.ifindex == index
            )
            return wanted in events

        netlink.add_address(LINKS[0], "10.96.0.1/24")
        until(lambda: seen((Change.ADDRESS, False, True)), "a new address")
        netlink.set_up(LINKS[1], False)  # its other end loses the carrier
        until(lambda: seen((Change.LINK, False, True)), "the loss of the carrier")
        netlink.set_up(LINKS[1], True)
        until(lambda: seen((Change.LINK, True, True)), "the return of the carrier")
        netlink.delete_address(LINKS[0], "10.96.0.1/24")
        until(lambda: seen((Change.ADDRESS, False, False)), "an address that went")
        alone.namespace.run(["ip", "link", "delete", LINKS[0]])
        until(lambda: seen((Change.LINK, False, False)), "the end of a link")


def test_links_are_described_as_they_are(alone):
    with alone.here():
        netlink.add_address(LINKS[0], "10.96.0.1/24")
        netlink.add_address(LINKS[0], "fd96::1/64")
        netlink.set_mtu(LINKS[0], 1400)
        link = netlink.need_link(LINKS[0])
    assert (link.kind, link.driver, link.ethernet, link.mtu, link.carrier) == (
        "veth",
        "veth",
        True,
        1400,
        True,
    )
    assert set(link.addresses) == {"10.96.0.1/24", "fd96::1/64"}


def test_routes_come_and_go(alone):
    with alone.here():
        netlink.add_address(LINKS[0], "10.96.0.1/24")
        for _ in range(2):
            netlink.add_route("10.97.0.0/16", LINKS[0], metric=50)
        assert alone.namespace.run(["ip", "route"]).count("10.97.0.0/16") == 1
        for _ in range(2):
            netlink.delete_route("10.97.0.0/16", LINKS[0], metric=50)
        assert "10.97.0.0/16" not in alone.namespace.run(["ip", "route"])


def test_strict_reverse_path_filtering_is_loosened_and_nothing_else(alone):
    with alone.here():
        netlink.write_switch("ipv4", LINKS[0], "rp_filter", 1)
        assert netlink.loosen_reverse_path(LINKS[0])
        assert netlink.read_switch("ipv4", LINKS[0], "rp_filter") == 2
        assert not netlink.loosen_reverse_path(LINKS[1])
        assert netlink.read_switch("ipv4", LINKS[1], "rp_filter") == 0
