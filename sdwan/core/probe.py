"""Probing one path: when to send, how long a reply may take, and what the replies say.

Pure. A probe is a plain datagram with a random token that the peer's kernel sends straight back; ours notes
the round trip time beside the token (``Maps.expect_probe``, ``Maps.probe_rtt_us``). It proves that the link
carries datagrams both ways, never that the peer's data plane lives. ``sdwan.core.path`` owns one ``Prober``
per path and decides its pace; the shell carries tokens out and replies in.

Estimates: smoothed rtt and its variation as in RFC 6298 section 2, jitter as in RFC 3550 section 6.4.1,
loss as an exponential mean over probes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

# Specification constants -------------------------------------------------------------------------

SLOTS = 8
"""Probes of one path that may be under way; a token's low three bits name its slot (bpf/abi.h)."""

_RTT_GAIN_LOG2, _VARIATION_GAIN_LOG2, _JITTER_GAIN_LOG2 = 3, 2, 4
"""RFC 6298: 1/8 and 1/4; RFC 3550: 1/16."""

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
WAIT_FIRST_NS = 1000 * MILLISECOND_NS
"""How long the first reply may take: RFC 6298's initial timeout; covers a satellite's 600 ms."""
WAIT_MIN_NS = 150 * MILLISECOND_NS
WAIT_MAX_NS = 3000 * MILLISECOND_NS
WAIT_EXTRA_NS = 20 * MILLISECOND_NS
"""Replies are read from the kernel's map once per turn of the loop, at most this much later."""
LOSS_GAIN_LOG2 = 5
"""Loss remembers about 32 probes."""

PPM = 1_000_000

Entropy = Callable[[int], bytes]


class RoundTrip:
    """Estimates from round trip times."""

    def __init__(self) -> None:
        self.smoothed_ns: int | None = None
        """None before the first sample."""
        self.variation_ns = 0
        self.jitter_ns = 0
        self.last_ns = 0

    def on_sample(self, rtt_ns: int) -> None:
        """Take one measured round trip."""
        if self.smoothed_ns is None:
            self.smoothed_ns, self.variation_ns = rtt_ns, rtt_ns // 2
        else:
            self.variation_ns += (abs(rtt_ns - self.smoothed_ns) - self.variation_ns) >> _VARIATION_GAIN_LOG2
            self.smoothed_ns += (rtt_ns - self.smoothed_ns) >> _RTT_GAIN_LOG2
            self.jitter_ns += (abs(rtt_ns - self.last_ns) - self.jitter_ns) >> _JITTER_GAIN_LOG2
        self.last_ns = rtt_ns

    @property
    def wait_ns(self) -> int:
        """How long an answer may take before it counts as lost (RFC 6298's RTO, other bounds)."""
        if self.smoothed_ns is None:
            return WAIT_FIRST_NS
        wait_ns = self.smoothed_ns + 4 * self.variation_ns + WAIT_EXTRA_NS
        return min(max(wait_ns, WAIT_MIN_NS), WAIT_MAX_NS)


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A probe under way."""

    token: int
    sent_ns: int
    due_ns: int
    """When it counts as lost."""
    is_late: bool = False
    """It counted as lost; should it be answered after all, the rtt has grown."""


class Prober:
    """The probes of one path."""

    def __init__(self, *, entropy: Entropy, now_ns: int) -> None:
        self.rtt = RoundTrip()
        self.loss_ppm: int | None = None
        self.unanswered = 0
        """Probes lost in a row."""
        self.answered_ns = 0
        """When the newest answered probe was sent; 0 = none yet."""
        self._entropy = entropy
        self._slots: list[Outstanding | None] = [None] * SLOTS
        self._next_slot = 0
        self._next_ns = now_ns

    @property
    def tokens(self) -> list[int]:
        """Tokens whose reply is awaited."""
        return [probe.token for probe in self._slots if probe]

    def next_timer_ns(self) -> int:
        """Return when ``on_timer`` is next due."""
        due = [probe.due_ns for probe in self._slots if probe and not probe.is_late]
        return min(*due, self._next_ns) if due else self._next_ns

    def hasten(self, *, now_ns: int, interval_ns: int) -> None:
        """Probe within ``interval_ns``, however quiet the path was."""
        self._next_ns = min(self._next_ns, now_ns + interval_ns)

    def on_timer(self, *, now_ns: int, interval_ns: int) -> int | None:
        """Count overdue probes as lost; return the token of a probe to send now, if one is due."""
        for slot, probe in enumerate(self._slots):
            if probe and not probe.is_late and probe.due_ns <= now_ns:
                self._slots[slot] = replace(probe, is_late=True)
                self.unanswered += 1
                self._count_loss(PPM)
        if now_ns < self._next_ns:
            return None
        self._next_ns = max(self._next_ns + interval_ns, now_ns + interval_ns // 2)
        slot = self._next_slot
        earlier = self._slots[slot]
        if earlier is not None and not earlier.is_late:
            return None  # eight are under way: the oldest decides when the next one may go
        self._next_slot = (slot + 1) % SLOTS
        token = int.from_bytes(self._entropy(8), "big") & ~(SLOTS - 1) | slot
        token = token or SLOTS << 1  # 0 means a free slot
        self._slots[slot] = Outstanding(token, now_ns, now_ns + self.rtt.wait_ns)
        return token

    def on_reply(self, token: int, rtt_ns: int) -> None:
        """Take the round trip time the kernel noted for a token (unknown tokens are ignored).

        Late answers count too: else a round trip that suddenly exceeds the wait would never be learned.
        """
        slot = token % SLOTS
        probe = self._slots[slot]
        if probe is None or probe.token != token or (probe.is_late and rtt_ns > WAIT_MAX_NS):
            return
        self._slots[slot] = None
        self.unanswered = 0
        self.answered_ns = max(self.answered_ns, probe.sent_ns)
        self.rtt.on_sample(rtt_ns)
        if not probe.is_late:
            self._count_loss(0)

    def restart(self, *, now_ns: int) -> None:
        """Expect no reply any more and probe at once: the path leads elsewhere now."""
        self._slots = [None] * SLOTS
        self.unanswered = 0
        self._next_ns = now_ns

    def _count_loss(self, sample_ppm: int) -> None:
        known_ppm = self.loss_ppm or 0
        self.loss_ppm = known_ppm + ((sample_ppm - known_ppm) >> LOSS_GAIN_LOG2)
