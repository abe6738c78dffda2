"""One path of one peer: where it leads, and everything that is measured of it.

Pure. A ``Path`` owns its parts (``liveness``, ``prober``, ``mtu``, ``estimator``, ``sent``) and passes each
event to those it concerns; what they ask for comes out as actions. ``sdwan.core.tunnel`` owns the paths of
a peer.

Pace of the probes: fast while the path is suspect, the configured interval while traffic flows or flowed
lately, and slow otherwise, slowest on metered links.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdwan.core.actions import Action, Event, Resend, SendControl, SendProbe
from sdwan.core.capacity import Estimator
from sdwan.core.counts import Counts
from sdwan.core.liveness import Liveness
from sdwan.core.messages import Hello, Keepalive, MtuProbe, PathReport, encode
from sdwan.core.mtu import MtuSearch
from sdwan.core.probe import Entropy, Prober
from sdwan.core.roaming import Whereabouts
from sdwan.core.schedule import PathView
from sdwan.core.sent import Point, SentLog
from sdwan.core.wire import HEADER_BYTES, TAG_BYTES, widen
from sdwan.model import PathState

# Specification constants -------------------------------------------------------------------------

OUTER_HEADERS_BYTES = {False: 20 + 8, True: 40 + 8}
"""IP and UDP, by "is IPv6"."""

PPM = 1_000_000

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
SUSPECT_PROBE_NS = 40 * MILLISECOND_NS
IDLE_NS = 10_000 * MILLISECOND_NS
"""A path counts as busy this long after its last DATA: a pause in a call is not the end of it."""
ANSWER_NS = 500 * MILLISECOND_NS
"""What an answer to a keepalive may take beyond the round trip: ten of the peer's report intervals."""
IDLE_STRETCH = 10
"""Idle paths are probed at a tenth of the pace: a hub has hundreds of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads, over which link, and what the operator wants of it."""

    whereabouts: Whereabouts
    link: str
    link_up: bool
    link_mtu: int
    metered: bool = False
    weight: float = 1.0
    rate_up_bps: int | None = None
    rate_down_bps: int | None = None
    is_backup: bool = False
    """Only when no other link is usable."""
    is_used_up: bool = False
    """Its quota of the month is spent."""

    @property
    def ipv6(self) -> bool:
        """The outer packets are IPv6."""
        return ":" in self.whereabouts.remote[0]


@dataclass(frozen=True, slots=True)
class Pace:
    """Rhythm of the control loop, from the configuration."""

    report_ns: int = 25 * MILLISECOND_NS
    probe_ns: int = 100 * MILLISECOND_NS
    quiet_probe_ns: int = 10_000 * MILLISECOND_NS
    keepalive_ns: int = 25_000 * MILLISECOND_NS


