"""The reader of the kernel's ring, against a writer of our own: nothing twice, nothing lost uncounted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdwan.io.ring import TxRing, Words

RECORD = np.dtype([
    ("number", "u4"), ("first_counter", "u4"), ("time_ns", "u8"), ("first_sequence", "u4"), ("peer", "u2"),
    ("segments", "u2"), ("path", "u1"), ("type", "u1"), ("rest", "u1", (6,)),
])  # fmt: skip
SIZE = 8
PEER, OTHER_PEER = 3, 4
DATA, CONTROL, REPAIR = 0x01, 0x20, 0x05


class Ring:
    """The kernel's half."""

    def __init__(self, start: int = 0) -> None:
        self.records = np.zeros(SIZE, RECORD)
        self.head = np.array([start], np.uint64)

    def send(self, counter: int, segments: int = 1, *, sequence: int = 0, path: int = 0, **more: int) -> None:
        """Write what the kernel would of one burst; ``more`` are other fields."""
        index = int(self.head[0])
        self.head[0] = index + 1
        row = self.records[index % SIZE]
        row["first_counter"] = np.uint32(counter % 2**32).byteswap()
        row["first_sequence"] = sequence % 2**32
        fields = {"peer": PEER, "type": DATA, "segments": segments, "path": path, "time_ns": index, **more}
        for name, value in fields.items():
            row[name] = value
        row["number"] = (index + 1) % 2**32

    def write(self, count: int = 1, *, complete: bool = True) -> None:
        for _ in range(count):
            index = int(self.head[0])
            self.head[0] = index + 1
            row = self.records[index % SIZE]
            row["number"] = 0
            row["first_counter"] = np.uint32(index % 2**32).byteswap()
            if complete:
                row["number"] = (index + 1) % 2**32


@given(st.integers(0, 2**33), st.lists(st.integers(0, 20), max_size=30))
def test_every_record_is_read_once_in_order_or_counted_as_overrun(start, writes):
    ring = Ring(start)
    reader = TxRing(ring.records, ring.head)
    read: list[int] = []
    for count in writes:
        ring.write(count)
        read += [int(counter) for counter in reader.read_new()["first_counter"]]
    total = sum(writes)
    assert len(read) + reader.overruns == total
    expected = [number % 2**32 for number in range(start, start + total)]
    remaining = iter(expected)
    assert all(number in remaining for number in read), "out of order, twice, or made up"


def test_a_record_that_is_being_written_ends_the_reading_until_it_is_complete():
    ring = Ring()
    reader = TxRing(ring.records, ring.head)
    ring.write()
    ring.write(complete=False)
    ring.write()
    assert list(reader.read_new()["first_counter"]) == [0]
    assert len(reader.read_new()) == 0
    ring.records[1]["number"] = 2
    assert list(reader.read_new()["first_counter"]) == [1, 2]


def test_what_is_overwritten_while_it_is_copied_is_not_believed():
    ring = Ring()

    class Racing(TxRing):
        """The kernel laps us in the middle of the copy."""

        def _copy(self, start: int, end: int) -> Words:
            copied = super()._copy(start, end)
            ring.write(3)
            return copied

    reader = Racing(ring.records, ring.head)
    ring.write(SIZE)
    assert list(reader.read_new()["first_counter"]) == list(range(3, SIZE))
    assert reader.overruns == 3


def test_what_was_written_before_the_reader_came_is_not_its_business():
    ring = Ring()
    ring.write(5)
    reader = TxRing(ring.records, ring.head)
    assert len(reader.read_new()) == 0
    assert reader.overruns == 0


def test_a_copy_is_given_not_the_kernels_memory():
    ring = Ring()
    reader = TxRing(ring.records, ring.head)
    ring.write()
    (record,) = reader.read_new()
    ring.write(SIZE)
    assert record["first_counter"] == 0


# Asking ------------------------------------------------------------------------------------------


