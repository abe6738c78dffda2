"""DSCP and ECN set for one sendmsg reach the far side, through entry, rewrite and segmentation."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.netns.kernel_world import DEADLINE_S, Site, datagram, two_sites

pytestmark = [pytest.mark.root, pytest.mark.bpf, pytest.mark.netns]

UDP_SEGMENT = 103
IPV6_RECVTCLASS, IPV6_TCLASS = 66, 67
IP_RECVTOS = 13
SEGMENT_BYTES = 600
EF, AF41, ECT0 = 46 << 2, 34 << 2, 0b10


@pytest.fixture(scope="module")
def sites(unique_name: Callable[[str], str]) -> Iterator[tuple[Site, Site]]:
    """Build both sites once."""
    with two_sites(unique_name) as sites:
        yield sites


def marked(ipv6: bool, value: int) -> tuple[int, int, bytes]:
    """Return what rides beside a sendmsg so that its datagrams carry this DSCP and ECN."""
    level, kind = (socket.IPPROTO_IPV6, IPV6_TCLASS) if ipv6 else (socket.IPPROTO_IP, socket.IP_TOS)
    return level, kind, struct.pack("i", value)


def arrivals(receiver: socket.socket, count: int) -> list[int]:
    """Return the TOS byte or traffic class of ``count`` datagrams; fewer if they do not come."""
    found: list[int] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < deadline:
        try:
            _, ancillary, *_ = receiver.recvmsg(65536, 64)
        except BlockingIOError:
            time.sleep(0.001)
            continue
        found += [
            data[0] for level, _, data in ancillary if level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6)
        ]
    return found


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_each_sendmsg_has_a_dscp_of_its_own_on_one_connected_socket(sites, ipv6):
    first, second = sites
    segmented = (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", SEGMENT_BYTES))
    with first.sender(ipv6) as sender, second.receiver(ipv6) as receiver:
        if ipv6:
            receiver.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
        else:
            receiver.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        one, burst = (
            datagram(0, size=SEGMENT_BYTES),
            b"".join(datagram(i, size=SEGMENT_BYTES) for i in (1, 2, 3)),
        )
        sender.sendmsg([one], [marked(ipv6, EF)])
        assert arrivals(receiver, 1) == [EF]
        sender.sendmsg([burst], [segmented, marked(ipv6, AF41 | ECT0)])
        assert arrivals(receiver, 3) == [AF41 | ECT0] * 3
        sender.sendmsg([one])
        assert arrivals(receiver, 1) == [0]
