"""The probe reflector and the clock that times its replies: both ends, with TC and with XDP."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest

from sdwan.core.wire import Type
from sdwan.model import PATH_PIN
from tests.packet.frames import Frame, sums_are_right, unpack
from tests.packet.runner import (
    LOCAL,
    LOCAL6,
    PEER,
    PORT,
    REDIRECT,
    SHOT,
    XDP_DROP,
    XDP_TX,
    Kernel,
    Sent,
    datagram,
)

pytestmark = [pytest.mark.root, pytest.mark.bpf]

RECEIVER = 0xC0FFEE01
TOKEN = 0x1122334455667705
ROW = PEER * 8 + 2


def probe_body(token: int = TOKEN, echo: int = 0, reflected: int = 0) -> bytes:
    return struct.pack("!QII", token, echo, reflected)


class Link:
    """One receiving hook; path 2 leads to the peer."""

    def __init__(self, kernel: Kernel, program: str) -> None:
        self.kernel, self.maps, self.program = kernel, kernel.maps, program
        xdp = program == "sdwan_account_xdp"
        self.reflected, self.gone = (XDP_TX, XDP_DROP) if xdp else (REDIRECT, SHOT)
        kernel.add_path(2)
        kernel.maps.set_receiver(RECEIVER, PEER)

    def receive(self, frame: Frame, **options: int) -> Sent:
        return self.kernel.receive(frame, program=self.program, **options)  # type: ignore[arg-type]

    def drops(self) -> dict[str, int]:
        return {reason.name: count for reason, count in self.maps.drops().items() if count}


@pytest.fixture(params=["sdwan_account", "sdwan_account_xdp"], ids=["tc", "xdp"])
def link(kernel: Kernel, request: pytest.FixtureRequest) -> Link:
    """Give each receiving hook in turn."""
    return Link(kernel, request.param)


def request_from(source: str, port: int = 4602, *, receiver: int = RECEIVER, padding: int = 0) -> Frame:
    ipv6 = ":" in source
    payload = datagram(
        Type.PROBE, path=2, receiver=receiver, sequence=5, time_us=123456, body=probe_body() + bytes(padding)
    )
    return Frame(source, LOCAL6 if ipv6 else LOCAL, port, PORT, payload, ttl=9)


# Reflecting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 1200])
@pytest.mark.parametrize("checksum", ["full", None])
@pytest.mark.parametrize("source", ["10.0.2.2", "fd00::99"], ids=["ipv4", "ipv6"])
def test_a_probe_goes_back_at_once_with_ends_swapped_and_right_sums(link, source, checksum, padding):
    checksum = "full" if ":" in source else checksum  # UDP over IPv6 must have one (RFC 8200, 8.1)
    asked = replace(request_from(source, padding=padding), checksum=checksum)
    now_us = time.monotonic_ns() // 1000
    answer = link.receive(asked)
    assert answer.verdict == link.reflected
    assert (answer.frame.source, answer.frame.destination) == (asked.destination, asked.source)
    assert (answer.frame.source_port, answer.frame.destination_port) == (PORT, 4602)
    assert (answer.data[:6], answer.data[6:12]) == (asked.pack()[6:12], asked.pack()[:6])
    assert sums_are_right(answer.data, checksum)
    assert answer.header.type == Type.PROBE_REPLY
    token, echo, reflected = struct.unpack_from("!QII", answer.frame.payload, 24)
    assert (token, echo) == (TOKEN, 123456)
    assert (reflected - now_us) % 2**32 < 10_000_000
    assert len(answer.data) == len(asked.pack())


def test_the_reply_gets_a_fresh_ttl_which_no_user_data_has(link):
    assert link.receive(request_from("10.0.2.2")).frame.ttl == 63


def test_the_reply_brings_back_what_the_requester_will_match_it_by(link):
    asked = request_from("10.0.2.2")
    payload = asked.payload[:9] + b"\x12\x34" + asked.payload[11:]
    answer = link.receive(replace(asked, payload=payload))
    assert (answer.header.index, answer.header.segments, answer.header.path) == (0x12, 0x34, 2)


def test_a_probe_of_a_validated_endpoint_is_accounted_and_not_limited(link):
    link.maps.config["probe_rate"] = 0
    assert link.receive(request_from("10.0.2.2")).verdict == link.reflected
    stats = link.maps.rx_stats()[ROW]
    assert (stats["datagrams"], stats["probes"]) == (1, 1)
    assert int(link.maps.rx_state[ROW]["next_sequence"]) % 2**32 == 6


@pytest.mark.parametrize("receiver", [RECEIVER, 0, 77], ids=["known receiver", "none", "unknown receiver"])
def test_probes_of_strangers_are_reflected_within_a_limit_for_each_source(link, receiver):
    link.maps.config["probe_rate"] = 10
    asked = request_from("203.0.113.5", receiver=receiver)
    start = time.monotonic()
    answered = sum(link.receive(asked).verdict == link.reflected for _ in range(40))
    assert 10 <= answered <= 11 + 10 * (time.monotonic() - start)
    assert link.drops() == {"PROBE_LIMIT": 40 - answered}
    assert link.receive(request_from("203.0.113.6")).verdict == link.reflected
    assert link.maps.rx_stats()["probes"].sum() == 0


def test_probes_of_strangers_share_the_bucket_of_all_strangers(link):
    link.maps.config["global_rate"] = 5
    answers = [link.receive(request_from(f"203.0.113.{last}")).verdict for last in range(40)]
    assert link.gone in answers
    assert set(link.drops()) == {"FLOOD_GLOBAL"}


def test_probes_that_were_coalesced_are_not_reflected(kernel):
    """They would all have to be answered; a sender that keeps to the rules never sends two at once."""
    link = Link(kernel, "sdwan_account")
    asked = request_from("10.0.2.2")
    frame = replace(asked, payload=asked.payload * 2)
    assert link.receive(frame, segment_bytes=40, segments=2).verdict == SHOT
    assert link.drops() == {"PROBE_LIMIT": 2}


# Timing the replies --------------------------------------------------------------------------------


def send_and_reflect(link: Link) -> Frame:
    """Send a probe out through the entry and give back the reply as the other end would make it."""
    out = link.kernel.steer(datagram(Type.PROBE, path=PATH_PIN | 2, body=probe_body()))
    assert out.verdict == REDIRECT
    sent_us = out.header.send_time_us
    payload = bytearray(out.frame.payload)
    payload[8] = Type.PROBE_REPLY
    payload[24:40] = probe_body(TOKEN, sent_us, 777)
    return Frame("10.0.2.2", LOCAL, 4602, PORT, bytes(payload))


def test_a_reply_is_timed_and_consumed(link):
    before = time.monotonic_ns()
    link.maps.expect_probe(PEER, 2, TOKEN)
    assert link.maps.probe_rtt_us(PEER, 2, TOKEN) is None
    assert link.receive(send_and_reflect(link)).verdict == link.gone
    rtt_us = link.maps.probe_rtt_us(PEER, 2, TOKEN)
    assert rtt_us is not None
    assert 1 <= rtt_us <= (time.monotonic_ns() - before) // 1000 + 1
    assert int(link.maps.probes[ROW]["slot"][TOKEN & 7]["reflect_time_us"]) == 777
    assert link.drops() == {}


def test_a_reply_counts_once(link):
    link.maps.expect_probe(PEER, 2, TOKEN)
    reply = send_and_reflect(link)
    link.receive(reply)
    rtt_us = link.maps.probe_rtt_us(PEER, 2, TOKEN)
    assert link.receive(reply).verdict == link.gone
    assert link.drops() == {"PROBE_STALE": 1}
    assert link.maps.probe_rtt_us(PEER, 2, TOKEN) == rtt_us


@pytest.mark.parametrize(
    ("description", "change"),
    [
        ("a token nobody asked for", {24: TOKEN.to_bytes(8, "big")[:7] + b"\x04"}),
        ("token zero", {24: bytes(8)}),
        ("another path", {1: b"\x03"}),
        ("no path", {1: b"\xff"}),
        ("another peer", {10: bytes([PEER + 1])}),
        ("a peer beyond the maps", {9: b"\xff\xff"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_reply_to_no_probe_of_ours_is_dropped_and_counted(link, description, change):
    link.maps.expect_probe(PEER, 2, TOKEN)
    reply = send_and_reflect(link)
    payload = bytearray(reply.payload)
    for offset, replacement in change.items():
        payload[offset : offset + len(replacement)] = replacement
    assert link.receive(replace(reply, payload=bytes(payload))).verdict == link.gone, description
    assert link.drops() == {"PROBE_STALE": 1}
    assert link.maps.probe_rtt_us(PEER, 2, TOKEN) is None


def test_eight_probes_may_be_outstanding_on_a_path(link):
    tokens = [TOKEN - 5 + low for low in range(8)]
    for token in tokens:
        link.maps.expect_probe(PEER, 2, token)
    reply = send_and_reflect(link)
    for token in tokens:
        payload = reply.payload[:24] + token.to_bytes(8, "big") + reply.payload[32:]
        link.receive(replace(reply, payload=payload))
    assert all(link.maps.probe_rtt_us(PEER, 2, token) for token in tokens)


def test_both_ends_together(link):
    """What steer sends out is what the reflector answers and what the clock accepts."""
    link.maps.expect_probe(PEER, 2, TOKEN)
    out = link.kernel.steer(datagram(Type.PROBE, path=PATH_PIN | 2, body=probe_body()))
    arrives = replace(unpack(out.data), source="10.0.2.2", destination=LOCAL, destination_port=PORT)
    answer = link.receive(arrives)
    assert answer.verdict == link.reflected
    comes_back = replace(answer.frame, source="10.0.2.2", destination=LOCAL, destination_port=PORT)
    assert link.receive(comes_back).verdict == link.gone
    assert link.maps.probe_rtt_us(PEER, 2, TOKEN) is not None
