"""Netlink packets of links and addresses, decoded; garbage is left out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.io.monitor import Change, LinkEvent, parse

CARRIER = 0x1 | 0x40 | 0x10000
NEW_LINK, DEL_LINK, NEW_ADDRESS, DEL_ADDRESS = 16, 17, 20, 21


def message(kind: int, body: bytes) -> bytes:
    padding = bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + padding


def link(kind: int, index: int, flags: int, attributes: bytes = b"") -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, index, flags, 0) + attributes)


def address(kind: int, index: int) -> bytes:
    return message(kind, struct.pack("=BBBBI", 2, 24, 0, 0, index) + bytes(8))


@pytest.mark.parametrize(
    ("description", "packet", "event"),
    [
        ("carrier", link(NEW_LINK, 3, CARRIER), LinkEvent(Change.LINK, 3, carrier=True)),
        ("no lower up", link(NEW_LINK, 3, 0x41), LinkEvent(Change.LINK, 3)),
        ("administratively down", link(NEW_LINK, 3, CARRIER & ~1), LinkEvent(Change.LINK, 3)),
        ("gone", link(DEL_LINK, 3, CARRIER), LinkEvent(Change.LINK, 3, present=False)),
        ("address", address(NEW_ADDRESS, 4), LinkEvent(Change.ADDRESS, 4)),
        ("address gone", address(DEL_ADDRESS, 4), LinkEvent(Change.ADDRESS, 4, present=False)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_messages(description, packet, event):
    assert parse(packet) == [event], description


def test_several_messages_in_one_packet_whatever_their_length():
    packet = link(NEW_LINK, 1, CARRIER, b"odd") + message(99, b"unknown") + address(DEL_ADDRESS, 2)
    assert [event.ifindex for event in parse(packet)] == [1, 2]


def test_what_is_cut_short_is_left_out():
    packet = link(NEW_LINK, 1, CARRIER) + address(NEW_ADDRESS, 2)
    assert [event.ifindex for event in parse(packet[:-9])] == [1]
    assert parse(message(NEW_LINK, b"short")) == []


@given(st.binary(max_size=200))
def test_garbage_gives_events_or_nothing(packet):
    assert all(isinstance(event, LinkEvent) for event in parse(packet))
