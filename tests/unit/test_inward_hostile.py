"""Inward: what is malformed, forged or hostile ends under its reason and takes nothing along."""

from __future__ import annotations

import pytest

from sdwan.core.session import Session
from sdwan.core.wire import TAG_BYTES, Header, Type
from sdwan.model import DropReason
from tests.unit import packets
from tests.unit.packets import A6, B4, B6, pattern, tcp, tso, udp
from tests.unit.walk import KEYS, NONE, Pair, header, packets_of, seal, sealed

# Form -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"\x01", DropReason.SHORT),
        (header(Type.SUPER)[:23], DropReason.SHORT),
        (header(Type.SUPER) + bytes(TAG_BYTES - 1), DropReason.SHORT),
        (header(Type.SINGLE) + bytes(TAG_BYTES), DropReason.SHORT),
        (header(Type.CONTROL) + bytes(TAG_BYTES - 1), DropReason.SHORT),
        (b"\x02" + header(Type.SINGLE)[1:] + bytes(40), DropReason.MALFORMED),
        (header(Type.SINGLE, receiver=1) + bytes(40), DropReason.UNKNOWN_SESSION),
        (header(0) + bytes(40), DropReason.UNKNOWN_TYPE),
        (header(0xEE) + bytes(40), DropReason.UNKNOWN_TYPE),
        (header(Type.PROBE) + bytes(40), DropReason.UNKNOWN_TYPE),
        (header(Type.SUPER, template_bytes=1020) + bytes(60), DropReason.BAD_INNER),
        (header(Type.SINGLE) + bytes(40), DropReason.FORGED),
        (header(Type.CONTAINER) + bytes(40), DropReason.FORGED),
        (header(Type.BUNDLE) + bytes(40), DropReason.FORGED),
        (header(Type.CONTROL) + bytes(40), DropReason.FORGED),
        (header(Type.SUPER, segments=2) + bytes(40), DropReason.FORGED),
    ],
    ids=["one byte", "no header", "no tag", "no meta", "control without tag", "version 2", "unknown session",
         "type 0", "type 0xee", "a probe the kernel let through", "template longer than the datagram",
         "forged single", "forged container", "forged bundle", "forged control", "forged super"],
)  # fmt: skip
def test_what_is_no_datagram_of_ours_is_counted_under_its_reason(pair, datagram, reason):
    assert pair.b.receive([datagram]) == []
    assert pair.b.drops == {reason: 1}


@pytest.mark.parametrize("tail_bytes", [1, 23, 24, 39, 40, 60])
def test_a_short_datagram_at_the_end_of_a_batch_costs_itself(pair, tail_bytes):
    whole = tso(pattern(5000), 1000)
    datagrams = pair.a.send(whole.frame)
    stub = Header.unpack(datagrams[-1])
    tail = (Header(**{name: getattr(stub, name) for name in stub.__slots__}).pack() + bytes(60))[:tail_bytes]
    came = packets_of(pair.b.receive([*datagrams[:-1], tail]))
    assert came == whole.packets[:-1]
    assert sum(pair.b.drops.values()) == 1


def test_handshake_datagrams_go_up_whole_each_for_itself(pair):
    some = [
        header(kind, receiver=0, counter=n) + bytes(76) for n, kind in enumerate((0x30, 0x31, 0x32, 0x30))
    ]
    assert pair.b.receive(some) == []
    assert pair.b.plain == some
    assert not pair.b.drops


# What is inside -----------------------------------------------------------------------------------------


META = bytes([1, 0, 0, 0])
FOREIGN = udp("192.168.5.5", B4, b"spoofed")


@pytest.mark.parametrize(
    ("kind", "plaintext", "reason"),
    [
        (Type.SINGLE, META + FOREIGN, DropReason.INNER_SOURCE),
        (Type.SINGLE, META + udp("fd99::1", B6), DropReason.INNER_SOURCE),
        (Type.SINGLE, META + udp(B4, B4), DropReason.INNER_SOURCE),
        (Type.SINGLE, META, DropReason.BAD_INNER),
        (Type.SINGLE, META + b"\x45", DropReason.BAD_INNER),
        (Type.SINGLE, META + bytes(60), DropReason.BAD_INNER),
        (Type.SINGLE, bytes([1, 8, 0, 0]) + packets.icmp(), DropReason.BAD_INNER),
        (Type.CONTAINER, META + b"\0", DropReason.BAD_INNER),
        (Type.CONTAINER, META + bytes(5), DropReason.BAD_INNER),
        (Type.CONTAINER, META + b"\x00\x50\x01\x00\x00" + udp(), DropReason.BAD_INNER),
        (Type.CONTAINER, META + bytes([0, len(FOREIGN), 0, 0, 0]) + FOREIGN, DropReason.INNER_SOURCE),
    ],
    ids=["foreign source", "foreign IPv6 source", "our own source", "nothing", "one byte", "no IP",
         "open checksum of ICMP", "entry cut in its head", "entry of nothing", "entry longer than all",
         "foreign source in a container"],
)  # fmt: skip
def test_an_opened_packet_that_must_not_enter_is_counted_under_its_reason(pair, kind, plaintext, reason):
    assert pair.b.receive([sealed(pair, kind, plaintext)]) == []
    assert pair.b.drops == {reason: 1}


