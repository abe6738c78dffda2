"""Delivery: what must not enter does not, what waits is written in turn; a TUN that refuses costs a write."""

from __future__ import annotations

import pytest

from sdwan.core.assemble import VNET_BYTES, Run
from sdwan.edge.peer import SOURCES_MAX
from sdwan.model import DropReason
from tests.unit.packets import A4, B4, udp
from tests.unit.walk import Pair, Site, packets_of


def run_of(packet: bytes, counter: int, sequence: int | None = None) -> Run:
    """Return one whole packet as it comes out of a datagram; bucket 1."""
    frame = memoryview(bytearray(VNET_BYTES) + packet)
    place = counter if sequence is None else sequence
    return Run(frame, counter=counter, bucket=1, bucket_sequence=place, flags=0)


@pytest.fixture
def site(pair: Pair) -> Site:
    """Site b; its peer 1 owns 10.1.0.0/16."""
    return pair.b


def admit(site: Site, *runs: Run) -> list[bytes]:
    """Open runs one after the other; return the packets that come out at once."""
    peer = site.peers[1]
    for run in runs:
        peer.window.accept(run.counter)
        site.delivery.admit(peer, run)
    return packets_of(site.tun.written())


def test_what_is_in_turn_is_written_at_once(site):
    assert admit(site, *(run_of(udp(payload=bytes([n])), n) for n in range(3))) == [
        udp(payload=bytes([n])) for n in range(3)
    ]
    assert site.delivery.writes == 3
    assert not site.delivery.anything_waits


def test_what_was_delivered_is_counted_by_class(site):
    run = run_of(udp(payload=b"voice"), 0)
    run.flags |= 3
    admit(site, run)
    peer = site.peers[1]
    assert peer.rx_by_class[3] == [1, len(udp(payload=b"voice"))] == [peer.rx_packets, peer.rx_bytes]
    assert peer.rx_by_class[0] == [0, 0]


def test_what_waits_is_written_when_its_turn_has_come(site):
    first, second, third = (udp(payload=bytes([n])) for n in range(3))
    assert admit(site, run_of(first, 0), run_of(third, 2)) == [first]
    assert site.delivery.anything_waits
    assert admit(site, run_of(second, 1)) == [second, third]
    site.settle()
    assert not site.delivery.anything_waits


def test_memory_of_what_waits_is_its_own(site):
    run = run_of(udp(payload=b"kept"), 2)
    slot = run.frame
    admit(site, run_of(udp(payload=b"0"), 0), run)
    slot[:] = bytes(len(slot))
    assert admit(site, run_of(udp(payload=b"1"), 1))[-1] == udp(payload=b"kept")


def test_a_packet_that_must_not_enter_does_not_hold_up_the_next(site):
    """Its place in the flow counts as taken."""
    foreign = udp("192.168.0.1", B4)
    sent = [run_of(udp(payload=b"0"), 0), run_of(foreign, 1), run_of(udp(payload=b"2"), 2)]
    assert admit(site, *sent) == [udp(payload=b"0"), udp(payload=b"2")]
    assert site.drops == {DropReason.INNER_SOURCE: 1}
    assert not site.delivery.anything_waits


def test_a_hole_is_given_up_by_time_and_the_rest_is_written(pair, site):
    admit(site, run_of(udp(payload=b"0"), 0), run_of(udp(payload=b"2"), 2))
    came = pair.wait_for_holes()
    assert came == [udp(payload=b"2")]
    assert not site.delivery.anything_waits


def test_a_tun_that_refuses_costs_one_write(site, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(5, "the interface is down")

    with monkeypatch.context() as patch:
        patch.setattr("sdwan.edge.delivery.os.writev", refuse)
        site.delivery.admit(site.peers[1], run_of(udp(), 0))
    assert site.drops == {DropReason.TUN_WRITE: 1}
    assert admit(site, run_of(udp(payload=b"up again"), 1)) == [udp(payload=b"up again")]


def test_addresses_that_were_asked_about_are_bounded(site, monkeypatch):
    assert SOURCES_MAX <= 1 << 16
    monkeypatch.setattr("sdwan.edge.delivery.SOURCES_MAX", 100)
    for n in range(500):
        assert admit(site, run_of(udp(f"10.1.{n >> 8}.{n & 255}", B4), n))
        assert len(site.peers[1].sources) <= 100


def test_a_removed_peer_is_expected_no_more(site):
    admit(site, run_of(udp(payload=b"0"), 0), run_of(udp(payload=b"2"), 2))
    site.peers[1].order.drop_all()
    site.delivery.forget(site.peers[1])
    assert not site.delivery.anything_waits
    assert site.settle() == []


def test_what_is_delivered_is_counted(site):
    admit(site, run_of(udp(payload=b"0"), 0), run_of(udp(A4, B4, bytes(100)), 1))
    peer = site.peers[1]
    assert (peer.rx_packets, peer.rx_bytes, peer.dirty) == (2, 29 + 128, True)
