"""FEC: whatever a block can mend comes back byte for byte; what it cannot is counted; nonsense is refused."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core import erasure, fec, mending
from sdwan.core.fec import MILLISECOND_NS, Encoder
from sdwan.core.mending import Decoder
from sdwan.core.repair import RUNS_MAX, Form, parse
from sdwan.core.wire import Header, Type
from sdwan.errors import WireError

RECEIVER = 0xCAFE_F00D
FULL = 1472


def datagram(counter: int, size: int, *, kind: Type = Type.SUPER) -> bytes:
    """A sealed row as it left: kernel bytes are whatever they are."""
    noise = random.Random(counter)
    header = Header(
        path=noise.randrange(8), class_flags=2, receiver=RECEIVER, type=kind, index=counter & 0xFF,
        segments=44, template_bytes=52, counter=counter & 0xFFFFFFFF, link_sequence=noise.randrange(1 << 32),
        send_time_us=noise.randrange(1 << 32),
    )  # fmt: skip
    return header.pack() + noise.randbytes(size - 24)


def protected(packet: bytes) -> bytes:
    return packet[4:16] + packet[24:]


def make_encoder(**wanted: int) -> Encoder:
    return Encoder(2, **({"sources": 10, "repairs": 2, "datagram_bytes": FULL} | wanted))


def feed(encoder: Encoder, rows: dict[int, bytes], *, now_ns: int = 0) -> list[fec.Closed]:
    closed = []
    for counter, packet in rows.items():
        array = np.frombuffer(packet, dtype=np.uint8).reshape(1, -1)
        closed += encoder.add(array, len(packet), counter, now_ns=now_ns)
    return closed


def note(decoder: Decoder, counter: int, packet: bytes, *, now_ns: int = 0) -> list[bytes]:
    return decoder.note(counter, memoryview(packet), len(packet), 1, now_ns=now_ns)


def a_decoder() -> Decoder:
    return Decoder(lambda counter: True)


class TestMending:
    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_any_loss_within_reach_is_mended_whatever_the_order(self, data: st.DataObject) -> None:
        sources = data.draw(st.integers(2, 24), label="sources")
        repairs = data.draw(st.integers(1, sources // 2), label="repairs")
        start = data.draw(st.sampled_from([0, 5, (1 << 32) - 3, 1 << 40]), label="start")
        gaps = data.draw(st.lists(st.sampled_from([0, 0, 0, 0, 3, 900]), min_size=sources, max_size=sources))
        sizes = data.draw(
            st.lists(st.sampled_from([45, 200, 1300, FULL]), min_size=sources, max_size=sources)
        )
        rows, counter = {}, start
        for gap, size in zip(gaps, sizes, strict=True):
            counter += gap
            rows[counter] = datagram(counter, size)
            counter += 1
        encoder = make_encoder(sources=sources, repairs=repairs)
        blocks = feed(encoder, rows) + encoder.close()
        if len(blocks) != 1:
            return  # more runs than a block takes: proven elsewhere
        (block,) = blocks
        parts = block.form.shards_per_row
        lost = data.draw(st.sets(st.sampled_from(sorted(rows)), max_size=block.form.repairs // parts))
        spare = block.form.repairs - len(lost) * parts
        gone = data.draw(st.sets(st.integers(0, block.form.repairs - 1), max_size=spare))
        arrivals: list[int | bytes] = [c for c in rows if c not in lost]
        arrivals += [p for i, p in enumerate(block.plaintexts) if i not in gone]
        decoder = a_decoder()
        whole = []
        for item in data.draw(st.permutations(arrivals)):
            if isinstance(item, int):
                whole += note(decoder, item, rows[item])
            else:
                whole += decoder.on_repair(item, RECEIVER, top=start, now_ns=0)
        mended = {protected(packet) for packet in whole}
        assert {protected(rows[c]) for c in lost} <= mended
        assert mended <= {protected(packet) for packet in rows.values()}

    def test_full_size_datagrams_are_mended_by_repairs_that_are_no_longer_than_they_are(self) -> None:
        rows = {c: datagram(c, FULL) for c in range(100, 110)}
        (block,) = feed(make_encoder(), rows)
        assert block.form.shards_per_row == 2 and len(block.plaintexts) == 4
        assert max(map(len, block.plaintexts)) + 24 + 16 <= FULL
        decoder = a_decoder()
        for counter, packet in rows.items():
            if counter not in (103, 107):
                note(decoder, counter, packet)
        whole = [w for p in block.plaintexts for w in decoder.on_repair(p, RECEIVER, top=99, now_ns=0)]
        assert [protected(w) for w in whole] == [protected(rows[103]), protected(rows[107])]
        assert decoder.recovered == 2

    def test_a_burst_with_a_short_last_datagram_is_protected_to_its_true_length(self) -> None:
        packets = [datagram(c, 900) for c in range(3)] + [datagram(3, 333)]
        flat = np.frombuffer(b"".join(packets) + b"\xee" * (900 - 333), dtype=np.uint8)
        (block,) = make_encoder(sources=4, repairs=1).add(flat.reshape(4, 900), 333, 0, now_ns=0)
        decoder = a_decoder()
        decoder.note(0, memoryview(b"".join(packets[:3])), 900, 3, now_ns=0)
        (whole,) = decoder.on_repair(block.plaintexts[0], RECEIVER, top=2, now_ns=0)
        assert protected(whole) == protected(packets[3]) and len(whole) == 333

    def test_what_is_mended_says_that_the_kernel_did_not_see_it(self) -> None:
        rows = {c: datagram(c, 200) for c in range(2)}
        (block,) = feed(make_encoder(sources=2, repairs=1), rows)
        decoder = a_decoder()
        note(decoder, 0, rows[0])
        (whole,) = decoder.on_repair(block.plaintexts[0], RECEIVER, top=0, now_ns=0)
        header = Header.unpack(whole)
        assert (header.path, header.receiver, header.counter) == (0xFF, RECEIVER, 1)
        assert (header.link_sequence, header.send_time_us, header.class_flags) == (0, 0, 2)

    def test_one_repair_is_a_plain_xor(self) -> None:
        rows = np.frombuffer(bytes(range(12)), dtype=np.uint8).reshape(3, 4)
        assert erasure.encode(rows, 1) == [bytes([0 ^ 4 ^ 8, 1 ^ 5 ^ 9, 2 ^ 6 ^ 10, 3 ^ 7 ^ 11])]

    def test_more_repairs_have_the_coefficients_of_the_wire_format(self) -> None:
        """Computed by hand from docs/wire.md, with tables of GF(2^8) and an inverse, for three sources."""
        unit = np.eye(3, dtype=np.uint8)
        assert [list(row) for row in erasure.encode(unit, 3)] == [[15, 8, 6], [45, 48, 28], [153, 224, 120]]

    def test_a_repair_does_not_depend_on_how_many_there_are(self) -> None:
        rows = np.frombuffer(random.Random(1).randbytes(50), dtype=np.uint8).reshape(5, 10)
        assert erasure.encode(rows, 4)[:2] == erasure.encode(rows, 2)


class TestClosing:
    def test_a_block_closes_after_its_rows(self) -> None:
        closed = feed(make_encoder(), {c: datagram(c, 100) for c in range(25)})
        assert [block.form.runs for block in closed] == [((0, 10),), ((10, 10),)]

    def test_one_burst_may_close_several_blocks(self) -> None:
        array = np.zeros((23, 100), dtype=np.uint8)
        encoder = make_encoder()
        assert [b.form.sources for b in encoder.add(array, 100, 7, now_ns=0)] == [10, 10]
        assert encoder.due_ns == fec.CLOSE_NS_DEFAULT

    def test_a_block_is_due_some_time_after_its_first_row_and_then_has_fewer_repairs(self) -> None:
        encoder = make_encoder(sources=20, repairs=4)
        feed(encoder, {0: datagram(0, 100)}, now_ns=1000)
        feed(encoder, {c: datagram(c, 100) for c in range(1, 10)}, now_ns=2 * MILLISECOND_NS)
        assert encoder.due_ns == 1000 + fec.CLOSE_NS_DEFAULT
        (block,) = encoder.close()
        assert len(block.plaintexts) == 2 and encoder.due_ns is None and encoder.close() == []

    def test_counters_of_other_classes_between_are_no_hindrance_up_to_a_bound(self) -> None:
        encoder = make_encoder(sources=64, repairs=8)
        closed = feed(encoder, {c: datagram(c, 100) for c in range(0, 200, 5)})
        assert [len(block.form.runs) for block in closed] == [RUNS_MAX, RUNS_MAX]

    def test_repairs_never_exceed_half_of_the_rows_however_sparse_these_are(self) -> None:
        encoder = make_encoder(sources=1, repairs=1)
        rows = {c: datagram(c, 100) for c in range(1000)}
        assert sum(len(block.plaintexts) for block in feed(encoder, rows)) <= 500

    def test_a_block_whose_repairs_fit_no_datagram_any_more_goes_unprotected(self) -> None:
        encoder = make_encoder()
        feed(encoder, {c: datagram(c, FULL) for c in range(5)})
        encoder.datagram_bytes = 600
        assert encoder.close() == []


class TestBounds:
    def test_a_block_with_too_few_repairs_is_counted_when_its_time_is_over(self) -> None:
        rows = {c: datagram(c, 100) for c in range(10)}
        (block,) = feed(make_encoder(repairs=1), rows)
        decoder = a_decoder()
        for counter in range(8):
            note(decoder, counter, rows[counter])
        assert decoder.on_repair(block.plaintexts[0], RECEIVER, top=7, now_ns=0) == []
        decoder.expire(now_ns=mending.KEEP_NS + 1)
        assert (decoder.unrecovered, decoder.recovered, decoder.kept_bytes) == (2, 0, 0)

    def test_rows_are_kept_for_a_bounded_time_and_in_bounded_number(self) -> None:
        decoder = a_decoder()
        packet = datagram(0, FULL)
        for counter in range(3 * mending.KEPT_BYTES_MAX // FULL):
            note(decoder, counter, packet, now_ns=counter)
        assert decoder.kept_bytes <= mending.KEPT_BYTES_MAX + FULL
        decoder.expire(now_ns=10 * mending.KEEP_NS)
        assert decoder.kept_bytes == 0

    def test_repairs_of_a_hostile_peer_are_kept_in_bounded_number(self) -> None:
        decoder = a_decoder()
        for block in range(3000):
            form = Form(1, ((block * 100, 64),), 32, 1)
            for index in range(4):
                decoder.on_repair(form.head(index) + bytes(1400), RECEIVER, top=0, now_ns=0)
        assert decoder.kept_bytes <= mending.KEPT_BYTES_MAX + 1400
        assert decoder.unrecovered >= 64 * (3000 - mending.BLOCKS_MAX - 1)

    def test_a_block_whose_rows_were_partly_seen_before_keeping_began_is_left_alone(self) -> None:
        rows = {c: datagram(c, 100) for c in range(10)}
        (block,) = feed(make_encoder(), rows)
        decoder = Decoder(lambda counter: counter == 9)  # the others were opened, but not kept
        assert [w for p in block.plaintexts for w in decoder.on_repair(p, RECEIVER, top=8, now_ns=0)] == []
        assert decoder.recovered == decoder.unrecovered == 0


class TestNonsense:
    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=300))
    def test_any_plaintext_is_mended_or_refused(self, plaintext: bytes) -> None:
        decoder = a_decoder()
        note(decoder, 5, datagram(5, 200))
        with contextlib.suppress(WireError):
            decoder.on_repair(plaintext, RECEIVER, top=5, now_ns=0)

    @settings(max_examples=200, deadline=None)
    @given(
        st.integers(0, 7), st.integers(1, 32), st.integers(1, 2), st.integers(1, 300),
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=RUNS_MAX),
    )  # fmt: skip
    def test_forms_survive_the_wire(
        self, traffic_class: int, repairs: int, parts: int, shard: int, gaps: list[tuple[int, int]]
    ) -> None:
        runs, at = [], 17
        for skip, count in gaps:
            skip = skip if runs else 0
            runs.append((at + skip, count))
            at += skip + count
        form = Form(traffic_class, tuple(runs), repairs, parts)
        assert parse(form.head(repairs - 1) + bytes(shard)) == (form, repairs - 1, bytes(shard))

    @pytest.mark.parametrize("other", [
        Form(2, ((0, 3),), 2, 1), Form(2, ((0, 2),), 1, 1), Form(3, ((0, 2),), 2, 1),
        Form(2, ((0, 2),), 2, 2),
    ])  # fmt: skip
    def test_a_repair_that_contradicts_its_block_is_refused(self, other: Form) -> None:
        decoder = a_decoder()
        form = Form(2, ((0, 2),), 2, 1)
        decoder.on_repair(form.head(0) + bytes(100), RECEIVER, top=0, now_ns=0)
        with pytest.raises(WireError):
            decoder.on_repair(other.head(0) + bytes(100), RECEIVER, top=0, now_ns=0)
        assert decoder.repairs == 1

    def test_a_row_longer_than_the_repairs_claim_yields_nothing(self) -> None:
        decoder = a_decoder()
        note(decoder, 0, datagram(0, 900))
        form = Form(2, ((0, 2),), 1, 1)
        assert decoder.on_repair(form.head(0) + bytes(100), RECEIVER, top=0, now_ns=0) == []
        assert decoder.useless == 1

    def test_what_comes_out_must_be_a_data_datagram(self) -> None:
        rows = {0: datagram(0, 100), 1: datagram(1, 100, kind=Type.CONTROL)}
        (block,) = feed(make_encoder(sources=2, repairs=1), rows)
        decoder = a_decoder()
        note(decoder, 0, rows[0])
        assert decoder.on_repair(block.plaintexts[0], RECEIVER, top=0, now_ns=0) == []
        assert decoder.useless == 1
