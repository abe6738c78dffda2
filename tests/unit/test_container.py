"""Containers: small packets go in, the same packets come out, and a broken entry ends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.assemble import VNET_BYTES
from sdwan.core.container import Container, unpack
from sdwan.core.session import Session
from sdwan.core.wire import (
    ENTRY_NEEDS_CSUM,
    HEADER_BYTES,
    META_BYTES,
    META_NEEDS_CSUM,
    NONCE,
    TAG_BYTES,
    Header,
    Type,
)
from sdwan.errors import WireError
from tests.unit.packets import pattern
from tests.unit.walk import KEYS

entries = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=300), st.booleans(), st.integers(0, 255), st.integers(0, 0xFFFF)
    ),
    min_size=1,
    max_size=12,
)


def sealed(container: Container, counter: int = 5) -> tuple[bytes, bytes]:
    """Seal at site a; return the datagram and what site b finds in it."""
    near, far = Session(1, 7, 9, *KEYS), Session(1, 9, 7, *reversed(KEYS))
    datagram = bytes(container.seal(near.seal_into, receiver=9, class_flags=3, counter=counter))
    out = bytearray(len(datagram) - HEADER_BYTES - TAG_BYTES)
    far.open_into(datagram[NONCE], datagram[HEADER_BYTES:], None, out)
    return datagram, bytes(out)


@given(entries)
def test_what_goes_in_comes_out(some):
    container = Container()
    for packet, needs_csum, bucket, sequence in some:
        container.add(memoryview(packet), len(packet) | ENTRY_NEEDS_CSUM * needs_csum, bucket, sequence)
    datagram, plaintext = sealed(container, counter=(1 << 32) + 5)
    assert Header.unpack(datagram) == Header(
        path=0xFF, class_flags=3, receiver=9, type=Type.CONTAINER, segments=1, counter=5
    )
    assert plaintext[:META_BYTES] == bytes([0, 3, 0, 0]), "its meta carries only the class"
    runs = list(unpack(memoryview(plaintext)[META_BYTES:], counter=77))
    came = [
        (bytes(run.packet), bool(run.flags & META_NEEDS_CSUM), run.bucket, run.bucket_sequence)
        for run in runs
    ]
    assert came == some
    assert {(run.counter, run.rows, run.segments, run.head_bytes) for run in runs} == {(77, 1, 1, 0)}


def test_every_packet_has_memory_of_its_own():
    entry = b"\x00\x03\x01\x00\x00abc"
    memory = memoryview(bytearray(entry * 2))
    runs = list(unpack(memory, counter=0))
    memory[:] = bytes(len(memory))
    assert [bytes(run.frame) for run in runs] == [bytes(VNET_BYTES) + b"abc"] * 2


@pytest.mark.parametrize("datagram_bytes", [200, 1200, 1472])
def test_room_is_exact(datagram_bytes):
    container = Container()
    packet = memoryview(pattern(30))
    while container.room(len(packet), datagram_bytes):
        container.add(packet, len(packet), 0, 0)
    datagram, _ = sealed(container)
    assert datagram_bytes - 35 < len(datagram) <= datagram_bytes
    assert container.room(datagram_bytes - HEADER_BYTES - META_BYTES - 5 - TAG_BYTES, datagram_bytes)
    assert not container.room(datagram_bytes - HEADER_BYTES - META_BYTES - 4 - TAG_BYTES, datagram_bytes)


def test_a_sealed_container_is_empty_again():
    container = Container()
    container.add(memoryview(b"first"), 5, 1, 1)
    sealed(container)
    container.add(memoryview(b"next"), 4, 1, 2)
    _, plaintext = sealed(container)
    assert [bytes(run.packet) for run in unpack(memoryview(plaintext)[META_BYTES:], counter=0)] == [b"next"]


def test_an_entry_costs_five_bytes():
    container = Container()
    before = container.length
    container.add(memoryview(bytes(100)), 100, 0, 0)
    assert container.length == before + 105


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"\x00", 0),
        (b"\x00\x00\x00\x00\x00", 0),
        (b"\x80\x00\x00\x00\x00", 0),
        (b"\x00\x04\x00\x00\x00abc", 0),
        (b"\x00\x03\x00\x00\x00abc\x00\x01\x00\x00", 1),
        (b"\x00\x03\x00\x00\x00abc\x7f\xff\x00\x00\x00d", 1),
    ],
    ids=[
        "half a head",
        "empty",
        "empty with a flag",
        "one byte short",
        "second head cut",
        "second far too long",
    ],
)
def test_a_broken_entry_ends_it_after_what_was_sound(data, whole):
    runs = unpack(memoryview(data), counter=0)
    assert [len(next(runs).packet) for _ in range(whole)] == [3] * whole
    with pytest.raises(WireError, match="container"):
        next(runs)


@given(st.binary(max_size=200))
def test_any_bytes_are_packets_or_a_wire_error(data):
    total = 0
    try:
        for run in unpack(memoryview(data), counter=0):
            total += len(run.packet) + 5
    except WireError:
        assert total <= len(data)
    else:
        assert total == len(data)
