"""Is this path alive? One small state machine per path, fed by the receiver's reports, probes and netlink.

Pure; ``sdwan.core.path`` is the only caller. The sending direction is judged, by what the peer says it
opened:

    PROBING   not proven. Keepalives only. ── two proofs, and patience passed ──────────> UP
    UP        carries data.                ── a datagram is overdue, silence, lost probes ─> DEGRADED
    DEGRADED  suspect: no new data while another path is up.
                                           ── two proofs ──> UP      ── one second ──> DOWN
    DOWN      no carrier, or silent.       ── carrier, and one proof ──> PROBING

A *proof* is a report naming a sealed datagram sent after the suspicion. *Overdue*: when the report was
made, the newest datagram opened on the path was older than the distance, at its sending, to the next one,
and by more than a slack. Both times of that comparison are differences on one clock, the receiver's and
ours, so neither the report's way, nor a standing queue, nor a busy control process shortens or lengthens
it. What is overdue on every path at once is a busy peer, not a link. *Silence*: DATA was sent and no report
came at all. Probes speak only for a path no report has spoken of lately: a full queue loses them too.

Suspicion is cheap (traffic moves away for about one round trip), so it comes early. DOWN is dear:
each time within a minute doubles the patience a path is met with when it comes back.
"""

from __future__ import annotations

from sdwan.core.sent import SentLog
from sdwan.model import PathState

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
SLACK_NS = 15 * MILLISECOND_NS
"""10 ms raise no false alarm on steady links in simulation, but some while two busy cores are shared with
iperf3; each millisecond more delays detection by as much."""
JITTERS = 4
"""Mean deviations of the delay that are no reason for suspicion."""
SILENCE_NS = 60 * MILLISECOND_NS
"""Two reports at the default interval of 25 ms, and 10 ms for the processes that make and read them."""
STREAM_NS = 100 * MILLISECOND_NS
STREAM_SILENCE_NS = 200 * MILLISECOND_NS
"""While reports flow they say what is overdue, and go on for 100 ms after the last arrival; that none comes
at all is a busy peer first (stalls of 100 ms and more were seen on two starved cores)."""
PROBES_LOST = 3
"""Unanswered probes in a row; at 10 % loss each way a false alarm in 150 probes, and a cheap one."""
NAMED_NS = 300 * MILLISECOND_NS
"""A path named by a report so lately needs no probes: as long as three of them take at the default pace."""
PROOFS = 2
DEAD_NS = 1000 * MILLISECOND_NS
PATIENCE_FIRST_NS = 500 * MILLISECOND_NS
PATIENCE_MAX_NS = 30_000 * MILLISECOND_NS
FLAP_MEMORY_NS = 60_000 * MILLISECOND_NS
"""After this long UP one of the path's failures is forgotten."""

KEEPALIVE_SUSPECT_NS = 30 * MILLISECOND_NS
KEEPALIVE_PROVING_NS = 100 * MILLISECOND_NS
KEEPALIVE_LOST_NS = 1000 * MILLISECOND_NS
"""A path that stays silent is asked once a second: about 100 bytes."""
EAGER_NS = 5000 * MILLISECOND_NS
"""How long a silent path is asked at the faster pace."""