@given(
    start=st.integers(0, 2**33),
    base=st.integers(0, 2**32 - 1),
    bursts=st.lists(
        st.tuples(
            st.integers(0, 60), st.integers(1, 20), st.sampled_from([0, 5]),
            st.sampled_from([PEER, OTHER_PEER]), st.sampled_from([DATA, 0x04, CONTROL, REPAIR]),
        ),
        max_size=20,
    ),
    asked=st.lists(st.integers(-5, 90), max_size=12),
)  # fmt: skip
def test_the_newest_record_that_covers_a_counter_is_found(start, base, bursts, asked):
    """Resent, overlapping, of other peers and types, overwritten: as a dictionary would know it."""
    ring = Ring(start)
    reader = TxRing(ring.records, ring.head)
    expected: dict[int, tuple[int, int, int]] = {}
    for age, (offset, segments, path, peer, kind) in enumerate(bursts):
        sequence = base * 7 + age * 100
        time_ns = start + age
        ring.send(base + offset, segments, sequence=sequence, path=path, peer=peer, type=kind)
        if age >= len(bursts) - SIZE and peer == PEER and kind in (DATA, 0x04):
            for i in range(segments):
                expected[(base + offset + i) % 2**32] = (path, (sequence + i) % 2**32, time_ns)
    counters = [base + offset for offset in asked]
    found = reader.find(PEER, counters)
    assert found == {c: expected[c % 2**32] for c in counters if c % 2**32 in expected}


@given(
    base=st.integers(0, 2**32 - 1),
    bursts=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0, 1])), max_size=SIZE),
    after=st.integers(-1, 40),
)
def test_what_left_on_a_path_beyond_a_sequence_is_named_once_and_in_order(base, bursts, after):
    ring = Ring()
    reader = TxRing(ring.records, ring.head)
    following, counter, expected = {0: 0, 1: 0}, 0, []
    for segments, path in bursts:
        ring.send(base + counter, segments, sequence=base + following[path], path=path)
        for i in range(segments):
            if path == 1 and following[path] + i > after:
                expected.append(((base + counter + i) % 2**32, (base + following[path] + i) % 2**32))
        following[path] += segments
        counter += segments
    runs = reader.sent_on(PEER, 1, (base + after) % 2**32)
    named = [
        ((first + i) % 2**32, (sequence + i) % 2**32) for first, count, sequence in runs for i in range(count)
    ]
    assert named == expected


def test_only_data_of_the_peer_is_named_as_sent():
    ring = Ring()
    reader = TxRing(ring.records, ring.head)
    for kind, peer in [(CONTROL, PEER), (REPAIR, PEER), (DATA, OTHER_PEER), (DATA, PEER)]:
        ring.send(100, type=kind, peer=peer, sequence=7)
    assert reader.sent_on(PEER, 0, 6) == [(100, 1, 7)]


def test_a_record_that_changes_while_it_is_copied_is_not_believed():
    ring = Ring()

    class Racing(TxRing):
        """The kernel writes over the oldest record in the middle of the copy."""

        def _take(self, slots: np.ndarray) -> Words:
            taken = super()._take(slots)
            ring.send(999)
            return taken

    for counter in range(SIZE):
        ring.send(counter)
    assert set(Racing(ring.records, ring.head).find(PEER, range(SIZE))) == set(range(1, SIZE))


def test_a_record_that_is_being_written_is_not_found():
    ring = Ring()
    ring.send(1)
    ring.send(2)
    ring.records[1]["number"] = 0
    assert set(TxRing(ring.records, ring.head).find(PEER, [1, 2])) == {1}


def test_who_asks_takes_nothing_from_who_follows():
    ring = Ring()
    reader = TxRing(ring.records, ring.head)
    ring.send(1)
    reader.find(PEER, [1])
    assert reader.sent_on(PEER, 0, 2**32 - 1)
    assert len(reader.read_new()) == 1
