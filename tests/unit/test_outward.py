"""Outward: from a frame at the TUN to sealed datagrams, whatever the TUN hands over.

The other site opens what was sent, so every test that says "arrives" has walked the whole way; what links
do to datagrams is the business of test_inward.py.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6

import pytest

from sdwan.core import wire
from sdwan.core.wire import Header, Type
from sdwan.edge.flows import FLOWS_MAX
from sdwan.edge.outward import WANT_INTERVAL_NS
from sdwan.model import PATH_CHOOSE, DropReason
from tests.unit import packets
from tests.unit.packets import (
    A4,
    A6,
    ACK,
    B4,
    B6,
    CWR,
    FIN,
    PSH,
    SYN,
    pattern,
    plain,
    tcp,
    tso,
    udp,
    unfinished,
)
from tests.unit.walk import PREFIXES, Pair, Road, Sender, coalesced, packets_of

# What a datagram looks like ------------------------------------------------------------------------


def test_every_segment_is_a_datagram_that_says_where_it_belongs(pair):
    datagrams = pair.a.send(tso(pattern(3000), 1000).frame, tso(pattern(2500), 1000).frame)
    headers = [Header.unpack(datagram) for datagram in datagrams]
    assert [h.type for h in headers] == [Type.SUPER] * 6
    assert [(h.index, h.segments) for h in headers] == [(i, 3) for i in range(3)] * 2
    assert [h.counter for h in headers] == list(range(6))
    assert {h.receiver for h in headers} == {9}, "the receiver's index, not ours"
    assert {h.path for h in headers} == {PATH_CHOOSE}
    assert {h.template_bytes for h in headers} == {40}


def test_the_payload_cannot_be_read_on_the_way(pair):
    payload = pattern(5000)
    sent = b"".join(pair.a.send(tso(payload, 1000).frame, plain(udp(payload=payload[:1200])), plain(udp())))
    for at in range(0, len(payload) - 16, 8):
        assert payload[at : at + 16] not in sent


def test_an_inner_packet_costs_what_the_page_says(pair):
    (datagram,) = pair.a.send(plain(udp(payload=pattern(1300))))
    assert len(datagram) + 28 == 1328 + wire.sealed_overhead_bytes(outer_ipv6=False)
    first, *_ = pair.a.send(tso(pattern(8000), 1300).frame)
    assert len(first) + 28 == 1340 + wire.sealed_overhead_bytes(outer_ipv6=False)


def test_the_largest_packet_of_the_tunnel_just_fits(pair):
    assert packets_of_size(pair, 1428) == [1428]
    assert packets_of_size(pair, 1429) == []
    assert pair.a.drops == {DropReason.TOO_BIG: 1}


def packets_of_size(pair: Pair, size_bytes: int) -> list[int]:
    return [len(packet) for packet in pair.crossing(plain(udp(payload=pattern(size_bytes - 28))))]


# Bursts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("burst_segments", "bursts"), [(1, [1] * 10), (4, [4, 4, 2]), (44, [10])])
def test_a_super_packet_leaves_in_bursts_of_the_wanted_length(burst_segments, bursts):
    pair = Pair(burst_segments=burst_segments)
    pair.a.send(tso(pattern(9500), 1000).frame)
    assert pair.a.senders[1].bursts == bursts


def test_a_kernel_without_segmentation_gets_one_datagram_at_a_time():
    pair = Pair(segmentation=False)
    pair.a.send(tso(pattern(9500), 1000).frame, *[plain(udp(payload=pattern(900)))] * 3)
    assert pair.a.senders[1].bursts == [1] * 13


@pytest.mark.parametrize("datagram_bytes", [1472, 2000, 8972, 65000])
@pytest.mark.parametrize("offloaded", [True, False], ids=["super-packet", "single packets"])
def test_a_burst_never_exceeds_what_one_send_takes(datagram_bytes, offloaded):
    pair = Pair(datagram_bytes=datagram_bytes, burst_segments=44)
    size = datagram_bytes - 88
    if offloaded:
        expected = tso(pattern(min(65000, size * 20)), size)
        frames, wanted = [expected.frame], expected.packets
    else:
        wanted = [udp(payload=pattern(size, seed=i)) for i in range(12)]
        frames = [plain(packet) for packet in wanted]
    came = []
    for frame in frames if datagram_bytes > 9000 else [frames]:
        came += pair.crossing(*([frame] if isinstance(frame, bytes) else frame))
    assert came == wanted
    assert not pair.a.drops


@pytest.mark.parametrize("gso_bytes", [1, 50, 100, 257, 300, 536])
@pytest.mark.parametrize(("a", "b"), [(A4, B4), (A6, B6)], ids=["IPv4", "IPv6"])
def test_any_number_of_segments_is_sent(pair, gso_bytes, a, b):
    size_bytes = min(65_000, 3000 * gso_bytes)
    whole = tso(pattern(size_bytes), gso_bytes, source=a, destination=b, flags=ACK | PSH | FIN | CWR)
    assert pair.crossing(whole.frame) == whole.packets
    assert not pair.a.drops


# MSS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [plain, unfinished])
@pytest.mark.parametrize(("a", "b", "mss"), [(A4, B4, 1388), (A6, B6, 1368)])
def test_a_syn_is_told_what_fits_the_tunnel(pair, wrap, a, b, mss):
    options = struct.pack("!BBH", 2, 4, 1460)
    fitting = struct.pack("!BBH", 2, 4, mss)
    assert pair.crossing(wrap(tcp(a, b, flags=SYN, options=options))) == [
        tcp(a, b, flags=SYN, options=fitting)
    ]


def test_the_mss_that_was_told_fits(pair):
    whole = tso(pattern(1388 * 3), 1388)
    assert pair.crossing(whole.frame) == whole.packets
    assert not pair.a.drops


# Drops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (plain(b""), DropReason.NOT_IP),
        (plain(b"\x00" * 60), DropReason.NOT_IP),
        (plain(tcp()[:19]), DropReason.NOT_IP),
        (plain(udp(destination="203.0.113.9")), DropReason.NO_ROUTE),
        (plain(udp(A6, "2001:db8::1")), DropReason.NO_ROUTE),
        (plain(udp(payload=bytes(1401))), DropReason.TOO_BIG),
        (tso(pattern(3000), 1401).frame, DropReason.TOO_BIG),
    ],
    ids=["empty", "no IP version", "header cut short", "nobody's IPv4", "nobody's IPv6", "too big",
         "segments too big"],
)  # fmt: skip
def test_what_cannot_be_sent_is_counted_under_its_reason(pair, frame, reason):
    assert pair.a.send(frame) == []
    assert set(pair.a.drops) == {reason}


TSO = tso(pattern(3000), 1000).frame


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00" + TSO[1:],
        TSO[:4] + b"\x00\x00" + TSO[6:],
        TSO[:6] + b"\xff\xff" + TSO[8:],
        TSO[:6] + b"\x16\x00" + TSO[8:],
        TSO[:50],
        bytes([1, 3]) + TSO[2:50],
    ],
    ids=["checksum not left open", "segment size 0", "transport beyond the end", "odd template", "no payload",
         "unknown kind, no payload"],
)  # fmt: skip
def test_offload_metadata_that_cannot_be_is_bad_offload(pair, frame):
    assert pair.a.send(frame) == []
    assert pair.a.drops == {DropReason.BAD_OFFLOAD: 1}


@pytest.mark.parametrize("start", [60, 79, 80, 0xFFFF])
def test_a_checksum_left_open_outside_the_packet_is_bad_offload(pair, start):
    packet = packets.ip(A6, B6, 132, bytes(40))
    assert pair.a.send(packets.VNET.pack(packets.NEEDS_CSUM, 0, 0, 0, start, 19) + packet) == []
    assert pair.a.drops == {DropReason.BAD_OFFLOAD: 1}


@pytest.mark.parametrize("inner_bytes", [0, 100, 1000])
@pytest.mark.parametrize(("a", "b"), [(A4, B4), (A6, B6)], ids=["IPv4", "IPv6"])
def test_a_checksum_left_open_deep_within_is_finished_before_it_leaves(pair, a, b, inner_bytes):
    """A tunnel in the tunnel (VXLAN) leaves its inner checksum open; the outer one is none of ours."""
    inner_packet = tcp("172.16.0.1", "172.16.0.2", pattern(inner_bytes))
    outer = [udp(a, b, bytes(22) + some) for some in (packets.with_pseudo_sum(inner_packet), inner_packet)]
    start = len(outer[0]) - len(inner_packet) + 20
    frame = packets.VNET.pack(packets.NEEDS_CSUM, 0, 0, 0, start, 16) + outer[0]
    field = packets.checksum_field(outer[0])
    (came,) = pair.crossing(frame)
    assert came == outer[0][:field] + came[field : field + 2] + outer[1][field + 2 :]
    assert came[field : field + 2] == outer[0][field : field + 2], "the outer checksum was touched"


def test_a_super_packet_whose_checksum_is_open_elsewhere_is_bad_offload(pair):
    frame = tso(pattern(3000), 1000).frame
    assert pair.a.send(frame[:8] + b"\x06\x00" + frame[10:]) == []
    assert pair.a.drops == {DropReason.BAD_OFFLOAD: 1}


def test_without_a_session_control_is_told_now_and_then(pair):
    pair.a.peers[1].session = None
    for _ in range(3):
        pair.a.send(plain(udp()), tso(pattern(3000), 1000).frame)
    assert pair.a.drops == {DropReason.NO_SESSION: 6}
    assert pair.a.wanted == [1]
    pair.clock.now_ns += WANT_INTERVAL_NS + 1
    pair.a.send(plain(udp()))
    assert pair.a.wanted == [1, 1]


def test_a_session_at_its_limit_seals_no_more(pair):
    session = pair.a.peers[1].session
    session.sealed = wire.REKEY_AFTER_DATAGRAMS
    assert pair.a.send(plain(udp())) == []
    assert pair.a.drops == {DropReason.COUNTER_LIMIT: 1}
    assert pair.a.wanted == [1]


def test_a_socket_that_refuses_costs_the_burst_and_nothing_else(pair):
    pair.a.senders[1].broken = True
    assert pair.a.send(tso(pattern(3000), 1000).frame) == []
    assert pair.a.drops == {DropReason.SEND_FAILED: 3}
    pair.a.senders[1].broken = False
    assert pair.crossing(plain(udp(payload=b"still here"))) == [udp(payload=b"still here")]


# Peers and flows -----------------------------------------------------------------------------------


def test_each_peer_gets_its_own_packets_under_its_own_keys(pair):
    other = pair.a.add_peer(2, ("10.3.0.0/16",), datagram_bytes=1472, burst_segments=44)
    pair.a.install(2, 70, 90, bytes(32), bytes(32))
    mixed = [udp(destination=d, payload=pattern(50, i)) for i, d in enumerate([B4, "10.3.0.1"] * 4)]
    to_b = pair.a.send(*map(plain, mixed))
    to_c = pair.a.senders[2].datagrams
    assert {Header.unpack(d).receiver for d in to_b} == {9}
    assert {Header.unpack(d).receiver for d in to_c} == {90}
    assert packets_of(pair.b.receive(*coalesced(Road().carry(to_b)))) == mixed[::2]
    assert (pair.a.peers[1].tx_packets, other.tx_packets) == (4, 4)


def test_a_new_route_is_asked_for_at_once(pair):
    pair.a.send(plain(udp()))
    pair.a.add_peer(2, (f"{B4}/32",))
    assert pair.a.send(plain(udp())) == []
    assert pair.a.drops == {DropReason.NO_SESSION: 1}, "the more specific peer has no session yet"


def test_sockets_take_turns_burst_by_burst(pair):
    second = Sender(AF_INET6)
    pair.a.peers[1].add_sender(second)
    for _ in range(4):
        pair.a.send(plain(udp()))
    assert (len(pair.a.senders[1].bursts), len(second.bursts)) == (2, 2)


def test_address_families_take_the_turns_control_gave_them(pair):
    first, second, peer = pair.a.senders[1], Sender(AF_INET6), pair.a.peers[1]
    peer.add_sender(second)
    peer.set_families((AF_INET, AF_INET, AF_INET6))
    for _ in range(6):
        pair.a.send(plain(udp()))
    assert (len(first.bursts), len(second.bursts)) == (4, 2)
    peer.set_families((AF_INET6,))
    pair.a.send(plain(udp()))
    assert (len(first.bursts), len(second.bursts)) == (4, 3)


def test_what_is_pinned_leaves_by_the_family_of_its_path(pair):
    second, peer = Sender(AF_INET6), pair.a.peers[1]
    peer.add_sender(second)
    peer.arrivals[3].endpoint = ("2001:db8::1", 4510)
    assert peer.sender_of(3) == second.sendmsg
    peer.arrivals[3].endpoint = ("192.0.2.1", 4510)
    assert peer.sender_of(3) == pair.a.senders[1].sendmsg


def test_counters_run_on_over_the_end_of_32_bits(pair):
    pair.a.peers[1].next_counter = (1 << 32) - 2
    pair.b.peers[1].window.accept((1 << 32) - 3)
    whole = tso(pattern(5000), 1000)
    datagrams = pair.a.send(whole.frame)
    assert [Header.unpack(d).counter for d in datagrams] == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2]
    assert packets_of(pair.b.receive(datagrams)) == whole.packets
    assert pair.b.peers[1].window.top == (1 << 32) + 2


def test_bucket_sequences_wrap_without_a_stop(pair):
    peer = pair.a.peers[1]
    for bucket in range(256):
        peer.bucket_sequences[bucket] = 0xFFFE
    sent = [tso(pattern(4000, i), 1000, flags=ACK) for i in range(3)]
    came = [packets_of(pair.b.receive(pair.a.send(whole.frame))) for whole in sent]
    assert came == [whole.packets for whole in sent]


def test_counting_tells_packets_bytes_and_datagrams_apart(pair):
    pair.a.send(tso(pattern(3000), 1000).frame, *[plain(udp(payload=bytes(50)))] * 3)
    peer = pair.a.peers[1]
    assert (peer.tx_packets, peer.tx_datagrams, peer.tx_bytes) == (6, 4, 3040 + 3 * 78)
    assert pair.a.outward.reads == 4


@pytest.mark.parametrize("limit", [64])
def test_the_table_of_flows_is_bounded(pair, limit, monkeypatch):
    assert FLOWS_MAX <= 1 << 16
    monkeypatch.setattr("sdwan.edge.flows.FLOWS_MAX", limit)
    for port in range(limit * 3):
        assert len(pair.a.send(plain(udp(ports=(port, 53))))) == 1
        assert len(pair.a.outward._flows) <= limit


def test_prefixes_of_the_two_sites_do_not_overlap():
    assert not set(PREFIXES["a"]) & set(PREFIXES["b"])
