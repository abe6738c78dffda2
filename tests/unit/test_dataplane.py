"""The data-plane process: what control tells it and it tells control, seen through its descriptors alone."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator

import pytest

from sdwan.core import messages
from sdwan.core.classes import INTERACTIVE
from sdwan.core.classify import Classifier
from sdwan.core.session import Session
from sdwan.core.wire import Header, Type
from sdwan.edge import channel
from sdwan.model import DropReason
from tests.unit import packets
from tests.unit.packets import A4, B4, pattern, plain, tso, udp
from tests.unit.plane_world import Child, carry, loopback, until
from tests.unit.walk import KEYS, PREFIXES, Road, header, packets_of

OLD, NEW, RECORDED = 11, 12, 13
"""Incarnations of a peer's data plane."""


@pytest.fixture
def child() -> Iterator[Child]:
    """Site b, whose peer a is played by the test."""
    child = Child()
    child.hear(channel.Ready)
    child.set_up(*PREFIXES["a"])
    yield child
    child.close()


@pytest.fixture
def sites(child: Child) -> Iterator[tuple[Child, Child]]:
    """Two processes, a and b, with a session between them."""
    a = Child()
    a.hear(channel.Ready)
    a.set_up(*PREFIXES["b"])
    a.tell(channel.Install(1, 7, 9, True, OLD, *KEYS))
    child.tell(channel.Install(1, 9, 7, True, OLD, *reversed(KEYS)))
    a.obeyed()
    child.obeyed()
    yield a, child
    a.close()


class PeerA:
    """The far site, played by the test: seals single packets under a session of its own."""

    def __init__(self, local_index: int, remote_index: int, keys: tuple[bytes, bytes] = KEYS) -> None:
        self.session = Session(1, local_index, remote_index, *keys)
        self.counter = 0
        self.road = Road()

    def single(self, packet: bytes, counter: int | None = None) -> bytes:
        """Seal one packet; bucket 0, in sequence with the counter."""
        if counter is not None:
            self.counter = counter
        head = header(Type.SINGLE, self.session.remote_index, counter=self.counter)
        body = bytearray(4 + len(packet) + 16)
        plaintext = bytes([0, 0]) + (self.counter & 0xFFFF).to_bytes(2, "big") + packet
        self.session.seal_into(head[4:16], plaintext, None, body)
        self.counter += 1
        return self.road.stamp(head + bytes(body))


def install(child: Child, local: int, incarnation: int, *, active: bool, remote: int = 0) -> PeerA:
    """Install a session at ``child`` with keys of its own; return the far end of it."""
    keys = (bytes([local]) * 32, bytes([local ^ 0xFF]) * 32)
    child.tell(channel.Install(1, local, remote or local + 100, active, incarnation, *reversed(keys)))
    child.obeyed()
    return PeerA(remote or local + 100, local, keys)


# Coming up and going down ------------------------------------------------------------------------


def test_it_says_that_it_is_ready_and_what_it_gave_up():
    child = Child()
    facts = json.loads(child.hear(channel.Ready).facts)
    assert facts["pid"] == child.process.pid
    assert "seccomp" in facts["sandbox"]
    assert facts["tcp"] is True
    child.close()


def test_it_ends_when_control_hangs_up():
    child = Child()
    child.hear(channel.Ready)
    child.channel.close()
    assert child.end() == (0, "")


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 0)])
def test_it_ends_when_asked_to(child, sign, code):
    child.process.send_signal(sign)
    assert child.end() == (code, "")


def test_an_interrupt_at_the_terminal_is_control_s_to_handle(child):
    child.process.send_signal(signal.SIGINT)
    peer = install(child, 9, OLD, active=True)
    child.receive(peer.single(udp()))
    assert packets_of(child.written()) == [udp()]


def test_what_control_cannot_have_meant_ends_it_with_one_sentence(child):
    child.channel.send(b"\xff\x00\x00")
    code, words = child.end()
    assert code == 1
    assert words.startswith("data plane: control sent what cannot be")
    assert len(words.splitlines()) == 1


# Traffic -----------------------------------------------------------------------------------------


