"""What was sent is kept for a while, found by counter, and sent again within bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.retransmit import ALLOWANCE_NS, RESENDS_MAX, Allowance, Kept, KeptBytes

MS = 1_000_000
S = 1000 * MS
CLASSES = (
    ClassSpec("repaired"),
    ClassSpec("plain", recovery=Recovery.NONE),
    ClassSpec("brief", recovery=Recovery.FEC, deadline_ns=200 * MS),
)


def burst(
    first: int, rows: int = 1, size: int = 100, last: int | None = None, traffic_class: int = 0
) -> memoryview:
    """Return datagrams as they lie in a staging array: header bytes that matter, the rest their number."""
    out = bytearray()
    for row in range(rows):
        head = bytearray(16)
        head[2] = traffic_class
        head[12:16] = (first + row & 0xFFFFFFFF).to_bytes(4, "big")
        length = last if last and row == rows - 1 else size
        out += head + bytes([row % 251]) * (length - 16)
    return memoryview(out)


def kept_with(*bursts: tuple[int, int], limit: int = 1 << 20, now_ns: int = S) -> Kept:
    """Keep bursts of (first counter, rows)."""
    kept = Kept(KeptBytes(limit), CLASSES)
    for first, rows in bursts:
        kept.keep(burst(first, rows), rows, 100, first + rows, now_ns)
    return kept


def counters(kept: Kept, first: int, count: int, top: int, now_ns: int = S) -> list[int]:
    return [
        b.first + row for b, start, stop in kept.take(first, count, top, now_ns) for row in range(start, stop)
    ]


def test_what_is_asked_for_is_found_over_the_borders_of_bursts():
    kept = kept_with((10, 5), (15, 1), (16, 4))
    assert counters(kept, 13, 5, 20) == [13, 14, 15, 16, 17]


def test_the_bytes_are_those_that_were_sent():
    kept = Kept(KeptBytes(), CLASSES)
    payload = burst(7, 3, last=40)
    kept.keep(payload, 3, 100, 10, S)
    payload[:] = bytes(len(payload))
    ((found, start, stop),) = kept.take(8, 2, 10, S)
    assert found.data[100:] == bytes(burst(7, 3, last=40))[100:]
    assert (start, stop, found.size_of(1, 3), found.size_of(0, 1)) == (1, 3, 140, 100)


def test_what_was_never_sent_or_is_forgotten_is_counted_as_missed():
    kept = kept_with((10, 5))
    assert counters(kept, 0, 30, 15) == [10, 11, 12, 13, 14]
    assert kept.missed == 10, "0..9 were sent and are not kept; 15.. was never sent"


@pytest.mark.parametrize("top", [20, (1 << 32) + 5, (5 << 32) + 1])
def test_counters_are_asked_for_by_their_low_half(top):
    kept = kept_with((top - 4, 4))
    assert counters(kept, (top - 3) & 0xFFFFFFFF, 2, top) == [top - 3, top - 2]


def test_a_burst_that_leaves_out_of_turn_is_found():
    kept = Kept(KeptBytes(), CLASSES)
    for first in (0, 5, 3, 9, 7):
        kept.keep(burst(first), 1, 100, 10, S)
    assert counters(kept, 0, 10, 10) == [0, 3, 5, 7, 9]


def test_rows_that_are_not_numbered_in_a_row_are_kept_each_for_itself():
    kept = Kept(KeptBytes(), CLASSES)
    kept.keep(memoryview(bytes(burst(3)) + bytes(burst(6)) + bytes(burst(7))), 3, 100, 8, S)
    assert counters(kept, 0, 10, 8) == [3, 6, 7]


def test_a_class_that_is_not_repaired_is_not_kept():
    kept = Kept(KeptBytes(), CLASSES)
    kept.keep(burst(0, traffic_class=1), 1, 100, 1, S)
    assert kept.size_bytes == 0
    assert counters(kept, 0, 1, 1) == []


@pytest.mark.parametrize(("traffic_class", "worth_ms"), [(0, 2000), (2, 200)])
def test_after_its_time_a_datagram_is_not_sent_again(traffic_class, worth_ms):
    kept = Kept(KeptBytes(), CLASSES)
    for first in (0, 1):
        kept.keep(burst(first, traffic_class=traffic_class), 1, 100, 2, S)
    assert counters(kept, 0, 1, 2, S + (worth_ms - 1) * MS) == [0]
    assert counters(kept, 1, 1, 2, S + worth_ms * MS) == []
    kept.forget_old(S + worth_ms * MS)
    assert kept.size_bytes == 0


def test_a_datagram_goes_again_a_few_times_with_pauses():
    kept = kept_with((0, 2), (2, 20))
    kept.pause_ns = 50 * MS
    times = [ms for ms in range(0, 1000, 10) if counters(kept, 1, 1, 22, S + ms * MS)]
    assert times == [0, 50, 100]
    assert RESENDS_MAX == 3
    assert counters(kept, 0, 2, 22, S + 110 * MS) == [0], "its neighbour has not been sent again yet"


def test_all_peers_share_one_bound_and_the_one_with_most_gives_way():
    budget = KeptBytes(1000)
    one, other = Kept(budget, CLASSES), Kept(budget, CLASSES)
    for n in range(20):
        one.keep(burst(n), 1, 100, n + 1, S)
    assert (one.size_bytes, one.evicted) == (1000, 10)
    assert counters(one, 0, 20, 20) == list(range(10, 20)), "the oldest went"
    for n in range(8):
        other.keep(burst(n), 1, 100, n + 1, S)
        assert budget.total <= 1000
    assert one.size_bytes == other.size_bytes == 500
    one.close()
    other.close()
    assert budget.total == 0


def test_no_more_is_sent_again_than_was_sent_lately():
    allowance = Allowance()
    allowance.earn(1000, S)
    assert allowance.spend(600, S)
    assert not allowance.spend(600, S)
    assert allowance.spend(400, S + ALLOWANCE_NS // 2)
    assert not allowance.spend(1, S + ALLOWANCE_NS // 2)
    allowance.earn(50, S + 2 * ALLOWANCE_NS)
    assert not allowance.spend(100, S + 2 * ALLOWANCE_NS), "what was sent long ago counts no more"


@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from([400, 3000, 1 << 20]))
def test_against_a_model_that_keeps_everything(rng: random.Random, limit: int):
    """Whatever is asked for: found once each, the right bytes, within the bounds."""
    budget = KeptBytes(limit)
    kept = Kept(budget, CLASSES)
    kept.pause_ns = 10 * MS
    top, now_ns, sent_bytes, resent_bytes = rng.choice([0, (1 << 32) - 30]), S, 0, 0
    resent: dict[int, int] = {}
    for _ in range(60):
        now_ns += rng.choice([0, MS, 20 * MS, 300 * MS])
        rows, size = rng.randint(1, 6), rng.choice([40, 100])
        payload = burst(top, rows, size, rng.choice([None, 20]), rng.randrange(3))
        top += rows
        kept.keep(payload, rows, size, top, now_ns)
        sent_bytes += len(payload)
        assert budget.total == kept.size_bytes <= max(limit, 600)
        first, count = max(top - rng.randint(0, 40), 0), rng.randint(1, 50)
        for found, start, stop in kept.take(first & 0xFFFFFFFF, count, top, now_ns):
            for row in range(start, stop):
                counter = found.first + row
                assert first <= counter < min(first + count, top)
                assert found.data[row * found.stride + 12 : row * found.stride + 16] == (
                    counter & 0xFFFFFFFF
                ).to_bytes(4, "big")
                resent[counter] = resent.get(counter, 0) + 1
            resent_bytes += found.size_of(start, stop)
    assert max(resent.values(), default=0) <= RESENDS_MAX
    assert resent_bytes <= sent_bytes