def test_what_came_before_a_broken_entry_is_delivered(pair):
    good = udp(payload=b"good")
    entries = (len(good)).to_bytes(2, "big") + bytes([1, 0, 0]) + good + b"\x7f\xff\x01\x00\x01rest"
    assert packets_of(pair.b.receive([sealed(pair, Type.CONTAINER, META + entries)])) == [good]
    assert pair.b.drops == {DropReason.BAD_INNER: 1}


@pytest.mark.parametrize(
    ("plaintext", "segments", "template_bytes"),
    [
        (udp(payload=bytes(30)), 3, 0),
        (udp(payload=bytes(30)), 0, 28),
        (udp(payload=bytes(31)), 3, 28),
        (udp(), 1, 28),
        (udp(payload=bytes(30)), 3, 16),
        (tcp(payload=bytes(30)), 3, 40),
    ],
    ids=["no template", "no packets", "unequal packets", "no payload", "template without ports", "TCP"],
)
def test_a_bundle_that_is_none_is_dropped(pair, plaintext, segments, template_bytes):
    datagram = sealed(
        pair,
        Type.BUNDLE,
        bytes([1, 0x18, 0, 0]) + plaintext,
        segments=segments,
        template_bytes=template_bytes,
    )
    assert pair.b.receive([datagram]) == []
    assert set(pair.b.drops) <= {DropReason.BAD_INNER, DropReason.INNER_SOURCE}
    assert pair.b.drops


@pytest.mark.parametrize("offload", [None, NONE], ids=["offload", "no offload"])
@pytest.mark.parametrize(
    ("template", "flags"),
    [
        (tcp()[:28], 0x08),
        (tcp()[:36], 0x08),
        (udp(), 0x08),
        (tcp(), 0x18),
        (packets.icmp()[:28], 0x08),
        (tcp(A6, B6)[:48], 0x08),
    ],
    ids=["TCP of 8 bytes", "TCP of 16 bytes", "UDP called TCP", "TCP called UDP", "ICMP", "TCP6 cut short"],
)  # fmt: skip
@pytest.mark.parametrize(("index", "segments"), [(0, 1), (0, 2), (1, 2), (5, 1)])
def test_a_template_that_makes_no_packet_is_dropped(offload, template, flags, index, segments):
    pair = Pair(offload=offload) if offload else Pair()
    body = bytes([1, flags, 0, 0]) + template + pattern(100)
    datagram = sealed(
        pair, Type.SUPER, body, index=index, segments=segments, template_bytes=len(template)
    )  # fmt: skip
    assert pair.b.receive([datagram]) == []
    assert pair.b.drops == {DropReason.BAD_INNER: 1}
    pair.close()


def test_a_last_segment_that_claims_tiny_neighbours_is_one_packet(pair):
    """Its template says segments of one byte: nobody cuts its payload into a thousand packets."""
    template = tcp()
    body = bytes([1, 0x08, 0, 0]) + template + pattern(1000)
    datagram = sealed(pair, Type.SUPER, body, index=9, segments=10, template_bytes=40)
    (frame,) = pair.b.receive([datagram])
    assert len(packets.finished(frame)) == 1


def test_one_peer_cannot_continue_the_super_packet_of_another(pair):
    """What both send fits in every number; still each payload must stay under its own sender's header."""
    pair.b.add_peer(2, ("10.3.0.0/16",))
    pair.b.install(2, 91, 71, *KEYS)
    other = Session(2, 71, 91, KEYS[1], KEYS[0])
    ours, theirs = tso(pattern(4000, 1), 1000), tso(pattern(4000, 2), 1000, source="10.3.0.1")
    batches = [
        [super_segment(pair.a.sessions[7], ours, 0)],
        [super_segment(other, theirs, 1)],
        [super_segment(pair.a.sessions[7], ours, 2)],
    ]
    assert pair.arriving(*batches) == [ours.packets[0], theirs.packets[1], ours.packets[2]]


def super_segment(session: Session, whole: packets.Super, index: int) -> bytes:
    """Seal one segment of 1000 bytes; counter and bucket sequence are its index, its bucket 5."""
    packet = whole.frame[packets.VNET.size :]
    body = bytes([5, 0x08, 0, index]) + packet[:40] + packet[40 + index * 1000 : 40 + (index + 1) * 1000]
    return seal(session, index, Type.SUPER, body, index=index, segments=4, template_bytes=40)
