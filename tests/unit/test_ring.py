"""The reader of the kernel's ring, against a writer of our own: nothing twice, nothing lost uncounted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdwan.io.ring import TxRing

RECORD = np.dtype([("number", "u4"), ("first_counter", "u4"), ("path", "u1")])
SIZE = 8


class Ring:
    """The kernel's half."""

    def __init__(self, start: int = 0) -> None:
        self.records = np.zeros(SIZE, RECORD)
        self.head = np.array([start], np.uint64)

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

        def _copy(self, start: int, end: int) -> np.ndarray:
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
