"""Which share of a peer's datagrams each path gets, and how long a burst may be.

Pure functions; ``sdwan.core.tunnel`` calls ``decide`` with what is known of the peer's paths, the shell
writes the decision into the kernel's weights (one set per traffic class, all of this decision, each in its
mode).

A share is capacity times preference times quality. Capacities that are not known count like the largest
known one, so bonds start with equal shares. A path that is not UP gets nothing, unless none is UP: a tunnel
that may be wrong about its last path goes on using it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sdwan.model import PATHS_PER_PEER, PathState, SteerMode

# Implementation constants ------------------------------------------------------------------------

BURST_SEGMENTS_MAX = 44
"""The largest burst one send takes (sdwan.io.udp)."""
TURNS_MAX = 8
"""Turns of one round between address families: shares are met to an eighth."""
BURST_NS = 500_000
"""A burst lasts about half a millisecond at the bond's rate."""
FRAME_BITS = 1500 * 8
LOSS_TOLERATED_PPM = 20_000
"""Up to here loss costs a path no share: an inner TCP suffers as much from the narrower bond."""
LOSS_RUINOUS_PPM = 200_000
QUALITY_LEAST = 0.1
CHANGE = 0.05
"""Relative change of a share or a rate that is worth a write."""
DELAY_US = 1000
"""Change of a delay that is."""
BURST_CHANGE = 0.2

_FALLBACK = (PathState.UP, PathState.DEGRADED, PathState.PROBING, PathState.DOWN)
"""In this order: the first state that any usable path is in."""


@dataclass(frozen=True, slots=True)
class PathView:
    """What the schedule needs to know of one path."""

    path: int
    state: PathState
    link_up: bool
    preference: float
    """Operators' weights of both ends, multiplied; 0 = no data here."""
    capacity_bps: int | None = None
    delivered_bps: int = 0
    loss_ppm: int = 0
    delay_us: int | None = None
    """One-way delay floor, offset by one constant for all paths of the peer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Per path 0..7: share (0 = excluded, the largest is 1), time to send 1 KiB (0 = unknown), relative
    delay."""

    shares: tuple[float, ...]
    ns_per_kib: tuple[int, ...]
    delay_us: tuple[int, ...]
    burst_segments: int


def decide(views: Sequence[PathView]) -> Decision:
    """Return the shares of a peer's paths."""
    chosen = eligible(views)
    known = [view.capacity_bps for view in chosen if view.capacity_bps]
    unknown_bps = max(known, default=1)
    raw = {
        view.path: (view.capacity_bps or unknown_bps) * view.preference * quality(view.loss_ppm)
        for view in chosen
    }
    largest = max(raw.values(), default=0) or 1
    delays = [view.delay_us for view in chosen if view.delay_us is not None]
    least_us = min(delays, default=0)
    by_path = {view.path: view for view in chosen}
    return Decision(
        shares=_row(raw[path] / largest if path in raw else 0.0 for path in range(PATHS_PER_PEER)),
        ns_per_kib=_row(_ns_per_kib(by_path.get(path)) for path in range(PATHS_PER_PEER)),
        delay_us=_row(_relative(by_path.get(path), least_us) for path in range(PATHS_PER_PEER)),
        burst_segments=burst_segments(chosen),
    )


def eligible(views: Iterable[PathView]) -> list[PathView]:
    """Return the paths that may carry data: those UP, else those in the next best state."""
    usable = [view for view in views if view.link_up and view.preference > 0]
    for state in _FALLBACK:
        chosen = [view for view in usable if view.state is state]
        if chosen:
            return chosen
    return []


def quality(loss_ppm: int) -> float:
    """Return the factor loss costs: 1 up to 2 %, falling to 0.1 at 20 %."""
    if loss_ppm <= LOSS_TOLERATED_PPM:
        return 1.0
    ruin = (loss_ppm - LOSS_TOLERATED_PPM) / (LOSS_RUINOUS_PPM - LOSS_TOLERATED_PPM)
    return max(1.0 - ruin, QUALITY_LEAST)


def burst_segments(chosen: Sequence[PathView]) -> int:
    """Return how many datagrams one send may hand to one path: as many as possible while no path is known."""
    if not any(view.capacity_bps for view in chosen):
        return BURST_SEGMENTS_MAX
    rate_bps = sum(max(view.capacity_bps or 0, view.delivered_bps) for view in chosen)
    return min(max(rate_bps * BURST_NS // (FRAME_BITS * 10**9), 1), BURST_SEGMENTS_MAX)


def mode_in_force(wanted: SteerMode, decision: Decision) -> SteerMode:
    """Return the mode the kernel is told: earliest delivery needs the capacity of every path in use.

    A path of unknown capacity would seem to send in no time and take everything, or, being slower, never
    be tried; shares find out.
    """
    in_use = [ns for share, ns in zip(decision.shares, decision.ns_per_kib, strict=True) if share]
    if wanted is SteerMode.EARLIEST and not all(in_use):
        return SteerMode.STRIDE
    return wanted


def turns(shares: Mapping[int, float]) -> tuple[int, ...]:
    """Return the order in which address families take bursts, by their shares; at most eight turns a round.

    The kernel chooses a path within the family of the socket a burst came through, so a peer with IPv4 and
    IPv6 paths has two sockets, and user space deals between them (smooth weighted round robin).
    """
    used = {family: share for family, share in shares.items() if share > 0}
    if len(used) < 2:
        return tuple(used)
    total = sum(used.values())
    credit = dict.fromkeys(used, 0.0)
    order = []
    for _ in range(TURNS_MAX):
        for family, share in used.items():
            credit[family] += share / total
        order.append(max(credit, key=lambda family: credit[family]))
        credit[order[-1]] -= 1
    return tuple(order) if len(set(order)) == len(used) else (*order[:-1], min(used, key=lambda f: used[f]))


def is_worth_writing(old: Decision | None, new: Decision) -> bool:
    """Tell whether a decision differs enough from the one in force."""
    if old is None:
        return True
    if any((a > 0) != (b > 0) for a, b in zip(old.shares, new.shares, strict=True)):
        return True
    return (
        _differ(old.shares, new.shares, CHANGE)
        or _differ(old.ns_per_kib, new.ns_per_kib, CHANGE)
        or any(abs(a - b) > DELAY_US for a, b in zip(old.delay_us, new.delay_us, strict=True))
        or is_other_burst(old.burst_segments, new.burst_segments)
    )


def _differ(old: Sequence[float], new: Sequence[float], tolerance: float) -> bool:
    return any(abs(a - b) > tolerance * max(a, b) for a, b in zip(old, new, strict=True))


def is_other_burst(old: int, new: int) -> bool:
    """Tell whether a burst length differs enough to be told to the data plane."""
    return abs(old - new) > BURST_CHANGE * max(old, new)


def _row(values: Iterable) -> tuple:
    return tuple(values)


def _ns_per_kib(view: PathView | None) -> int:
    return 1024 * 8 * 10**9 // view.capacity_bps if view and view.capacity_bps else 0


def _relative(view: PathView | None, least_us: int) -> int:
    return view.delay_us - least_us if view and view.delay_us is not None else 0
