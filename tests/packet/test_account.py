"""sdwan_account: what arrives is counted and measured, and what is hostile to the tunnel ends here.

Every test runs with TC ingress and with XDP, which share all judgements.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from sdwan.core.wire import Type
from sdwan.io.maps import LinkStats
from sdwan.model import DropReason
from tests.packet.frames import Frame
from tests.packet.runner import (
    LOCAL,
    LOCAL6,
    PEER,
    PORT,
    SHOT,
    UNSPEC,
    XDP_DROP,
    XDP_PASS,
    Kernel,
    Sent,
    datagram,
)

pytestmark = [pytest.mark.root, pytest.mark.bpf]

RECEIVER = 0xC0FFEE01
ROW = PEER * 8
PATH = 2
GOOD = Frame(source="10.0.2.2", destination=LOCAL, source_port=4602, destination_port=PORT)
"""What path 2's remote sends."""


class Link:
    """One receiving hook of one link, with a session and two paths (2 in IPv4, 5 in IPv6) behind it."""

    def __init__(self, kernel: Kernel, program: str) -> None:
        self.kernel = kernel
        self.maps = kernel.maps
        self.program = program
        self.passed, self.dropped = (XDP_PASS, XDP_DROP) if program == "sdwan_account_xdp" else (UNSPEC, SHOT)
        kernel.add_path(PATH)
        kernel.add_path(5, ipv6=True)
        kernel.maps.set_receiver(RECEIVER, PEER)

    def receive(self, frame: Frame, **options: int) -> Sent:
        return self.kernel.receive(frame, program=self.program, **options)  # type: ignore[arg-type]

    def sealed(
        self, sequence: int = 0, *, path: int = PATH, receiver: int = RECEIVER, **more: object
    ) -> bytes:
        return datagram(path=path, receiver=receiver, sequence=sequence, **more)  # type: ignore[arg-type]

    def arrive(self, *sequences: int) -> None:
        """Let datagrams with these link sequences arrive on path 2."""
        for sequence in sequences:
            assert self.receive(replace(GOOD, payload=self.sealed(sequence))).verdict == self.passed

    def drops(self) -> dict[str, int]:
        return {reason.name: count for reason, count in self.maps.drops().items() if count}

    def arrived(self, path: int = PATH) -> dict[str, int]:
        row = self.maps.rx_state[ROW + path]
        return {name: int(row[name]) for name in ("received", "lost", "late", "duplicate", "suspect")}


@pytest.fixture(params=["sdwan_account", "sdwan_account_xdp"], ids=["tc", "xdp"])
def link(kernel: Kernel, request: pytest.FixtureRequest) -> Link:
    """Give each receiving hook in turn."""
    return Link(kernel, request.param)


@pytest.fixture
def tc(kernel: Kernel) -> Link:
    """TC ingress alone: only there do coalesced packets arrive."""
    return Link(kernel, "sdwan_account")


def counts(
    received: int = 0, lost: int = 0, late: int = 0, duplicate: int = 0, suspect: int = 0
) -> dict[str, int]:
    return {"received": received, "lost": lost, "late": late, "duplicate": duplicate, "suspect": suspect}


