"""The pure C of bpf/, compiled with the host's compiler and held against slow, obviously right models.

No root, no kernel. What the programs make of it in the kernel is tested in tests/packet.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.packet.frames import Frame, ones_sum, sums_are_right

ROOT = Path(__file__).parents[2]
SECOND_NS = 10**9

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc libc6-dev"
)


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """Compile the headers; a warning is an error."""
    library = tmp_path_factory.mktemp("pure") / "pure.so"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-shared", "-fPIC"]
    source = Path(__file__).with_name("pure_headers.c")
    subprocess.run(["gcc", *flags, f"-I{ROOT / 'bpf'}", source, "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("stride_new", "rx_new", "bucket_new"):
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.call_patched_sum.restype = ctypes.c_uint16
    loaded.call_occupy.restype = ctypes.c_uint64
    loaded.call_whole_us.restype = ctypes.c_uint32
    yield loaded


def words(values: Sequence[int]) -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 8)(*values)


# Stride --------------------------------------------------------------------------------------------


class Stride:
    """The C scheduler with its state, and what it gave to whom."""

    def __init__(self, pure: ctypes.CDLL, shares: Sequence[float]) -> None:
        self._pure = pure
        self.state = ctypes.c_void_p(pure.stride_new())
        largest = max(shares)
        self.inverse = words([round(1024 * largest / share) if share else 0 for share in shares])
        self.all = sum(1 << i for i, share in enumerate(shares) if share)
        self.given = [0] * 8

    def send(self, size: int, mask: int | None = None) -> int:
        path = self._pure.stride_choose(self.state, self.inverse, self.all if mask is None else mask, size)
        self.given[path] += size
        return int(path)


@settings(max_examples=60, deadline=None)
@given(
    shares=st.lists(st.integers(1, 200), min_size=2, max_size=8),
    sizes=st.lists(st.sampled_from([60, 400, 1400, 14_000, 64_000]), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
@example(shares=[200, 1], sizes=[60, 64_000], seed=1)
def test_stride_shares_bytes_exactly_whatever_their_sizes(pure, shares, sizes, seed):
    """No path is ever more than a burst or two away from its due, so the error does not grow."""
    scheduler, chance = Stride(pure, shares), random.Random(seed)
    total = 0
    for _ in range(3000):
        size = chance.choice(sizes)
        scheduler.send(size)
        total += size
    for given_bytes, share in zip(scheduler.given, shares, strict=False):
        due = total * share / sum(shares)
        assert abs(given_bytes - due) <= 2.5 * max(sizes) + 0.002 * total


def test_stride_interleaves_as_smoothly_as_can_be(pure):
    scheduler = Stride(pure, [3, 2, 1])
    taken = [scheduler.send(1000) for _ in range(60)]
    for start in range(0, 60, 6):
        assert sorted(taken[start : start + 6]) == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize("size", [100, 1400, 64_000])
def test_a_path_that_was_away_comes_back_with_the_credit_of_one_burst(pure, size):
    scheduler = Stride(pure, [1, 1])
    for _ in range(5000):
        assert scheduler.send(size, mask=1) == 0
    taken = [scheduler.send(size) for _ in range(100)]
    assert taken.index(0) <= 3
    assert 48 <= taken.count(1) <= 53


@pytest.mark.parametrize("size", [100, 1400])
def test_paths_that_come_back_together_are_equals_at_once(pure, size):
    """As when traffic changes from IPv4 to IPv6; a long burst before must not favour either."""
    scheduler = Stride(pure, [1, 1, 1, 1])
    for _ in range(500):
        scheduler.send(60_000, mask=0b0011)
    taken = [scheduler.send(size, mask=0b1100) for _ in range(200)]
    assert all(first != second for first, second in itertools.pairwise(taken))


def test_stride_times_may_wrap(pure):
    scheduler = Stride(pure, [2, 1])
    pure.stride_jump(scheduler.state, ctypes.c_uint64(2**64 - 1024 * 1000 * 50))
    taken = [scheduler.send(1000) for _ in range(300)]
    assert taken.count(0) == pytest.approx(200, abs=2)


@given(mask=st.integers(1, 255), shares=st.lists(st.integers(1, 9), min_size=8, max_size=8))
def test_stride_obeys_the_mask(pure, mask, shares):
    scheduler = Stride(pure, shares)
    assert all(mask >> scheduler.send(1000, mask) & 1 for _ in range(30))


# Earliest delivery and the rest --------------------------------------------------------------------


@given(
    busy=st.lists(st.integers(0, 10**9), min_size=8, max_size=8),
    ns_per_kib=st.lists(st.integers(0, 10**7), min_size=8, max_size=8),
    delay_us=st.lists(st.integers(0, 10**6), min_size=8, max_size=8),
    bound_us=st.lists(st.one_of(st.just(0), st.integers(1, 10**6)), min_size=8, max_size=8),
    mask=st.integers(1, 255),
    size=st.integers(60, 65536),
    now_ns=st.integers(0, 10**9),
)
def test_earliest_takes_the_path_within_its_bound_that_delivers_first(
    pure, busy, ns_per_kib, delay_us, bound_us, mask, size, now_ns
):
    """And where none is within, the one that is least beyond."""
    within, beyond = [], []
    for i in range(8):
        if not mask >> i & 1:
            continue
        start_ns = max(busy[i], now_ns)
        excess_ns = start_ns - now_ns - bound_us[i] * 1000
        if bound_us[i] and excess_ns > 0:
            beyond.append((excess_ns, i))
        else:
            within.append((start_ns + (ns_per_kib[i] * size >> 10) + delay_us[i] * 1000, i))
    taken = earliest(pure, busy, ns_per_kib, delay_us, bound_us, mask=mask, size=size, now_ns=now_ns)
    assert taken == min(within or beyond)[1]


def earliest(pure, busy, ns_per_kib, delay_us, bound_us, *, mask=255, size=1000, now_ns=0) -> int:
    return int(
        pure.earliest_choose(
            (ctypes.c_uint64 * 8)(*busy), words(ns_per_kib), words(delay_us), words(bound_us),
            mask, size, ctypes.c_uint64(now_ns),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("backlog_us", "bound_us", "taken"),
    [
        ([4000, 0], [4000, 4000], 0),  # at the bound the fast path still takes one more
        ([4001, 0], [4000, 4000], 1),  # beyond, the slow one, though it delivers later
        ([4001, 0], [0, 4000], 0),  # without a bound the fast one goes on
        ([4001, 5000], [4000, 4000], 0),  # none has room: the least beyond its bound
        ([9000, 5000], [8000, 1000], 0),
    ],
)
def test_a_backlog_beyond_its_bound_makes_a_path_rest(pure, backlog_us, bound_us, taken):
    """Path 0 delivers 50 ms before path 1."""
    now_ns = SECOND_NS
    busy = [now_ns + us * 1000 for us in backlog_us]
    assert earliest(pure, busy, [], [0, 50_000], bound_us, mask=3, now_ns=now_ns) == taken


@given(
    moves=st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 10**7)), min_size=1, max_size=50),
    first_ns=st.integers(1, 2**60),
)
def test_a_paths_time_is_busy_or_idle_and_the_backlog_is_what_it_still_has_to_send(pure, moves, first_ns):
    """From the first use on, whatever the pauses and the bursts."""
    state = (ctypes.c_uint64 * 2)(0, 0)
    now_ns, given_ns = first_ns, 0
    for pause_ns, burst_ns in moves:
        now_ns += pause_ns if given_ns else 0
        expected = max(state[0] - now_ns, 0)
        assert pure.call_occupy(state, ctypes.c_uint64(burst_ns), ctypes.c_uint64(now_ns)) == expected
        given_ns += burst_ns
        assert state[0] - first_ns == given_ns + state[1]


@given(st.integers(0, 2**64 - 1))
def test_microseconds_are_whole_and_cut_to_32_bits(pure, ns):
    assert pure.call_whole_us(ctypes.c_uint64(ns)) == min(ns // 1000, 2**32 - 1)


@given(inverse=st.lists(st.integers(1, 2**20), min_size=8, max_size=8), mask=st.integers(1, 255))
def test_heaviest_is_the_lowest_of_the_smallest_inverses(pure, inverse, mask):
    expected = min((inverse[i], i) for i in range(8) if mask >> i & 1)[1]
    assert pure.heaviest_choose(words(inverse), mask) == expected


def test_the_lowest_path_of_every_mask(pure):
    for mask in range(1, 256):
        assert pure.call_lowest_path(mask) == (mask & -mask).bit_length() - 1


@pytest.mark.parametrize(
    ("ifindex", "up", "ipv6", "burst_ipv6"), list(itertools.product([0, 7], *[[0, 1]] * 3))
)
def test_a_path_is_usable_if_it_exists_is_up_and_speaks_the_family(pure, ifindex, up, ipv6, burst_ipv6):
    expected = bool(ifindex and up and ipv6 == burst_ipv6)
    assert pure.usable(ifindex, up | ipv6 << 1, burst_ipv6) == expected


@given(mtu=st.integers(0, 2**32 - 1), size=st.integers(0, 2**17))
def test_a_path_is_narrow_if_the_packet_is_longer_than_its_mtu(pure, mtu, size):
    assert pure.narrow(ctypes.c_uint32(mtu), size) == (size > mtu)


# Accounting ----------------------------------------------------------------------------------------


class Arrivals:
    """The C accountant of one path."""

    NAMES = ("received", "lost", "late", "duplicate", "suspect", "next_sequence")

    def __init__(self, pure: ctypes.CDLL) -> None:
        self._pure = pure
        self.state = ctypes.c_void_p(pure.rx_new())

    def note(self, first: int, count: int = 1, last: int | None = None) -> bool:
        end = first + count - 1 if last is None else last
        return bool(self._pure.rx_note(self.state, ctypes.c_uint32(first), ctypes.c_uint32(end), count))

    def read(self) -> dict[str, int]:
        out = (ctypes.c_uint64 * 6)()
        self._pure.rx_read(self.state, out)
        return dict(zip(self.NAMES, out, strict=True))


@given(
    start=st.integers(0, 2**32 - 1),
    moves=st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 20)), max_size=60),
)
def test_runs_are_counted_as_a_set_would(pure, start, moves):
    """As long as everything lies within the window, the counts are exact."""
    accountant = Arrivals(pure)
    accountant.note(start)
    seen, newest, late, duplicate = {start}, start, 0, 0
    for offset, count in moves:
        first = max(newest + offset, newest - 63, start)
        accountant.note(first % 2**32, count)
        for number in range(first, first + count):
            if number in seen:
                duplicate += 1
            elif number <= newest:
                late += 1
            seen.add(number)
            newest = max(newest, number)
    read = accountant.read()
    assert read["received"] == 1 + sum(count for _, count in moves)
    assert (read["late"], read["duplicate"]) == (late, duplicate)
    assert read["lost"] == newest - start + 1 - len(seen)
    assert read["next_sequence"] % 2**32 == (newest + 1) % 2**32


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(1, 64)), max_size=100
    )
)
@example([(100, 100, 1), (98, 99, 2)])  # late ones of a time before the first
def test_whatever_numbers_come_no_counter_underflows(pure, runs):
    accountant = Arrivals(pure)
    for first, last, count in runs:
        accountant.note(first, count, last)
    read = accountant.read()
    total = sum(count for _, _, count in runs)
    assert read["received"] + read["suspect"] >= total
    for name in ("received", "late", "duplicate", "suspect"):
        assert read[name] <= total, name
    assert read["lost"] < 2**32 * (len(runs) + 1)


def test_a_peer_that_began_anew_is_believed_after_64_in_a_row(pure):
    accountant = Arrivals(pure)
    accountant.note(10_000_000)
    assert [accountant.note(number) for number in range(64)] == [False] * 63 + [True]
    assert accountant.read()["lost"] == 0


def test_one_stray_number_interrupts_the_run(pure):
    accountant = Arrivals(pure)
    accountant.note(10_000_000)
    numbers = [*range(40), 5_000_000, *range(40, 80)]
    assert not any(accountant.note(number) for number in numbers)


# Token buckets -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    rate=st.integers(1, 5000),
    tokens=st.integers(1, 8),
    pauses_us=st.lists(st.integers(0, 50_000), min_size=1, max_size=300),
)
def test_a_bucket_never_lets_more_through_than_burst_and_rate_allow(pure, rate, tokens, pauses_us):
    bucket = ctypes.c_void_p(pure.bucket_new())
    start = now_ns = 3600 * SECOND_NS
    passed = 0
    for pause_us in pauses_us:
        now_ns += pause_us * 1000
        passed += pure.bucket_take(bucket, rate, tokens, ctypes.c_uint64(now_ns)) * tokens
    allowed = rate + (now_ns - start) * rate / SECOND_NS
    assert passed <= allowed * 1.001 + tokens  # the price of a token is cut to whole nanoseconds


def test_a_bucket_sustains_its_rate(pure):
    bucket = ctypes.c_void_p(pure.bucket_new())
    now_ns = SECOND_NS * 10
    taken = [pure.bucket_take(bucket, 100, 1, ctypes.c_uint64(now_ns + i * 10**7)) for i in range(500)]
    assert all(taken)


def test_rate_zero_lets_nothing_through(pure):
    bucket = ctypes.c_void_p(pure.bucket_new())
    assert not pure.bucket_take(bucket, 0, 1, ctypes.c_uint64(10**12))


@given(st.integers(0, 2**64 - 1))
def test_bits_are_counted(pure, value):
    assert pure.call_count_bits(ctypes.c_uint64(value)) == value.bit_count()


# Frames --------------------------------------------------------------------------------------------

OTHER, UDP, BROKEN = 0, 1, 2


@given(st.binary(max_size=100), st.sampled_from([0, 14]), st.sampled_from([0x0800, 0x86DD, 0x0806]))
def test_looking_at_garbage_never_points_outside(pure, raw, link_bytes, protocol):
    offset = ctypes.c_uint32()
    swapped = int.from_bytes(protocol.to_bytes(2, "big"), "little")
    sight = pure.call_look(raw, len(raw), link_bytes, swapped, ctypes.byref(offset))
    assert sight in (OTHER, UDP, BROKEN)
    if sight != OTHER:
        assert offset.value + 8 <= len(raw)


@pytest.mark.parametrize(
    ("description", "frame", "sight"),
    [
        ("IPv4", Frame(), UDP),
        ("IPv6", Frame(source="fd00::2", destination="fd00::1"), UDP),
        ("first fragment", Frame(fragment=0x2000), BROKEN),
        ("later fragment", Frame(fragment=0x2010), OTHER),
        ("last fragment", Frame(fragment=0x0010), OTHER),
        ("do-not-fragment set", Frame(fragment=0x4000), UDP),
        ("options", Frame(options=bytes(8)), BROKEN),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_frames_are(pure, description, frame, sight):
    data = frame.pack()
    offset = ctypes.c_uint32()
    assert pure.call_look(data, len(data), 14, 0, ctypes.byref(offset)) == sight, description


@given(
    data=st.binary(min_size=8, max_size=60).filter(lambda raw: len(raw) % 4 == 0),
    at=st.integers(0, 100),
    after=st.integers(0, 2**32 - 1),
)
def test_a_patched_sum_is_the_sum_computed_anew(pure, data, at, after):
    """But for the two zeros of one's complement (RFC 1624)."""
    offset = at % (len(data) // 4) * 4
    before = int.from_bytes(data[offset : offset + 4], "little")
    changed = data[:offset] + after.to_bytes(4, "little") + data[offset + 4 :]
    check = int.from_bytes((~ones_sum(data) & 0xFFFF).to_bytes(2, "big"), "little")
    patched = pure.call_patched_sum(check, ctypes.c_uint32(before), ctypes.c_uint32(after))
    expected = int.from_bytes((~ones_sum(changed) & 0xFFFF).to_bytes(2, "big"), "little")
    assert patched == expected or {patched, expected} == {0, 0xFFFF}


@given(
    ipv6=st.booleans(),
    body=st.binary(min_size=16, max_size=200),
    header=st.binary(min_size=24, max_size=24),
    now_us=st.integers(0, 2**32 - 1),
    ttl=st.integers(0, 255),
)
def test_an_answered_probe_has_right_sums(pure, ipv6, body, header, now_us, ttl):
    ends = {"source": "fd00::2", "destination": "fd00::1"} if ipv6 else {}
    data = bytearray(Frame(payload=header + body, ttl=ttl, **ends).pack())
    buffer = (ctypes.c_uint8 * len(data)).from_buffer(data)
    assert pure.answer(buffer, len(data), ctypes.c_uint32(now_us)) == 1
    check = int.from_bytes(data[-len(body) - 26 : -len(body) - 24], "big")
    if check:  # a sum of zero is sent as 0xffff; the program does that after this
        assert sums_are_right(bytes(data))
