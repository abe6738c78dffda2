"""The tunnel to one peer: joins sessions, paths, reports, roaming and the schedule. The pure mind of control.

Pure; one ``Tunnel`` per peer, owned by ``sdwan.edge.site``. In come events (something was opened, the
kernel sent something, a link changed, time passed), out come actions (sdwan.core.actions) for the shell to
carry out in order. Nothing here waits, reads a clock or draws a random number by itself, so a pair of
tunnels runs in virtual time in the tests exactly as it runs on the wire.

What is decided where: which session seals, in ``epochs``; whether a path is alive, in ``liveness``; what it
carries, in ``capacity``; how large its packets may be, in ``mtu``; whose address it has, in ``roaming``;
which share it gets, in ``schedule``; what is protected against loss, in ``healing``. This file only carries
news between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sdwan.core import epochs
from sdwan.core.actions import Action, Event, MovePath, SendControl, SetBusy
from sdwan.core.classes import READY, ClassSpec
from sdwan.core.epochs import Epochs
from sdwan.core.handshake import SessionKeys
from sdwan.core.healing import Healing
from sdwan.core.holewait import HoleWait
from sdwan.core.messages import (
    Challenge,
    ChallengeResponse,
    Close,
    Hello,
    Keepalive,
    Message,
    MtuAck,
    MtuProbe,
    Report,
    decode,
    encode,
)
from sdwan.core.path import PPM, Pace, Path, Place
from sdwan.core.probe import Entropy
from sdwan.core.report import Inbound, Reporter
from sdwan.core.roaming import Roaming, Whereabouts
from sdwan.core.schedule import PathView
from sdwan.core.sent import Rows
from sdwan.core.shape import Shape
from sdwan.core.sla import SlaWatch
from sdwan.model import PathState

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
REPORT_PATHS = 2
"""Paths each report travels on: losing one costs nothing."""
REPORT_BYTES = 150
"""On the wire, of a peer with two paths."""
REPORT_COST = 0.01
"""Part of a path's rate that reports may take."""
REPORT_FASTEST_NS = 10 * MILLISECOND_NS
"""Every report interval is a part of every failover's gap: 25 ms were 20 to 30 ms more."""
REPORT_SLOWEST_NS = 100 * MILLISECOND_NS
REPORT_FAST_BPS = 300_000_000
"""Above this a bond is bound by processors, not by links, and reports keep their configured pace."""
HELLO_NS = 30_000 * MILLISECOND_NS
HELLO_AGAIN_NS = 1000 * MILLISECOND_NS
"""After news of a path, for the Hello that told it may be lost."""
RECONNECT_NS = 90_000 * MILLISECOND_NS
"""How long a site that waits for its peer tries to reach it first, after losing the session by itself."""

