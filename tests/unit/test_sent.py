"""The log of what was sent on a path, and the sorting of the kernel's ring records."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.sent import ROWS_MAX, SENT, Rows, SentLog, split
from sdwan.core.wire import Type

MS = 10**6
RECORD = np.dtype([*SENT.descr, ("peer", "u2"), ("path", "u1")])


def rows(*sends: tuple[int, int, int, int]) -> Rows:
    """Records of (first sequence, datagrams, type, time), 1000 bytes each."""
    return np.array([(f, n, kind, at, n * 1000, 0, 0, 0) for f, n, kind, at in sends], dtype=SENT)


def log(*sends: tuple[int, int, int, int]) -> SentLog:
    made = SentLog()
    for send in sends:
        made.note(rows(send))
    return made


def test_only_data_is_due() -> None:
    sent = log((0, 1, Type.PROBE, 0), (1, 1, Type.CONTROL, 10 * MS), (2, 1, Type.REPAIR, 11 * MS))
    assert sent.oldest_due_ns() is None
    sent.note(rows((3, 1, Type.SINGLE, 20 * MS)))
    assert sent.oldest_due_ns() == 20 * MS
    assert sent.last_due_ns == 20 * MS


def test_a_report_releases_everything_up_to_what_it_names() -> None:
    sent = log(*((n, 1, Type.SINGLE, n * 10 * MS) for n in range(5)))
    point = sent.on_reported(2)
    assert point is not None and point is sent.named
    assert (point.sequence, point.time_ns, point.sent_bytes) == (2, 20 * MS, 3000)
    assert sent.oldest_due_ns() == 30 * MS
    sent.on_reported(4)
    assert sent.oldest_due_ns() is None


def test_what_was_named_before_is_no_news() -> None:
    sent = log((0, 4, Type.SUPER, 0))
    assert sent.on_reported(2) is not None
    assert sent.on_reported(2) is None
    assert sent.on_reported(1) is None


def test_the_rest_of_a_burst_stays_due() -> None:
    sent = log((0, 44, Type.SUPER, 0), (44, 44, Type.SUPER, 10 * MS))
    point = sent.on_reported(20)
    assert point is not None
    assert point.sent_bytes == 21_000
    assert sent.oldest_due_ns() == 0
    sent.on_reported(43)
    assert sent.oldest_due_ns() == 10 * MS


def test_sequences_run_on_over_the_end_of_32_bits() -> None:
    sent = SentLog()
    sent.next_sequence = (1 << 32) - 2
    sent.note(rows(((1 << 32) - 2, 4, Type.SUPER, 0), (2, 1, Type.SINGLE, MS)))
    assert sent.next_sequence == (1 << 32) + 3
    sent.on_reported((1 << 32) + 1)
    assert sent.oldest_due_ns() == MS


def test_idle_time_runs_on_over_the_end_of_32_bits_and_never_back() -> None:
    sent = SentLog()
    records = rows(*((n, 1, Type.SINGLE, n) for n in range(4)))
    records["idle_us"] = [(1 << 32) - 5, 5, 3, 9]
    sent.note(records)
    idle = []
    for n in range(4):
        point = sent.on_reported(n)
        assert point is not None
        idle.append(point.idle_ns)
    assert idle == [0, 10_000, 10_000, 16_000]


def test_the_log_is_bounded() -> None:
    sent = SentLog()
    for first in range(0, ROWS_MAX * 2, 1000):
        sent.note(rows(*((n, 1, Type.SINGLE, n) for n in range(first, first + 1000))))
    end = sent.next_sequence
    assert sent.oldest_due_ns() == end - ROWS_MAX
    assert sent.total_bytes == end * 1000


def test_nothing_is_expected_after_forgetting() -> None:
    sent = log((0, 1, Type.SINGLE, 0))
    sent.forget()
    assert sent.oldest_due_ns() is None
    assert sent.next_sequence == 1


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 7), st.integers(1, 44)), max_size=60),
    st.integers(0, 2**32 - 1),
)
def test_records_are_sorted_by_peer_and_path_and_keep_their_order(
    bursts: list[tuple[int, int, int]], first: int
) -> None:
    nexts: dict[tuple[int, int], int] = {}
    records = []
    for peer, path, segments in bursts:
        sequence = nexts.get((peer, path), first)
        record = (sequence & 0xFFFFFFFF, segments, Type.SUPER, len(records), segments, 0, 0, 0, peer, path)
        records.append(record)
        nexts[peer, path] = sequence + segments
    found = split(np.array(records, dtype=RECORD))
    assert sum(len(of_path) for paths in found.values() for of_path in paths.values()) == len(records)
    for (peer, path), end in nexts.items():
        sent = SentLog()
        sent.next_sequence = first
        sent.note(found[peer][path])
        assert sent.next_sequence == end


def test_nothing_sorts_to_nothing() -> None:
    assert split(np.zeros(0, dtype=RECORD)) == {}
