"""The data plane: the process between TUN and UDP. Owns every byte of user traffic and no decision.

Started by sdwan.edge.spawn with everything open (TUN, sockets, board, channel), it drops its
privileges and loops: epoll → outward or inward → channel → counters to the board. It imports neither
bcc, flask nor netlink, reads no file and knows no clock but the monotonic one. When the channel
closes, control is gone and so is this process.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import signal
import socket
import sys
from time import monotonic_ns

import numpy as np

from sdwan.core.classes import READY, ClassSpec
from sdwan.core.classify import Classifier
from sdwan.core.reorder import HeldBytes
from sdwan.core.retransmit import KeptBytes
from sdwan.core.session import Session
from sdwan.edge import channel, sandbox
from sdwan.edge.board import Board
from sdwan.edge.burst import Burst
from sdwan.edge.delivery import Delivery
from sdwan.edge.gate import Gate
from sdwan.edge.inward import Inward
from sdwan.edge.outward import Outward
from sdwan.edge.peer import Peer
from sdwan.edge.posting import Posting
from sdwan.edge.protect import Protector
from sdwan.edge.recover import Recoverer
from sdwan.edge.resending import Resender
from sdwan.errors import ConfigError, KernelError, WireError
from sdwan.io.kernelview import KernelView
from sdwan.io.tun import Offload
from sdwan.io.udp import arrival, departure
from sdwan.model import PATH_PIN, PATHS_PER_PEER, DropReason

# Implementation constants -------------------------------------------------------------------------

BOARD_INTERVAL_NS = 2_000_000
"""Counters reach the board at most this late while traffic flows; reports are made from them."""
WAIT_BUSY_S = 0.001
"""Longest sleep while a packet waits for its turn."""
WAIT_IDLE_S = 0.1


class DataPlane:
    """One site's data plane. ``run`` returns when control hangs up or SIGTERM arrives."""

    def __init__(
        self, tun: int, listeners: list[socket.socket], control: socket.socket, board: Board,
        offload: Offload, *, segmentation: bool, view: KernelView | None = None,
    ) -> None:  # fmt: skip
        self._tun, self._listeners, self._control, self._board = tun, listeners, control, board
        self._peers: dict[int, Peer] = {}
        self._sessions: dict[int, Session] = {}
        self._classes: tuple[ClassSpec, ...] = READY
        self._held_bytes, self._kept_bytes = HeldBytes(), KeptBytes()
        self._drops = [0] * board.total["drops"].shape[1]
        self._posting = Posting(board, self._drops)
        self._running = True
        self._poll = select.epoll()  # now: after the sandbox closes there is no making one
        self._by_descriptor = {sock.fileno(): sock for sock in listeners}
        for descriptor in (tun, control.fileno(), *self._by_descriptor):
            self._poll.register(descriptor, select.EPOLLIN)
        self._outward = Outward(
            tun, segmentation=segmentation, drop=self._drop, want_session=self._want,
            gate=Gate(view) if view else None,
        )  # fmt: skip
        self._delivery = Delivery(tun, offload, drop=self._drop)
        self._resender = Resender(segmentation=segmentation, drop=self._drop)
        self._view = self._resender.view = view
        self._protector = Protector(segmentation=segmentation, drop=self._drop, view=view)
        self._recoverer = Recoverer(self._drop)
        self._inward = Inward(
            sessions=self._sessions,
            peers=self._peers,
            delivery=self._delivery,
            drop=self._drop,
            confirmed=self._confirm,
            plain=self._pass_plain,
            opened=self._pass_opened,
            asked=self._resender.asked,
            recoverer=self._recoverer,
        )
        self._handlers = {
            channel.SetPeer: self._set_peer,
            channel.RemovePeer: self._remove_peer,
            channel.SetEndpoint: self._set_endpoint,
            channel.Install: self._install,
            channel.Retire: self._retire,
            channel.Forget: self._forget,
            channel.SealControl: self._seal_control,
            channel.Suspect: self._suspect,
            channel.SetClasses: self._set_classes,
            channel.SetRecovery: self._set_recovery,
        }

    # the loop ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Move packets until told to stop."""
        by_descriptor = self._by_descriptor
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        board_due_ns = 0
        inward, outward, delivery, tun = self._inward, self._outward, self._delivery, self._tun
        resender, protector = self._resender, self._protector
        while self._running:
            waits = delivery.anything_waits or resender.waiting
            for descriptor, _ in self._wait(WAIT_BUSY_S if waits else WAIT_IDLE_S):
                if descriptor == tun:
                    outward.pump()
                elif descriptor in by_descriptor:
                    inward.pump(by_descriptor[descriptor])
                else:
                    self._listen()
            if outward.is_backlogged:
                outward.drain()
            now_ns = monotonic_ns()
            if waits:
                delivery.settle(now_ns)
                resender.pump(now_ns)
            protector.pump(now_ns)
            if now_ns >= board_due_ns:
                board_due_ns = now_ns + BOARD_INTERVAL_NS
                self._to_board(now_ns)

    def _wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """Return what is ready, at the latest when a path has room or a block must close."""
        if self._protector.is_busy:
            timeout_s = min(timeout_s, max(self._protector.next_ns() - monotonic_ns(), 0) / 1e9)
        if self._outward.is_backlogged:
            # epoll counts in milliseconds; in one of them a gigabit passes 80 datagrams.
            timeout_s = min(timeout_s, max(self._outward.wait_ns(), 0) / 1e9)
            select.select((self._poll,), (), (), timeout_s)
            timeout_s = 0
        return self._poll.poll(timeout_s)

    def stop(self) -> None:
        """End the loop after the present round."""
        self._running = False

    # counters ---------------------------------------------------------------------------------

    def _drop(self, reason: DropReason, count: int) -> None:
        self._drops[reason] += count

    def _to_board(self, now_ns: int) -> None:
        for peer in self._peers.values():
            self._recoverer.settle(peer, now_ns)
            peer.kept.forget_old(now_ns)
        self._posting.post(self._peers.values(), now_ns=now_ns)
        self._posting.post_reads(self._outward.reads, self._delivery.writes)
        self._outward.report(self._board.classes, now_ns=now_ns)

    # to control -------------------------------------------------------------------------------

    def tell(self, message: channel.Message) -> None:
        """Send a message up; when control does not listen, it is dropped (it will ask or retry)."""
        try:
            self._control.send(channel.encode(message))
        except BlockingIOError:
            pass
        except OSError:
            self.stop()

    def _want(self, peer_number: int) -> None:
        self.tell(channel.WantSession(peer_number))

    def _pass_plain(self, burst: Burst, datagram: memoryview) -> None:
        local, ifindex = arrival(burst.ancillary)
        self.tell(channel.Plain(burst.source[:2], local, ifindex, bytes(datagram)))

    def _pass_opened(self, burst: Burst, session: Session, path: int, plaintext: bytes) -> None:
        local, ifindex = arrival(burst.ancillary)
        self.tell(channel.Opened(
            session.peer_number, session.local_index, path, burst.source[:2], local, ifindex, plaintext
        ))  # fmt: skip

    def _confirm(self, session: Session) -> None:
        """The peer has this session's keys: it may seal from now on."""
        self._activate(session)
        self.tell(channel.Confirmed(session.peer_number, session.local_index))

    # from control -----------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take every message control has sent."""
        while self._running:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._control, channel.MESSAGE_BYTES_MAX, 4)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self.stop()
                return
            message = channel.decode(packet)
            if isinstance(message, channel.AddSocket):
                self._add_socket(message, descriptors)
            else:
                self._handlers[type(message)](message)  # type: ignore[operator]

    def _set_peer(self, message: channel.SetPeer) -> None:
        peer = self._peers.get(message.peer)
        if peer is None:
            peer = self._peers[message.peer] = Peer(
                message.peer, self._held_bytes, self._kept_bytes, classes=self._classes,
                lost_on=self._view.lost_of(message.peer) if self._view else None,
            )  # fmt: skip
        peer.datagram_bytes = message.datagram_bytes
        peer.burst_segments = message.burst_segments
        if peer.families != message.families:
            peer.set_families(message.families)
        peer.set_waits(message.hole_wait_us * 1000, message.repair_wait_us * 1000)
        if peer.prefixes != message.prefixes:
            peer.prefixes = message.prefixes
            self._reroute()

    def _remove_peer(self, message: channel.RemovePeer) -> None:
        peer = self._peers.pop(message.peer, None)
        if peer is None:
            return
        peer.forget()
        self._delivery.forget(peer)
        self._resender.forget(peer)
        self._protector.forget(peer)
        self._outward.forget(peer.number)
        for index in [i for i, s in self._sessions.items() if s.peer_number == message.peer]:
            del self._sessions[index]
        for sock in peer.senders.values():
            sock.close()
        self._reroute()

    def _reroute(self) -> None:
        routes = [(prefix, peer) for peer in self._peers.values() for prefix in peer.prefixes]
        self._outward.reroute(routes)
        self._delivery.routes.replace(routes)
        for peer in self._peers.values():
            peer.sources.clear()

    def _add_socket(self, message: channel.AddSocket, descriptors: list[int]) -> None:
        peer = self._peers.get(message.peer)
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            if peer is None:
                sock.close()
            else:
                peer.add_sender(sock)

    def _set_endpoint(self, message: channel.SetEndpoint) -> None:
        peer = self._peers.get(message.peer)
        if peer is not None:
            peer.arrivals[message.path].endpoint = message.address

    def _install(self, message: channel.Install) -> None:
        peer = self._peers.get(message.peer)
        if peer is None:
            return
        session = Session(
            message.peer, message.local_index, message.remote_index, message.send_key, message.receive_key,
            message.incarnation,
        )  # fmt: skip
        self._sessions[message.local_index] = session
        if message.active:
            self._activate(session)

    def _activate(self, session: Session) -> None:
        """Let a session seal. Only now, proven, may a new incarnation displace what the old one left.

        Sessions of the old one go at once: a late datagram of theirs, with its high counter, would move
        the new replay window beyond everything the new process sends.
        """
        session.active = True
        peer = self._peers[session.peer_number]
        if session.incarnation != peer.incarnation:
            for index, other in list(self._sessions.items()):
                is_old = other.peer_number == peer.number and other.incarnation != session.incarnation
                if is_old and (other.active or other.confirmed):
                    del self._sessions[index]
            peer.begin_anew(session.incarnation)
        self._choose_session(peer)

    def _choose_session(self, peer: Peer) -> None:
        """Seal with the newest active session (the table is in the order of installing)."""
        active = [s for s in self._sessions.values() if s.active and s.peer_number == peer.number]
        peer.session = active[-1] if active else None

    def _retire(self, message: channel.Retire) -> None:
        session = self._sessions.get(message.local_index)
        if session is not None:
            session.active, session.confirmed = False, True  # a first datagram does not revive it
            self._choose_session(self._peers[session.peer_number])

    def _forget(self, message: channel.Forget) -> None:
        session = self._sessions.pop(message.local_index, None)
        if session is not None:
            self._choose_session(self._peers[session.peer_number])

    def _set_classes(self, message: channel.SetClasses) -> None:
        try:
            classifier = Classifier.from_json(message.text)
        except ConfigError as error:
            raise WireError(str(error)) from error
        self._classes = classifier.specs
        self._outward.obey(classifier)
        for peer in self._peers.values():
            peer.set_classes(classifier.specs)

    def _set_recovery(self, message: channel.SetRecovery) -> None:
        peer = self._peers.get(message.peer)
        if peer is not None:
            self._protector.obey(peer, message, monotonic_ns())

    def _suspect(self, message: channel.Suspect) -> None:
        peer = self._peers.get(message.peer)
        if peer is not None and message.path < PATHS_PER_PEER:
            self._resender.suspect(peer, message.path, message.sequence, monotonic_ns())

    def _seal_control(self, message: channel.SealControl) -> None:
        peer = self._peers.get(message.peer)
        if peer is None:
            return
        session = self._sessions.get(message.local_index) if message.local_index else peer.session
        if session is None:
            self._drop(DropReason.NO_SESSION, 1)
            return
        datagram = session.seal_control(message.plaintext, message.path_byte)
        try:
            if message.to is None:
                path = message.path_byte - PATH_PIN
                send = peer.sender_of(path) if 0 <= path < PATHS_PER_PEER else peer.send
                send([datagram])
                return
            family = socket.AF_INET6 if ":" in message.to[0] else socket.AF_INET
            listener = next(s for s in self._listeners if s.family == family)
            listener.sendmsg([datagram], departure(message.source, message.ifindex), 0, message.to)
        except (OSError, StopIteration):
            self._drop(DropReason.SEND_FAILED, 1)


