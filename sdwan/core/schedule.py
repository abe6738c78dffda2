"""Which path each datagram of a class takes, put so that the kernel can obey: shares, rates, delays, bounds.

Pure functions; ``sdwan.core.tunnel`` calls ``decide_all`` with what is known of the peer's paths, the shell
writes one decision per traffic class into the kernel's weights. Which paths a class may use at all is decided
in ``sdwan.core.eligible``.

*Earliest delivery* (the usual mode): the kernel takes the path that delivers first, max(now, busy until) +
length x ``ns_per_kib`` + ``delay_us``, among those whose predicted queue is under ``bound_us``. A preference
for the widest link is a lie about the delay of the others: they seem so late that they are taken only while
the widest is over its bound. *Stride*, the fall-back while a capacity is not known: shares, capacity times
operator's weight times quality.

The bound is the path's queue target. Urgent classes get more: bulk traffic keeps every queue at its target,
and they should enter behind it at once, on the path that delivers first, not wait or go the long way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdwan.core.classes import READY, ClassSpec, Preference
from sdwan.core.eligible import PathView, eligible, widest
from sdwan.core.sla import SlaWatch
from sdwan.model import CLASSES, PATHS_PER_PEER, SteerMode

__all__ = [
    "Decision", "PathView", "burst_segments", "decide", "decide_all", "eligible", "is_other_burst",
    "is_worth_writing", "quality", "turns",
]  # fmt: skip

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
LEAST = 1e-9
"""However small the weight: above 0, it is some share."""
CHANGE = 0.05
"""Relative change of a share or a rate that is worth a write."""
RATE_CHANGE = 0.01
"""... and of a rate the kernel paces by: the estimator's smallest steps are 3 %."""
DELAY_US = 1000
"""Change of a delay that is."""
BURST_CHANGE = 0.2
URGENT_PRIORITY = 1
"""Classes of this priority or better ..."""
URGENT_US = 30_000
"""... may wait so much longer on a path: behind a queue of 10 ms on the fastest one they still arrive before
they would on one that is 20 ms longer."""
SPILL_US = 20_000
"""What a link seems later than the widest, beyond its queue: more than one burst takes at 30 Mbit/s."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How the datagrams of one class are spread; every row is per path 0..7."""

    shares: tuple[float, ...]
    """0 = excluded in all modes, the largest is 1."""
    ns_per_kib: tuple[int, ...]
    """Time to send 1024 bytes; 0 = unknown."""
    delay_us: tuple[int, ...]
    """Only differences matter."""
    burst_segments: int
    bound_us: tuple[int, ...] = (0,) * PATHS_PER_PEER
    """Predicted queue up to which a path takes data; 0 = any."""
    mode: SteerMode = SteerMode.EARLIEST
    """The mode in force: what the class wants, or stride."""


def decide(views: Sequence[PathView], spec: ClassSpec = READY[0], out: Collection[int] = ()) -> Decision:
    """Decide for one class; ``out`` are the paths its SLA has taken away."""
    chosen = eligible(views, spec, out)
    known = [view.capacity_bps for view in chosen if view.capacity_bps]
    unknown_bps = max(known, default=1)
    raw = {
        view.path: max((view.capacity_bps or unknown_bps) * view.preference * quality(view.loss_ppm), LEAST)
        for view in chosen
    }
    largest = max(raw.values(), default=0) or 1
    ns_per_kib = {view.path: _ns_per_kib(view) for view in chosen}
    return Decision(
        shares=_row({path: share / largest for path, share in raw.items()}, 0.0),
        ns_per_kib=_row(ns_per_kib, 0),
        delay_us=_row(_delays(chosen, spec), 0),
        burst_segments=burst_segments(chosen),
        bound_us=_row({view.path: _bound_us(view, spec) for view in chosen}, 0),
        mode=_mode_in_force(spec.steering, ns_per_kib.values()),
    )


def decide_all(
    views: Sequence[PathView], specs: Sequence[ClassSpec] = READY, sla: SlaWatch | None = None
) -> tuple[Decision, ...]:
    """Decide for all eight classes; one without a spec is treated as class 0."""
    decisions = [
        decide(views, spec, sla.paths_out(number) if sla else ()) for number, spec in enumerate(specs)
    ]
    return (*decisions, *[decisions[0]] * (CLASSES - len(decisions)))


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
        or _differ(old.ns_per_kib, new.ns_per_kib, RATE_CHANGE)
        or old.mode is not new.mode
        or _differ(old.bound_us, new.bound_us, CHANGE)
        or any(abs(a - b) > DELAY_US for a, b in zip(old.delay_us, new.delay_us, strict=True))
        or is_other_burst(old.burst_segments, new.burst_segments)
    )


def _differ(old: Sequence[float], new: Sequence[float], tolerance: float) -> bool:
    return any(abs(a - b) > tolerance * max(a, b) for a, b in zip(old, new, strict=True))


def is_other_burst(old: int, new: int) -> bool:
    """Tell whether a burst length differs enough to be told to the data plane."""
    return abs(old - new) > BURST_CHANGE * max(old, new)


def _mode_in_force(wanted: SteerMode, ns_per_kib: Iterable[int]) -> SteerMode:
    """Return the mode the kernel is told: earliest delivery needs the capacity of every path in use.

    A path of unknown capacity would seem to send in no time and take everything, or, being slower, never
    be tried; shares find out.
    """
    return SteerMode.STRIDE if wanted is SteerMode.EARLIEST and not all(ns_per_kib) else wanted


def _row(by_path: Mapping[int, Any], nothing: Any) -> tuple[Any, ...]:
    row = [nothing] * PATHS_PER_PEER
    for path, value in by_path.items():
        row[path] = value
    return tuple(row)


def _ns_per_kib(view: PathView) -> int:
    return max(1024 * 8 * 10**9 // view.capacity_bps, 1) if view.capacity_bps else 0


def _bound_us(view: PathView, spec: ClassSpec) -> int:
    bound_us = view.queue_target_ns // 1000
    return bound_us + URGENT_US if spec.priority <= URGENT_PRIORITY else bound_us


def _delays(chosen: Sequence[PathView], spec: ClassSpec) -> dict[int, int]:
    """Return the delays the kernel is told, relative to the least; one not measured counts as the least."""
    known = [view.delay_us for view in chosen if view.delay_us is not None]
    least_us = min(known, default=0)
    told = {view.path: least_us if view.delay_us is None else view.delay_us for view in chosen}
    told = {path: delay_us - least_us for path, delay_us in told.items()}
    if spec.preference is Preference.HIGHEST_BANDWIDTH:
        first = {view.path for view in widest(chosen)}
        spill_us = max(told.values(), default=0) + SPILL_US
        spill_us += max((_bound_us(view, spec) for view in chosen), default=0)
        told = {path: told[path] if path in first else told[path] + spill_us for path in told}
    return told