def test_super_packets_cross_both_ways(sites):
    a, b = sites
    there, back = tso(pattern(9000), 1000), tso(pattern(5000), 1000, source=B4, destination=A4)
    a.tun.put(there.frame)
    carry(a, b, 9, Road())
    b.tun.put(back.frame)
    carry(b, a, 5, Road())
    came, came_back = [], []
    while len(came) < 9:
        came += packets_of(b.written())
    while len(came_back) < 5:
        came_back += packets_of(a.written())
    assert (came, came_back) == (there.packets, back.packets)


def test_the_board_tells_what_happened(sites):
    a, b = sites
    a.tun.put(tso(pattern(9000), 1000).frame)
    datagrams = carry(a, b, 9, Road(path=2, sequence=50))
    assert a.counted("tx_packets", 9) == a.counted("tx_datagrams", 9) == a.counted("next_counter", 9) == 9
    assert a.counted("tx_bytes", 1) == 9040
    assert b.counted("rx_packets", 9) == 9
    seen = b.board.paths[1 * 8 + 2]
    assert (seen["opened"], seen["opened_bytes"]) == (9, sum(map(len, datagrams)))
    assert (seen["last_sequence"], seen["last_send_us"]) == (58, 580)
    assert seen["last_ns"] > 0
    assert b.board.total[0]["heartbeat_ns"] > 0
    assert a.board.total[0]["tun_reads"] == 1


def test_a_packet_that_waits_is_delivered_when_time_is_up(child):
    peer = install(child, 9, OLD, active=True)
    child.receive(peer.single(udp(payload=b"0")), peer.single(udp(payload=b"2"), counter=2))
    assert packets_of(child.written(2)) == [udp(payload=b"0"), udp(payload=b"2")]
    assert child.counted("holes_expired", 1) == 1


def test_traffic_without_a_session_asks_for_one(child):
    child.tun.put(plain(udp(B4, A4)))
    assert child.hear(channel.WantSession) == channel.WantSession(1)
    assert child.drops(DropReason.NO_SESSION) == 1


# Classes -----------------------------------------------------------------------------------------


def test_classes_and_rules_apply_to_the_next_packet(child):
    """UDP to port 53 is interactive by the ready rules; before they are told, everything is class 0."""
    install(child, 9, OLD, active=True)
    for policy, wanted in (("", 0), (Classifier().to_json(), INTERACTIVE)):
        if policy:
            child.tell(channel.SetClasses(policy))
            child.obeyed()
        child.tun.put(plain(udp(B4, A4)))
        assert Header.unpack(child.sent()[0]).class_flags == wanted
    until(lambda: child.board.classes[1 * 8 + INTERACTIVE]["tx_packets"] == 1, "the class on the board")
    assert child.board.classes[1 * 8]["tx_packets"] == 1


def test_a_policy_that_cannot_be_ends_it_with_one_sentence(child):
    child.tell(channel.SetClasses("{}"))
    code, words = child.end()
    assert code == 1
    assert len(words.splitlines()) == 1


# Sessions ----------------------------------------------------------------------------------------


def test_the_first_opened_datagram_is_told_and_lets_the_session_seal(child):
    peer = install(child, 9, OLD, active=False)
    child.tun.put(plain(udp(B4, A4)))
    child.hear(channel.WantSession)
    child.receive(peer.single(udp()), peer.single(udp()))
    assert child.hear(channel.Confirmed) == channel.Confirmed(1, 9)
    child.tun.put(plain(udp(B4, A4)))
    assert Header.unpack(child.sent()[0]).receiver == peer.session.local_index
    assert not [m for m in child.listen() if isinstance(m, channel.Confirmed)], "once"


def receiver_of_next(child: Child) -> int:
    """Let the child send a packet; return the receiver index it seals for."""
    child.tun.put(plain(udp(B4, A4)))
    return Header.unpack(child.sent()[0]).receiver


def test_the_newest_active_session_seals_until_it_retires(child):
    old, new = install(child, 9, OLD, active=True), install(child, 10, OLD, active=True)
    assert receiver_of_next(child) == new.session.local_index
    child.tell(channel.Retire(10))
    child.obeyed()
    assert receiver_of_next(child) == old.session.local_index
    child.receive(new.single(udp()))
    assert packets_of(child.written()) == [udp()], "a retired session still opens"
    assert receiver_of_next(child) == old.session.local_index, "and is not revived by that"


