"""The log of what was sent on a path, and the condensing of the kernel's ring records."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdwan.core.sent import ENTRIES_MAX, SentLog, condense
from sdwan.core.wire import Type

MS = 10**6
RECORD = np.dtype([
    ("first_sequence", "u4"), ("time_ns", "u8"), ("segments", "u2"),
    ("peer", "u2"), ("path", "u1"), ("type", "u1"),
])  # fmt: skip


def log(*sends: tuple[int, int, int, int]) -> SentLog:
    made = SentLog()
    for send in sends:
        made.note(send)
    return made


def test_only_data_is_due() -> None:
    sent = log((0, 1, Type.PROBE, 0), (1, 1, Type.CONTROL, 10 * MS))
    assert sent.oldest_due_ns() is None
    sent.note((2, 1, Type.SINGLE, 20 * MS))
    assert sent.oldest_due_ns() == 20 * MS
    assert sent.last_due_ns == 20 * MS


def test_a_report_releases_everything_up_to_what_it_names() -> None:
    sent = log(*((n, 1, Type.SINGLE, n * 10 * MS) for n in range(5)))
    sent.on_reported(2)
    assert sent.oldest_due_ns() == 30 * MS
    assert sent.named is not None
    assert sent.named.time_ns == 20 * MS
    sent.on_reported(4)
    assert sent.oldest_due_ns() is None


def test_the_rest_of_a_burst_stays_due() -> None:
    sent = log((0, 44, Type.SUPER, 0), (44, 44, Type.SUPER, 10 * MS))
    sent.on_reported(20)
    assert sent.oldest_due_ns() == 0
    sent.on_reported(43)
    assert sent.oldest_due_ns() == 10 * MS


def test_sequences_run_on_over_the_end_of_32_bits() -> None:
    sent = SentLog()
    sent.next_sequence = (1 << 32) - 2
    sent.note(((1 << 32) - 2, 4, Type.SUPER, 0))
    assert sent.next_sequence == (1 << 32) + 2
    sent.on_reported((1 << 32) + 1)
    assert sent.oldest_due_ns() is None


def test_the_log_is_bounded() -> None:
    sent = log(*((n, 1, Type.SINGLE, n * 10 * MS) for n in range(ENTRIES_MAX * 2)))
    assert sent.oldest_due_ns() == ENTRIES_MAX * 10 * MS


def test_nothing_is_expected_after_forgetting() -> None:
    sent = log((0, 1, Type.SINGLE, 0))
    sent.forget()
    assert sent.oldest_due_ns() is None
    assert sent.next_sequence == 1


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3), st.integers(0, 2), st.integers(1, 44),
            st.sampled_from([Type.SUPER, Type.SINGLE, Type.CONTROL, Type.PROBE]), st.integers(0, 400_000),
        ),
        max_size=60,
    ),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_condensed_records_say_the_same_of_what_is_due(
    bursts: list[tuple[int, int, int, Type, int]], first: int
) -> None:
    nexts: dict[tuple[int, int], int] = {}
    rows, now = [], 10**12
    for peer, path, segments, kind, pause_ns in bursts:
        now += pause_ns
        sequence = nexts.get((peer, path), first)
        rows.append((sequence & 0xFFFFFFFF, now, segments, peer, path, kind))
        nexts[peer, path] = sequence + segments
    records = np.array(rows, dtype=RECORD)
    condensed = condense(records)
    for (peer, path), end in nexts.items():
        plain, short = SentLog(), SentLog()
        plain.next_sequence = short.next_sequence = first
        for sequence, time_ns, segments, of_peer, of_path, kind in rows:
            if (of_peer, of_path) == (peer, path):
                plain.note((sequence, segments, kind, time_ns))
        for send in condensed[peer][path]:
            short.note(send)
        assert short.next_sequence == plain.next_sequence == end
        assert short.oldest_due_ns() == plain.oldest_due_ns()
        assert (short.last_due_ns > 0) == (plain.last_due_ns > 0)


def test_nothing_condenses_to_nothing() -> None:
    assert condense(np.zeros(0, dtype=RECORD)) == {}
