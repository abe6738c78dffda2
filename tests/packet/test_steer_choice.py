"""sdwan_steer, the choosing half: which path, in every mode; who may not be steered, and why."""

from __future__ import annotations

import itertools
import time

import pytest

from sdwan.core.wire import FLAG_DUPLICATE, Type
from sdwan.io.maps import Weights
from sdwan.model import PATH_PIN, DropReason, SteerMode
from tests.packet.runner import PEER, REDIRECT, SHOT, Kernel, datagram

pytestmark = [pytest.mark.root, pytest.mark.bpf]

ROW = PEER * 8


def choose(kernel: Kernel, count: int, **options: object) -> list[int]:
    """Send ``count`` datagrams and return the paths they took."""
    return [kernel.steer(datagram(), **options).header.path for _ in range(count)]  # type: ignore[arg-type]


def dropped(kernel: Kernel) -> dict[str, int]:
    """Return the drop counters that are not zero."""
    return {reason.name: count for reason, count in kernel.maps.drops().items() if count}


@pytest.fixture
def four_paths(kernel: Kernel) -> Kernel:
    """Paths 0 to 3 of one peer, up, without weights yet."""
    for number in range(4):
        kernel.add_path(number)
    return kernel


def weigh(kernel: Kernel, *shares: float, mode: SteerMode = SteerMode.STRIDE, **more: object) -> None:
    """Give class 0 of the peer these shares."""
    kernel.maps.write_weights({(PEER, 0): Weights(mode, shares, **more)})  # type: ignore[arg-type]


# Stride --------------------------------------------------------------------------------------------


def test_stride_gives_every_path_its_share_of_packets(four_paths):
    weigh(four_paths, 50, 30, 15, 5)
    taken = choose(four_paths, 400)
    assert [taken.count(number) for number in range(4)] == pytest.approx([200, 120, 60, 20], abs=1)


def test_stride_shares_bytes_not_packets(four_paths):
    weigh(four_paths, 80, 20)
    for size in [60, 400, 1300] * 200:
        four_paths.steer(datagram(body=b"x" * size))
    sent = four_paths.maps.tx_stats()["bytes"][ROW : ROW + 2]
    assert sent[0] / sent.sum() == pytest.approx(0.8, abs=0.005)


def test_stride_is_smooth(four_paths):
    """With equal shares no path is taken twice in a row."""
    weigh(four_paths, 1, 1, 1, 1)
    taken = choose(four_paths, 40)
    assert all(first != second for first, second in itertools.pairwise(taken))


def test_a_path_that_comes_back_gets_a_burst_and_then_its_share(four_paths):
    """Neither everything until it caught up, nor nothing."""
    weigh(four_paths, 1, 1)
    four_paths.maps.set_path_up(PEER, 1, False)
    assert set(choose(four_paths, 2000)) == {0}
    four_paths.maps.set_path_up(PEER, 1, True)
    taken = [four_paths.steer(datagram(body=b"x" * 1300)).header.path for _ in range(400)]
    burst = taken.index(0)
    assert burst * 1366 <= 2 * 65536
    assert taken[burst:].count(1) == pytest.approx(len(taken[burst:]) / 2, abs=2)


def test_classes_and_peers_have_weights_of_their_own(four_paths):
    four_paths.add_path(7, peer=PEER + 1)
    four_paths.maps.write_weights(
        {
            (PEER, 0): Weights(shares=(1,)),
            (PEER, 5): Weights(shares=(0, 1)),
            (PEER + 1, 0): Weights(shares=(0,) * 7 + (1,)),
        }
    )
    assert four_paths.steer(datagram()).header.path == 0
    assert four_paths.steer(datagram(flags=5)).header.path == 1
    assert four_paths.steer(datagram(), peer=PEER + 1).header.path == 7


def test_weights_take_effect_all_at_once(four_paths):
    weigh(four_paths, 1)
    assert choose(four_paths, 2) == [0, 0]
    bank = int(four_paths.maps.config["bank"])
    weigh(four_paths, 0, 1)
    assert int(four_paths.maps.config["bank"]) == 1 - bank
    assert choose(four_paths, 2) == [1, 1]


# Other modes ---------------------------------------------------------------------------------------


def test_earliest_prefers_the_fast_path_until_its_queue_costs_more_than_the_slow_ones_delay(four_paths):
    """One path at 8 Mbit/s and no delay, one as fast but 5 ms longer: about 5 ms of queue, then both."""
    weigh(four_paths, 1, 1, mode=SteerMode.EARLIEST, ns_per_kib=(1_024_000, 1_024_000), delay_us=(0, 5000))
    body = b"x" * 958  # 1 kB on the wire
    start = time.monotonic_ns()
    taken = [four_paths.steer(datagram(body=body)).header.path for _ in range(30)]
    elapsed_ms = (time.monotonic_ns() - start) / 1e6
    assert taken[:5] == [0] * 5
    lead = taken.count(0) - taken.count(1)
    assert 4 <= lead <= 7 + elapsed_ms


