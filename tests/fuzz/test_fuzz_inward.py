"""Whatever arrives at the UDP port, sealed or not: it is delivered or counted, and nothing else happens.

Three adversaries: one who sends any bytes in any batches; one who knows the header's form; and a peer who has
the keys and seals what it likes. The last may fill the TUN with nonsense, but only under its own addresses.
"""

from __future__ import annotations

import ipaddress
import random
import struct
import tracemalloc
from contextlib import closing

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdwan.core.inner import source_of
from sdwan.core.reorder import HELD_BYTES_MAX
from sdwan.core.session import Session
from sdwan.core.wire import Type
from sdwan.model import DropReason
from tests.unit import packets
from tests.unit.packets import A4, A6, B4, B6, pattern, tcp, tso, udp, uso
from tests.unit.walk import FULL, MS, NONE, PREFIXES, SOL_UDP, SOURCE, UDP_GRO, Pair, Site, header, seal

FRAME_BYTES_MAX = 10 + 65535
OWN = [ipaddress.ip_network(prefix) for prefix in PREFIXES["a"]]
offloads = st.sampled_from([FULL, NONE])


class AnyMouth:
    """A socket that hands over any bytes with any ancillary data."""

    def __init__(self, arrivals: list[tuple[bytes, list]]) -> None:
        self._arrivals = iter(arrivals)

    def recvmsg_into(self, buffers: list[memoryview], _: int) -> tuple:
        data, ancillary = next(self._arrivals, (None, []))
        if data is None:
            raise BlockingIOError
        buffers[0][: len(data)] = data
        return len(data), ancillary, 0, SOURCE


def feed(site: Site, *arrivals: tuple[bytes, list]) -> list[bytes]:
    """Let anything arrive in one round; return the frames written."""
    return site.receive_from(AnyMouth(list(arrivals)))


def accounted(site: Site, frames: list[bytes]) -> int:
    """Return how many things happened to what came: drops, packets, messages for control."""
    return sum(site.drops.values()) + len(frames) + len(site.plain) + len(site.control)


# Any bytes -------------------------------------------------------------------------------------------

strides = st.one_of(
    st.just([]),
    st.integers(0, 65535).map(lambda n: [(SOL_UDP, UDP_GRO, struct.pack("=i", n))]),
    st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=8)).map(lambda item: [item]),
)
known_form = st.tuples(
    st.sampled_from([*Type, 0, 0xEE]), st.sampled_from([9, 7, 0]), st.binary(max_size=400),
    st.binary(min_size=8, max_size=8),
).map(lambda t: header(t[0], t[1])[:9] + t[3][:7] + header(0)[16:] + t[2])  # fmt: skip
any_data = st.one_of(
    st.binary(min_size=1, max_size=600),
    known_form,
    st.lists(known_form, min_size=2, max_size=6).map(b"".join),
    st.integers(1, 65535).map(lambda n: header(Type.SUPER)[:1] * n),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(any_data, strides), min_size=1, max_size=4))
@example([(header(Type.SUPER) * 200, [(SOL_UDP, UDP_GRO, struct.pack("=i", 24))])])
@example([(b"\x01" * 65535, [(SOL_UDP, UDP_GRO, struct.pack("=i", 1))])])
def test_any_bytes_in_any_batches_are_counted(arrivals):
    with closing(Pair()) as pair:
        frames = feed(pair.b, *arrivals)
        assert frames == []
        assert accounted(pair.b, frames) >= len(arrivals)
        assert not pair.b.confirmed
        assert not any(seen.opened for seen in pair.b.peers[1].arrivals)


@settings(deadline=None, max_examples=100)
@given(st.randoms(use_true_random=False), st.lists(st.tuples(any_data, strides), max_size=3))
def test_honest_traffic_between_rubbish_arrives(rng, rubbish):
    with closing(Pair()) as pair:
        sent = [udp(payload=pattern(100, i)) for i in range(3)]
        arrivals = [(pair.a.send(packets.plain(packet))[0], []) for packet in sent]
        for item in rubbish:
            arrivals.insert(rng.randint(0, len(arrivals)), item)
        frames = feed(pair.b, *arrivals)
        assert [frame[10:] for frame in frames] == sent


# A hostile peer ----------------------------------------------------------------------------------------

inner = st.one_of(
    st.sampled_from([
        tcp(payload=pattern(200)), udp(payload=pattern(200)), tcp(A6, B6, pattern(200)), udp(A6, B6, b"6"),
        packets.icmp(), tso(pattern(3000), 1000).frame[10:1200], uso(pattern(900), 300).frame[10:400],
        udp("192.168.1.1", B4, b"foreign"), tcp("fd99::1", B6), tcp(A4, B4)[:20], tcp(A6, B6)[:40],
    ]),
    st.binary(max_size=120),
)  # fmt: skip


