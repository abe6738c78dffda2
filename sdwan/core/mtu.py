"""The largest IP packet a path takes: packetization layer path MTU discovery for datagrams (RFC 8899).

Pure; one ``MtuSearch`` per path, driven by ``sdwan.core.path``. A probe is a sealed MtuProbe padded to
exactly the size in question; an MtuAck says that it arrived. No ICMP message is needed or believed.

    SEARCHING  the first probe is as large as the link allows, which is the answer on most links;
               a size that fails ``TRIES`` times is too large, and bisection finds the limit.
    COMPLETE   the size is confirmed now and then, while traffic flows or when the path is suspected. If
               small datagrams get through and this size does not (a black hole), the path falls back to the
               base and searches again below. From the suspicion to the confirmation only the base is
               trusted. Once in ten minutes a search upwards asks whether the way has become wider.

Sizes are whole outer IP packets in bytes, as link MTUs are.
"""

from __future__ import annotations

from dataclasses import dataclass

# Specification constants -------------------------------------------------------------------------

BASE_BYTES = {False: 1200, True: 1280}
"""BASE_PLPMTU by "is IPv6" (RFC 8899 section 5.1.2, RFC 8200 section 5); assumed to pass everywhere."""

RAISE_NS = 600 * 10**9
"""PMTU_RAISE_TIMER, section 5.1.1."""

# Implementation constants ------------------------------------------------------------------------

TRIES = 3
"""MAX_PROBES is 3, section 5.1.2: at 5 % loss one size in 8000 is misjudged."""

STEP_BYTES = 8
"""Bisection stops here; 8 bytes are half a percent of a datagram."""

CONFIRM_NS = 10 * 10**9
"""CONFIRMATION_TIMER: one full-size datagram in ten seconds while traffic flows."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Send an MtuProbe of this size."""

    size_bytes: int
    number: int


class MtuSearch:
    """Discovery on one path."""

    def __init__(self, *, ipv6: bool, link_mtu: int, now_ns: int) -> None:
        self.base_bytes = min(BASE_BYTES[ipv6], link_mtu)
        self.link_mtu = link_mtu
        self.size_bytes = self.base_bytes
        """What is known to pass."""
        self.is_doubtful = False
        """Something went missing, perhaps because of its size; the answer is one round trip away."""
        self._too_large = link_mtu + 1
        self._asked = 0
        """Size under test; 0 = none."""
        self._tries = 0
        self._number = 0
        self._next_ns: int | None = now_ns
        self._raise_ns = now_ns + RAISE_NS
        self._confirmed_ns = now_ns

    @property
    def is_complete(self) -> bool:
        """The limit is found; nothing larger is worth a probe."""
        return self._next_candidate() <= self.size_bytes

    @property
    def trusted_bytes(self) -> int:
        """What a path may be given that is not the only one."""
        return self.base_bytes if self.is_doubtful else self.size_bytes

    def next_timer_ns(self) -> int:
        """Return when ``on_timer`` is next due."""
        return self._raise_ns if self._next_ns is None else min(self._next_ns, self._raise_ns)

    def on_timer(self, *, is_busy: bool, wait_ns: int, now_ns: int) -> Probe | None:
        """Return the probe to send now, if any.

        Args:
            is_busy: user traffic flows on the path.
            wait_ns: how long an answer may take.
        """
        if now_ns >= self._raise_ns:
            self._search_anew(now_ns)
        if self._next_ns is None or now_ns < self._next_ns:
            return None
        if self._asked and self._tries >= TRIES:
            self._on_failed()
        if not self._asked:
            if self.is_complete and not is_busy and now_ns < self._confirmed_ns + RAISE_NS:
                self._next_ns = now_ns + CONFIRM_NS
                return None
            self._asked = self.size_bytes if self.is_complete else self._next_candidate()
            self._tries = 0
        self._tries += 1
        self._number += 1
        self._next_ns = now_ns + wait_ns
        return Probe(self._asked, self._number)

    def on_ack(self, size_bytes: int, *, now_ns: int) -> None:
        """Take word that a probe of this size arrived."""
        if size_bytes != self._asked:
            return
        self._asked = 0
        self._confirmed_ns = now_ns
        self.is_doubtful = False
        self.size_bytes = max(self.size_bytes, size_bytes)
        self._next_ns = now_ns + (CONFIRM_NS if self.is_complete else 0)

    def on_suspicion(self, *, now_ns: int) -> None:
        """Confirm the size soon: datagrams of a path went missing, perhaps only the large ones."""
        if self.is_complete and self.size_bytes > self.base_bytes:
            self.is_doubtful = True
            self._asked = 0
            self._next_ns = now_ns
            self._confirmed_ns = min(self._confirmed_ns, now_ns - RAISE_NS)

    def on_link_mtu(self, link_mtu: int, *, now_ns: int) -> None:
        """Take the MTU of the local link, which bounds everything."""
        if link_mtu == self.link_mtu:
            return
        self.link_mtu = link_mtu
        self.base_bytes = min(self.base_bytes, link_mtu)
        self.size_bytes = min(self.size_bytes, link_mtu)
        self._search_anew(now_ns)

    def on_moved(self, *, now_ns: int) -> None:
        """Begin anew from the base: the path leads to another address."""
        self.size_bytes = self.base_bytes
        self._search_anew(now_ns)

    def _search_anew(self, now_ns: int) -> None:
        self._too_large = self.link_mtu + 1
        self._asked = 0
        self._next_ns = now_ns
        self._raise_ns = now_ns + RAISE_NS

    def _on_failed(self) -> None:
        self._too_large = self._asked
        self.is_doubtful = False
        if self._asked <= self.size_bytes:
            self.size_bytes = self.base_bytes
        self._asked = 0

    def _next_candidate(self) -> int:
        """Return the next size to ask for: the link's at first, then the middle of what is left."""
        if self._too_large > self.link_mtu:
            return self.link_mtu
        middle = (self.size_bytes + self._too_large) // 2
        return middle if self._too_large - self.size_bytes > STEP_BYTES else self.size_bytes
