"""The handshake datagrams to the byte: one form each, everything else refused before a key is touched."""

from __future__ import annotations

import pytest

from sdwan.core.cookie import COOKIE_BODY_BYTES, MAC_BYTES, check_mac1, mac1_key
from sdwan.core.handshake_form import (
    COOKIE_BODY,
    INDEX,
    MAC1_OF_INIT,
    NOISE_1,
    NOISE_2,
    SENDER,
    SIZES_BYTES,
    build_cookie,
    build_init,
    build_response,
    check_form,
    check_index,
    with_mac2,
)
from sdwan.core.wire import Header, Type
from sdwan.errors import WireError
from sdwan.model import PATH_CHOOSE

PUBLIC = bytes(range(32))
RECEIVER = 0xA1B2C3D4
SENDER_INDEX = INDEX.pack(0x01020304)
MESSAGE_1, MESSAGE_2, COOKIE = b"1" * 112, b"2" * 60, b"c" * COOKIE_BODY_BYTES

BUILT = {
    Type.INIT: build_init(SENDER_INDEX, MESSAGE_1, PUBLIC),
    Type.RESPONSE: build_response(RECEIVER, MESSAGE_2, PUBLIC),
    Type.COOKIE: build_cookie(RECEIVER, COOKIE),
}


def test_sizes_are_the_documented_ones_and_no_answer_is_larger_than_its_question() -> None:
    assert SIZES_BYTES == {Type.INIT: 172, Type.RESPONSE: 100, Type.COOKIE: 72}
    assert {kind: len(datagram) for kind, datagram in BUILT.items()} == SIZES_BYTES


@pytest.mark.parametrize("kind", BUILT)
def test_what_is_built_passes_the_check_with_any_bytes_of_the_kernel(kind: Type) -> None:
    receiver = 0 if kind is Type.INIT else RECEIVER
    assert check_form(BUILT[kind]) == Header(PATH_CHOOSE, 0, receiver, kind)
    stamped = bytearray(BUILT[kind])
    stamped[1:3] = b"\x03\x07"
    stamped[16:24] = b"\xff" * 8
    assert check_form(bytes(stamped)).receiver == receiver


def test_every_part_is_found_where_it_was_put() -> None:
    init, response = BUILT[Type.INIT], BUILT[Type.RESPONSE]
    assert (init[SENDER], init[NOISE_1]) == (SENDER_INDEX, MESSAGE_1)
    assert check_mac1(init, key=mac1_key(PUBLIC), trailing_bytes=MAC_BYTES) == init[MAC1_OF_INIT]
    assert init[-MAC_BYTES:] == bytes(MAC_BYTES), "no cookie yet"
    assert response[NOISE_2] == MESSAGE_2
    check_mac1(response, key=mac1_key(PUBLIC), trailing_bytes=0)
    assert BUILT[Type.COOKIE][COOKIE_BODY] == COOKIE


def test_mac2_changes_the_last_bytes_of_the_init_and_no_other() -> None:
    init = BUILT[Type.INIT]
    again = with_mac2(init, b"cookie of sixteen")
    assert again[:-MAC_BYTES] == init[:-MAC_BYTES]
    assert again[-MAC_BYTES:] != init[-MAC_BYTES:]


@pytest.mark.parametrize("kind", BUILT)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_length_is_refused_with_the_right_one(kind: Type, change: int) -> None:
    right = SIZES_BYTES[kind]
    with pytest.raises(WireError, match=f"{kind.name} of {right + change} bytes, expected {right}"):
        check_form((BUILT[kind] + b"x")[: right + change])


@pytest.mark.parametrize("kind", BUILT)
@pytest.mark.parametrize("position", [*range(4, 8), *range(9, 16)])
def test_a_header_field_without_meaning_is_refused(kind: Type, position: int) -> None:
    altered = bytearray(BUILT[kind])
    altered[position] ^= 1
    if position < 8 and kind is not Type.INIT:
        assert check_form(bytes(altered)).receiver != RECEIVER
    else:
        with pytest.raises(WireError, match=f"{kind.name} with header fields set"):
            check_form(bytes(altered))


@pytest.mark.parametrize("kind", set(Type) - set(BUILT), ids=lambda kind: kind.name)
def test_other_types_are_no_handshake(kind: Type) -> None:
    with pytest.raises(WireError, match=f"type {kind:#04x} is no handshake"):
        check_form(Header(0, 0, 1, kind).pack().ljust(172, b"\0"))


def test_index_zero_names_no_session() -> None:
    assert check_index(1) == 1
    with pytest.raises(WireError, match="index 0"):
        check_index(0)
