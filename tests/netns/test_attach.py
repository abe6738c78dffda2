"""Attaching, replacing and detaching: under traffic, beside other makers' filters, across restarts."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdwan.core.wire import Header, Type
from sdwan.errors import KernelError
from sdwan.io import attach, bpf, bpfsys, entry, hooks, netlink
from sdwan.io.hooks import Direction
from sdwan.io.layout import layout_path
from sdwan.io.maps import Maps
from sdwan.io.monitor import Change, LinkMonitor
from sdwan.lab.namespace import inside
from sdwan.model import DropReason
from tests.netns.kernel_world import (
    LINKS,
    PEER,
    PORT,
    RECEIVER,
    Site,
    collect,
    datagram,
    sequences,
    tool,
    two_sites,
    until,
)
from tests.packet.frames import Frame, unpack

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

Sites = tuple[Site, Site]


@pytest.fixture
def sites(unique_name: Callable[[str], str]) -> Iterator[Sites]:
    """Build both sites for one test, which may take them apart."""
    with two_sites(unique_name) as sites:
        yield sites


@pytest.fixture(scope="module")
def standing(unique_name: Callable[[str], str]) -> Iterator[Sites]:
    """Build both sites once, for tests that leave them as they are."""
    with two_sites(unique_name) as sites:
        yield sites


@pytest.fixture
def alone(unique_name: Callable[[str], str]) -> Iterator[Site]:
    """One namespace with two idle links and nothing attached."""
    site = Site(unique_name("kern-c"), 1)
    site.namespace.create()
    site.namespace.run(["ip", "link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1]])
    for name in LINKS:
        site.namespace.run(["ip", "link", "set", name, "up"])
    try:
        yield site
    finally:
        site.close()


def found_filters(site: Site, name: str) -> list[hooks.Filter]:
    with site.here():
        return hooks.filters(netlink.need_link(name).index)


# Replacing -----------------------------------------------------------------------------------------


def test_replacing_every_program_under_traffic_loses_nothing(sites):
    first, second = sites
    stop = threading.Event()
    sent = 0

    def send_until_stopped() -> None:
        nonlocal sent
        with first.sender() as sender:
            while not stop.wait(0.0005):
                sender.send(datagram(sent, size=600))
                sent += 1

    with second.receiver() as receiver:
        sender = threading.Thread(target=send_until_stopped)
        sender.start()
        try:
            first.attach()  # compiled anew
            second.attach()
            for site in (first, second) * 3:
                with site.here():
                    attach.attach(LINKS, site.pin_root, hook=attach.Hook.TC)
        finally:
            stop.set()
            sender.join()
        headers = collect(receiver, sent)
    assert sent > 200
    assert sorted(header.counter for header in headers) == list(range(sent))
    for path in (0, 1):
        numbers = sequences(headers, path)
        assert numbers == list(range(len(numbers)))
        assert int(second.maps.rx_state[PEER * 8 + path]["lost"]) == 0


def test_counters_and_sequences_outlive_every_process(standing):
    first, second = standing
    first.weigh(1)
    with first.sender() as sender, second.receiver() as receiver:
        for number in range(10):
            sender.send(datagram(number))
        (*_, last) = collect(receiver, 10)
        sent = int(first.maps.tx_stats()["datagrams"][PEER * 8])
        assert tool(first, "attach", *LINKS, "--hook", "tc", "--peers", "4").returncode == 0
        sender.send(datagram(10))
        assert [header.link_sequence for header in collect(receiver, 1)] == [last.link_sequence + 1]
    assert int(Maps.open(first.pin_root).tx_stats()["datagrams"][PEER * 8]) == sent + 1


def test_maps_of_another_size_are_refused_and_nothing_changes(standing):
    first, _ = standing
    result = tool(first, "attach", *LINKS, "--peers", "8")
    assert result.returncode == 1
    assert "--peers 4" in result.stderr
    assert "Traceback" not in result.stderr
    assert first.maps.peers_max == 4
    assert tool(first, "attach", *LINKS, "--peers", "4").returncode == 0


# Detaching -----------------------------------------------------------------------------------------


def test_detach_takes_only_what_is_ours(alone):
    alone.attach()
    with alone.here(), bpfsys.opened(alone.pin_root / "progs/sdwan_count") as program:
        index = netlink.need_link(LINKS[0]).index
        netlink.call(
            "adding a stranger's filter",
            lambda route: route.tc(
                "add-filter", "bpf", index, handle=7, prio=3, protocol=3, fd=program, name="stranger",
                parent=Direction.EGRESS.value, classid=1, direct_action=True,
            ),
        )  # fmt: skip
    with alone.here():
        assert sorted(attach.detach(pin_root=alone.pin_root)) == sorted([*LINKS, entry.DEFAULT_NAME])
    assert [found.name for found in found_filters(alone, LINKS[0])] == ["stranger"]
    assert "clsact" in alone.namespace.run(["tc", "qdisc", "show", "dev", LINKS[0]])
    assert "clsact" not in alone.namespace.run(["tc", "qdisc", "show", "dev", LINKS[1]])
    assert not alone.pin_root.exists()
    assert not layout_path(alone.pin_root).exists()
    with alone.here():
        assert netlink.find_link(entry.DEFAULT_NAME) is None


def test_a_strangers_filter_in_our_place_is_not_replaced(alone):
    bpf.build(alone.pin_root, peers_max=4)
    with alone.here(), bpfsys.opened(alone.pin_root / "progs/sdwan_count") as program:
        index = netlink.need_link(LINKS[0]).index

        def add(route: object) -> None:
            route.tc("add", "clsact", index)  # type: ignore[attr-defined]
            route.tc(  # type: ignore[attr-defined]
                "add-filter", "bpf", index, handle=hooks.HANDLE, prio=hooks.PRIORITY, protocol=3, fd=program,
                name="stranger", parent=Direction.EGRESS.value, classid=1, direct_action=True,
            )  # fmt: skip

        netlink.call("adding a stranger's filter", add)
        with pytest.raises(KernelError, match="stranger"):
            attach.attach(LINKS, alone.pin_root)
    assert [found.name for found in found_filters(alone, LINKS[0])] == ["stranger"]


def test_one_link_can_be_detached_alone(sites):
    first, second = sites
    assert tool(first, "detach", LINKS[0]).returncode == 0
    assert found_filters(first, LINKS[0]) == []
    assert len(found_filters(first, LINKS[1])) == 2
    with first.sender() as sender, second.receiver() as receiver:
        for number in range(10):
            sender.send(datagram(number))
        assert len(collect(receiver, 10)) == 10


def test_detaching_twice_is_no_error(alone):
    for _ in range(2):
        result = tool(alone, "detach")
        assert (result.returncode, result.stderr) == (0, "")


# Alone, with no tunnel -----------------------------------------------------------------------------


def test_attached_alone_it_counts_and_touches_nothing(standing):
    """No port, no mark: traffic of any kind passes, also to what would be our port."""
    first, second = standing
    second.maps.set_port(0)
    second.maps.config["mark"] = 0
    dropped = second.maps.drops()
    with first.sender() as sender, second.receiver() as receiver:
        sender.send(datagram(1))
        assert len(collect(receiver, 1)) == 1
    report = json.loads(tool(second, "status", "--json").stdout)
    assert (report["port"], report["steering"]) == (0, False)
    assert second.maps.drops() == dropped
    links = {link["link"]: link for link in report["links"]}
    assert all(links[name]["stats"]["rx_packets"] > 0 for name in LINKS)
    assert "no tunnel is configured" in tool(second, "status").stdout
    second.configure(first)


def test_what_nobody_marked_never_leaves_the_entry(standing):
    first, second = standing
    before = first.maps.drops()[DropReason.UNMARKED]
    with first.sender() as sender, second.receiver() as receiver:
        sender.setsockopt(1, 36, 0)  # SOL_SOCKET, SO_MARK
        sender.send(datagram(1))
        sender.setsockopt(1, 36, 0x5D)
        sender.send(datagram(2))
        assert [header.counter for header in collect(receiver, 1)] == [2]
    assert first.maps.drops()[DropReason.UNMARKED] > before


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "arguments", "sentence"),
    [
        ("no such interface", ["attach", "wan0", "nowhere0"], "there is no interface nowhere0 here"),
        ("loopback", ["attach", "lo"], "lo is no WAN link"),
        ("named twice", ["attach", "wan0", "wan0"], "named twice"),
        ("counters of nothing", ["counters"], "is not attached: run 'sdwan-bpf attach'"),
        ("weights of nothing", ["weights", "set", "1", "1"], "is not attached: run 'sdwan-bpf attach'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_is_one_sentence_and_changes_nothing(alone, description, arguments, sentence):
    result = tool(alone, *arguments)
    assert result.returncode == 1, description
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not alone.pin_root.exists()
    assert found_filters(alone, LINKS[0]) == []


def test_a_place_that_is_no_bpffs_is_refused(alone, tmp_path):
    alone.pin_root = tmp_path / "v1"
    result = tool(alone, "attach", LINKS[0])
    assert result.returncode == 1
    assert "is no bpffs: mount -t bpf" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_root_it_says_so():
    code = (
        "import os, pathlib; from sdwan.io import bpf; os.setresuid(65534, 65534, 65534);"
        "bpf.check_system(pathlib.Path('/sys/fs/bpf/x'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UnsupportedError: loading BPF programs needs root" in done.stderr


def test_a_damaged_layout_file_is_told_and_repaired_by_attaching(alone):
    alone.attach()
    layout_path(alone.pin_root).write_text("{")
    with pytest.raises(KernelError, match="damaged"):
        Maps.open(alone.pin_root)
    alone.attach()
    Maps.open(alone.pin_root).close()


def test_layout_files_of_pins_that_were_removed_by_hand_are_cleared_away(alone):
    alone.attach()
    elsewhere = alone.pin_root.parent / "v2"
    bpf.build(elsewhere, peers_max=4)
    shutil.rmtree(elsewhere)
    alone.attach()
    assert not layout_path(elsewhere).exists()
    assert layout_path(alone.pin_root).exists()


def test_a_map_of_another_layout_is_refused_by_name(alone):
    """As an older version would have left it: BCC itself would adopt it unseen."""
    alone.attach()
    maps = alone.pin_root / "maps"
    (maps / "stride").unlink()
    with bpfsys.opened(maps / "drops") as descriptor:
        bpfsys.obj_pin(descriptor, maps / "stride")
    with pytest.raises(KernelError, match=r"another version \(map stride: 8 bytes .* detach"):
        alone.attach()


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


# What bpftool shows --------------------------------------------------------------------------------


NAMED_FIELDS = {
    "cfg": {"schema", "bank", "mark", "port"},
    "paths": {"ifindex", "flags", "mtu", "remote4"},
    "weights": {"mode", "inverse"},
    "tx_state": {"next_sequence"},
    "tx_stats": {"datagrams", "bytes"},
    "rx_state": {"lost", "late", "jitter_us16"},
    "link_stats": {"tx_bytes", "rx_tunnel_bytes"},
}


@pytest.mark.parametrize("name", NAMED_FIELDS)
def test_bpftool_shows_every_map_with_named_fields(standing, name):
    if shutil.which("bpftool") is None:
        pytest.fail("bpftool is missing: apt-get install bpftool")
    first, _ = standing
    dump = ["bpftool", "--json", "map", "dump", "pinned", str(first.pin_root / "maps" / name)]
    rows = json.loads(subprocess.run(dump, capture_output=True, check=True).stdout)
    row = rows[0]["formatted"]
    value = row["value"] if "value" in row else row["values"][0]["value"]
    assert NAMED_FIELDS[name] <= set(value)


def test_two_sites_on_one_machine_do_not_mix(standing):
    first, second = standing
    assert first.pin_root != second.pin_root
    assert layout_path(first.pin_root) != layout_path(second.pin_root)
    first.maps.tx_state[1]["next_sequence"] = 7
    assert int(second.maps.tx_state[1]["next_sequence"]) != 7
    with inside(first.namespace.path):
        assert attach.status(first.pin_root).pinned
    assert Path(layout_path(first.pin_root)).stat().st_mode & 0o777 == 0o644