def test_a_path_rests_while_its_backlog_is_beyond_its_bound(four_paths):
    """Path 1 delivers a minute later; nothing but the bound can make it taken."""
    rates = {"ns_per_kib": (1_000_000,) * 2, "delay_us": (0, 60_000_000)}
    weigh(four_paths, 1, 1, mode=SteerMode.EARLIEST, bound_us=(1_000_000, 1_000_000), **rates)
    four_paths.maps.busy[ROW]["until_ns"] = time.monotonic_ns() + 900 * 10**6
    assert choose(four_paths, 1) == [0]
    four_paths.maps.busy[ROW]["until_ns"] = time.monotonic_ns() + 10**10
    assert choose(four_paths, 1) == [1]
    four_paths.maps.busy[ROW + 1]["until_ns"] = time.monotonic_ns() + 2 * 10**10
    assert choose(four_paths, 1) == [0]  # both are beyond: none is dropped
    assert dropped(four_paths) == {}


def test_the_ring_tells_what_a_burst_met_on_its_path(four_paths):
    """A second of backlog, then its class; idle time counts from the first use and only when it ends."""
    four_paths.maps.write_weights({(PEER, 5): Weights(shares=(1,), ns_per_kib=(1_000_000,))})
    four_paths.steer(datagram(flags=5))
    four_paths.maps.busy[ROW]["until_ns"] = time.monotonic_ns() + 10**9
    four_paths.steer(datagram(flags=5))
    until_ns = time.monotonic_ns() - 10**9
    four_paths.maps.busy[ROW]["until_ns"] = until_ns
    four_paths.steer(datagram(path=PATH_PIN, flags=5))
    first, second, third = four_paths.maps.ring.read_new()
    assert (first["class"], first["backlog_us"], first["idle_us"]) == (5, 0, 0)
    assert 0.5e6 < second["backlog_us"] <= 1e6
    assert second["idle_us"] == 0
    assert third["backlog_us"] == 0
    assert third["idle_us"] == (third["time_ns"] - until_ns) // 1000
    assert four_paths.maps.busy[ROW]["idle_ns"] == third["time_ns"] - until_ns


def test_without_a_known_rate_a_path_has_no_backlog(four_paths):
    weigh(four_paths, 1)
    choose(four_paths, 3)
    assert not four_paths.maps.busy[ROW]["until_ns"]
    assert not four_paths.maps.ring.read_new()["backlog_us"].any()


def test_the_busy_time_of_a_path_is_shared_by_all_classes_and_kept_in_all_modes(four_paths):
    rates = {"ns_per_kib": (1_000_000,)}
    four_paths.maps.write_weights({
        (PEER, 0): Weights(SteerMode.STRIDE, (1,), **rates),
        (PEER, 1): Weights(SteerMode.EARLIEST, (1,), **rates),
    })  # fmt: skip
    before = time.monotonic_ns()
    for flags in [0, 1] * 5:
        four_paths.steer(datagram(flags=flags, body=b"x" * (1024 - 66)))
    busy_ns = int(four_paths.maps.busy[ROW]["until_ns"]) - before
    assert 10e6 <= busy_ns <= 10e6 + (time.monotonic_ns() - before)


def test_pin_takes_the_heaviest_and_the_next_when_it_is_down(four_paths):
    weigh(four_paths, 1, 3, 2, mode=SteerMode.PIN)
    assert choose(four_paths, 3) == [1, 1, 1]
    four_paths.maps.set_path_up(PEER, 1, False)
    assert choose(four_paths, 3) == [2, 2, 2]


@pytest.mark.parametrize(("mode", "flags"), [(SteerMode.DUPLICATE, 0), (SteerMode.STRIDE, FLAG_DUPLICATE)])
def test_duplicate_clones_for_every_path_but_the_last(four_paths, mode, flags):
    """The clones enter the entry device again (tests/netns follows them); the last path gets the original."""
    weigh(four_paths, 1, 1, 0, 1, mode=mode)
    sent = four_paths.steer(datagram(flags=flags))
    assert (sent.verdict, sent.header.path) == (REDIRECT, 3)
    assert list(four_paths.maps.tx_stats()["copies"][ROW : ROW + 4]) == [1, 1, 0, 0]


def test_duplicate_on_one_path_is_that_path(four_paths):
    weigh(four_paths, 0, 1, mode=SteerMode.DUPLICATE)
    assert choose(four_paths, 2) == [1, 1]
    assert four_paths.maps.tx_stats()["copies"].sum() == 0


# Eligibility ---------------------------------------------------------------------------------------


def test_a_path_that_is_down_is_not_taken(four_paths):
    weigh(four_paths, 1, 1)
    four_paths.maps.set_path_up(PEER, 0, False)
    assert set(choose(four_paths, 10)) == {1}


def test_a_path_without_weight_is_not_taken(four_paths):
    weigh(four_paths, 0, 1)
    assert set(choose(four_paths, 10)) == {1}


def test_a_path_of_the_other_family_is_not_taken(four_paths):
    four_paths.add_path(1, ipv6=True)
    weigh(four_paths, 1, 1)
    assert set(choose(four_paths, 10)) == {0}
    assert set(choose(four_paths, 10, ipv6=True)) == {1}


