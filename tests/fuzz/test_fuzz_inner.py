"""Whatever the TUN hands over, and whatever stands in a packet: a datagram, a counted drop or a WireError."""

from __future__ import annotations

import struct
from contextlib import closing, suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdwan.core import inner
from sdwan.core.wire import NONCE
from sdwan.errors import WireError
from tests.unit import packets
from tests.unit.packets import A6, B6, pattern, plain, tcp, tso, udp, unfinished, uso
from tests.unit.walk import Pair, Road, coalesced

sane = st.sampled_from([
    tcp(payload=pattern(300)), udp(payload=pattern(300)), tcp(A6, B6, pattern(300)), udp(A6, B6, pattern(9)),
    packets.icmp(), tcp(flags=packets.SYN, options=bytes([2, 4, 5, 180, 1, 3, 3, 7])), tcp()[:20], udp()[:27],
    packets.ip(A6, B6, 17, bytes(8), extensions=bytes([17, 0, 1, 4, 0, 0, 0, 0])),
])  # fmt: skip
frames_of_a_kernel = st.sampled_from([
    tso(pattern(3000), 1000).frame, tso(pattern(20_000), 100, source=A6, destination=B6).frame,
    uso(pattern(5000), 500).frame, plain(tcp()), unfinished(udp(payload=pattern(700))),
])  # fmt: skip
any_vnet = st.tuples(
    st.sampled_from([0, 1, 2, 255]), st.sampled_from([0, 1, 3, 4, 5, 0x81, 255]), st.integers(0, 0xFFFF),
    st.sampled_from([0, 1, 8, 100, 1000, 1428, 0xFFFF]), st.sampled_from([0, 20, 24, 40, 48, 1000, 0xFFFF]),
    st.integers(0, 0xFFFF),
).map(lambda fields: struct.pack("<BBHHHH", *fields))  # fmt: skip


@st.composite
def bent(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """Something sound with some bytes changed, or cut."""
    data = bytearray(draw(source))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, min(len(data) - 1, 70)))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


any_packet = st.one_of(st.binary(max_size=100), sane, bent(sane))
any_frame = st.one_of(
    st.binary(max_size=100),
    st.tuples(any_vnet, any_packet).map(b"".join),
    st.tuples(any_vnet, st.integers(1, 60_000).map(lambda n: tcp()[:40] + bytes(n))).map(b"".join),
    frames_of_a_kernel,
    bent(frames_of_a_kernel),
)


@settings(deadline=None, max_examples=400)
@given(st.lists(any_frame, min_size=1, max_size=4), st.sampled_from([576, 1472, 8972]))
@example([struct.pack("<BBHHHH", 1, 1, 40, 1, 20, 16) + tcp(payload=pattern(255))], 1472)
@example([struct.pack("<BBHHHH", 1, 1, 40, 257, 20, 16) + tcp(payload=pattern(65_000))], 1472)
@example([b"x"], 1472)
def test_any_read_of_the_tun_is_sent_or_counted(frames, datagram_bytes):
    frames = [frame for frame in frames if frame]  # a TUN never reads nothing
    with closing(Pair(datagram_bytes=datagram_bytes)) as pair:
        datagrams = []
        for frame in frames:
            datagrams += pair.a.send(frame)
        assert pair.a.outward.reads == len(frames)
        assert len(datagrams) + sum(pair.a.drops.values()) >= len(frames)
        assert all(len(datagram) <= datagram_bytes for datagram in datagrams)
        assert len({datagram[NONCE] for datagram in datagrams}) == len(datagrams)
        pair.b.receive(*coalesced(Road().carry(datagrams)))  # the far site survives it as well


@given(any_packet)
def test_reading_a_packet_never_fails(packet):
    view = memoryview(packet)
    assert len(inner.source_of(view)) in (0, 4, 16)
    assert len(inner.destination_of(view)) == len(inner.source_of(view))
    assert bool(inner.flow_key(view)) == bool(inner.source_of(view))
    inner.maybe_syn(view)


@given(any_packet)
def test_a_transport_header_is_found_within_the_packet_or_refused(packet):
    with suppress(WireError):
        _, offset = inner.transport(memoryview(packet))
        assert 20 <= offset <= len(packet)


@given(any_packet, st.integers(68, 9000), st.booleans())
def test_clamping_changes_two_bytes_and_a_checksum_at_most(packet, mtu_bytes, needs_csum):
    view = memoryview(bytearray(packet))
    inner.clamp_mss(view, mtu_bytes, needs_csum=needs_csum)
    assert sum(a != b for a, b in zip(packet, view, strict=True)) <= 4


@given(any_packet)
def test_finishing_a_checksum_changes_two_bytes_or_is_refused(packet):
    view = memoryview(bytearray(packet))
    with suppress(WireError):
        inner.complete_checksum(view)
    assert sum(a != b for a, b in zip(packet, view, strict=True)) <= 2


@given(
    any_packet, st.integers(0, 65535), st.integers(0, 255), st.booleans(), st.integers(1, 65535)
)  # fmt: skip
def test_trimming_a_template_keeps_its_length_or_is_refused(
    head, payload_bytes, first_index, is_last, segment_bytes
):
    view = memoryview(bytearray(head))
    with suppress(WireError):
        inner.trim_template(
            view, payload_bytes=payload_bytes, first_index=first_index, is_last=is_last,
            segment_bytes=segment_bytes,
        )  # fmt: skip
    assert len(view) == len(head)
