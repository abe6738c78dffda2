"""Gate: open while one eligible path has room, shut while none has, as tables over the kernel's rows."""

from __future__ import annotations

from socket import AF_INET, AF_INET6

import numpy as np
import pytest

from sdwan.edge.gate import NO_PATH_NS, REREAD_NS, Gate, Room
from sdwan.model import PATHS_PER_PEER, SteerMode

MS = 10**6
NOW_NS = 1000 * MS
PEER = 3
BULK = 0
DATAGRAM_BYTES = 1472
RATE = 80_000
"""ns for a KiB: 100 Mbit/s."""
BOUND_MS = 4

WEIGHTS = np.dtype([
    ("mode", "u4"), ("inverse", "u4", 8), ("ns_per_kib", "u4", 8), ("delay_us", "u4", 8),
    ("bound_us", "u4", 8),
])  # fmt: skip


class Kernel:
    """The kernel's rows, written by the test: two paths of 100 Mbit/s, bounds of 4 ms."""

    def __init__(self) -> None:
        self.busy = np.zeros(64, np.dtype([("until_ns", "u8"), ("idle_ns", "u8")]))
        self.paths = np.zeros(64, np.dtype([("flags", "u4"), ("mtu", "u4")]))
        self.weights = np.zeros((8, 8), WEIGHTS)
        for path in (0, 1):
            self.path(path)["flags"], self.path(path)["mtu"] = 1, 1500
        for row in self.weights[PEER]:
            row["mode"] = SteerMode.EARLIEST
            for field, value in (("inverse", 1024), ("ns_per_kib", RATE), ("bound_us", BOUND_MS * 1000)):
                row[field][:2] = value

    def path(self, number: int) -> np.ndarray:
        return self.paths[PEER * PATHS_PER_PEER + number]

    def fill(self, *backlogs_ms: float) -> None:
        """Give paths 0, 1, ... so much to send."""
        for path, backlog_ms in enumerate(backlogs_ms):
            self.busy[PEER * PATHS_PER_PEER + path]["until_ns"] = NOW_NS + int(backlog_ms * MS)

    def weights_of(self, peer: int, traffic_class: int) -> np.ndarray:
        return self.weights[peer][traffic_class]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def room(kernel: Kernel, traffic_class: int = BULK) -> Room:
    gate = Gate(kernel)
    return gate.room(PEER, traffic_class, datagram_bytes=DATAGRAM_BYTES, now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("backlogs_ms", "wanted"),
    [
        ((-1000, -1000), Room.BURST),
        ((0, 100), Room.BURST),
        ((4, 100), Room.BURST),
        ((4.001, 4.001), Room.CLOSED),
        ((100, 3), Room.BURST),
        ((100, 100), Room.CLOSED),
    ],
)
def test_one_path_with_room_is_enough(kernel, backlogs_ms, wanted):
    kernel.fill(*backlogs_ms)
    assert room(kernel) is wanted


@pytest.mark.parametrize("field", ["ns_per_kib", "bound_us"])
def test_a_path_without_rate_or_bound_takes_whatever_comes(kernel, field):
    kernel.fill(100, 100)
    kernel.weights[PEER][BULK][field][1] = 0
    assert room(kernel) is Room.FREE


@pytest.mark.parametrize("why", ["no weight", "link down", "too narrow"])
def test_a_path_that_cannot_be_taken_holds_no_gate_open(kernel, why):
    kernel.fill(100, 0)
    if why == "no weight":
        kernel.weights[PEER][BULK]["inverse"][1] = 0
    elif why == "link down":
        kernel.path(1)["flags"] = 0
    else:
        kernel.path(1)["mtu"] = DATAGRAM_BYTES + 27
    assert room(kernel) is Room.CLOSED


def test_ipv6_takes_twenty_bytes_more(kernel):
    kernel.fill(100, 0)
    kernel.path(1)["flags"] = 3
    assert room(kernel) is Room.CLOSED
    kernel.path(1)["mtu"] = 1520
    assert room(kernel) is Room.BURST


def test_where_every_path_is_too_narrow_they_count_all_the_same(kernel):
    kernel.path(0)["mtu"] = kernel.path(1)["mtu"] = 1000
    assert room(kernel) is Room.BURST


def test_shares_know_no_bound(kernel):
    kernel.fill(100, 100)
    kernel.weights[PEER][BULK]["mode"] = SteerMode.STRIDE
    assert room(kernel) is Room.FREE


def test_what_is_pinned_waits_for_its_own_path(kernel):
    kernel.fill(100, 0)
    kernel.weights[PEER][BULK]["mode"] = SteerMode.PIN
    kernel.weights[PEER][BULK]["inverse"][1] = 2048
    assert room(kernel) is Room.CLOSED
    kernel.fill(0, 100)
    assert room(kernel) is Room.BURST


def test_each_class_has_its_own_paths(kernel):
    kernel.fill(100, 0)
    kernel.weights[PEER][1]["inverse"][1] = 0
    assert room(kernel, 0) is Room.BURST
    assert room(kernel, 1) is Room.CLOSED


def test_it_opens_when_the_first_path_has_room(kernel):
    kernel.fill(10, 7)
    gate = Gate(kernel)
    opens_ns = gate.next_ns(PEER, BULK, datagram_bytes=DATAGRAM_BYTES, now_ns=NOW_NS)
    assert opens_ns == NOW_NS + 3 * MS
    for at_ns, wanted in ((opens_ns - 1, Room.CLOSED), (opens_ns, Room.BURST)):
        assert gate.room(PEER, BULK, datagram_bytes=DATAGRAM_BYTES, now_ns=at_ns) is wanted


def test_without_any_path_it_is_shut_and_looks_again(kernel):
    for path in (0, 1):
        kernel.path(path)["flags"] = 0
    assert room(kernel) is Room.CLOSED
    gate = Gate(kernel)
    wanted_ns = NOW_NS + NO_PATH_NS
    assert gate.next_ns(PEER, BULK, datagram_bytes=DATAGRAM_BYTES, now_ns=NOW_NS) == wanted_ns


def test_busy_times_count_at_once_and_weights_within_a_millisecond(kernel):
    gate = Gate(kernel)

    def now(at_ns: int) -> Room:
        return gate.room(PEER, BULK, datagram_bytes=DATAGRAM_BYTES, now_ns=at_ns)

    assert now(NOW_NS) is Room.BURST
    kernel.fill(100, 100)
    assert now(NOW_NS) is Room.CLOSED
    kernel.weights[PEER][BULK]["bound_us"][0] = 0
    assert now(NOW_NS + REREAD_NS) is Room.FREE


@pytest.mark.parametrize(
    ("backlogs_ms", "delays_ms", "wanted"),
    [
        ((0, 0), (0, 10), AF_INET),
        ((3, 0), (0, 2), AF_INET6),
        ((3, 0), (0, 10), AF_INET),
        ((5, 0), (0, 100), AF_INET6),
        ((5, 5), (0, 0), 0),
    ],
)
def test_of_two_families_the_one_whose_path_delivers_first_and_has_room(
    kernel, backlogs_ms, delays_ms, wanted
):
    """Path 0 is IPv4, path 1 IPv6: only who sends can choose between them."""
    kernel.path(1)["flags"], kernel.path(1)["mtu"] = 3, 1520
    kernel.fill(*backlogs_ms)
    kernel.weights[PEER][BULK]["delay_us"][:2] = [delay_ms * 1000 for delay_ms in delays_ms]
    gate = Gate(kernel)
    assert gate.family(PEER, BULK, datagram_bytes=DATAGRAM_BYTES, now_ns=NOW_NS) == wanted