def test_a_long_datagram_takes_the_path_with_room_for_it(four_paths):
    four_paths.add_path(0, mtu=1000)
    weigh(four_paths, 9, 1)
    assert four_paths.steer(datagram(body=b"x" * (1000 - 52))).header.path == 0
    assert four_paths.steer(datagram(body=b"x" * (1000 - 51))).header.path == 1


def test_the_segments_of_a_burst_count_not_its_length(four_paths):
    four_paths.add_path(0, mtu=1000)
    weigh(four_paths, 1)
    fits, longer = datagram(body=b"x" * (972 - 24)), datagram(body=b"x" * (973 - 24))
    assert four_paths.steer(fits * 3, segment_bytes=972).verdict == REDIRECT
    assert four_paths.steer(longer * 3, segment_bytes=973).verdict == SHOT
    assert dropped(four_paths) == {"MTU_EXCEEDED": 3}


# Pinned --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Type.CONTROL, Type.PROBE, Type.INIT, Type.SINGLE])
def test_a_pinned_datagram_takes_its_path_even_without_weight(four_paths, kind):
    weigh(four_paths, 1)
    assert four_paths.steer(datagram(kind, path=PATH_PIN | 2)).header.path == 2


@pytest.mark.parametrize("number", [2, 5, 8, 63])
def test_a_pin_to_a_path_that_is_down_or_unknown_is_refused(four_paths, number):
    four_paths.maps.set_path_up(PEER, 2, False)
    assert four_paths.steer(datagram(path=PATH_PIN | number)).verdict == SHOT
    assert dropped(four_paths) == {"PIN_INVALID": 1}


def test_a_pin_to_a_path_of_the_other_family_is_refused(four_paths):
    assert four_paths.steer(datagram(path=PATH_PIN | 1), ipv6=True).verdict == SHOT
    assert dropped(four_paths) == {"PIN_INVALID": 1}


def test_pinned_data_obeys_the_mtu_of_the_path_and_control_that_of_the_link(four_paths):
    """A path's MTU is searched for with control messages longer than the one known (RFC 8899)."""
    four_paths.add_path(1, mtu=1000)
    body = b"x" * 1000
    assert four_paths.steer(datagram(Type.CONTROL, path=PATH_PIN | 1, body=body)).verdict == REDIRECT
    assert four_paths.steer(datagram(Type.SINGLE, path=PATH_PIN | 1, body=body)).verdict == SHOT
    assert dropped(four_paths) == {"MTU_EXCEEDED": 1}


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "options", "reason"),
    [
        ("no mark", {"mark": 0}, DropReason.UNMARKED),
        ("another mark", {"mark": 0x5E}, DropReason.UNMARKED),
        ("destination outside the virtual net", {"destination": "198.19.0.3"}, DropReason.NOT_TUNNEL),
        ("peer 0", {"peer": 0}, DropReason.NOT_TUNNEL),
        ("peer beyond the maps", {"peer": 8}, DropReason.NOT_TUNNEL),
        ("IPv6 outside the virtual net", {"destination": "fd5d:8a3e:77c1:1::3"}, DropReason.NOT_TUNNEL),
        ("IPv6 peer number of 17 bits", {"destination": "fd5d:8a3e:77c1::1:3"}, DropReason.NOT_TUNNEL),
        ("a peer without paths", {"peer": 4}, DropReason.NO_PATH),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_not_be_steered_is_dropped_and_counted(four_paths, description, options, reason):
    weigh(four_paths, 1)
    ipv6 = ":" in options.get("destination", "")
    assert four_paths.steer(datagram(), ipv6=ipv6, **options).verdict == SHOT, description
    assert dropped(four_paths) == {reason.name: 1}


@pytest.mark.parametrize(
    ("description", "payload", "reason"),
    [
        ("too short for a header", datagram()[:23], DropReason.NOT_TUNNEL),
        ("another version", b"\x02" + datagram()[1:], DropReason.NOT_TUNNEL),
        ("reserved byte set", datagram()[:3] + b"\x01" + datagram()[4:], DropReason.NOT_TUNNEL),
        ("already has its path", datagram(path=1), DropReason.LOOP),
        ("class without weights", datagram(flags=1), DropReason.NO_PATH),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_fresh_datagram_is_dropped_and_counted(four_paths, description, payload, reason):
    weigh(four_paths, 1)
    assert four_paths.steer(payload).verdict == SHOT, description
    assert dropped(four_paths) == {reason.name: 1}


def test_with_every_path_down_the_drop_says_no_path(four_paths):
    weigh(four_paths, 1, 1)
    for number in range(4):
        four_paths.maps.set_path_up(PEER, number, False)
    assert four_paths.steer(datagram() * 5, segment_bytes=84).verdict == SHOT
    assert dropped(four_paths) == {"NO_PATH": 5}


def test_a_drop_takes_no_link_sequence(four_paths):
    weigh(four_paths, 1)
    four_paths.steer(datagram(path=1))
    four_paths.steer(datagram(body=b"x" * 2000))
    assert four_paths.maps.tx_state["next_sequence"].sum() == 0
    assert len(four_paths.maps.ring.read_new()) == 0
