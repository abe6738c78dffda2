"""What an emulated link does to frames, in virtual time: no clock, no luck that is not seeded."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdwan.errors import LabError
from sdwan.lab.impairment import Impairment, Pipe, RateSchedule

MS = 1_000_000
SECOND = 1_000 * MS
FRAME = 1514


def never() -> float:
    return 0.999_999


def pipe_of(chance=never, **values) -> Pipe[int]:
    return Pipe(Impairment(**values), chance, now_ns=0)


def drain(pipe: Pipe[int]) -> list[tuple[int, int]]:
    """Let virtual time run until the pipe is empty; return (frame, moment it came out)."""
    out = []
    while (moment_ns := pipe.next_due_ns()) is not None:
        out += [(frame, moment_ns) for frame in pipe.due(now_ns=moment_ns)]
    return out


def send(pipe: Pipe[int], count: int, *, every_ns: int = 0, size_bytes: int = FRAME) -> list[tuple[int, int]]:
    """Offer frames 0..count-1 at even distances, taking out what is due meanwhile."""
    out = []
    for number in range(count):
        moment_ns = number * every_ns
        while (due_ns := pipe.next_due_ns()) is not None and due_ns <= moment_ns:
            out += [(frame, due_ns) for frame in pipe.due(now_ns=due_ns)]
        pipe.offer(number, size_bytes, now_ns=moment_ns)
    return out + drain(pipe)


# Rate and buffer -----------------------------------------------------------------------------------


def test_without_impairment_a_frame_is_due_at_once():
    pipe = pipe_of()
    pipe.offer(1, FRAME, now_ns=5)
    assert pipe.next_due_ns() == 5
    assert pipe.due(now_ns=5) == [1]
    assert pipe.next_due_ns() is None


def test_a_frame_takes_its_length_over_the_rate_and_then_the_delay():
    pipe = pipe_of(rate_bps=8_000_000, delay_ns=10 * MS)
    pipe.offer(1, 1000, now_ns=0)
    assert pipe.due(now_ns=11 * MS - 1) == []
    assert pipe.due(now_ns=11 * MS) == [1]


def test_frames_follow_each_other_at_the_rate():
    out = send(pipe_of(rate_bps=8_000_000), 5, size_bytes=1000)
    assert out == [(number, (number + 1) * MS) for number in range(5)]


def test_a_full_buffer_drops_the_newest():
    pipe = pipe_of(rate_bps=8_000_000, buffer_bytes=3000)
    out = send(pipe, 10, size_bytes=1000)
    assert [frame for frame, _ in out] == [0, 1, 2]
    assert pipe.counters.buffer_full == 7


def test_the_buffer_in_milliseconds_is_the_longest_wait():
    pipe = pipe_of(rate_bps=8_000_000, buffer_ns=20 * MS)
    waits = [moment_ns for _, moment_ns in send(pipe, 100, size_bytes=1000)]
    assert max(waits) == 20 * MS
    assert len(waits) == 20


def test_an_idle_link_takes_a_frame_larger_than_its_buffer():
    assert [frame for frame, _ in send(pipe_of(rate_bps=1_000_000, buffer_bytes=100), 1)] == [0]


def test_a_new_rate_holds_for_what_waits_and_for_the_rest_of_the_frame_in_service():
    pipe = pipe_of(rate_bps=8_000_000)
    for number in range(2):
        pipe.offer(number, 1000, now_ns=0)
    pipe.change(Impairment(rate_bps=4_000_000), now_ns=MS // 2)
    assert drain(pipe) == [(0, MS // 2 + MS), (1, MS // 2 + 3 * MS)]


def test_a_link_that_becomes_unlimited_lets_go_of_what_waits():
    pipe = pipe_of(rate_bps=8_000, buffer_bytes=10_000)
    for number in range(3):
        pipe.offer(number, 1000, now_ns=0)
    pipe.change(Impairment(), now_ns=MS)
    assert drain(pipe) == [(0, MS), (1, MS), (2, MS)]


def test_the_trace_repeats_and_its_outages_carry_nothing():
    pipe = pipe_of(trace=((10 * MS, 8_000_000), (10 * MS, 0)), buffer_bytes=10**6)
    moments = [moment_ns // MS for _, moment_ns in send(pipe, 25, size_bytes=1000)]
    assert moments == [*range(1, 11), *range(21, 31), *range(41, 46)]


@given(
    pieces=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), min_size=1, max_size=6).filter(
        lambda pieces: any(rate for _, rate in pieces)
    ),
    begin_ms=st.integers(0, 500),
    bits=st.integers(1, 10**6),
)
def test_what_a_schedule_finishes_it_has_served(pieces, begin_ms, bits):
    trace = tuple((duration * MS, rate * 10**6) for duration, rate in pieces)
    schedule = RateSchedule(Impairment(trace=trace), 0)
    begin_ns = begin_ms * MS
    end_ns = schedule.finish_ns(begin_ns, bits)
    assert schedule.served_bits(end_ns) - schedule.served_bits(begin_ns) == pytest.approx(bits, abs=200)


@given(
    rate_mbit=st.integers(1, 200),
    sizes=st.lists(st.integers(60, 1514), min_size=1, max_size=200),
    every_us=st.integers(0, 2000),
    jitter_ms=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_no_link_is_faster_than_its_rate_or_changes_the_order(rate_mbit, sizes, every_us, jitter_ms, seed):
    pipe: Pipe[int] = Pipe(
        Impairment(rate_bps=rate_mbit * 10**6, jitter_ns=jitter_ms * MS, delay_ns=5 * MS),
        random.Random(seed).random,
        now_ns=0,
    )
    out = []
    for number, size_bytes in enumerate(sizes):
        out += pipe.due(now_ns=number * every_us * 1000)
        pipe.offer(number, size_bytes, now_ns=number * every_us * 1000)
    last_ns = 0
    while (moment_ns := pipe.next_due_ns()) is not None:
        assert moment_ns >= last_ns, "time runs backwards"
        last_ns = moment_ns
        out += pipe.due(now_ns=moment_ns)
    assert out == sorted(out)
    carried_bits = sum(sizes[number] for number in out) * 8
    assert last_ns >= 5 * MS + carried_bits * 1000 // rate_mbit - len(sizes)


# Loss ----------------------------------------------------------------------------------------------


def test_random_loss_is_as_frequent_as_it_says():
    pipe = pipe_of(random.Random(1).random, loss_ppm=50_000)
    assert len(send(pipe, 20_000)) == pytest.approx(19_000, rel=0.01)


def test_burst_loss_comes_in_bursts_of_the_mean_length_asked_for():
    pipe = pipe_of(random.Random(2).random, burst_enter_ppm=5_000, burst_leave_ppm=100_000)
    arrived = [frame for frame, _ in send(pipe, 50_000)]
    gaps = [b - a - 1 for a, b in itertools.pairwise(arrived) if b - a > 1]
    assert sum(gaps) / len(gaps) == pytest.approx(10, rel=0.1)
    assert len(gaps) == pytest.approx(50_000 / (200 + 10), rel=0.1)


def test_the_same_seed_loses_the_same_frames():
    def run(seed: int) -> list[tuple[int, int]]:
        return send(pipe_of(random.Random(seed).random, loss_ppm=200_000, jitter_ns=MS), 200, every_ns=MS)

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_a_blackhole_swallows_also_what_is_on_its_way():
    pipe = pipe_of(rate_bps=8_000_000, delay_ns=10 * MS)
    for number in range(5):
        pipe.offer(number, 1000, now_ns=0)
    pipe.change(Impairment(rate_bps=8_000_000, delay_ns=10 * MS, blackhole=True), now_ns=2 * MS)
    pipe.offer(5, 1000, now_ns=3 * MS)
    assert drain(pipe) == []
    assert pipe.counters.swallowed == 6


def test_a_link_works_again_after_a_blackhole():
    pipe = pipe_of(blackhole=True)
    pipe.change(Impairment(), now_ns=SECOND)
    pipe.offer(1, FRAME, now_ns=SECOND)
    assert pipe.due(now_ns=SECOND) == [1]


def test_an_mtu_hole_swallows_only_what_is_too_long():
    pipe = pipe_of(mtu_bytes=1400)
    pipe.offer(1, 1414, now_ns=0)
    pipe.offer(2, 1415, now_ns=0)
    assert pipe.due(now_ns=0) == [1]
    assert pipe.counters.swallowed == 1


# Order and copies ----------------------------------------------------------------------------------


def test_reordered_frames_come_late_and_all_come():
    pipe = pipe_of(random.Random(3).random, reorder_ppm=100_000, reorder_ns=5 * MS)
    arrived = [frame for frame, _ in send(pipe, 1000, every_ns=MS)]
    assert sorted(arrived) == list(range(1000))
    assert arrived != sorted(arrived)
    assert pipe.counters.reordered == pytest.approx(100, rel=0.3)


def test_copies_follow_their_originals():
    pipe = pipe_of(lambda: 0.0, duplicate_ppm=1_000_000)
    assert [frame for frame, _ in send(pipe, 3)] == [0, 0, 1, 1, 2, 2]


# Books ---------------------------------------------------------------------------------------------


@given(
    values=st.fixed_dictionaries({
        "rate_bps": st.sampled_from([0, 10**6, 10**8]),
        "delay_ns": st.integers(0, 50 * MS),
        "jitter_ns": st.integers(0, 20 * MS),
        "loss_ppm": st.integers(0, 500_000),
        "burst_enter_ppm": st.integers(0, 200_000),
        "duplicate_ppm": st.integers(0, 500_000),
        "reorder_ppm": st.integers(0, 500_000),
        "mtu_bytes": st.sampled_from([0, 1000]),
    }),
    count=st.integers(1, 200),
    cut_at=st.integers(0, 200),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_frame_has_exactly_one_fate(values, count, cut_at, seed):
    pipe = pipe_of(random.Random(seed).random, **values)
    for number in range(count):
        if number == cut_at:
            pipe.change(Impairment(**values, blackhole=True), now_ns=number * MS)
        pipe.offer(number, 60 + number * 7, now_ns=number * MS)
    counters = pipe.counters
    fates = counters.lost + counters.buffer_full + counters.swallowed + counters.delivered
    assert fates + pipe.in_transit == counters.offered == count + counters.duplicated
    drain(pipe)
    assert pipe.in_transit == 0
    assert counters.lost + counters.buffer_full + counters.swallowed + counters.delivered == counters.offered


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"loss_ppm": 1_000_001}, "loss_ppm"),
        ({"delay_ns": -1}, "delay_ns"),
        ({"trace": ((MS, 0),)}, "trace"),
        ({"burst_enter_ppm": 1, "burst_leave_ppm": 0}, "burst_leave_ppm"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_nonsense_is_refused_by_name(values, named):
    with pytest.raises(LabError, match=named):
        Impairment.from_dict(values)


# What is told about it -----------------------------------------------------------------------------


def test_the_oldest_waiting_frame_tells_the_delay_of_the_buffer():
    pipe = pipe_of(rate_bps=8_000_000, buffer_ns=SECOND)  # 1000 bytes a millisecond
    for number in range(10):
        pipe.offer(number, 1000, now_ns=number * MS // 10)
    assert (pipe.queued_bytes, pipe.waiting_ns(MS // 2)) == (10_000, MS // 2)
    pipe.due(now_ns=8 * MS)
    assert pipe.queued_bytes == 2_000
    assert pipe.waiting_ns(8 * MS) == 8 * MS - 8 * MS // 10
    drain(pipe)
    assert (pipe.queued_bytes, pipe.waiting_ns(20 * MS)) == (0, 0)


def test_frames_are_counted_by_how_late_they_were_asked_for():
    pipe = pipe_of(delay_ns=MS)
    for late_ns in (0, 100_000, 300_000, 50 * MS):
        pipe.offer(1, FRAME, now_ns=0)
        pipe.due(now_ns=MS + late_ns)
    assert [(step, count) for step, count in enumerate(pipe.lateness) if count] == [(0, 2), (2, 1), (63, 1)]