def test_a_confirmation_does_not_turn_back_to_an_older_session(child):
    old, new = install(child, 9, OLD, active=False), install(child, 10, OLD, active=True)
    child.receive(old.single(udp()))
    child.hear(channel.Confirmed)
    assert receiver_of_next(child) == new.session.local_index


def test_after_the_last_session_is_forgotten_nothing_is_sealed_or_opened(child):
    peer = install(child, 9, OLD, active=True)
    child.tell(channel.Forget(9))
    child.tell(channel.Forget(9))
    child.obeyed()
    child.receive(peer.single(udp()))
    child.drops(DropReason.UNKNOWN_SESSION)
    child.tun.put(plain(udp(B4, A4)))
    child.drops(DropReason.NO_SESSION)


# Incarnations ------------------------------------------------------------------------------------


def test_a_candidate_displaces_nothing(child):
    """An INIT recorded long ago makes a session whose keys nobody has; traffic must not notice."""
    peer = install(child, 9, OLD, active=True)
    first = peer.single(udp(payload=b"first"))
    child.receive(first)
    child.written()
    install(child, 10, RECORDED, active=False)
    child.receive(first, peer.single(udp(payload=b"second")))
    assert packets_of(child.written()) == [udp(payload=b"second")]
    assert child.drops(DropReason.REPLAYED) == 1, "the replay window must have survived"
    assert receiver_of_next(child) == peer.session.local_index


def test_a_peer_that_began_anew_counts_from_zero_again(child):
    old = install(child, 9, OLD, active=True)
    child.receive(old.single(udp(payload=b"old"), counter=5_000_000))
    child.written()
    new = install(child, 10, NEW, active=False)
    child.receive(*(new.single(udp(payload=bytes([n]))) for n in range(3)))
    assert packets_of(child.written(3)) == [udp(payload=bytes([n])) for n in range(3)]
    assert receiver_of_next(child) == new.session.local_index


def test_a_late_datagram_of_the_former_incarnation_does_not_shut_out_the_new_one(child):
    old = install(child, 9, OLD, active=True)
    child.receive(old.single(udp(payload=b"old"), counter=5_000_000))
    child.written()
    new = install(child, 10, NEW, active=True)
    child.receive(new.single(udp(payload=b"0")), old.single(udp(payload=b"late")))
    child.receive(new.single(udp(payload=b"1")))
    assert packets_of(child.written(2)) == [udp(payload=b"0"), udp(payload=b"1")]
    assert child.drops(DropReason.UNKNOWN_SESSION) == 1


def test_a_new_session_of_the_same_incarnation_goes_on_counting(child):
    first = install(child, 9, OLD, active=True)
    child.receive(first.single(udp(payload=b"0")))
    second = install(child, 10, OLD, active=True)
    child.receive(second.single(udp(payload=b"again"), counter=0))
    child.drops(DropReason.REPLAYED)
    child.receive(second.single(udp(payload=b"1"), counter=1))
    assert packets_of(child.written(2)) == [udp(payload=b"0"), udp(payload=b"1")]


# What goes up and comes down ---------------------------------------------------------------------


def test_handshake_datagrams_go_up_with_the_way_they_came(child):
    datagram = header(Type.INIT, receiver=0) + bytes(148)
    child.receive(datagram)
    up = child.hear(channel.Plain)
    assert (up.source, up.local, up.datagram) == (child.link.getsockname(), "127.0.0.1", datagram)
    assert up.ifindex == socket.if_nametoindex("lo")


@pytest.mark.parametrize("path_byte", [0xFF, 0x83])
def test_control_is_sealed_for_the_entry_and_opened_at_the_other_side(sites, path_byte):
    a, b = sites
    text = messages.encode(messages.Keepalive(3, 0))
    a.tell(channel.SealControl(1, 0, path_byte, None, "", 0, text))
    (datagram,) = a.sent()
    assert Header.unpack(datagram).path == path_byte
    b.tell(channel.SetEndpoint(1, 3, b.link.getsockname()))
    b.obeyed()
    b.receive(Road(3).stamp(datagram))
    up = b.hear(channel.Opened)
    assert (up.peer, up.local_index, up.path, up.plaintext) == (1, 9, 3, text)
    assert (up.source, up.local) == (b.link.getsockname(), "127.0.0.1")


