"""What is read out of inner packets, and how a packet is mended when only a part of it is delivered.

``tests.unit.packets`` is the judge: it sums checksums word by word and cuts super-packets as the kernel does.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core import inner
from sdwan.errors import WireError
from tests.unit import packets
from tests.unit.packets import A4, A6, ACK, B4, B6, CWR, FIN, PSH, SYN

OPTIONS_60 = bytes([17, 0, 1, 4, 0, 0, 0, 0])
"""Destination options header of 8 bytes, followed by UDP."""


def view(packet: bytes) -> memoryview:
    return memoryview(bytearray(packet))


# Reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "source", "destination"),
    [
        (packets.tcp(A4, B4), A4, B4),
        (packets.udp(A6, B6), A6, B6),
        (packets.icmp(A4, B4), A4, B4),
    ],
    ids=["TCP over IPv4", "UDP over IPv6", "ICMP"],
)
def test_addresses(packet, source, destination):
    assert inner.source_of(view(packet)) == packets.address(source)
    assert inner.destination_of(view(packet)) == packets.address(destination)


@pytest.mark.parametrize(
    "packet", [b"", b"\x45", packets.tcp()[:19], packets.tcp(A6, B6)[:39], bytes(60), b"\xff" * 60]
)
def test_what_is_no_ip_packet_has_no_address_no_flow_and_no_transport(packet):
    assert inner.source_of(view(packet)) == b""
    assert inner.destination_of(view(packet)) == b""
    assert inner.flow_key(view(packet)) == b""
    with pytest.raises(WireError):
        inner.transport(view(packet))


def test_a_flow_is_told_apart_by_its_ports():
    one, other = (packets.udp(ports=ports) for ports in ((1, 2), (1, 3)))
    assert inner.flow_key(view(one)) != inner.flow_key(view(other))
    assert inner.flow_key(view(one)) == inner.flow_key(view(packets.udp(ports=(1, 2), payload=b"more")))


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_both_families_have_flows(source, destination):
    keys = {inner.flow_key(view(packets.tcp(source, destination, ports=(n, 80)))) for n in range(9)}
    assert len(keys) == 9


def test_all_fragments_of_a_packet_are_one_flow():
    first = packets.udp(payload=bytes(64), fragment=0x2000)
    later = packets.ip(A4, B4, packets.UDP, packets.pattern(64), fragment=0x0008)
    assert inner.flow_key(view(first)) == inner.flow_key(view(later))


@pytest.mark.parametrize(("source", "destination"), [(A4, B4), (A6, B6)])
def test_packets_without_ports_are_told_apart_by_protocol(source, destination):
    ping, esp = (packets.ip(source, destination, protocol, bytes(24)) for protocol in (1, 50))
    assert inner.flow_key(view(ping)) != inner.flow_key(view(esp))


def test_packets_without_ports_are_told_apart_by_address():
    assert inner.flow_key(view(packets.icmp(number=1))) == inner.flow_key(view(packets.icmp(number=2)))
    assert inner.flow_key(view(packets.icmp(A4, B4))) != inner.flow_key(view(packets.icmp(A4, "10.2.0.2")))


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (packets.tcp(), (6, 20)),
        (packets.ip(A4, B4, 17, bytes(8), options=bytes([1] * 8)), (17, 28)),
        (packets.udp(A6, B6), (17, 40)),
        (packets.ip(A6, B6, 17, bytes(8), extensions=OPTIONS_60), (17, 48)),
        (packets.ip(A6, B6, 58, bytes(8)), (58, 40)),
        (packets.ip(A6, B6, 44, bytes(8)), (44, 40)),
    ],
    ids=[
        "IPv4",
        "IPv4 with options",
        "IPv6",
        "destination options",
        "ICMPv6",
        "fragment header ends the search",
    ],
)
def test_the_transport_header_is_found(packet, expected):
    assert inner.transport(view(packet)) == expected


@pytest.mark.parametrize(
    "packet",
    [
        b"\x4f" + packets.tcp()[1:20],
        b"\x44" + packets.tcp()[1:],
        packets.ip(A6, B6, 17, b"", extensions=bytes([60, 0]) + bytes(6)),
        packets.ip(A6, B6, 17, b"", extensions=bytes([17, 9]) + bytes(6)),
        packets.ip(A6, B6, 17, bytes(80), extensions=bytes([60, 0, 0, 0, 0, 0, 0, 0]) * 9),
    ],
    ids=["options beyond the end", "header of 16 bytes", "cut after an extension", "longer than the packet",
         "nine extensions"],
)  # fmt: skip
def test_a_transport_header_that_is_not_there_is_refused(packet):
    with pytest.raises(WireError, match="no transport header"):
        inner.transport(view(packet))


# Checksums ---------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_the_sum_agrees_with_adding_word_by_word(data, start):
    assert inner.checksum(data, start) == packets.ones_sum(data, start)


@given(st.binary(max_size=300), st.sampled_from([(A4, B4), (A6, B6)]), st.booleans())
def test_an_open_checksum_is_finished_as_the_kernel_does(payload, ends, use_tcp):
    whole = (packets.tcp if use_tcp else packets.udp)(*ends, payload)
    packet = view(packets.with_pseudo_sum(whole))
    inner.complete_checksum(packet)
    assert bytes(packet) == whole


@pytest.mark.parametrize("packet", [packets.icmp(), packets.tcp()[:36], packets.udp()[:26]])
def test_a_checksum_that_has_no_place_cannot_be_finished(packet):
    with pytest.raises(WireError):
        inner.complete_checksum(view(packet))


# A part of a super-packet ---------------------------------------------------------------------------

SUPERS = {
    "TCP4": packets.tso(packets.pattern(10_500), 1000, flags=ACK | PSH | FIN | CWR, identification=0xFFFA,
                        sequence=0xFFFFF000, options=bytes([1, 1, 8, 10] + [9] * 8)),
    "TCP6": packets.tso(packets.pattern(10_500), 1000, source=A6, destination=B6, flags=ACK | PSH),
    "UDP4": packets.uso(packets.pattern(10_500), 1000, identification=5),
    "UDP6": packets.uso(packets.pattern(10_500), 1000, source=A6, destination=B6),
}  # fmt: skip


@pytest.mark.parametrize("name", SUPERS)
@given(first=st.integers(0, 10), count=st.integers(1, 11))
def test_any_part_of_a_super_packet_stands_for_the_same_packets(name, first, count):
    whole = SUPERS[name]
    stop = min(first + count, len(whole.packets))
    open_packet = whole.frame[packets.VNET.size :]
    payload = packets.payload_of(open_packet)
    head_bytes = len(open_packet) - len(payload)
    part = payload[first * 1000 : stop * 1000]
    head = view(open_packet[:head_bytes])
    inner.trim_template(
        head,
        payload_bytes=len(part),
        first_index=first,
        is_last=stop == len(whole.packets),
        segment_bytes=1000,
    )
    packet = bytes(head) + part
    protocol, at = packets.transport_at(packet)
    field = packets.checksum_field(packet)
    assert int.from_bytes(packet[field : field + 2], "big") == packets.pseudo_sum(
        packet, protocol, len(packet) - at
    )
    assert packets.segments(packet, 1000) == whole.packets[first:stop]


@pytest.mark.parametrize("name", SUPERS)
@given(segments_max=st.integers(1, 12))
def test_smaller_super_packets_stand_for_the_same_packets(name, segments_max):
    whole = SUPERS[name]
    open_packet = whole.frame[packets.VNET.size :]
    head_bytes = len(open_packet) - len(packets.payload_of(open_packet))
    parts = list(
        inner.split_super(memoryview(open_packet), head_bytes, segment_bytes=1000, segments_max=segments_max)
    )
    assert len(parts) == -(-11 // segments_max)
    assert [packet for part in parts for packet in packets.segments(bytes(part), 1000)] == whole.packets


@pytest.mark.parametrize(
    "head",
    [packets.icmp()[:28], packets.tcp()[:39], packets.udp()[:27], packets.tcp()[:20], bytes(40)],
    ids=["ICMP", "TCP header one byte short", "UDP header one byte short", "no transport header", "not IP"],
)
def test_a_template_that_makes_no_packet_is_refused(head):
    with pytest.raises(WireError):
        inner.trim_template(view(head), payload_bytes=10, first_index=1, is_last=False, segment_bytes=5)


@pytest.mark.parametrize("name", SUPERS)
def test_the_segment_size_follows_from_the_last_segment_alone(name):
    packet = SUPERS[name].frame[packets.VNET.size :]
    head_bytes = len(packet) - len(packets.payload_of(packet))
    last = packet[:head_bytes] + packet[-500:]
    assert inner.segment_bytes(view(last), head_bytes, 11) == 1000


@given(st.binary(max_size=80), st.integers(0, 100), st.integers(0, 255))
def test_a_last_segment_that_lies_gets_a_size_that_holds_it(packet, head_bytes, segments):
    size = inner.segment_bytes(view(packet), head_bytes, segments)
    assert size >= max(1, len(packet) - head_bytes)


# MSS ---------------------------------------------------------------------------------------------


def syn(options: bytes, *, flags: int = SYN, ends: tuple[str, str] = (A4, B4)) -> bytes:
    return packets.tcp(*ends, flags=flags, options=options)


def mss(value: int) -> bytes:
    return struct.pack("!BBH", 2, 4, value)


@pytest.mark.parametrize(
    ("options", "ends", "expected"),
    [
        (mss(1460), (A4, B4), mss(1360)),
        (mss(1440), (A6, B6), mss(1340)),
        (b"\x01\x01" + mss(1460) + b"\x04\x02", (A4, B4), b"\x01\x01" + mss(1360) + b"\x04\x02"),
        (b"\x01" + mss(1460) + b"\x03\x03\x07", (A4, B4), b"\x01" + mss(1360) + b"\x03\x03\x07"),
        (b"\x03\x03\x07" + mss(0x5C5B) + b"\x00", (A6, B6), b"\x03\x03\x07" + mss(1340) + b"\x00"),
    ],
    ids=["IPv4", "IPv6", "after two NOPs", "at an odd offset", "odd, behind another option"],
)
@pytest.mark.parametrize("needs_csum", [False, True], ids=["finished checksum", "open checksum"])
@pytest.mark.parametrize("flags", [SYN, SYN | ACK], ids=["SYN", "SYN ACK"])
def test_an_mss_that_does_not_fit_is_lowered(options, ends, expected, needs_csum, flags):
    packet = syn(options, ends=ends, flags=flags)
    wanted = syn(expected, ends=ends, flags=flags)
    if needs_csum:
        packet, wanted = packets.with_pseudo_sum(packet), packets.with_pseudo_sum(wanted)
    clamped = view(packet)
    assert inner.clamp_mss(clamped, 1400, needs_csum=needs_csum)
    assert bytes(clamped) == wanted


@pytest.mark.parametrize(
    "packet",
    [
        syn(mss(1360)),
        syn(mss(536)),
        syn(b""),
        syn(mss(1460), flags=ACK),
        syn(b"\x00" + mss(1460) + bytes(3)),
        syn(b"\x02\x03\x05\xb4"),
        syn(b"\x08\x00" + mss(1460) + b"\x01\x01"),
        syn(b"\x01\x01\x01\x02"),
        packets.udp(payload=bytes(40)),
        packets.icmp(payload=bytes(40)),
        syn(mss(1460))[:39],
        bytes(60),
    ],
    ids=["fits exactly", "smaller", "no options", "no SYN", "behind the end of the list", "length 3",
         "option of length 0 before it", "cut off", "UDP", "ICMP", "header cut short", "not IP"],
)  # fmt: skip
def test_everything_else_is_left_alone(packet):
    clamped = view(packet)
    assert not inner.clamp_mss(clamped, 1400, needs_csum=False)
    assert bytes(clamped) == packet


@given(
    st.integers(0, 3), st.integers(1, 0xFFFF), st.integers(500, 9000), st.sampled_from([(A4, B4), (A6, B6)]),
    st.booleans(),
)  # fmt: skip
def test_a_clamped_syn_is_a_sound_packet(nops, value, mtu_bytes, ends, is_first):
    options = b"\x01" * nops + mss(value) + b"\x01" * (4 - nops)
    packet = view(syn(options, ends=ends))
    inner.clamp_mss(packet, mtu_bytes, needs_csum=False)
    limit = mtu_bytes - (40 if ends == (A4, B4) else 60)
    assert packets.is_sound(bytes(packet))
    assert inner.maybe_syn(packet)
    field = packets.transport_at(bytes(packet))[1] + 20 + nops + 2
    assert int.from_bytes(packet[field : field + 2], "big") == min(value, limit)


@pytest.mark.parametrize("packet", [packets.udp(payload=bytes(40)), packets.tcp(), packets.tcp()[:39], b""])
def test_the_quick_look_rules_out_what_is_certainly_no_syn(packet):
    assert not inner.maybe_syn(view(packet))


def test_the_quick_look_never_misses_a_syn():
    with_options = packets.ip(
        A4, B4, 6, struct.pack("!HHIIBBHHH", 1, 2, 3, 4, 0x50, SYN, 9, 0, 0), options=bytes([1] * 4)
    )
    for packet in (syn(b""), syn(mss(1)), syn(mss(1), ends=(A6, B6)), with_options):
        assert inner.maybe_syn(view(packet))
