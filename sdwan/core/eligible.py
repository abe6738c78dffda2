"""Which of a peer's paths a traffic class may use now, and why others not: policy before arithmetic.

Pure. ``PathView`` is all that policy and schedule know of a path; ``eligible`` is asked by
``sdwan.core.schedule`` for every class, ``usable`` by ``sdwan.core.sla`` before it takes a path away.

The questions come in this order, and each may only narrow what the one before left:

1. may it be used at all: link up, weight above 0, not drained, allowed by the class's ``links``;
2. its state: those UP; if none is, the next best state, since a tunnel may be wrong about its last path;
3. its quota: an exhausted one only when there is no other;
4. the SLA: paths out for the class only when there is no other;
5. backup and metered links: only when there is no other. A link an ``ORDERED`` class names is meant, whatever
   it costs;
6. the deadline: a path that would deliver later than a repair on the fastest is of no use;
7. the preference.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sdwan.core.classes import BULK, READY, ClassSpec, Preference, Recovery
from sdwan.model import PathState, SteerMode

# Implementation constants ------------------------------------------------------------------------

QUEUE_TARGET_NS = 4_000_000
"""Predicted queue up to which a path takes data, unless its estimator says otherwise."""
AS_WIDE = 0.75
"""Capacities within a quarter of the largest count as equal: an estimate that wavers moves no flow."""

_FALLBACK = (PathState.UP, PathState.DEGRADED, PathState.PROBING, PathState.DOWN)
"""In this order: the first state that any usable path is in."""


@dataclass(frozen=True, slots=True)
class PathView:
    """What policy and schedule need to know of one path."""

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
    link: str = ""
    """Name of the local link; "" = not known, and then no class excludes it by name."""
    metered: bool = False
    is_backup: bool = False
    """Only when needed: no class uses it while another link is usable."""
    is_drained: bool = False
    """No new data, by order of the operator."""
    rtt_ns: int | None = None
    jitter_ns: int | None = None
    quota_left_bytes: int | None = None
    """Of the month; None = no quota."""
    queue_target_ns: int = QUEUE_TARGET_NS


def usable(views: Iterable[PathView], spec: ClassSpec) -> list[PathView]:
    """Return the paths a class may use as far as operator and state are concerned."""
    allowed = [
        view
        for view in views
        if view.link_up and view.preference > 0 and not view.is_drained and _is_allowed(view, spec)
    ]
    for state in _FALLBACK:
        chosen = [view for view in allowed if view.state is state]
        if chosen:
            return chosen
    return []


def eligible(
    views: Iterable[PathView], spec: ClassSpec = READY[BULK], out: Collection[int] = ()
) -> list[PathView]:
    """Return the paths that may carry a class's data; ``out`` are the paths its SLA has taken away."""
    chosen = usable(views, spec)
    chosen = [view for view in chosen if view.quota_left_bytes is None or view.quota_left_bytes > 0] or chosen
    chosen = [view for view in chosen if view.path not in out] or chosen
    cheapest = min((_reluctance(view, spec) for view in chosen), default=0)
    chosen = [view for view in chosen if _reluctance(view, spec) == cheapest]
    return _preferred(_within(chosen, spec.deadline_ns), spec)


def widest(views: Iterable[PathView]) -> list[PathView]:
    """Return the path of the highest capacity; of those about as wide, the one with the lowest number."""
    known = sorted(views, key=lambda view: view.path)
    largest_bps = max((view.capacity_bps or 0 for view in known), default=0)
    return [view for view in known if (view.capacity_bps or 0) >= AS_WIDE * largest_bps][:1]


def _is_allowed(view: PathView, spec: ClassSpec) -> bool:
    if not spec.links or not view.link or spec.preference is Preference.ORDERED:
        return True
    return view.link in spec.links or view.link in spec.backup_links


def _rank(view: PathView, spec: ClassSpec) -> int:
    return spec.links.index(view.link) if view.link in spec.links else len(spec.links)


def _reluctance(view: PathView, spec: ClassSpec) -> int:
    """Return how unwilling a class takes a path: 0 gladly, 1 it is metered, 2 it is a backup."""
    if spec.preference is Preference.ORDERED and view.link in spec.links:
        return 0
    if view.is_backup or view.link in spec.backup_links:
        return 2
    return int(spec.avoid_metered and view.metered)


def _within(views: list[PathView], wait_ns: int) -> list[PathView]:
    """Return the paths that deliver at most so much later than the fastest, and those of unknown delay."""
    known = [view.delay_us for view in views if view.delay_us is not None]
    latest_us = min(known, default=0) + wait_ns // 1000
    return [view for view in views if view.delay_us is None or view.delay_us <= latest_us]


def _preferred(views: list[PathView], spec: ClassSpec) -> list[PathView]:
    match spec.preference:
        case Preference.ORDERED:
            first = min((_rank(view, spec) for view in views), default=0)
            return [view for view in views if _rank(view, spec) == first]
        case Preference.LOWEST_LATENCY:
            measured = [view for view in views if view.delay_us is not None] or views
            queue_ns = max((view.queue_target_ns for view in measured), default=0)
            return _within(measured, queue_ns + spec.queue_target_ns)
        case Preference.HIGHEST_BANDWIDTH if spec.steering in (SteerMode.STRIDE, SteerMode.PIN):
            # These modes cannot say "then the others too"; a duplicated class wants every path.
            return views if spec.recovery is Recovery.DUPLICATE else widest(views)
        case _:
            return views
