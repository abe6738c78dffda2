"""The channel between control and data plane: every message as a table; keys stay out of text.

That nothing but WireError comes of a broken message is tests/fuzz/test_fuzz_messages.py's business.
"""

from __future__ import annotations

import socket

import pytest

from sdwan.edge import channel
from sdwan.edge.channel import MESSAGE_BYTES_MAX, Install, Plain, SealControl, SetPeer, decode, encode
from sdwan.errors import WireError

SECRET = b"\xf1secret-key-of-thirty-two-bytes!\xf2"

EVERY_KIND = [
    SetPeer(1, 1472, 44, 30_000, ("10.0.0.0/8", "fd00::/8")),
    channel.RemovePeer(255),
    channel.AddSocket(1, socket.AF_INET6),
    channel.SetEndpoint(1, 7, ("2001:db8::1", 4510)),
    Install(1, 0xFFFFFFFF, 1, True, (1 << 64) - 1, SECRET[:32], SECRET[-32:]),
    channel.Forget(9),
    SealControl(1, 0, 0x87, None, "", 0, b"\0\0"),
    SealControl(1, 9, 0xFF, ("192.0.2.1", 1), "192.0.2.2", 3, b""),
    channel.Retire(9),
    channel.SetClasses('{"classes": []}'),
    channel.SetRecovery(1, 3, 10, 2),
    channel.Suspect(1, 7, 0xFFFFFFFF),
    channel.Ready('{"pid": 1}'),
    Plain(("fe80::1", 9), "", 0, bytes(1500)),
    channel.Opened(1, 9, 3, ("192.0.2.1", 1), "192.0.2.2", 2, b"x"),
    channel.Confirmed(1, 9),
    channel.WantSession(1),
]


@pytest.mark.parametrize("message", EVERY_KIND, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_channel(message):
    assert decode(encode(message)) == message


def test_every_kind_is_in_the_table_and_has_an_op_of_its_own():
    kinds = set(channel.Message.__args__)
    assert {type(message) for message in EVERY_KIND} == kinds
    assert len({kind.OP for kind in kinds}) == len(kinds)


def test_what_goes_down_and_what_comes_up_is_told_apart_by_its_op():
    assert {kind.OP < 64 for kind in (SetPeer, SealControl, channel.Retire)} == {True}
    assert {kind.OP > 64 for kind in (channel.Ready, Plain, channel.WantSession)} == {True}


def test_a_key_is_never_text():
    message = next(m for m in EVERY_KIND if isinstance(m, Install))
    assert "secret" not in repr(message)
    packet = encode(message)
    assert b"secret" not in packet[: 3 + int.from_bytes(packet[1:3], "big")]


def test_the_largest_datagram_goes_up_in_one_message():
    assert len(encode(Plain(("192.0.2.1", 65535), "192.0.2.2", 1 << 30, bytes(9000)))) < MESSAGE_BYTES_MAX


def test_one_packet_is_one_message():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for message in EVERY_KIND:
            ours.send(encode(message))
        assert [decode(theirs.recv(MESSAGE_BYTES_MAX)) for _ in EVERY_KIND] == EVERY_KIND


@pytest.mark.parametrize("packet", [b"", b"\x01", b"\x07\x00\x02[]", encode(EVERY_KIND[0])[:-1]])
def test_what_is_no_message_is_refused(packet):
    with pytest.raises(WireError):
        decode(packet)
