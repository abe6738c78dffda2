"""Staging: rows are the datagrams the page draws; sizes kept are bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.staging import ROW_OVERHEAD_BYTES, SEGMENTS_MAX, Rows, Stage
from sdwan.core.wire import HEADER_BYTES, META_BYTES, TAG_BYTES, Header, Type
from sdwan.model import PATH_CHOOSE
from tests.unit import packets

TEMPLATE = 40
FACTS = {"receiver": 0xA1B2C3D4, "class_flags": 0x21, "meta_flags": 0x09, "bucket": 200}


def stage(rows: Rows, packet: bytes, **numbers: int) -> list[bytes]:
    """Stage one super-packet; return the rows as datagrams, tags not yet written."""
    count, last_bytes = rows.stage_super(np.frombuffer(packet, np.uint8), TEMPLATE, **FACTS, **numbers)
    sizes = [rows.datagram_bytes] * (count - 1) + [last_bytes]
    return [bytes(rows.array[i, :size]) for i, size in enumerate(sizes)]


def untagged(datagrams: list[bytes]) -> list[bytes]:
    """Leave the tags out: sealing writes them."""
    return [datagram[:-TAG_BYTES] for datagram in datagrams]


@given(payload_bytes=st.integers(1, 20_000), piece=st.integers(80, 1400))
def test_a_super_packet_becomes_rows_that_each_tell_everything(payload_bytes, piece):
    packet = packets.pattern(TEMPLATE + payload_bytes)
    datagrams = stage(
        Rows(ROW_OVERHEAD_BYTES + TEMPLATE + piece), packet, counter=0xFFFFFFFE, bucket_sequence=0xFFFD
    )
    expected = [packet[at : at + piece] for at in range(TEMPLATE, len(packet), piece)]
    assert len(datagrams) == len(expected)
    for index, (datagram, piece_of_it) in enumerate(zip(datagrams, expected, strict=True)):
        assert Header.unpack(datagram) == Header(
            path=PATH_CHOOSE, class_flags=0x21, receiver=0xA1B2C3D4, type=Type.SUPER, index=index,
            segments=len(expected), template_bytes=TEMPLATE, counter=0xFFFFFFFE + index & 0xFFFFFFFF,
        )  # fmt: skip
        sequence = 0xFFFD + index & 0xFFFF
        assert datagram[HEADER_BYTES : HEADER_BYTES + META_BYTES] == bytes([200, 9]) + sequence.to_bytes(
            2, "big"
        )
        assert datagram[HEADER_BYTES + META_BYTES : -TAG_BYTES] == packet[:TEMPLATE] + piece_of_it


@given(payload_bytes=st.integers(1, 20_000), chunk=st.integers(1, 30), piece=st.integers(80, 1400))
def test_a_super_packet_laid_out_in_chunks_gives_the_same_datagrams(payload_bytes, chunk, piece):
    packet = packets.pattern(TEMPLATE + payload_bytes)
    size = ROW_OVERHEAD_BYTES + TEMPLATE + piece
    whole = stage(Rows(size), packet, counter=5, bucket_sequence=9)
    rows, parts = Rows(size), []
    for first in range(0, len(whole), chunk):
        parts += stage(
            rows, packet, counter=5 + first, bucket_sequence=9 + first, first=first, rows_max=chunk
        )  # fmt: skip
    assert untagged(parts) == untagged(whole)


def test_the_longest_super_packet_fits_if_its_segments_can_be_numbered():
    piece = -(-(65535 - TEMPLATE) // SEGMENTS_MAX)
    rows = Rows(ROW_OVERHEAD_BYTES + TEMPLATE + piece)
    datagrams = stage(rows, packets.pattern(65535), counter=0, bucket_sequence=0)
    assert len(datagrams) == SEGMENTS_MAX


def test_a_short_burst_after_a_long_one_shows_nothing_of_it():
    rows = Rows(ROW_OVERHEAD_BYTES + TEMPLATE + 100)
    stage(rows, packets.pattern(5000, seed=1), counter=7, bucket_sequence=7)
    fresh = Rows(ROW_OVERHEAD_BYTES + TEMPLATE + 100)
    short = packets.pattern(TEMPLATE + 150, seed=2)
    numbers = {"counter": 9, "bucket_sequence": 9}
    assert untagged(stage(rows, short, **numbers)) == untagged(stage(fresh, short, **numbers))


def test_a_single_packet_is_a_row_of_its_own():
    rows = Rows(ROW_OVERHEAD_BYTES + 700)
    packet = packets.pattern(700)
    rows.stage_single(
        3, np.frombuffer(packet, np.uint8), **FACTS, counter=(1 << 40) + 5, bucket_sequence=0x1234
    )  # fmt: skip
    datagram = bytes(rows.array[3])
    assert Header.unpack(datagram) == Header(
        path=PATH_CHOOSE,
        class_flags=0x21,
        receiver=0xA1B2C3D4,
        type=Type.SINGLE,
        index=0,
        segments=1,
        counter=5,
    )
    assert datagram[HEADER_BYTES:-TAG_BYTES] == bytes([200, 9, 0x12, 0x34]) + packet


def test_the_views_of_a_row_are_nonce_plaintext_and_ciphertext():
    rows = Rows(500)
    rows.array[1] = np.frombuffer(packets.pattern(500), np.uint8)
    whole = packets.pattern(500)
    assert bytes(rows.nonces[1]) == whole[4:16]
    assert bytes(rows.plaintexts[1]) == whole[24:-16]
    assert bytes(rows.ciphertexts[1]) == whole[24:]


def test_rows_of_a_size_are_kept_and_sizes_are_bounded():
    stage = Stage()
    assert stage.rows(1000) is stage.rows(1000)
    kept = [stage.rows(size) for size in range(100, 1100)]
    still = sum(stage.rows(rows.datagram_bytes) is rows for rows in kept[-16:])
    assert still == 16, "sizes in use must stay"
    assert stage.rows(100) is not kept[0], "a thousand sizes would be 70 MB"


@pytest.mark.parametrize("datagram_bytes", [ROW_OVERHEAD_BYTES + 1, 200, 1472, 8972, 65507])
def test_rows_of_any_size_take_little_memory(datagram_bytes):
    assert Rows(datagram_bytes).array.nbytes < 200_000