class Path:
    """One path: its place and its measurements."""

    def __init__(
        self,
        number: int,
        place: Place,
        *,
        pace: Pace,
        entropy: Entropy,
        now_ns: int,
        remembered_bps: int | None = None,
    ) -> None:
        """Begin; ``remembered_bps`` is what the path was found to carry before the last restart."""
        self.number = number
        self.place = place
        self.pace = pace
        self.sent = SentLog()
        self.liveness = Liveness(link_up=place.link_up, now_ns=now_ns)
        self.prober = Prober(entropy=entropy, now_ns=now_ns)
        self.mtu = MtuSearch(ipv6=place.ipv6, link_mtu=place.link_mtu, now_ns=now_ns)
        self.estimator = Estimator(start_bps=remembered_bps or place.rate_up_bps, cap_bps=place.rate_up_bps)
        self.counts = Counts(ipv6=place.ipv6)
        self.peer_word = Hello(number, receive_rate_bps=0, weight_ppm=PPM)
        """What the peer said last about this path."""
        self.jitter_ns = 0
        """Of the outward direction, as the peer measures it."""
        self._keepalive_ns = now_ns
        """When something was last sealed for this path alone."""
        self._point: Point | None = None
        """The datagram the newest report names, if that is news."""
        self._reported = -1
        """The highest link sequence a report named (64 bits)."""
        self._unanswered: tuple[int, int] | None = None
        """A keepalive no report has named yet: its time, and the path's next link sequence before it."""

    @property
    def state(self) -> PathState:
        """Its state in the sending direction."""
        return self.liveness.state

    @property
    def rtt_ns(self) -> int | None:
        """Smoothed round trip time; None before the first."""
        return self.prober.rtt.smoothed_ns

    @property
    def peer_weight_ppm(self) -> int:
        """The peer's preference, 1,000,000 = normal."""
        return self.peer_word.weight_ppm

    @property
    def is_metered(self) -> bool:
        """Each byte costs, at one end or the other."""
        return self.place.metered or self.peer_word.is_metered

    def is_busy(self, now_ns: int) -> bool:
        """Tell whether it carries user traffic, or did until lately."""
        return bool(self.sent.last_due_ns) and now_ns - self.sent.last_due_ns < IDLE_NS

    def view(self) -> PathView:
        """Return what the schedule needs."""
        base_ns = self.estimator.base_delay_ns
        return PathView(
            path=self.number,
            state=self.state,
            link_up=self.place.link_up,
            preference=self.place.weight * self.peer_weight_ppm / PPM,
            capacity_bps=self.estimator.capacity_bps,
            delivered_bps=self.estimator.delivered_bps,
            loss_ppm=self.estimator.loss_ppm,
            delay_us=None if base_ns is None else base_ns // 1000,
            link=self.place.link,
            metered=self.is_metered,
            is_backup=self.place.is_backup or self.peer_word.is_backup,
            rtt_ns=self.rtt_ns,
            jitter_ns=self.jitter_ns,
            quota_left_bytes=0 if self.place.is_used_up or self.peer_word.is_used_up else None,
            queue_target_ns=self.estimator.queue_target_ns,
        )

    # What happened --------------------------------------------------------------------------------

    def on_place(self, place: Place, *, now_ns: int) -> None:
        """Take a new place, or news of the link: address, carrier, MTU, the operator's wishes."""
        moved = place.whereabouts != self.place.whereabouts
        self.place = place
        if moved:
            self.sent.forget()
            self.liveness.on_moved(mark=self.sent.next_sequence, now_ns=now_ns)
            self.prober.restart(now_ns=now_ns)
            self.mtu.on_moved(now_ns=now_ns)
            self.estimator.on_moved()
            self.counts = Counts(ipv6=place.ipv6)
        if not place.link_up:
            self.sent.forget()
        self.liveness.on_link(place.link_up, mark=self.sent.next_sequence, now_ns=now_ns)
        self.mtu.on_link_mtu(place.link_mtu, now_ns=now_ns)
        self._configure_rate()

    def on_hello(self, word: Hello) -> None:
        """Take the peer's word on this path."""
        self.peer_word = word
        self._configure_rate()

    def on_named(self, row: PathReport) -> bool:
        """Take what a report names on this path; tell whether something sent on it is overdue."""
        sequence = widen(row.last_sequence, self.sent.next_sequence)
        self._point = self.sent.on_reported(sequence)
        self._reported = max(self._reported, sequence)
        if self._unanswered and sequence >= self._unanswered[1]:
            self._unanswered = None
        self.jitter_ns = row.jitter_us * 1000
        return self.liveness.is_overdue(self.sent, age_ns=row.age_us * 1000, jitter_ns=self._jitter_ns())

    def on_report(self, row: PathReport, *, is_suspect: bool, now_ns: int) -> bool:
        """Take the rest of a report's row; tell whether it taught something about the path's capacity."""
        mark = self.sent.next_sequence
        if is_suspect:
            self.liveness.on_overdue(mark=mark, now_ns=now_ns)
        self.liveness.on_named(widen(row.last_sequence, mark), mark=mark, now_ns=now_ns)
        if self._point is None:
            return False
        sample = self.counts.sample(row, self._point, total_bytes=self.sent.total_bytes, now_ns=now_ns)
        if sample is None:
            self.estimator.on_pause(now_ns)
            return False
        self.estimator.on_sample(sample)
        return True

    # Timers ---------------------------------------------------------------------------------------

    def next_timer_ns(self, *, report_ns: int, now_ns: int) -> int:
        """Return when ``on_timer`` is next due; ``report_ns`` is when the peer's newest report arrived."""
        if not self.place.link_up:
            return now_ns + IDLE_NS
        due = [self._keepalive_due_ns(now_ns), self.prober.next_timer_ns()]
        if self.state is PathState.UP:
            due.append(self.mtu.next_timer_ns())
        due += [at for at in (self.liveness.next_timer_ns(), self._silent_at_ns(report_ns)) if at is not None]
        return min(due)

    def on_timer(self, *, next_counter: int, report_ns: int, now_ns: int) -> list[Action]:
        """Do what is due: judge silence, send probes, keepalives, MTU probes."""
        mark = self.sent.next_sequence
        silent_at_ns = self._silent_at_ns(report_ns)
        if silent_at_ns is not None and now_ns >= silent_at_ns:
            self.liveness.on_silence(mark=mark, now_ns=now_ns)
        self.liveness.on_timer(mark=mark, now_ns=now_ns)
        if not self.place.link_up:
            return []
        actions: list[Action] = []
        token = self.prober.on_timer(now_ns=now_ns, interval_ns=self._probe_interval_ns(now_ns))
        self.liveness.on_probes(self.prober.unanswered, mark=mark, now_ns=now_ns)
        if self._unanswered and now_ns - self._unanswered[0] > self.prober.rtt.wait_ns + ANSWER_NS:
            self._unanswered = None
            self.liveness.on_unanswered(mark=mark, now_ns=now_ns)
        if token is not None:
            actions.append(SendProbe(self.number, token))
        if now_ns >= self._keepalive_due_ns(now_ns):
            actions.append(self.keepalive(next_counter=next_counter, now_ns=now_ns))
        return actions + self._search_mtu(now_ns)

    def keepalive(self, *, next_counter: int, now_ns: int) -> SendControl:
        """Return a sealed sign of life on this path, which the peer answers with a report."""
        self._keepalive_ns = now_ns
        if self._unanswered is None:
            self._unanswered = (now_ns, self.sent.next_sequence)
        return SendControl(encode(Keepalive(self.number, next_counter)), path=self.number)

    def changed(self, before: PathState, *, now_ns: int) -> list[Action]:
        """Return what follows from a change of state since ``before``: probes at once, a line in the log."""
        if self.state is before:
            return []
        self.prober.hasten(now_ns=now_ns, interval_ns=0)
        actions: list[Action] = []
        if before is PathState.UP:
            actions.append(Resend(self.number, self._reported))
        if self.state is PathState.DEGRADED:
            self.mtu.on_suspicion(now_ns=now_ns)
        if self.state is not PathState.UP:
            self._keepalive_ns = 0
        fields: dict[str, object] = {"path": self.number, "link": self.place.link}
        fields |= {"before": before.value, "state": self.state.value, "reason": self.liveness.reason}
        return [*actions, Event("path_state", fields, is_warning=self.state is PathState.DOWN)]

    # How ------------------------------------------------------------------------------------------

    def _silent_at_ns(self, report_ns: int) -> int | None:
        rtt_ns = self.prober.rtt.wait_ns if self.rtt_ns is None else self.rtt_ns
        return self.liveness.silent_at_ns(
            self.sent, jitter_ns=self._jitter_ns(), rtt_ns=rtt_ns, report_ns=report_ns
        )

    def _jitter_ns(self) -> int:
        return max(self.jitter_ns, self.prober.rtt.jitter_ns)

    def _keepalive_due_ns(self, now_ns: int) -> int:
        proving_ns = self.liveness.keepalive_interval_ns(now_ns)
        return self._keepalive_ns + (self.pace.keepalive_ns if proving_ns is None else proving_ns)

    def _probe_interval_ns(self, now_ns: int) -> int:
        if self.state is PathState.DEGRADED:
            return SUSPECT_PROBE_NS
        if self.state is PathState.DOWN or self.is_busy(now_ns):
            return self.pace.probe_ns
        if self.is_metered:
            return self.pace.quiet_probe_ns
        return min(self.pace.probe_ns * IDLE_STRETCH, self.pace.quiet_probe_ns)

    def _search_mtu(self, now_ns: int) -> list[Action]:
        if self.state is not PathState.UP:
            return []
        probe = self.mtu.on_timer(
            is_busy=self.is_busy(now_ns), wait_ns=self.prober.rtt.wait_ns, now_ns=now_ns
        )
        if probe is None:
            return []
        message = encode(MtuProbe(self.number, probe.size_bytes, probe.number))
        plain_bytes = probe.size_bytes - OUTER_HEADERS_BYTES[self.place.ipv6] - HEADER_BYTES - TAG_BYTES
        return [SendControl(message.ljust(plain_bytes, b"\0"), path=self.number)]

    def _configure_rate(self) -> None:
        named = [rate for rate in (self.place.rate_up_bps, self.peer_word.receive_rate_bps) if rate]
        self.estimator.configure(min(named, default=None))
