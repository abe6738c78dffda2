"""What a bond could carry at best: the rates of its links over time, less the tunnel's own overhead. Pure.

The *sum* counts whole Ethernet frames, as the links' rates do; the *ceiling* is the payload in it when every
frame is a full one of the tunnel. Rates follow the scenario's steps and traces: ``Timeline`` replays them in
virtual time, so that a goodput can be held against what was there to be had in any interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sdwan.core.wire import sealed_overhead_bytes
from sdwan.lab.impairment import SECOND_NS, Impairment, RateSchedule

# Specification constants ---------------------------------------------------------------------------

ETHERNET_BYTES = 14
TCP_HEADER_BYTES = 20 + 32
"""IPv4, and TCP with timestamps (RFC 7323)."""
UDP_HEADER_BYTES = 20 + 8

# Implementation constants --------------------------------------------------------------------------

LINK_MTU_BYTES = 1500


def tcp_payload_share(mtu_bytes: int = LINK_MTU_BYTES) -> float:
    """Return the TCP payload of a full datagram of the tunnel, as a part of its Ethernet frame."""
    return (mtu_bytes - sealed_overhead_bytes(False) - TCP_HEADER_BYTES) / (mtu_bytes + ETHERNET_BYTES)


def udp_payload_share(payload_bytes: int) -> float:
    """Return the same for one UDP packet of this payload, alone in its datagram."""
    overhead_bytes = sealed_overhead_bytes(False) + UDP_HEADER_BYTES + ETHERNET_BYTES
    return payload_bytes / (payload_bytes + overhead_bytes)


@dataclass(frozen=True, slots=True)
class Change:
    """From this moment on the link does something else; None = its interface is down."""

    at_ns: int
    impairment: Impairment | None


class Timeline:
    """The rate of one direction of one link, over the length of a scenario."""

    def __init__(self, first: Impairment, changes: Iterable[Change] = ()) -> None:
        self._pieces: list[tuple[int, RateSchedule | None]] = []
        for change in (Change(0, first), *sorted(changes, key=lambda change: change.at_ns)):
            dark = change.impairment is None or change.impairment.blackhole
            schedule = None
            if change.impairment is not None and not dark:
                schedule = RateSchedule(replace(change.impairment, blackhole=False), change.at_ns)
            self._pieces.append((change.at_ns, schedule))

    @property
    def unlimited(self) -> bool:
        """Tell whether there is a time without a rate: then there is no ceiling."""
        return any(schedule is not None and schedule.unlimited for _, schedule in self._pieces)

    def rate_bps(self, moment_ns: int) -> int:
        """Return the rate at one moment; 0 while nothing passes."""
        schedule = next((s for begin, s in reversed(self._pieces) if begin <= moment_ns), None)
        return schedule.rate_bps(moment_ns) if schedule is not None else 0

    def bits(self, begin_ns: int, end_ns: int) -> float:
        """Return the bits it could carry between two moments."""
        total = 0.0
        ends = [*(begin for begin, _ in self._pieces[1:]), end_ns]
        for (start_ns, schedule), stop_ns in zip(self._pieces, ends, strict=True):
            low, high = max(start_ns, begin_ns), min(stop_ns, end_ns)
            if schedule is not None and low < high:
                total += schedule.served_bits(high) - schedule.served_bits(low)
        return total

    def turns(self) -> list[tuple[int, bool]]:
        """Return when the rate changed by a step, and whether upwards."""
        found = []
        for (_, before), (at_ns, after) in zip(self._pieces, self._pieces[1:], strict=False):
            rates = [schedule.rate_bps(at_ns) if schedule else 0 for schedule in (before, after)]
            if rates[0] != rates[1]:
                found.append((at_ns, rates[1] > rates[0]))
        return found


def counted(
    begin_ns: int, end_ns: int, turns: Iterable[tuple[int, bool]], after_down_ns: int, after_up_ns: int
) -> list[tuple[int, int]]:
    """Return the intervals between two moments that lie outside the grace after each turn of a rate."""
    intervals, cursor_ns = [], begin_ns
    for at_ns, upwards in sorted(turns):
        if cursor_ns < min(at_ns, end_ns):
            intervals.append((cursor_ns, min(at_ns, end_ns)))
        cursor_ns = max(cursor_ns, at_ns + (after_up_ns if upwards else after_down_ns))
    if cursor_ns < end_ns:
        intervals.append((cursor_ns, end_ns))
    return intervals


def mean_bps(timelines: Sequence[Timeline], intervals: Sequence[tuple[int, int]]) -> float | None:
    """Return the sum of the rates, averaged over some intervals; None if a link has no limit."""
    total_ns = sum(end - begin for begin, end in intervals)
    if not total_ns or any(timeline.unlimited for timeline in timelines):
        return None
    bits = sum(timeline.bits(begin, end) for timeline in timelines for begin, end in intervals)
    return bits * SECOND_NS / total_ns