def test_control_to_an_unproven_address_leaves_directly(child):
    peer = install(child, 9, OLD, active=False)
    with loopback() as elsewhere:
        elsewhere.setblocking(True)
        elsewhere.settimeout(10)
        to = elsewhere.getsockname()
        child.tell(channel.SealControl(1, 9, 0xFF, to, "127.0.0.1", 0, b"\x07\x00"))
        datagram, source = elsewhere.recvfrom(2048)
    assert source == child.address
    assert Header.unpack(datagram).receiver == peer.session.local_index
    assert bytes(peer.session.open_control(memoryview(datagram))) == b"\x07\x00"


def test_a_new_address_is_told_once_in_a_while_and_a_known_one_never(child):
    peer = install(child, 9, OLD, active=True)
    child.tell(channel.SetEndpoint(1, 0, child.link.getsockname()))
    child.obeyed()
    child.receive(peer.single(udp()))
    child.written()
    assert not [m for m in child.listen() if isinstance(m, channel.Opened)]
    with loopback() as elsewhere:
        child.receive(peer.single(udp()), peer.single(udp()), source=elsewhere)
        up = child.hear(channel.Opened)
        assert (up.path, up.source, up.plaintext) == (0, elsewhere.getsockname(), b"")
        child.written()
    assert not [m for m in child.listen() if isinstance(m, channel.Opened)]


# Peers -------------------------------------------------------------------------------------------


def test_a_removed_peer_is_gone_with_its_sessions(child):
    peer = install(child, 9, OLD, active=True)
    child.tell(channel.RemovePeer(1))
    child.tell(channel.RemovePeer(1))
    child.obeyed()
    child.receive(peer.single(udp()))
    child.drops(DropReason.UNKNOWN_SESSION)
    child.tun.put(plain(udp(B4, A4)))
    child.drops(DropReason.NO_ROUTE)


def test_new_prefixes_count_from_the_next_packet(child):
    peer = install(child, 9, OLD, active=True)
    child.receive(peer.single(udp()))
    child.written()
    child.tell(channel.SetPeer(1, 1472, 44, 20_000, ("10.9.0.0/16",)))
    child.obeyed()
    child.tun.put(plain(udp(B4, A4)))
    child.drops(DropReason.NO_ROUTE)
    child.receive(peer.single(udp()))
    child.drops(DropReason.INNER_SOURCE)
    child.receive(peer.single(udp("10.9.0.1", B4)))
    assert packets_of(child.written()) == [udp("10.9.0.1", B4)]


def test_messages_about_peers_nobody_knows_are_harmless(child):
    child.tell(channel.Install(3, 99, 98, True, OLD, *KEYS))
    child.tell(channel.SetEndpoint(3, 0, ("127.0.0.1", 9)))
    child.tell(channel.Retire(99))
    child.tell(channel.SealControl(3, 0, 0xFF, None, "", 0, b"\0\0"))
    with loopback() as sock:
        child.tell(channel.AddSocket(3, socket.AF_INET), sock.fileno())
    child.tell(channel.SealControl(1, 0, 0xFF, None, "", 0, b"\0\0"))
    assert child.drops(DropReason.NO_SESSION) == 1, "peer 1 is known, but has no session"


def test_without_offload_a_super_packet_is_written_packet_by_packet():
    child = Child(offload=False)
    child.hear(channel.Ready)
    child.set_up(*PREFIXES["a"])
    a = Child()
    a.hear(channel.Ready)
    a.set_up(*PREFIXES["b"])
    a.tell(channel.Install(1, 7, 9, True, OLD, *KEYS))
    child.tell(channel.Install(1, 9, 7, True, OLD, *reversed(KEYS)))
    a.obeyed()
    child.obeyed()
    whole = tso(pattern(4500), 1000)
    a.tun.put(whole.frame)
    carry(a, child, 5, Road())
    frames = child.written(5)
    assert [frame[:10] for frame in frames] == [bytes(10)] * 5
    assert packets_of(frames) == whole.packets
    assert all(map(packets.is_sound, packets_of(frames)))
    a.close()
    child.close()