def main() -> int:
    """Entry point of the child process; every descriptor is inherited."""
    parser = argparse.ArgumentParser(prog="sdwan data plane")
    parser.add_argument("--tun", type=int, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--board", type=int, required=True)
    parser.add_argument("--peers-max", type=int, required=True)
    parser.add_argument("--listen", type=int, action="append", required=True)
    parser.add_argument("--offload", type=json.loads, required=True)
    parser.add_argument("--view", default="", help="how the kernel's maps are laid out")
    parser.add_argument("--map", type=int, action="append", default=[])
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is control's to handle
    listeners = [socket.socket(fileno=descriptor) for descriptor in options.listen]
    control = socket.socket(fileno=options.control)
    for sock in (*listeners, control):
        sock.setblocking(False)
    offload = dict(options.offload)
    segmentation = offload.pop("segmentation")
    board = Board(options.board, options.peers_max)
    view = KernelView.open(options.view, options.map) if options.view else None
    plane = DataPlane(
        options.tun, listeners, control, board, Offload(**offload), segmentation=segmentation, view=view
    )
    np.seterr(over="ignore")  # counters on the wire wrap
    facts = {"pid": os.getpid(), "sandbox": sandbox.enter(), **options.offload}
    gc.freeze()
    plane.tell(channel.Ready(json.dumps(facts)))
    try:
        plane.run()
    except WireError as error:
        print(f"data plane: control sent what cannot be: {error}", file=sys.stderr)
        return 1
    except KernelError as error:
        print(f"data plane: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