@st.composite
def bent(draw: st.DrawFn, source: st.SearchStrategy[bytes] = inner) -> bytes:
    """Something like a packet with some bytes changed, or cut."""
    data = bytearray(draw(source))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, min(len(data) - 1, 60)))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


entries = st.lists(
    st.tuples(bent(), st.integers(0, 3), st.integers(0, 0xFFFF), st.booleans()).map(
        lambda t: struct.pack("!HBH", len(t[0]) | 0x8000 * t[3], t[1], t[2]) + t[0]
    ),
    max_size=5,
).map(b"".join)
metas = st.tuples(st.integers(0, 3), st.integers(0, 255), st.integers(0, 0xFFFF)).map(
    lambda t: struct.pack("!BBH", *t)
)
hostile = st.one_of(
    st.tuples(
        st.sampled_from([Type.SUPER, Type.BUNDLE, Type.SINGLE]),
        st.tuples(metas, bent()).map(b"".join),
        st.sampled_from([0, 1, 5, 254, 255]),
        st.sampled_from([0, 1, 2, 3, 255]),
        st.sampled_from([0, 4, 20, 28, 40, 48, 52, 60, 1020]),
    ),
    st.tuples(
        st.just(Type.CONTAINER), st.tuples(metas, st.one_of(entries, bent())).map(b"".join),
        st.just(0), st.just(1), st.just(0),
    ),
    st.tuples(
        st.sampled_from([Type.CONTROL, *Type]), st.binary(max_size=60),
        st.integers(0, 255), st.integers(0, 255), st.sampled_from([0, 40]),
    ),
)  # fmt: skip
counters = st.one_of(st.integers(0, 30), st.integers(0, 0xFFFFFFFF))


@settings(deadline=None, max_examples=300)
@given(offloads, st.lists(st.tuples(counters, hostile), min_size=1, max_size=8), st.booleans())
def test_a_peer_with_the_keys_can_seal_what_it_likes(offload, datagrams, together):
    with closing(Pair(offload=offload)) as pair:
        session = pair.a.sessions[7]
        sealed = [
            seal(session, counter, kind, plaintext, index=index, segments=segments, template_bytes=template)
            for counter, (kind, plaintext, index, segments, template) in datagrams
        ]
        frames = []
        if together and len({len(datagram) for datagram in sealed}) == 1:
            frames += feed(pair.b, (b"".join(sealed), stride_of(sealed)))
        else:
            frames += feed(pair.b, *((datagram, []) for datagram in sealed))
        for _ in range(8):  # unproven, asked for thrice, given up
            pair.clock.now_ns += 50 * MS
            frames += pair.b.settle()
        for frame in frames:
            assert len(frame) <= FRAME_BYTES_MAX
            source = ipaddress.ip_address(source_of(memoryview(frame)[10:]))
            assert any(source in network for network in OWN), "an address that is not its own came in"
        assert pair.b.peers[1].order.held_now == 0


def stride_of(sealed: list[bytes]) -> list:
    return [(SOL_UDP, UDP_GRO, struct.pack("=i", len(sealed[0])))] if len(sealed) > 1 else []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_peer_with_the_keys_cannot_make_the_process_grow(seed):
    """Thousands of datagrams, each of another shape, source, place and size, most of them never in turn."""
    rng = random.Random(seed)
    with closing(Pair()) as pair:
        peer = pair.b.peers[1]
        session = pair.a.sessions[7]
        flood(pair, session, rng, 0, 500)
        tracemalloc.start()
        flood(pair, session, rng, 500, 4000)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peer.order.held_now < 4000
        assert grown < 16 << 20
        assert HELD_BYTES_MAX <= 32 << 20


def flood(pair: Pair, session: Session, rng: random.Random, start: int, stop: int) -> None:
    for counter in range(start, stop):
        source = f"10.1.{rng.randrange(256)}.{rng.randrange(256)}"
        body = struct.pack("!BBH", rng.randrange(256), 0x08, rng.randrange(0x10000))
        packet = tcp(source, B4, bytes(rng.randrange(1, 1200)))
        kind = rng.choice([Type.SINGLE, Type.SUPER])
        datagram = seal(
            session, counter, kind, body + packet, index=rng.randrange(4), segments=4, template_bytes=40
        )
        feed(pair.b, (datagram, []))
        if counter % 20 == 0:
            pair.clock.now_ns += MS
            pair.b.settle()


def test_every_reason_the_receiver_counts_is_of_the_receiver():
    with closing(Pair()) as pair:
        rng = random.Random(3)
        for _ in range(300):
            feed(pair.b, (rng.randbytes(rng.randrange(1, 200)), []))
        assert set(pair.b.drops) <= {
            DropReason.SHORT, DropReason.MALFORMED, DropReason.UNKNOWN_SESSION, DropReason.UNKNOWN_TYPE,
        }  # fmt: skip
