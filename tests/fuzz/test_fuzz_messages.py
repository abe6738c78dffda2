"""Headers, control messages and the channel between the processes, fed with whatever comes.

The invariant of each parser: it returns what the encoder would encode again, or raises WireError.
"""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdwan.core import messages, wire
from sdwan.edge import channel
from sdwan.errors import WireError
from sdwan.model import PATHS_PER_PEER

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
PATH = st.integers(0, PATHS_PER_PEER - 1)

# The header ----------------------------------------------------------------------------------------------

HEADERS = st.builds(
    wire.Header,
    path=U8,
    class_flags=U8,
    receiver=U32,
    type=U8,
    index=U8,
    segments=U8,
    template_bytes=U8.map(lambda words: words * 4),
    counter=U32,
    link_sequence=U32,
    send_time_us=U32,
)


@settings(deadline=None)
@given(HEADERS, st.binary(max_size=64))
def test_a_header_survives_the_wire_whatever_follows_it(header: wire.Header, rest: bytes) -> None:
    packed = header.pack()
    assert len(packed) == wire.HEADER_BYTES
    for container in (bytes, bytearray, memoryview):
        assert wire.Header.unpack(container(packed + rest)) == header


@settings(deadline=None)
@given(st.binary(max_size=100))
@example(b"")
@example(b"\x01" * 24)
def test_any_bytes_are_a_header_or_a_wire_error(datagram: bytes) -> None:
    try:
        header = wire.Header.unpack(datagram)
    except WireError:
        assert len(datagram) < 24 or datagram[0] != wire.VERSION or datagram[3]
    else:
        assert header.pack() == datagram[:24]


@settings(deadline=None)
@given(near=st.integers(0, 2**64), distance=st.integers(-(2**31), 2**31 - 1))
def test_a_counter_widens_to_the_number_it_was_cut_from(near: int, distance: int) -> None:
    true = near + distance
    if true >= 0:
        assert wire.widen(true % 2**32, near) == true


@settings(deadline=None)
@given(low=U32, near=st.integers(0, 2**64))
def test_a_widened_counter_is_never_negative_and_keeps_its_low_bits(low: int, near: int) -> None:
    wide = wire.widen(low, near)
    assert wide >= 0
    assert wide % 2**32 == low


# Control messages ----------------------------------------------------------------------------------------

REPORT_ROWS = st.builds(messages.PathReport, PATH, *[U32] * 8)
CONTROL: st.SearchStrategy[messages.Message] = st.one_of(
    st.builds(messages.Keepalive, PATH, U64),
    st.builds(messages.Report, PATH, U32, U64, st.lists(REPORT_ROWS, max_size=PATHS_PER_PEER).map(tuple)),
    st.builds(messages.Hello, PATH, U64, U32, st.booleans(), st.booleans(), st.booleans()),
    st.builds(messages.Challenge, PATH, U64),
    st.builds(messages.ChallengeResponse, PATH, U64),
    st.builds(messages.MtuProbe, PATH, U16, U32),
    st.builds(messages.MtuAck, PATH, U16, U32),
    st.builds(messages.Close, PATH),
)


@settings(deadline=None)
@given(CONTROL, st.integers(0, 2000))
def test_a_control_message_survives_with_any_padding(message: messages.Message, padding: int) -> None:
    assert messages.decode(messages.encode(message) + bytes(padding)) == message


@settings(deadline=None)
@given(CONTROL, st.data())
def test_a_control_message_cut_short_is_a_wire_error(message: messages.Message, data: st.DataObject) -> None:
    whole = messages.encode(message)
    with pytest.raises(WireError):
        messages.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_plaintext_is_a_control_message_or_a_wire_error(plaintext: bytes) -> None:
    try:
        message = messages.decode(plaintext)
    except WireError:
        return
    encoded = messages.encode(message)
    assert plaintext.startswith(encoded)


# The channel between control and data plane --------------------------------------------------------------

ADDRESS = st.tuples(st.sampled_from(["192.0.2.1", "2001:db8::1", ""]), U16)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "int": U64,
    "bool": st.booleans(),
    "str": st.text(max_size=20),
    "bytes": st.binary(max_size=100),
    "Address": ADDRESS,
    "Address | None": st.none() | ADDRESS,
    "tuple[str, ...]": st.lists(st.text(max_size=10), max_size=5).map(tuple),
    "tuple[int, ...]": st.lists(U64, max_size=8).map(tuple),
}
CHANNEL: st.SearchStrategy[channel.Message] = st.one_of(
    *(
        st.builds(cls, **{field.name: BY_TYPE[str(field.type)] for field in fields(cls)})
        for cls in channel._CLASSES
    )
)


def has_declared_types(message: channel.Message) -> bool:
    """Whether every field is of the type its class declares, down to the last element."""

    def is_address(value: object) -> bool:
        return (
            isinstance(value, tuple) and len(value) == 2 and type(value[0]) is str and type(value[1]) is int
        )

    checks = {
        "int": lambda value: type(value) is int and 0 <= value < 2**64,
        "bool": lambda value: type(value) is bool,
        "str": lambda value: type(value) is str,
        "bytes": lambda value: type(value) is bytes,
        "Address": is_address,
        "Address | None": lambda value: value is None or is_address(value),
        "tuple[str, ...]": lambda value: type(value) is tuple and all(type(item) is str for item in value),
        "tuple[int, ...]": lambda value: (
            type(value) is tuple and all(type(item) is int and 0 <= item < 2**64 for item in value)
        ),
    }
    return all(checks[str(field.type)](getattr(message, field.name)) for field in fields(message))


@settings(deadline=None)
@given(CHANNEL)
def test_a_channel_message_survives(message: channel.Message) -> None:
    packet = channel.encode(message)
    assert channel.decode(packet) == message


@settings(deadline=None)
@given(CHANNEL, st.data())
def test_a_channel_message_cut_short_is_a_wire_error(message: channel.Message, data: st.DataObject) -> None:
    whole = channel.encode(message)
    with pytest.raises(WireError):
        channel.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


@settings(deadline=None)
@given(CHANNEL, st.integers(0, 10_000), st.integers(1, 255))
def test_an_altered_channel_message_has_its_types_or_is_a_wire_error(
    message: channel.Message, position: int, mask: int
) -> None:
    packet = bytearray(channel.encode(message))
    packet[position % len(packet)] ^= mask
    try:
        altered = channel.decode(bytes(packet))
    except WireError:
        return
    assert has_declared_types(altered)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.sampled_from([cls.OP for cls in channel._CLASSES]) | U8,
    st.lists(JSON, max_size=8) | JSON,
    st.lists(st.binary(max_size=20), max_size=3),
)
@example(65, [["not", "text"]], [])
@example(69, [True], [])
@example(69, [-1], [])
@example(69, [1, 2], [])
def test_well_formed_json_of_the_wrong_shape_is_a_wire_error(
    op: int, plain: object, blobs: list[bytes]
) -> None:
    text = json.dumps(plain).encode()
    packet = struct.pack("!BH", op, len(text)) + text
    packet += b"".join(struct.pack("!I", len(blob)) + blob for blob in blobs)
    try:
        message = channel.decode(packet)
    except WireError:
        return
    assert has_declared_types(message)


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(struct.pack("!BH", 69, 60000) + b"[" * 60000)
@example(struct.pack("!BH", 69, 5002) + b"[" + b"9" * 5000 + b"]")
def test_any_packet_is_a_channel_message_or_a_wire_error(packet: bytes) -> None:
    try:
        message = channel.decode(packet)
    except WireError:
        return
    assert has_declared_types(message)