_U32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of the data plane for one peer, cumulative."""

    next_counter: int = 0
    """Its next DATA counter."""
    repairs: int = 0
    """Received."""
    recovered: int = 0


class Tunnel:
    """All control state about one peer."""

    def __init__(self, *, connects: bool, pace: Pace, entropy: Entropy, now_ns: int) -> None:
        """Begin without a session and without a path.

        Args:
            connects: we number the paths and keep a session up; otherwise we wait for the peer.
            entropy: unpredictable bytes, for tokens and jitter.
        """
        self.connects = connects
        self.pace = pace
        self.epochs = Epochs(connects=connects, entropy=entropy)
        self.paths: dict[int, Path] = {}
        self.roaming = Roaming(entropy=entropy)
        self.reporter = Reporter(interval_ns=pace.report_ns)
        self.hole_wait = HoleWait()
        self.shape = Shape()
        self.specs: Sequence[ClassSpec] = READY
        """The traffic classes, by number."""
        self.sla = SlaWatch()
        self.recovery = Healing()
        self.traffic = Traffic()
        """What the data plane has counted."""
        self._entropy = entropy
        self._report_number: int | None = None
        self._report_ns = 0
        """When the newest report arrived."""
        self._hello_ns = now_ns
        self._reconnect_until_ns = 0

    def set_pace(self, pace: Pace) -> None:
        """Take another rhythm."""
        self.pace = pace
        self.reporter.interval_ns = pace.report_ns
        for path in self.paths.values():
            path.pace = pace

    # Sessions ---------------------------------------------------------------------------------------

    def on_established(self, keys: SessionKeys, *, now_ns: int) -> list[Action]:
        """Take the keys of a completed handshake."""
        actions = self._of_epochs(self.epochs.on_established(keys, now_ns=now_ns))
        return actions + (self._hellos(now_ns) if keys.initiator else [])

    def on_confirmed(self, local_index: int, *, now_ns: int) -> list[Action]:
        """Note that the peer has shown to have the keys of this session."""
        before = self.epochs.sealing
        actions = self._of_epochs(self.epochs.on_confirmed(local_index, now_ns=now_ns))
        sealing = self.epochs.sealing
        if sealing is None or sealing is before:
            return actions
        return actions + self._hellos(now_ns)

    def on_wanted(self, *, now_ns: int) -> list[Action]:
        """Note that traffic waits for a session, or that the one there is nears its counter limit."""
        self.epochs.on_wanted()
        return self._of_epochs(self.epochs.on_timer(now_ns=now_ns))

    def restart(self, *, now_ns: int) -> list[Action]:
        """Forget sessions and counters because our data plane is another process now; keep the paths."""
        self.reporter = Reporter(interval_ns=self.pace.report_ns)
        self.roaming.forget()
        self.shape.tell_again()
        self.recovery.restart()
        self._report_number = None
        for path in self.paths.values():
            path.sent.forget()
        if self.paths and not self.connects:
            # The peer cannot know that its session is gone here; we know where it was a moment ago.
            self.epochs.connects = True
            self._reconnect_until_ns = now_ns + RECONNECT_NS
        return self._of_epochs(self.epochs.restart())

    def close(self) -> list[Action]:
        """Say goodbye on the paths reports travel on."""
        if self.epochs.sealing is None:
            return []
        return [SendControl(encode(Close(path.number)), path=path.number) for path in self._best_paths()]

    # Paths ------------------------------------------------------------------------------------------

    def set_place(
        self, number: int, place: Place, *, now_ns: int, remembered_bps: int | None = None
    ) -> list[Action]:
        """Create a path, or tell it where it leads now and how its link is."""
        path = self.paths.get(number)
        if path is None:
            path = self.paths[number] = Path(
                number, place, pace=self.pace, entropy=self._entropy, now_ns=now_ns,
                remembered_bps=remembered_bps,
            )  # fmt: skip
            path.on_place(place, now_ns=now_ns)
            return self._hello(path) + self._reshape()
        before = path.state
        is_news = place != path.place
        path.on_place(place, now_ns=now_ns)
        actions = path.changed(before, now_ns=now_ns) + self._reshape()
        if is_news:
            self._hello_ns = min(self._hello_ns, now_ns + HELLO_AGAIN_NS - HELLO_NS)
            actions = self._hello(path) + actions
        return actions

    def remove_path(self, number: int) -> list[Action]:
        """Forget a path."""
        if self.paths.pop(number, None) is None:
            return []
        self.shape.forget(number)
        self.recovery.forget(number)
        return self._reshape()

    # What arrived -----------------------------------------------------------------------------------

    def on_opened(
        self, path_number: int, whereabouts: Whereabouts, plaintext: bytes, *, now_ns: int
    ) -> list[Action]:
        """Take an opened CONTROL message, or (empty) word that data came from a new address.

        Args:
            path_number: the path byte of its header; not authenticated, so it only leads to a challenge.

        Raises:
            WireError: the plaintext is no control message.
        """
        message = decode(plaintext) if plaintext else None
        actions: list[Action] = []
        if not isinstance(message, ChallengeResponse):
            actions += self._on_seen(path_number, whereabouts, now_ns)
        return actions + (self._on_message(message, whereabouts, now_ns) if message else [])

    def on_inbound(self, inbound: Sequence[Inbound], traffic: Traffic, *, now_ns: int) -> list[Action]:
        """Take the counters of what was opened, per path, and of what passed through the data plane."""
        self.traffic = traffic
        self.reporter.on_inbound(inbound)
        return self._reshape() if self.hole_wait.on_inbound(inbound, now_ns=now_ns) else []

    def on_sent(self, sends: Mapping[int, Rows]) -> None:
        """Take what was sent, by path (sdwan.core.sent.split)."""
        self.recovery.on_sent(sends)
        for number, records in sends.items():
            path = self.paths.get(number)
            if path is not None:
                path.sent.note(records)

    def on_probe_reply(self, path_number: int, token: int, rtt_ns: int) -> None:
        """Take the round trip time the kernel noted for a probe."""
        path = self.paths.get(path_number)
        if path is not None:
            path.prober.on_reply(token, rtt_ns)

    # Time -------------------------------------------------------------------------------------------

    def next_timer_ns(self, now_ns: int) -> int:
        """Return when ``on_timer`` is next due."""
        due = [self.epochs.next_timer_ns()]
        if self.epochs.sealing is not None:
            due += [self.reporter.next_timer_ns(), self._hello_ns + HELLO_NS]
            due += [
                path.next_timer_ns(report_ns=self._report_ns, now_ns=now_ns) for path in self.paths.values()
            ]
        return min((moment for moment in due if moment is not None), default=now_ns + HELLO_NS)

    def on_timer(self, *, now_ns: int) -> list[Action]:
        """Do what is due."""
        self._seek(now_ns)
        actions = self._of_epochs(self.epochs.on_timer(now_ns=now_ns))
        if self.epochs.sealing is None:
            return actions
        report_ns = self.reporter.next_timer_ns()
        if report_ns is not None and report_ns <= now_ns:
            actions += self._report(now_ns)
        if now_ns >= self._hello_ns + HELLO_NS:
            actions += self._hellos(now_ns)
        for path in self.paths.values():
            before = path.state
            actions += path.on_timer(
                next_counter=self.traffic.next_counter, report_ns=self._report_ns, now_ns=now_ns
            )
            actions += path.changed(before, now_ns=now_ns)
        actions += self.recovery.update(self.paths.values(), self.specs, now_ns=now_ns)
        return actions + self._judge_and_reshape(now_ns)

    def _seek(self, now_ns: int) -> None:
        """Begin a new handshake when the peer is silent on every path: perhaps it has no session any more."""
        if not self.connects:
            is_over = self.epochs.sealing is not None or now_ns > self._reconnect_until_ns
            self.epochs.connects = self.epochs.connects and not is_over
            return
        usable = [path.state for path in self.paths.values() if path.place.link_up]
        if usable and all(state is PathState.DOWN for state in usable):
            self.epochs.on_wanted()

    # How: messages ----------------------------------------------------------------------------------

    def _on_seen(self, path_number: int, whereabouts: Whereabouts, now_ns: int) -> list[Action]:
        """Challenge a new address; a site that numbers the paths itself learns no new ones."""
        path = self.paths.get(path_number)
        if path is None and self.connects:
            return []
        if path is not None and path.place.whereabouts.remote == whereabouts.remote:
            return []
        token = self.roaming.on_seen(path_number, whereabouts, now_ns=now_ns)
        if token is None:
            return []
        return [SendControl(encode(Challenge(path_number, token)), path=path_number, to=whereabouts)]

    def _on_message(self, message: Message, whereabouts: Whereabouts, now_ns: int) -> list[Action]:
        path = self.paths.get(message.path)
        match message:
            case Report():
                return self._on_report(message, now_ns)
            case Close():
                closed: list[Action] = [Event("peer_closed")]
                return closed + self._of_epochs(self.epochs.on_closed(now_ns=now_ns))
            case MtuProbe(number, size_bytes, count):
                return [SendControl(encode(MtuAck(number, size_bytes, count)))]
            case ChallengeResponse(number, token):
                if not self.roaming.on_response(number, token, whereabouts, now_ns=now_ns):
                    return []
                return [MovePath(number, whereabouts)]
            case Challenge(number, token) if path is not None:
                return [SendControl(encode(ChallengeResponse(number, token)), path=number)]
            case Hello() if path is not None:
                path.on_hello(message)
                return self._reshape()
            case MtuAck(_, size_bytes, _) if path is not None:
                path.mtu.on_ack(size_bytes, now_ns=now_ns)
                return self._reshape()
        return []

    def _on_report(self, report: Report, now_ns: int) -> list[Action]:
        self.reporter.on_report_received()
        known = self._report_number
        if known is not None and not 0 < (report.number - known) & _U32 <= _U32 >> 1:
            return []  # its twin on another path was faster
        self._report_number = report.number
        self._report_ns = now_ns
        rows = [(self.paths[row.path], row) for row in report.paths if row.path in self.paths]
        overdue = {path.number for path, row in rows if path.on_named(row)}
        in_use = {path.number for path in self.paths.values() if path.state is PathState.UP}
        if overdue == in_use:
            overdue = set()
        actions = self.recovery.on_outcome(report.repairs, report.recovered, self.specs, now_ns=now_ns)
        has_learned = False
        for path, row in rows:
            before = path.state
            self.recovery.on_report(row)
            if path.on_report(row, is_suspect=path.number in overdue, now_ns=now_ns):
                has_learned = True
                if path.estimator.until_ns is not None:
                    actions.append(SetBusy(path.number, path.estimator.until_ns))
            actions += path.changed(before, now_ns=now_ns)
        if has_learned:
            return actions + self._judge_and_reshape(now_ns)
        return actions + (self._reshape() if actions else [])

    def _report(self, now_ns: int) -> list[Action]:
        now = self.traffic
        report = self.reporter.make(
            next_counter=now.next_counter, now_ns=now_ns, repairs=now.repairs, recovered=now.recovered
        )
        best = self._best_paths()
        self.reporter.interval_ns = self._report_interval_ns(best)
        return [
            SendControl(
                encode(replace(report, path=path.number)),
                path=path.number,
            )
            for path in best
        ]

    def _report_interval_ns(self, best: Sequence[Path]) -> int:
        """Return how often to report: as often as a hundredth of the slowest path pays for, within bounds."""
        rates_bps = [path.estimator.capacity_bps for path in best]
        if not rates_bps or sum(rates_bps) > REPORT_FAST_BPS:
            return self.pace.report_ns
        affordable_ns = int(REPORT_BYTES * 8 * 10**9 / (REPORT_COST * min(rates_bps)))
        return min(max(affordable_ns, REPORT_FASTEST_NS), REPORT_SLOWEST_NS)

    def _hellos(self, now_ns: int) -> list[Action]:
        self._hello_ns = now_ns
        return [action for path in self.paths.values() for action in self._hello(path)]

    def _hello(self, path: Path) -> list[Action]:
        if self.epochs.sealing is None or not path.place.link_up:
            return []
        place = path.place
        hello = Hello(
            path.number, place.rate_down_bps or 0, min(round(place.weight * PPM), _U32),
            place.metered, place.is_backup, place.is_used_up,
        )  # fmt: skip
        return [SendControl(encode(hello), path=path.number)]

    def _of_epochs(self, wanted: Iterable[epochs.Action]) -> list[Action]:
        """Pass the actions of the sessions on; a keepalive becomes a message, a new session a line."""
        actions: list[Action] = []
        for action in wanted:
            if isinstance(action, epochs.SendKeepalive):
                keepalive = encode(Keepalive(0, self.traffic.next_counter))
                actions.append(SendControl(keepalive, local_index=action.local_index))
                continue
            if isinstance(action, epochs.Install):
                self._report_number = None
            actions.append(action)
        return actions

    # How: the schedule ------------------------------------------------------------------------------

    def _best_paths(self) -> list[Path]:
        """Return the paths reports travel on: the fastest UP ones, others only for want of those."""
        usable = [path for path in self.paths.values() if path.place.link_up]
        far_ns = REPORT_SLOWEST_NS * 100
        usable.sort(key=lambda path: (path.state is not PathState.UP, path.rtt_ns or far_ns))
        return usable[:REPORT_PATHS]

    def _views(self) -> list[PathView]:
        return [path.view() for path in self.paths.values()]

    def _reshape(self, views: Sequence[PathView] | None = None) -> list[Action]:
        """Return what changed in shares, sizes and waits."""
        return self.shape.update(
            self.paths.values(),
            self._views() if views is None else views,
            self.specs,
            self.sla,
            hole_wait_us=self.hole_wait.wait_us,
        )

    def _judge_and_reshape(self, now_ns: int) -> list[Action]:
        """Take paths from classes whose limits they break, give them back, and return what follows."""
        views = self._views()
        verdicts = self.sla.update(views, self.specs, now_ns=now_ns)
        events: list[Action] = [
            Event("sla", {"path": verdict.path, "link": verdict.link, "reason": verdict.reason})
            for verdict in verdicts
        ]
        return events + self._reshape(views)
