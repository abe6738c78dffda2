"""The 24 bytes before every ciphertext: round trip, refusals, and counters that are cut to 32 bits.

That Python, C and docs/wire.md agree on the layout is test_contracts.py's business.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core import wire
from sdwan.core.wire import Header, widen
from sdwan.errors import WireError

u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFFFFFF)
headers = st.builds(
    Header, path=u8, class_flags=u8, receiver=u32, type=u8, index=u8, segments=u8,
    template_bytes=st.integers(0, 255).map(lambda words: words * 4), counter=u32, link_sequence=u32,
    send_time_us=u32,
)  # fmt: skip


@given(headers, st.binary(max_size=8))
def test_a_header_survives_the_wire(header, rest):
    assert Header.unpack(header.pack() + rest) == header


def test_a_header_stands_on_the_wire_as_the_page_draws_it():
    packed = Header(
        path=0x81, class_flags=0x25, receiver=0x01020304, type=wire.Type.SUPER, index=5, segments=44,
        template_bytes=52, counter=0x0A0B0C0D, link_sequence=0x11121314, send_time_us=0x21222324,
    ).pack()  # fmt: skip
    assert packed.hex(" ", 4) == "01812500 01020304 01052c0d 0a0b0c0d 11121314 21222324"
    assert packed[wire.NONCE].hex() == "0102030401052c0d0a0b0c0d"


@pytest.mark.parametrize(
    ("datagram", "complaint"),
    [
        (b"", "0 bytes, needs 24"),
        (bytes([wire.VERSION]) + bytes(22), "23 bytes, needs 24"),
        (bytes([wire.VERSION + 1]) + bytes(23), "version 2"),
        (bytes([wire.VERSION, 0, 0, 1]) + bytes(20), "reserved 1"),
    ],
    ids=["empty", "one byte short", "another version", "reserved byte set"],
)
def test_what_is_no_header_is_refused_with_a_reason(datagram, complaint):
    with pytest.raises(WireError, match=complaint):
        Header.unpack(datagram)


@pytest.mark.parametrize(("outer_ipv6", "overhead"), [(False, 72), (True, 92)])
def test_the_overhead_is_what_the_page_promises(outer_ipv6, overhead):
    assert wire.sealed_overhead_bytes(outer_ipv6) == overhead


@pytest.mark.parametrize(
    ("low", "near", "wide"),
    [
        (5, 0, 5),
        (0, 0xFFFFFFFF, 1 << 32),
        (0xFFFFFFFF, 1 << 32, 0xFFFFFFFF),
        (7, (3 << 32) + 9, (3 << 32) + 7),
        (0xFFFFFFF0, 0, 0xFFFFFFF0),
    ],
    ids=["the same", "wraps upward", "late, from before the wrap", "far up", "never negative"],
)
def test_widening_picks_the_nearest_counter(low, near, wide):
    assert widen(low, near) == wide


@given(st.integers(0, 1 << 60), st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_a_counter_within_two_to_the_31_of_the_newest_is_widened_back(near, offset):
    counter = near + offset
    if counter >= 0:
        assert widen(counter & 0xFFFFFFFF, near) == counter


@given(st.integers(0, 1 << 40), st.integers(-0x7FFF, 0x7FFF))
def test_widening_works_for_sixteen_bits_too(near, offset):
    if near + offset >= 0:
        assert widen(near + offset & 0xFFFF, near, 16) == near + offset
