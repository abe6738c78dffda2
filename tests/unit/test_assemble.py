"""Assembling: neighbouring runs become one frame, and only neighbours do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.assemble import (
    BUNDLED_MAX,
    SLOT_BYTES,
    VNET_BYTES,
    VNET_PLAIN,
    Assembler,
    Frame,
    Run,
    Slot,
    single_vnet,
    super_vnet,
)
from sdwan.core.wire import META_ECN, META_NEEDS_CSUM, META_UDP
from sdwan.errors import WireError
from tests.unit import packets
from tests.unit.packets import A6, ACK, B6, CWR, FIN, PSH, pattern, tcp, tso, udp, uso

PIECE = 100
SUPERS = {
    "TCP4": tso(pattern(950), PIECE, flags=ACK | PSH | FIN | CWR, ecn=True),
    "TCP6": tso(pattern(1000), PIECE, source=A6, destination=B6),
    "UDP4": uso(pattern(950), PIECE),
    "UDP6": uso(pattern(901), PIECE, source=A6, destination=B6),
}
SEGMENTS = 10


def part(whole: packets.Super, start: int, stop: int, **changes: int) -> Run:
    """Return segments ``start..stop-1`` as inward hands them over."""
    packet = whole.frame[VNET_BYTES:]
    payload = packets.payload_of(packet)
    head = packet[: len(packet) - len(payload)]
    frame = bytearray(VNET_BYTES) + head + payload[start * PIECE : stop * PIECE]
    protocol, _ = packets.transport_at(packet)
    flags = META_NEEDS_CSUM | (META_UDP if protocol == packets.UDP else 0)
    fields = {
        "counter": 1000 + start, "bucket": 5, "bucket_sequence": start, "rows": stop - start, "index": start,
        "segments": SEGMENTS, "head_bytes": len(head), "piece_bytes": PIECE,
        "flags": flags | (META_ECN if whole.ecn else 0),
    } | changes  # fmt: skip
    return Run(memoryview(frame), **fields)


def joined(frames: list[Frame]) -> list[bytes]:
    return [b"".join(frame.pieces) for frame in frames]


def assemble(*runs: Run) -> list[Frame]:
    """Join runs as delivery does; return the frames."""
    assembler, frames = Assembler(), []
    for run in runs:
        frames += [assembler.add(run)]
        if assembler.complete:
            frames += [assembler.take()]
    frames += [assembler.take()]
    return [frame for frame in frames if frame is not None]


@pytest.mark.parametrize("name", SUPERS)
@given(cuts=st.sets(st.integers(1, SEGMENTS - 1)))
def test_a_super_packet_in_any_pieces_is_one_frame(name, cuts):
    whole = SUPERS[name]
    edges = [0, *sorted(cuts), SEGMENTS]
    runs = [part(whole, a, b) for a, b in pairwise(edges)]
    (frame,) = joined(assemble(*runs))
    assert packets.finished(frame) == whole.packets


@pytest.mark.parametrize("name", SUPERS)
@given(start=st.integers(0, SEGMENTS - 1), count=st.integers(1, SEGMENTS))
def test_a_part_is_a_smaller_super_packet(name, start, count):
    whole, stop = SUPERS[name], min(start + count, SEGMENTS)
    (frame,) = assemble(part(whole, start, stop))
    assert packets.finished(joined([frame])[0]) == whole.packets[start:stop]
    assert [bytes(packet[VNET_BYTES:]) for packet in assemble(part(whole, start, stop))[0].split()] == (
        whole.packets[start:stop]
    )


def test_without_offload_the_packets_are_whole_and_finished():
    (frame,) = assemble(part(SUPERS["TCP4"], 0, SEGMENTS))
    assert [bytes(packet) for packet in frame.split()] == [VNET_PLAIN + p for p in SUPERS["TCP4"].packets]


@pytest.mark.parametrize(
    "changes",
    [
        {"counter": 1006},
        {"index": 6},
        {"segments": 11},
        {"bucket": 6},
        {"piece_bytes": 99},
        {"head_bytes": 36},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_follow_begins_a_frame_of_its_own(changes):
    whole = SUPERS["UDP4"]
    frames = assemble(part(whole, 0, 5), part(whole, 5, 7, **changes))
    assert len(frames) == 2
    assert packets.finished(joined(frames)[0]) == whole.packets[:5]


def test_one_row_can_be_taken_out_of_a_run():
    whole = SUPERS["TCP4"]
    run = part(whole, 2, SEGMENTS)
    for row in range(SEGMENTS - 2):
        one = run.row(row)
        assert (one.counter, one.bucket_sequence, one.index, one.rows) == (1002 + row, 2 + row, 2 + row, 1)
        (frame,) = joined(assemble(one))
        assert packets.finished(frame) == [whole.packets[2 + row]]


def test_what_is_kept_has_memory_of_its_own():
    run = part(SUPERS["TCP4"], 0, 2)
    slot = run.frame
    before = bytes(slot)
    kept = run.keep()
    slot[:] = bytes(len(slot))
    assert bytes(kept.frame) == before


# Bundles -----------------------------------------------------------------------------------------


def bundle(count: int, start: int = 0, **fields: object) -> Run:
    """Return equal UDP packets as one run, their bucket sequence beginning with ``start``."""
    head = packets.with_pseudo_sum(udp(payload=bytes(PIECE * count), **fields))[:28]
    frame = bytearray(VNET_BYTES) + head + pattern(PIECE * count, start)
    return Run(
        memoryview(frame), counter=start, bucket=5, bucket_sequence=start & 0xFFFF, rows=count,
        flags=META_NEEDS_CSUM | META_UDP, segments=0, head_bytes=28, piece_bytes=PIECE,
    )  # fmt: skip


def test_bundles_of_a_flow_join_up_to_what_one_write_carries():
    frames = assemble(*(bundle(14, start=0xFFF8 + 14 * n) for n in range(6)))
    counts = [len(packets.finished(frame)) for frame in joined(frames)]
    assert sum(counts) == 84
    assert max(counts) <= BUNDLED_MAX
    assert len(counts) == 2


@pytest.mark.parametrize(
    "other",
    [
        bundle(3, start=4),
        bundle(3, start=3, ports=(1, 2)),
        bundle(3, start=3, tos=4),
        bundle(3, start=3, source="10.1.0.9"),
    ],
    ids=["a gap between", "another flow", "another class", "another source"],
)
def test_bundles_that_are_not_neighbours_stay_apart(other):
    assert len(assemble(bundle(3), other)) == 2


def test_bundles_and_super_packets_do_not_mix():
    assert len(assemble(bundle(3), part(SUPERS["UDP4"], 3, 5), bundle(3, start=5))) == 3


# The virtio header -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "flags"),
    [
        (packets.icmp()[:28], META_NEEDS_CSUM),
        (udp(), META_NEEDS_CSUM),
        (tcp(), META_NEEDS_CSUM | META_UDP),
        (tcp()[:36], META_NEEDS_CSUM),
        (udp()[:24], META_NEEDS_CSUM | META_UDP),
        (b"", META_NEEDS_CSUM),
    ],
    ids=["ICMP", "UDP called TCP", "TCP called UDP", "TCP cut short", "UDP cut short", "nothing"],
)
def test_a_template_that_is_not_what_its_flags_say_is_refused(head, flags):
    with pytest.raises(WireError):
        super_vnet(memoryview(head), flags, 100, 1000)


def test_a_single_packet_is_plain_unless_its_checksum_is_open():
    assert single_vnet(memoryview(tcp()), 0) == VNET_PLAIN
    frame = single_vnet(memoryview(tcp()), META_NEEDS_CSUM) + packets.with_pseudo_sum(tcp())
    assert packets.finished(frame) == [tcp()]
    with pytest.raises(WireError, match="checksum left open"):
        single_vnet(memoryview(packets.icmp()), META_NEEDS_CSUM)


# Slots -------------------------------------------------------------------------------------------


def test_rows_opened_last_first_leave_one_contiguous_packet():
    slot, prefix = Slot(), 4 + 40
    rows = [b"meta" + bytes([0x40 + n]) * 40 + bytes([n]) * PIECE for n in range(5)]
    for row, view in reversed(list(zip(rows, slot.destinations(prefix, PIECE), strict=False))):
        view[:] = row
    assert bytes(slot.view[10:50]) == rows[0][4:44], "the first row's template"
    assert bytes(slot.view[50 : 50 + 5 * PIECE]) == b"".join(row[44:] for row in rows)


def test_a_slot_keeps_a_bounded_number_of_shapes_within_its_memory():
    slot = Slot()
    for piece in range(1, 200):
        views = slot.destinations(44, piece)
        assert len(views) <= 256
        assert len(views[-1]) == 44 + piece
    assert len(slot.view) == SLOT_BYTES