class Liveness:
    """State of one path in the sending direction."""

    def __init__(self, *, link_up: bool, now_ns: int) -> None:
        self.state = PathState.PROBING if link_up else PathState.DOWN
        self.since_ns = now_ns
        """When it entered the state."""
        self.link_up = link_up
        self.reason = "new"
        """Why, in a word or two, for the log."""
        self.failures = 0
        """Times it went down lately: decides the patience."""
        self._proofs = 0
        self._proven = -1
        """Sequences beyond it were sent after the suspicion, and after the last proof."""
        self._proven_ns = now_ns
        self._forgiven_ns = now_ns

    @property
    def patience_ns(self) -> int:
        """How long it has to prove itself before it is used again."""
        if not self.failures:
            return 0
        return min(PATIENCE_FIRST_NS << min(self.failures - 1, 10), PATIENCE_MAX_NS)

    def keepalive_interval_ns(self, now_ns: int) -> int | None:
        """How often to send a sealed sign of life that may become a proof; None: not for this purpose."""
        if self.state is PathState.UP or not self.link_up:
            return None
        if self.state is PathState.DEGRADED:
            return KEEPALIVE_SUSPECT_NS
        return KEEPALIVE_PROVING_NS if now_ns - self.since_ns < EAGER_NS else KEEPALIVE_LOST_NS

    # What happened --------------------------------------------------------------------------------

    def on_link(self, link_up: bool, *, mark: int, now_ns: int) -> None:
        """Take netlink's word on carrier and address; ``mark`` is the path's next link sequence."""
        if link_up == self.link_up:
            return
        self.link_up = link_up
        if link_up:
            self._enter(PathState.PROBING, "link up", mark, now_ns)
        else:
            self._fail("link down", mark, now_ns)

    def on_moved(self, *, mark: int, now_ns: int) -> None:
        """Begin anew because the path leads to another address, which has just proved to be the peer's."""
        if self.link_up and self.state is not PathState.UP:
            self._enter(PathState.PROBING, "moved", mark, now_ns)

    def on_named(self, sequence: int, *, mark: int, now_ns: int) -> None:
        """Take the newest link sequence a report names (64 bits)."""
        if sequence <= self._proven:
            return
        self._proven, self._proven_ns = sequence, now_ns
        if self.state is PathState.UP:
            return
        self._proofs += 1
        if self.state is PathState.DOWN:
            if self.link_up:
                self._enter(PathState.PROBING, "answers", mark, now_ns)
        elif self._proofs >= PROOFS and (
            self.state is PathState.DEGRADED or now_ns - self.since_ns >= self.patience_ns
        ):
            self._enter(PathState.UP, "proven", mark, now_ns)

    def is_overdue(self, log: SentLog, *, age_ns: int, jitter_ns: int) -> bool:
        """Tell whether a report shows that something sent on the path is late.

        Args:
            log: what was sent on the path, released up to what the report names.
            age_ns: when the report was made, how long ago its newest datagram had arrived.
            jitter_ns: mean deviation of the delay.
        """
        oldest_ns = log.oldest_due_ns()
        if self.state is not PathState.UP or oldest_ns is None or log.named is None:
            return False
        return age_ns - (oldest_ns - log.named.time_ns) > SLACK_NS + JITTERS * jitter_ns

    def on_overdue(self, *, mark: int, now_ns: int) -> None:
        """Suspect the path because something is late on it that is not late everywhere."""
        self._enter(PathState.DEGRADED, "overdue", mark, now_ns)

    def silent_at_ns(self, log: SentLog, *, jitter_ns: int, rtt_ns: int, report_ns: int) -> int | None:
        """Return when an UP path counts as silent unless a report comes; None while nothing is due.

        Args:
            rtt_ns: an estimate.
            report_ns: when the newest report arrived, whatever it named.
        """
        oldest_ns = log.oldest_due_ns()
        if self.state is not PathState.UP or oldest_ns is None:
            return None
        since_ns = max(oldest_ns, report_ns) if log.named else oldest_ns
        in_stream = log.named is not None and report_ns > oldest_ns - STREAM_NS
        patience_ns = STREAM_SILENCE_NS if in_stream else SILENCE_NS
        return since_ns + rtt_ns + SLACK_NS + JITTERS * jitter_ns + patience_ns

    def on_silence(self, *, mark: int, now_ns: int) -> None:
        """Note that no report came in time."""
        self._enter(PathState.DEGRADED, "silence", mark, now_ns)

    def on_probes(self, unanswered: int, *, mark: int, now_ns: int) -> None:
        """Take the number of probes lost in a row."""
        is_named = now_ns - self._proven_ns < NAMED_NS
        if self.state is PathState.UP and unanswered >= PROBES_LOST and not is_named:
            self._enter(PathState.DEGRADED, "probes lost", mark, now_ns)

    def on_unanswered(self, *, mark: int, now_ns: int) -> None:
        """Note that a keepalive was not answered: the link may be well, but the peer has no session."""
        if self.state is PathState.UP:
            self._enter(PathState.DEGRADED, "keepalive unanswered", mark, now_ns)

    def on_timer(self, *, mark: int, now_ns: int) -> None:
        """Give up a path that was suspect for too long; forgive one that has behaved."""
        gives_up_ns = self._gives_up_ns()
        if gives_up_ns is not None and now_ns > gives_up_ns:
            self._fail("silent", mark, now_ns)
        elif self.state is PathState.UP and self.failures and now_ns - self._forgiven_ns > FLAP_MEMORY_NS:
            self.failures -= 1
            self._forgiven_ns = now_ns

    def next_timer_ns(self) -> int | None:
        """Return when ``on_timer`` has something to do."""
        if self.state is PathState.UP:
            return self._forgiven_ns + FLAP_MEMORY_NS + 1 if self.failures else None
        gives_up_ns = self._gives_up_ns()
        return gives_up_ns + 1 if gives_up_ns is not None else None

    # How ------------------------------------------------------------------------------------------

    def _gives_up_ns(self) -> int | None:
        if self.state is PathState.DEGRADED:
            return self.since_ns + DEAD_NS
        if self.state is PathState.PROBING and self.failures:
            return max(self.since_ns, self._proven_ns) + DEAD_NS
        return None

    def _fail(self, reason: str, mark: int, now_ns: int) -> None:
        if self.state is not PathState.PROBING or self._proofs:
            self.failures += 1
        self._enter(PathState.DOWN, reason, mark, now_ns)

    def _enter(self, state: PathState, reason: str, mark: int, now_ns: int) -> None:
        self.state, self.reason, self.since_ns = state, reason, now_ns
        self._proofs, self._proven = 0, mark - 1
        self._forgiven_ns = now_ns
