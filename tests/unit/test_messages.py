"""CONTROL messages survive the wire, padded or not; nonsense is refused, by WireError alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core import messages
from sdwan.core.messages import (
    Challenge,
    ChallengeResponse,
    Close,
    Hello,
    Keepalive,
    MtuAck,
    MtuProbe,
    Nack,
    PathReport,
    Report,
    decode,
    encode,
    next_counter_of,
)
from sdwan.errors import WireError
from sdwan.model import PATHS_PER_PEER

path = st.integers(0, PATHS_PER_PEER - 1)
u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
report_rows = st.builds(PathReport, path, u32, u32, u32, u32, u32, u32, u32, u32)
any_message = st.one_of(
    st.builds(Keepalive, path, u64),
    st.builds(Report, path, u32, u64, st.lists(report_rows, max_size=PATHS_PER_PEER).map(tuple), u32, u32),
    st.builds(Hello, path, u64, u32, st.booleans(), st.booleans(), st.booleans()),
    st.builds(Challenge, path, u64),
    st.builds(ChallengeResponse, path, u64),
    st.builds(MtuProbe, path, u16, u32),
    st.builds(MtuAck, path, u16, u32),
    st.builds(Close, path),
    st.builds(
        Nack, path, st.booleans(), st.lists(st.tuples(u32, st.integers(1, 0xFFFF)), max_size=20).map(tuple)
    ),
)


@given(any_message, st.integers(0, 40))
def test_a_message_survives_the_wire_with_any_padding(message, padding_bytes):
    assert decode(encode(message) + bytes(padding_bytes)) == message


@given(any_message, st.integers(0, 300))
def test_a_message_cut_short_is_refused(message, keep):
    whole = encode(message)
    if keep < len(whole):
        with pytest.raises(WireError):
            decode(whole[:keep])


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_wire_error(plaintext):
    try:
        decode(plaintext)
    except WireError as error:
        assert str(error)


def test_the_kinds_are_all_different():
    kinds = [cls.KIND for cls in messages.Message.__args__]
    assert len(set(kinds)) == len(kinds) == 9


@pytest.mark.parametrize(
    ("plaintext", "complaint"),
    [
        (b"\x00", "needs at least 2"),
        (bytes([99, 0]), "unknown kind 99"),
        (bytes([7, PATHS_PER_PEER]), "path 8, highest is 7"),
        (bytes([1, 0, 9]) + bytes(20) + bytes(33 * 9), "9 paths do not fit"),
        (bytes([8, 0, 1, 2]) + bytes(7), "2 ranges do not fit"),
        (bytes([8, 0, 0, 1]) + bytes(6), "an empty range"),
        (bytes([1, 0, 1]) + bytes(20) + bytes([200]) + bytes(32), "path number above 7"),
    ],
    ids=[
        "one byte",
        "unknown kind",
        "path out of range",
        "too many rows",
        "too many ranges",
        "an empty range",
        "row with a path out of range",
    ],
)
def test_nonsense_is_refused_with_a_reason(plaintext, complaint):
    with pytest.raises(WireError, match=complaint):
        decode(plaintext)


def test_a_report_clips_times_and_wraps_counts():
    row = PathReport(
        path=1, last_sequence=(1 << 32) + 5, age_us=1 << 40, opened=(1 << 32) + 6, opened_bytes=1 << 33,
        lost=-1, delay_us=-2, delay_min_us=-3, jitter_us=1 << 50,
    )  # fmt: skip
    back = decode(encode(Report(0, (1 << 32) + 1, 77, (row,))))
    assert back == Report(
        0, 1, 77, (PathReport(1, 5, 0xFFFFFFFF, 6, 0, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF),)
    )


# The one field the data plane itself reads ---------------------------------------------------------


@given(any_message)
def test_the_next_counter_is_found_without_decoding_the_rest(message):
    assert next_counter_of(encode(message)) == getattr(message, "next_counter", None)


@given(st.binary(max_size=40))
def test_the_next_counter_of_any_bytes_agrees_with_the_decoder(plaintext):
    found = next_counter_of(plaintext)
    assert found is None or 0 <= found < 1 << 64
    try:
        message = decode(plaintext)
    except WireError:
        return
    assert found == getattr(message, "next_counter", None)