# Link sequences ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "sequences", "expected"),
    [
        ("in order", [5, 6, 7], counts(3)),
        ("the first number is where it begins", [2**31], counts(1)),
        ("a gap is a loss", [1, 2, 6], counts(3, lost=3)),
        ("a late one was lost until it came", [1, 3, 2], counts(3, late=1)),
        ("two of the same", [1, 2, 2], counts(3, duplicate=1)),
        ("late, twice", [1, 3, 2, 2], counts(4, late=1, duplicate=1)),
        ("reversed", [10, 14, 13, 12, 11], counts(5, late=3)),
        ("around 2^32", [2**32 - 2, 2**32 - 1, 0, 1], counts(4)),
        ("a gap around 2^32", [2**32 - 1, 2], counts(2, lost=2)),
        ("late by more than the window", [0, 100, 1], counts(3, lost=98, late=1)),
        ("a jump ahead is suspect", [1, 2 + 65537], counts(1, suspect=1)),
        ("a jump of 2^16 is not", [1, 2 + 65536], counts(2, lost=65536)),
        ("a jump back is suspect", [70000, 70001 - 65537], counts(1, suspect=1)),
        ("after a jump it goes on", [1, 900000, 2], counts(2, suspect=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_link_sequences(link, description, sequences, expected):
    link.arrive(*sequences)
    assert link.arrived() == expected, description


def test_a_peer_that_started_anew_is_believed_after_64_datagrams_in_a_row(link):
    link.arrive(5_000_000, *range(63))
    assert link.arrived() == counts(1, suspect=63)
    link.arrive(63, 64, 66)
    assert link.arrived() == counts(4, suspect=64, lost=1)


def test_delay_jitter_and_minimum_come_from_the_send_stamps(link):
    def arrive(delay_us: int, sequence: int) -> None:
        stamp = (time.monotonic_ns() // 1000 - delay_us) % 2**32
        link.receive(replace(GOOD, payload=link.sealed(sequence, time_us=stamp)))

    arrive(20_000, 0)
    first = int(link.maps.rx_state[ROW + PATH]["delay_last_us"])
    assert 20_000 <= first < 30_000
    arrive(1_000_000, 1)
    row = link.maps.rx_state[ROW + PATH]
    assert 1_000_000 <= row["delay_last_us"] < 1_010_000
    assert row["delay_min_us"] == first
    assert 970_000 <= int(row["jitter_us16"]) <= 990_000
    row["delay_min_us"] = 2**32 - 1
    arrive(500_000, 2)
    assert 500_000 <= link.maps.rx_state[ROW + PATH]["delay_min_us"] < 510_000


def test_a_clock_far_ahead_of_ours_is_no_obstacle(link):
    """The delay is modulo 2^32; its differences are what counts."""
    for sequence in range(2):
        stamp = (time.monotonic_ns() // 1000 + 10**9) % 2**32
        link.receive(replace(GOOD, payload=link.sealed(sequence, time_us=stamp)))
    assert int(link.maps.rx_state[ROW + PATH]["jitter_us16"]) < 10_000


def test_datagrams_and_bytes_are_counted_per_path(link):
    link.arrive(0, 1, 2)
    stats = link.maps.rx_stats()[ROW + PATH]
    assert (stats["datagrams"], stats["bytes"]) == (3, 3 * (14 + 20 + 8 + 84))


def test_ipv6_paths_are_known_by_their_whole_address(link):
    good = Frame("fd00:5::2", LOCAL6, 4605, PORT, link.sealed(7, path=5))
    assert link.receive(good).verdict == link.passed
    assert link.maps.rx_stats()[ROW + 5]["datagrams"] == 1
    link.receive(replace(good, source="fd00:6::2"))
    stats = link.maps.rx_stats()[ROW + 5]
    assert (stats["datagrams"], stats["moved"]) == (1, 1)


# Coalesced packets (GRO) ---------------------------------------------------------------------------


def coalesced(link: Link, sequences: list[int]) -> Sent:
    size = len(link.sealed())
    payload = b"".join(link.sealed(sequence) for sequence in sequences)
    return link.receive(replace(GOOD, payload=payload), segment_bytes=size, segments=len(sequences))


@pytest.mark.parametrize(
    ("description", "bursts", "expected"),
    [
        ("contiguous", [[0, 1, 2, 3], [4, 5]], counts(6)),
        ("a gap before it", [[0, 1], [4, 5]], counts(4, lost=2)),
        ("a gap inside", [[0, 1, 4, 5]], counts(4, lost=2)),
        ("wholly late", [[0], [4, 5], [1, 2, 3]], counts(6, late=3)),
        ("wholly twice", [[0, 1, 2], [0, 1, 2]], counts(6, duplicate=3)),
        ("half late, half new", [[0], [3, 4], [1, 2, 3, 4, 5, 6]], counts(9, late=2, duplicate=2)),
        ("larger than the window", [[0], list(range(1, 12))], counts(12)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_coalesced_packet_counts_as_its_datagrams(tc, description, bursts, expected):
    for burst in bursts:
        assert coalesced(tc, burst).verdict == tc.passed
    assert tc.arrived() == expected, description
    assert tc.maps.rx_stats()[ROW + PATH]["datagrams"] == expected["received"]


def test_a_coalesced_packet_has_the_bytes_its_frames_had(tc):
    coalesced(tc, [0, 1, 2])
    assert tc.maps.rx_stats()[ROW + PATH]["bytes"] == 3 * (14 + 20 + 8 + 84)


# What is no datagram of ours -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "frame"),
    [
        ("another port", replace(GOOD, destination_port=PORT + 1, payload=b"x" * 100)),
        ("our port as source only", replace(GOOD, source_port=PORT, destination_port=53, payload=b"x" * 60)),
        ("a fragment without ports", replace(GOOD, fragment=0x00B9, payload=b"x" * 100)),
        ("IPv4 options, another port", replace(GOOD, options=bytes(4), destination_port=1, payload=b"x" * 9)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_other_traffic_passes_untouched(link, description, frame):
    sent = link.receive(frame)
    assert (sent.verdict, sent.data) == (link.passed, frame.pack()), description
    assert link.drops() == {}


@pytest.mark.parametrize("raw", [b"", b"\x45", bytes(14), bytes(34), b"\xff" * 60], ids=len)
def test_frames_that_are_hardly_frames_pass(kernel, raw):
    """XDP alone sees such: the kernel refuses to make an skb of them, in a test run as on a wire."""
    data = bytes(12) + b"\x08\x00" + raw
    assert kernel.run("sdwan_account_xdp", data).verdict == XDP_PASS


def test_without_a_port_nothing_is_looked_at(link):
    link.maps.set_port(0)
    assert link.receive(replace(GOOD, payload=b"junk" * 20)).verdict == link.passed
    assert link.drops() == {}


def test_datagrams_that_only_cross_this_machine_pass(link):
    """A router between two other sites must not drop what it does not understand."""
    with_forwarding = replace(GOOD, destination="10.77.0.9", payload=b"junk" * 20)
    link.kernel.route_elsewhere("10.77.0.0/16")
    assert link.receive(with_forwarding).verdict == link.passed
    assert link.receive(replace(with_forwarding, payload=datagram(path=PATH))).verdict == link.passed
    assert link.drops() == {}


@pytest.mark.parametrize(
    ("description", "change"),
    [
        ("empty", {"payload": b""}),
        ("shorter than a header", {"payload": datagram(path=PATH)[:23]}),
        ("another version", {"payload": b"\x02" + datagram(path=PATH)[1:]}),
        ("reserved byte set", {"payload": datagram(path=PATH)[:3] + b"\x01" + datagram(path=PATH)[4:]}),
        ("unknown type", {"payload": datagram(0x77, path=PATH)}),
        ("sealed without room for a tag", {"payload": datagram(path=PATH, body=b"x" * 15)}),
        ("probe without its body", {"payload": datagram(Type.PROBE, path=PATH, body=b"x" * 15)}),
        ("reply without its body", {"payload": datagram(Type.PROBE_REPLY, path=PATH, body=b"x" * 15)}),
        ("UDP length that lies low", {"payload": datagram(path=PATH), "length": 20}),
        ("UDP length below its header", {"payload": datagram(path=PATH), "length": 3}),
        ("a first fragment", {"payload": datagram(path=PATH), "fragment": 0x2000}),
        ("IPv4 options", {"payload": datagram(path=PATH), "options": b"\x01" * 8}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_datagrams_to_our_port_are_dropped_and_counted(link, description, change):
    assert link.receive(replace(GOOD, **change)).verdict == link.dropped, description
    assert link.drops() == {"MALFORMED": 1}
    assert link.arrived() == counts()


# Strangers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Type.SUPER, Type.SINGLE, Type.CONTAINER, Type.BUNDLE, Type.CONTROL])
def test_a_sealed_datagram_for_a_receiver_nobody_chose_is_dropped(link, kind):
    assert link.receive(replace(GOOD, payload=datagram(kind, path=PATH))).verdict == link.dropped
    assert link.drops() == {"UNKNOWN_RECEIVER": 1}


def test_a_receiver_that_was_deleted_is_unknown(link):
    link.arrive(0)
    link.maps.delete_receiver(RECEIVER)
    assert link.receive(replace(GOOD, payload=link.sealed(1))).verdict == link.dropped


@pytest.mark.parametrize("change", [{"source": "10.0.2.3"}, {"source_port": 4603}], ids=["address", "port"])
def test_a_known_receiver_from_elsewhere_passes_as_moved_and_measures_nothing(link, change):
    assert link.receive(replace(GOOD, payload=link.sealed(0), **change)).verdict == link.passed
    stats = link.maps.rx_stats()[ROW + PATH]
    assert (stats["datagrams"], stats["moved"]) == (0, 1)
    assert link.arrived() == counts()


def test_a_datagram_that_never_went_through_an_entry_passes_and_measures_nothing(link):
    """A challenge is sent directly to an address that is not validated: its path byte is no number."""
    payload = link.sealed(0, path=0xFF, kind=Type.CONTROL)
    assert link.receive(replace(GOOD, payload=payload)).verdict == link.passed
    assert link.arrived() == counts()


def flood(link: Link, frame: Frame, count: int) -> int:
    """Send the frame ``count`` times; return how many passed."""
    return sum(link.receive(frame).verdict == link.passed for _ in range(count))


def test_one_unvalidated_source_has_a_token_bucket_of_its_own(link):
    link.maps.config["source_rate"] = 10
    moved = replace(GOOD, source="203.0.113.9", payload=link.sealed())
    start = time.monotonic()
    passed = flood(link, moved, 50)
    assert 10 <= passed <= 11 + 10 * (time.monotonic() - start)
    assert link.drops() == {"FLOOD_SOURCE": 50 - passed}
    assert flood(link, replace(moved, source="203.0.113.10"), 5) == 5


def test_all_unvalidated_sources_share_one_more(link):
    link.maps.config["global_rate"] = 10
    moved = replace(GOOD, payload=link.sealed())
    start = time.monotonic()
    passed = sum(flood(link, replace(moved, source=f"203.0.113.{last}"), 1) for last in range(50))
    assert 10 <= passed <= 11 + 10 * (time.monotonic() - start)
    assert link.drops() == {"FLOOD_GLOBAL": 50 - passed}


def test_a_flood_of_strangers_does_not_touch_a_validated_endpoint(link):
    link.maps.config["source_rate"] = link.maps.config["global_rate"] = 1
    flood(link, replace(GOOD, source="203.0.113.9", payload=link.sealed()), 20)
    link.arrive(*range(50))
    assert link.arrived() == counts(50)


@pytest.mark.parametrize("kind", [Type.INIT, Type.RESPONSE, Type.COOKIE])
def test_handshakes_cost_eight_tokens(link, kind):
    link.maps.config["source_rate"] = 80
    start = time.monotonic()
    passed = flood(link, replace(GOOD, payload=datagram(kind, path=0xFF, receiver=0)), 40)
    assert 10 <= passed <= 11 + 10 * (time.monotonic() - start)
    assert link.drops() == {"FLOOD_SOURCE": 40 - passed}


def test_a_bucket_fills_again_with_time(link):
    link.maps.config["source_rate"] = 20
    moved = replace(GOOD, source="203.0.113.9", payload=link.sealed())
    flood(link, moved, 40)
    deadline = time.monotonic() + 5
    while link.receive(moved).verdict != link.passed:
        assert time.monotonic() < deadline, "no token came in 5 s at 20 a second"


def test_a_rate_of_zero_lets_nothing_in(link):
    link.maps.config["source_rate"] = 0
    assert flood(link, replace(GOOD, source="203.0.113.9", payload=link.sealed()), 3) == 0


# Links ---------------------------------------------------------------------------------------------


def test_what_crosses_a_link_is_counted_ours_and_foreign(link):
    link.maps.add_link(1)
    foreign = replace(GOOD, destination_port=53, payload=b"x" * 58)
    link.arrive(0)
    link.receive(foreign)
    stats = link.maps.link_stats()[1]
    assert stats == LinkStats(rx_packets=2, rx_bytes=126 + 100, rx_tunnel_packets=1, rx_tunnel_bytes=126)


def test_what_leaves_a_link_is_counted_by_its_source_port(kernel):
    kernel.maps.add_link(1)
    ours = Frame(source_port=PORT, payload=b"x" * 58)
    for frame in (ours, replace(ours, source_port=53)):
        result = kernel.run("sdwan_count", frame.pack(), ifindex=1)
        assert (result.verdict, result.data) == (UNSPEC, frame.pack())
    assert kernel.maps.link_stats()[1] == LinkStats(
        tx_packets=2, tx_bytes=200, tx_tunnel_packets=1, tx_tunnel_bytes=100
    )


def test_every_reason_the_kernel_counts_is_known_by_name(kernel):
    assert set(kernel.maps.drops()) == {reason for reason in DropReason if reason < 32}
