"""sdwan_steer, the rewriting half: addresses, ports, checksums, stamps, and the ring that tells of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sdwan.core.wire import Type
from sdwan.io.maps import Weights
from sdwan.model import PATH_PIN
from tests.packet.frames import sums_are_right
from tests.packet.runner import PEER, REDIRECT, Kernel, datagram, headers_of

pytestmark = [pytest.mark.root, pytest.mark.bpf]

ROW = PEER * 8
families = pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
families_and_sums = pytest.mark.parametrize(
    ("ipv6", "checksum"),
    [(False, "full"), (False, None), (True, "full")],
    ids=["ipv4", "ipv4 without checksum", "ipv6"],  # UDP over IPv6 must have one (RFC 8200, 8.1)
)


@pytest.fixture
def one_path(kernel: Kernel) -> Kernel:
    """Path 2 in IPv4 and path 5 in IPv6."""
    kernel.add_path(2)
    kernel.add_path(5, ipv6=True)
    kernel.maps.write_weights({(PEER, 0): Weights(shares=(0, 0, 1, 0, 0, 1))})
    return kernel


@families_and_sums
def test_a_datagram_leaves_with_the_ends_of_its_path_and_right_sums(one_path, ipv6, checksum):
    sent = one_path.steer(datagram(body=b"odd length " * 7), ipv6=ipv6, checksum=checksum)
    assert sent.verdict == REDIRECT
    number = 5 if ipv6 else 2
    ends = ("fd00:5::1", "fd00:5::2") if ipv6 else ("10.0.2.1", "10.0.2.2")
    assert (sent.frame.source, sent.frame.destination) == ends
    assert (sent.frame.source_port, sent.frame.destination_port) == (4510, 4600 + number)
    assert sent.header.path == number
    assert sums_are_right(sent.data, checksum)


@families
@pytest.mark.parametrize("segment_bytes", [0, 84], ids=["datagram", "burst"])
@pytest.mark.parametrize("traffic_byte", [0x00, 0xB8, 0xBB, 0x03, 0xFF])
def test_dscp_and_ecn_of_the_outer_header_stay_as_the_socket_set_them(
    one_path, ipv6, segment_bytes, traffic_byte
):
    payload = datagram() * (3 if segment_bytes else 1)
    sent = one_path.steer(payload, ipv6=ipv6, segment_bytes=segment_bytes, traffic_byte=traffic_byte)
    assert (sent.verdict, sent.frame.traffic_byte) == (REDIRECT, traffic_byte)
    assert sums_are_right(sent.data, "pseudo" if segment_bytes else "full")


@families
def test_only_the_kernels_bytes_change(one_path, ipv6):
    before = datagram(Type.SUPER, flags=0x20, receiver=0xAABBCCDD, counter=77)
    after = one_path.steer(before, ipv6=ipv6).frame.payload
    assert (before[0], before[2:16], before[24:]) == (after[0], after[2:16], after[24:])


def test_link_sequences_are_contiguous_per_path_and_times_are_now(one_path):
    before_us = time.monotonic_ns() // 1000
    headers = [one_path.steer(datagram()).header for _ in range(5)]
    assert [header.link_sequence for header in headers] == [0, 1, 2, 3, 4]
    for header in headers:
        assert (header.send_time_us - before_us) % 2**32 < 10_000_000
    assert one_path.maps.tx_state[ROW + 2]["next_sequence"] == 5
    assert one_path.maps.tx_state[ROW + 5]["next_sequence"] == 0


def test_link_sequences_wrap_at_32_bits_on_the_wire_and_go_on_inside(one_path):
    one_path.maps.tx_state[ROW + 2]["next_sequence"] = 2**32 - 1
    assert [one_path.steer(datagram()).header.link_sequence for _ in range(2)] == [2**32 - 1, 0]
    assert one_path.maps.tx_state[ROW + 2]["next_sequence"] == 2**32 + 1


@families_and_sums
@pytest.mark.parametrize(
    ("segment_bytes", "last_bytes", "segments"), [(200, 200, 10), (200, 90, 10), (1400, 40, 2)]
)
def test_every_segment_of_a_burst_is_stamped(one_path, ipv6, checksum, segment_bytes, last_bytes, segments):
    sizes = [segment_bytes] * (segments - 1) + [last_bytes]
    burst = b"".join(
        datagram(Type.SUPER, counter=100 + i, body=b"b" * (size - 24)) for i, size in enumerate(sizes)
    )
    sent = one_path.steer(burst, ipv6=ipv6, segment_bytes=segment_bytes, checksum=checksum)
    assert sent.verdict == REDIRECT
    headers = headers_of(sent.data, segment_bytes)
    assert [header.link_sequence for header in headers] == list(range(segments))
    assert {header.path for header in headers} == {5 if ipv6 else 2}
    assert len({header.send_time_us for header in headers}) == 1
    assert [header.counter for header in headers] == list(range(100, 100 + segments))
    assert sums_are_right(sent.data, "pseudo" if checksum else None)


def test_the_ring_tells_what_was_chosen(one_path):
    one_path.steer(datagram(counter=9))
    burst = datagram(Type.SUPER, counter=10) * 3
    one_path.steer(burst, segment_bytes=len(burst) // 3)
    first, second = one_path.maps.ring.read_new()
    assert (first["peer"], first["path"], first["type"]) == (PEER, 2, Type.SINGLE)
    assert (first["first_counter"], first["first_sequence"], first["segments"]) == (9, 0, 1)
    assert (second["first_counter"], second["first_sequence"], second["segments"]) == (10, 1, 3)
    assert first["size_bytes"] == 14 + 20 + 8 + 84
    assert second["size_bytes"] == 3 * first["size_bytes"]
    assert first["time_ns"] <= second["time_ns"] <= time.monotonic_ns()
    assert len(one_path.maps.ring.read_new()) == 0


def test_the_ring_counts_what_was_overwritten_before_it_was_read(one_path):
    ring = one_path.maps.ring
    size = len(one_path.maps.live["tx_ring"])
    frames = size + 100
    one_path.run_many_steers(frames)
    records = ring.read_new()
    assert (len(records), ring.overruns) == (size, 100)
    assert np.array_equal(records["first_sequence"], np.arange(100, frames, dtype=np.uint32))


def test_the_ring_stops_at_a_record_that_is_not_complete(one_path):
    for _ in range(3):
        one_path.steer(datagram())
    one_path.maps.live["tx_ring"][1]["number"] = 0
    assert len(one_path.maps.ring.read_new()) == 1
    one_path.maps.live["tx_ring"][1]["number"] = 2
    assert len(one_path.maps.ring.read_new()) == 2


def test_what_was_sent_is_counted(one_path):
    one_path.steer(datagram())
    burst = datagram(Type.SUPER) * 4
    one_path.steer(burst, segment_bytes=len(burst) // 4)
    stats = one_path.maps.tx_stats()[ROW + 2]
    assert (stats["bursts"], stats["datagrams"], stats["copies"]) == (2, 5, 0)
    assert stats["bytes"] == 5 * (14 + 20 + 8 + 84)


@pytest.mark.parametrize("kind", [Type.INIT, Type.RESPONSE, Type.COOKIE])
def test_a_handshake_takes_no_link_sequence(one_path, kind):
    """The far kernel cannot attribute it to a path, so a number of its own would count as a loss."""
    one_path.steer(datagram(kind, path=PATH_PIN | 2))
    assert one_path.maps.tx_state[ROW + 2]["next_sequence"] == 0


@families
def test_a_probe_carries_our_peer_number_and_a_ttl_of_its_own(one_path, ipv6):
    number = 5 if ipv6 else 2
    sent = one_path.steer(datagram(Type.PROBE, path=PATH_PIN | number, body=b"t" * 16), ipv6=ipv6)
    assert (sent.header.index << 8 | sent.header.segments) == PEER
    assert sent.frame.ttl == 63
    assert sums_are_right(sent.data)
    assert one_path.steer(datagram(), ipv6=ipv6).frame.ttl == 64
