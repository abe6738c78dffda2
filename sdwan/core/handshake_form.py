"""The handshake datagrams to the byte: how INIT, RESPONSE and COOKIE are laid out, built and checked.

Pure; used by ``sdwan.core.handshake`` alone, which knows what they mean. docs/wire.md, "Handshake", holds the
picture and this file is its only transcription. A datagram whose length or header is not exactly what its
type prescribes is a WireError before any key is touched.
"""

from __future__ import annotations

import struct

from sdwan.core.cookie import COOKIE_BODY_BYTES, MAC_BYTES, mac, mac1_key
from sdwan.core.noise import KEY_BYTES, TAG_BYTES
from sdwan.core.wire import HEADER_BYTES, NONCE, Header, Type
from sdwan.errors import WireError
from sdwan.model import PATH_CHOOSE

# Specification constants (docs/wire.md) ----------------------------------------------------------

INDEX = struct.Struct("!I")
"""A receiver index."""
INIT_PAYLOAD = struct.Struct("!QQ")
"""Incarnation and number of the INIT."""
RESPONSE_PAYLOAD = struct.Struct("!IQ")
"""The responder's receiver index and incarnation."""

SENDER = slice(HEADER_BYTES, HEADER_BYTES + INDEX.size)
NOISE_1 = slice(SENDER.stop, -2 * MAC_BYTES)
MAC1_OF_INIT = slice(-2 * MAC_BYTES, -MAC_BYTES)
NOISE_2 = slice(HEADER_BYTES, -MAC_BYTES)
COOKIE_BODY = slice(HEADER_BYTES, None)

INIT_BYTES = (
    SENDER.stop + KEY_BYTES + (KEY_BYTES + TAG_BYTES) + (INIT_PAYLOAD.size + TAG_BYTES) + 2 * MAC_BYTES
)
RESPONSE_BYTES = HEADER_BYTES + KEY_BYTES + (RESPONSE_PAYLOAD.size + TAG_BYTES) + MAC_BYTES
COOKIE_DATAGRAM_BYTES = HEADER_BYTES + COOKIE_BODY_BYTES
SIZES_BYTES: dict[int, int] = {
    Type.INIT: INIT_BYTES,
    Type.RESPONSE: RESPONSE_BYTES,
    Type.COOKIE: COOKIE_DATAGRAM_BYTES,
}


def build_init(sender: bytes, message: bytes, receiver_public: bytes) -> bytes:
    """Return an INIT without MAC2; ``sender`` is its sender's index, packed."""
    return _with_mac(_header(0, Type.INIT) + sender + message, mac1_key(receiver_public)) + bytes(MAC_BYTES)


def build_response(receiver: int, message: bytes, receiver_public: bytes) -> bytes:
    """Return a RESPONSE to the INIT whose sender's index is ``receiver``."""
    return _with_mac(_header(receiver, Type.RESPONSE) + message, mac1_key(receiver_public))


def build_cookie(receiver: int, body: bytes) -> bytes:
    """Return a COOKIE to the INIT whose sender's index is ``receiver``."""
    return _header(receiver, Type.COOKIE) + body


def with_mac2(init: bytes, cookie: bytes) -> bytes:
    """Return the same INIT with MAC2 made of ``cookie``."""
    return _with_mac(init[:-MAC_BYTES], cookie)


def check_form(datagram: bytes) -> Header:
    """Decode the header of a handshake datagram that has the one form its type may have.

    Raises:
        WireError: another type, a wrong length, or a header field set that means nothing here.
    """
    header = Header.unpack(datagram)
    expected_bytes = SIZES_BYTES.get(header.type)
    if expected_bytes is None:
        raise WireError(f"handshake: type {header.type:#04x} is no handshake datagram")
    kind = Type(header.type)
    if len(datagram) != expected_bytes:
        raise WireError(f"handshake: {kind.name} of {len(datagram)} bytes, expected {expected_bytes}")
    receiver = 0 if kind is Type.INIT else header.receiver
    if datagram[NONCE] != _header(receiver, kind)[NONCE]:
        raise WireError(f"handshake: {kind.name} with header fields set that have no meaning in it")
    return header


def check_index(index: int) -> int:
    """Return a receiver index the peer chose, unless it is zero, which names no session."""
    if not index:
        raise WireError("handshake: receiver index 0 names no session, expected any other")
    return index


def _header(receiver: int, kind: Type) -> bytes:
    return Header(path=PATH_CHOOSE, class_flags=0, receiver=receiver, type=kind).pack()


def _with_mac(datagram: bytes, key: bytes) -> bytes:
    return datagram + mac(key, datagram, len(datagram))
