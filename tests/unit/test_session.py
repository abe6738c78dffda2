"""A session: rows are sealed in place and once, opened by the other side alone, CONTROL apart from DATA."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.session import Session
from sdwan.core.staging import ROW_OVERHEAD_BYTES, Rows
from sdwan.core.wire import HEADER_BYTES, NONCE, TAG_BYTES, Header, Type
from sdwan.errors import OpenError
from sdwan.model import DropReason
from tests.unit.packets import pattern
from tests.unit.walk import KEYS, flipped

TEMPLATE = 40


@pytest.fixture
def ends() -> tuple[Session, Session]:
    """The same session at both sites."""
    return Session(1, 7, 9, *KEYS), Session(1, 9, 7, *reversed(KEYS))


def opened(session: Session, datagram: bytes) -> bytes:
    out = bytearray(len(datagram) - HEADER_BYTES - TAG_BYTES)
    session.open_into(datagram[NONCE], datagram[HEADER_BYTES:], None, out)
    return bytes(out)


@given(st.integers(1, 9000), st.integers(100, 1400))
def test_sealed_rows_open_at_the_other_side(payload_bytes, piece):
    near, far = Session(1, 7, 9, *KEYS), Session(1, 9, 7, *reversed(KEYS))
    rows, packet = Rows(ROW_OVERHEAD_BYTES + TEMPLATE + piece), pattern(TEMPLATE + payload_bytes)
    count, last_bytes = rows.stage_super(
        np.frombuffer(packet, np.uint8), TEMPLATE, receiver=9, class_flags=0, meta_flags=8, bucket=3,
        bucket_sequence=0, counter=0,
    )  # fmt: skip
    near.seal_rows(rows, count, last_bytes)
    sizes = [rows.datagram_bytes] * (count - 1) + [last_bytes]
    bodies = [opened(far, bytes(rows.array[i, :size])) for i, size in enumerate(sizes)]
    assert b"".join(body[4 + TEMPLATE :] for body in bodies) == packet[TEMPLATE:]
    assert {body[4 : 4 + TEMPLATE] for body in bodies} == {packet[:TEMPLATE]}
    assert near.sealed == count


def test_each_direction_has_its_own_key(ends):
    near, _ = ends
    with pytest.raises(InvalidTag):
        opened(near, near.seal_control(b"hello", 0xFF))


def test_control_is_opened_in_any_order_but_once(ends):
    near, far = ends
    datagrams = [memoryview(near.seal_control(bytes([n]), 0x80 | n)) for n in range(5)]
    assert [far.open_control(datagrams[n]) for n in (2, 0, 4, 1, 3)] == [bytes([n]) for n in (2, 0, 4, 1, 3)]
    for datagram in datagrams:
        with pytest.raises(OpenError) as caught:
            far.open_control(datagram)
        assert caught.value.reason is DropReason.REPLAYED


def test_a_control_datagram_says_what_it_is(ends):
    near, _ = ends
    near.seal_control(b"", 0xFF)
    datagram = near.seal_control(b"text", 0x83)
    assert Header.unpack(datagram) == Header(
        path=0x83, class_flags=0, receiver=9, type=Type.CONTROL, counter=1
    )
    assert len(datagram) == HEADER_BYTES + 4 + TAG_BYTES
    assert near.sealed == 2


@pytest.mark.parametrize("at", [4, 8, 9, 15, HEADER_BYTES, -1])
def test_an_altered_control_datagram_is_forged_and_uses_up_nothing(ends, at):
    near, far = ends
    datagram = near.seal_control(b"text", 0xFF)
    with pytest.raises(OpenError) as caught:
        far.open_control(memoryview(flipped(datagram, at % len(datagram))))
    assert caught.value.reason is DropReason.FORGED
    assert far.open_control(memoryview(datagram)) == b"text"


def test_control_counters_go_on_over_the_end_of_32_bits(ends):
    near, far = ends
    near.control_counter = (1 << 32) - 2
    far.control_window.accept((1 << 32) - 3)
    for n in range(4):
        assert far.open_control(memoryview(near.seal_control(bytes([n]), 0xFF))) == bytes([n])
    assert far.control_window.top == (1 << 32) + 1


def test_a_session_shows_nothing_of_its_keys(ends):
    for session in ends:
        assert not any(key.hex() in repr(session) or repr(key) in repr(session) for key in KEYS)
        assert not hasattr(session, "send_key")
