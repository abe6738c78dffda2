"""Real programs over a real tunnel: what goes in comes out, and the process between holds no power.

``tunnel_world`` joins TUN, data plane and UDP of two sites without steering: a failure here is one of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdwan.errors import LabError
from sdwan.lab.copy import Copy, make_file
from sdwan.lab.namespace import inside
from sdwan.model import DropReason
from tests.netns.tunnel_world import MTU_BYTES, Site, agree, tunnel, until

pytestmark = [pytest.mark.root, pytest.mark.netns]

Sites = tuple[Site, Site]
FILE_BYTES = 24 << 20
RSS_KB_MAX = 150 << 10
SO_RCVBUFFORCE = 33
HARMLESS = {DropReason.NO_ROUTE, DropReason.REORDER_OVERFLOW}
"""Neighbour and router discovery of the kernel goes to multicast addresses, which are no peer's."""


@pytest.fixture(scope="module", params=[True, False], ids=["offload", "no offload"])
def sites(request: pytest.FixtureRequest, unique_name: Callable[[str], str]) -> Iterator[Sites]:
    """Both sites, once with every offload and once with none."""
    with tunnel(unique_name, offload=request.param) as built:
        yield built


families = pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])


def listening(site: Site, ipv6: bool, kind: socket.SocketKind, port: int) -> socket.socket:
    """Return a bound socket in a site's namespace."""
    with inside(site.namespace.path):
        made = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
    made.settimeout(10)
    made.bind((site.address(ipv6), port))
    return made


# Data -------------------------------------------------------------------------------------------------


@families
def test_a_file_arrives_as_it_was_sent(sites, ipv6, tmp_path):
    a, b = sites
    file, copy = tmp_path / "file", tmp_path / "copy"
    make_file(file, FILE_BYTES)
    running = Copy(a.namespace, b.namespace, b.address(ipv6), file, copy, 7100 + ipv6)
    try:
        result = running.wait()
    finally:
        running.close()
    assert result.intact
    assert result.size_bytes == FILE_BYTES
    assert set(a.drops) | set(b.drops) <= HARMLESS


@families
@pytest.mark.parametrize("segment_bytes", [100, 300, 536])
def test_a_connection_of_small_segments_arrives_too(sites, ipv6, segment_bytes):
    """64 KiB in small segments are more datagrams than one super-packet can number."""
    a, b = sites
    data = os.urandom(2 << 20)
    with listening(b, ipv6, socket.SOCK_STREAM, 7200) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment_bytes)
        server.listen()
        with listening(a, ipv6, socket.SOCK_STREAM, 0) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            client.connect(server.getsockname()[:2])
            connection, _ = server.accept()
            with connection:
                connection.settimeout(20)
                assert exchanged(client, connection, data) == data
    assert set(a.drops) | set(b.drops) <= HARMLESS


def exchanged(sender: socket.socket, receiver: socket.socket, data: bytes) -> bytes:
    """Send through one socket what comes out of the other."""
    sender.setblocking(False)
    view, came = memoryview(data), bytearray()
    while len(came) < len(data):
        with contextlib.suppress(BlockingIOError):
            view = view[sender.send(view[: 1 << 18]) :] if view else view
        came += receiver.recv(1 << 18)
    return bytes(came)


@families
@pytest.mark.parametrize("size_bytes", [1, 22, 200, 601, 1300])
def test_datagrams_of_every_size_arrive_whole(sites, ipv6, size_bytes):
    """Sent in streaks, so that they travel as bundles, super-packets, containers and single packets."""
    a, b = sites
    with (
        listening(b, ipv6, socket.SOCK_DGRAM, 7300) as server,
        listening(a, ipv6, socket.SOCK_DGRAM, 0) as client,
    ):
        for streak in (1, 2, 40, 100):
            sent = [bytes([n & 0xFF]) * size_bytes for n in range(streak)]
            for datagram in sent:
                client.sendto(datagram, server.getsockname()[:2])
            assert [server.recv(2048) for _ in sent] == sent


