"""What a path carries, from reports alone: a link in virtual time, with a rate, a queue and a load."""

from __future__ import annotations

import pytest

from sdwan.core.pathrate import FLOOR_NS, DelayFloor, PathRate
from sdwan.core.messages import PathReport

MS = 10**6
SECOND = 10**9
START = 10**12
DATAGRAM = 1200
FRAME_BITS = (DATAGRAM + 42) * 8
REPORT = 25 * MS


class Link:
    """A link that delivers at ``rate_bps`` what is offered at ``load_bps``, with 50 ms of buffer."""

    def __init__(self, rate_bps: int, rate: PathRate | None = None) -> None:
        self.rate_bps = rate_bps
        self.rate = rate or PathRate(ipv6=False)
        self.now_ns = START
        self.opened = 0.0
        self.lost = 0.0
        self.queue_ns = 0.0
        self.clock_offset_us = 4_294_000_000  # near the end of 32 bits: it wraps within the test

    def run(self, load_bps: int, duration_ns: int, *, loss: float = 0.0) -> None:
        for _ in range(duration_ns // REPORT):
            self.now_ns += REPORT
            offered = load_bps * REPORT / SECOND
            backlog = self.queue_ns * self.rate_bps / SECOND + offered
            served = min(backlog, self.rate_bps * REPORT / SECOND)
            self.queue_ns = min((backlog - served) * SECOND / self.rate_bps, 50 * MS)
            datagrams = served / FRAME_BITS
            self.opened += datagrams * (1 - loss)
            self.lost += datagrams * loss
            self.report()

    def report(self) -> bool:
        delay_us = int(10_000 + self.queue_ns / 1000 + self.clock_offset_us) & 0xFFFFFFFF
        row = PathReport(
            0,
            0,
            0,
            int(self.opened),
            int(self.opened) * DATAGRAM & 0xFFFFFFFF,
            int(self.lost),
            delay_us,
            delay_us,
            0,
        )
        return self.rate.on_report(row, now_ns=self.now_ns)

    @property
    def capacity_mbit(self) -> float:
        return (self.rate.capacity_bps or 0) / 1e6


def test_under_a_small_load_nothing_is_known() -> None:
    link = Link(50_000_000)
    link.run(10_000_000, 2 * SECOND)
    assert link.rate.capacity_bps is None
    assert link.rate.delivered_bps == pytest.approx(10_000_000, rel=0.05)
    assert not link.rate.is_full


def test_a_standing_queue_tells_the_capacity() -> None:
    link = Link(50_000_000)
    link.run(60_000_000, SECOND)
    assert link.rate.is_full
    assert link.capacity_mbit == pytest.approx(50, rel=0.05)


def test_a_fall_is_believed_within_a_second() -> None:
    link = Link(50_000_000)
    link.run(60_000_000, SECOND)
    link.rate_bps = 5_000_000
    link.run(60_000_000, SECOND // 2)
    assert link.capacity_mbit < 10
    link.run(60_000_000, SECOND // 2)
    assert link.capacity_mbit == pytest.approx(5, rel=0.2)


def test_an_application_that_pauses_changes_nothing() -> None:
    link = Link(50_000_000)
    link.run(60_000_000, SECOND)
    known = link.rate.capacity_bps
    link.run(0, SECOND)
    link.run(2_000_000, 2 * SECOND)
    assert link.rate.capacity_bps == pytest.approx(known, rel=0.001)  # what stood in the queue still came


def test_a_path_that_is_used_up_without_a_queue_grows_when_told_to() -> None:
    link = Link(50_000_000)
    link.run(10_000_000, SECOND)
    for _ in range(12):
        link.run(int((link.rate.capacity_bps or 10_000_000) * 0.95), 200 * MS)
        link.rate.grow()
    assert link.capacity_mbit > 40


def test_a_path_that_is_not_used_up_does_not_grow() -> None:
    link = Link(50_000_000, PathRate(ipv6=False, configured_bps=50_000_000))
    link.run(10_000_000, SECOND)
    link.rate.grow()
    assert link.capacity_mbit == 50


def test_a_configured_rate_is_the_start_and_the_cap() -> None:
    link = Link(80_000_000, PathRate(ipv6=False, configured_bps=50_000_000))
    assert link.capacity_mbit == 50
    link.run(90_000_000, SECOND)
    assert link.capacity_mbit == 50
    link.rate_bps = 20_000_000
    link.run(90_000_000, SECOND)
    assert link.capacity_mbit == pytest.approx(20, rel=0.2)


def test_loss_is_measured_and_is_no_capacity() -> None:
    link = Link(50_000_000)
    link.run(20_000_000, 5 * SECOND, loss=0.05)
    assert link.rate.loss_ppm == pytest.approx(50_000, rel=0.2)
    assert link.rate.capacity_bps is None


def test_a_peer_that_counts_anew_begins_anew() -> None:
    link = Link(50_000_000)
    link.run(60_000_000, SECOND)
    known = link.rate.capacity_bps
    link.opened = 3
    assert not link.report()
    link.run(60_000_000, SECOND)
    assert link.rate.capacity_bps == pytest.approx(known, rel=0.1)


def test_the_floor_forgets_after_ten_seconds() -> None:
    floor = DelayFloor()
    assert floor.us is None
    floor.on_delay(100, now_ns=0)
    assert floor.on_delay(500, now_ns=FLOOR_NS) == 100
    assert floor.on_delay(500, now_ns=FLOOR_NS + 2 * SECOND) == 500