@families
def test_a_program_may_use_segmentation_itself(sites, ipv6):
    a, b = sites
    data = os.urandom(20_500)
    with (
        listening(b, ipv6, socket.SOCK_DGRAM, 7400) as server,
        listening(a, ipv6, socket.SOCK_DGRAM, 0) as client,
    ):
        client.setsockopt(17, 103, 1000)
        client.sendto(data, server.getsockname()[:2])
        assert [server.recv(2048) for _ in range(21)] == [
            data[at : at + 1000] for at in range(0, 20_500, 1000)
        ]


@families
def test_the_mtu_is_just_what_fits(sites, ipv6):
    a, b = sites
    headers = 48 if ipv6 else 28
    assert a.ping(b.address(ipv6), MTU_BYTES - headers)
    assert not a.ping(b.address(ipv6), MTU_BYTES - headers + 1)
    assert a.ping(b.address(ipv6), 4000, fragment=True), "fragments are packets like any other"


def test_what_the_tunnel_carries_is_counted(sites):
    a, b = sites
    before = int(b.board.peers[1]["rx_packets"])
    for _ in range(5):
        assert a.ping(b.address(False))
    until(lambda: int(b.board.peers[1]["rx_packets"]) >= before + 5, "five packets on the board")


def test_another_tunnel_within_keeps_its_checksums(sites, tmp_path):
    """VXLAN leaves the checksum of the packet within it open; nobody may take the outer one for it."""
    for site, other in (sites, sites[::-1]):
        ends = ["local", site.address(False), "remote", other.address(False)]
        add = ["ip", "link", "add", "within", "type", "vxlan", "id", "5", "dstport", "4789", *ends]
        try:
            site.namespace.run(add)
        except LabError as error:
            assert "Unknown device type" in str(error)
            pytest.skip("this kernel has no VXLAN")
        site.namespace.run(["ip", "address", "add", f"10.55.0.{site.number}/24", "dev", "within"])
        site.namespace.run(["ip", "link", "set", "within", "mtu", "1350", "up"])
    file = tmp_path / "file"
    make_file(file, 2 << 20)
    running = Copy(sites[0].namespace, sites[1].namespace, "10.55.0.2", file, tmp_path / "copy", 7500)
    try:
        assert running.wait().intact
    finally:
        running.close()


# The process --------------------------------------------------------------------------------------------


def test_the_process_between_holds_no_power(sites):
    for site in sites:
        status = site.process_status()
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert "0" not in status["Uid"].split()
        assert int(status["VmHWM"].split()[0]) <= RSS_KB_MAX


def test_strangers_are_counted_and_change_nothing(sites):
    a, b = sites
    with inside(a.namespace.path):
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with stranger:
        for n in range(200):
            stranger.sendto(os.urandom(1 + n * 7), ("10.9.0.2", 4510))
    until(lambda: sum(b.drops.values()) >= 200, "200 drops")
    assert a.ping(b.address(False))


def test_an_interface_that_goes_down_and_up_again_works_again(sites):
    a, b = sites
    b.namespace.run(["ip", "link", "set", "tun0", "down"])
    assert not a.ping(b.address(False))
    b.namespace.run(["ip", "link", "set", "tun0", "up"])
    b.add_addresses()  # the kernel takes IPv6 addresses off an interface that goes down
    until(lambda: a.ping(b.address(False)), "the tunnel")
    assert b.plane.process is not None
    assert b.plane.process.poll() is None


def test_a_killed_process_is_replaced_over_the_same_interface(sites):
    a, b = sites
    index = Path(f"/proc/{b.pid}/fd")
    assert index.exists()
    os.kill(b.pid, signal.SIGKILL)
    b.plane.stop()
    assert not a.ping(b.address(False))
    b.start()
    agree(a, b, index=8)
    assert b.ping(a.address(True))


def test_a_deleted_interface_ends_the_process_with_one_sentence(unique_name, capfd):
    with tunnel(lambda name: unique_name(f"gone-{name}"), offload=True) as (a, _):
        a.namespace.run(["ip", "link", "delete", "tun0"])
        process = a.plane.process
        assert process is not None
        assert process.wait(10) == 1
        words = [line for line in capfd.readouterr().err.splitlines() if line]
        assert len(words) == 1
        assert words[0].startswith("data plane: ")
