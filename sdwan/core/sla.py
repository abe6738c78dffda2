"""Takes a path away from a traffic class while it breaks the class's limits, and gives it back.

Pure; virtual time. One ``SlaWatch`` per peer: ``update`` is called with every decision of the schedule,
which then asks ``paths_out``. A path that is beyond a limit for ``worse_for_ns`` without a break is out for
the class; within all limits for ``better_for_ns`` without a break, it is back. Never is the last usable path
taken: of several bad ones the worst go first, and when the good ones fail, the quickest of those out is
called back at once.

Each change comes out as a ``Verdict`` with a sentence for the event log: "lte out for voice: rtt 180 ms >
150 ms for 1 s". A loss figure that has not moved for half a minute is no measurement any more (an idle path
measures no loss), so it keeps no path out for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sdwan.core.classes import ClassSpec, SlaLimits
from sdwan.core.eligible import PathView, usable
from sdwan.model import PathState

# Implementation constants ------------------------------------------------------------------------

STALE_NS = 30_000_000_000
"""A loss unchanged to the last ppm for so long was measured no more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One change, or one that was due but would have left no path."""

    path: int
    link: str
    traffic_class: int
    is_out: bool
    reason: str
    """A whole sentence."""


@dataclass(slots=True)
class _Watch:
    """What is remembered of one path for one class."""

    is_out: bool = False
    worse_since_ns: int | None = None
    better_since_ns: int | None = None
    is_kept_told: bool = False
    loss_ppm: int = -1
    loss_since_ns: int = 0


@dataclass(frozen=True, slots=True)
class _Excess:
    """A limit that is broken."""

    ratio: float
    text: str


class SlaWatch:
    """The paths of one peer, against the limits of every class."""

    def __init__(self) -> None:
        self._watches: dict[tuple[int, int], _Watch] = {}

    def paths_out(self, traffic_class: int) -> frozenset[int]:
        """Return the paths that are out for a class."""
        return frozenset(
            path
            for (path, number), watch in self._watches.items()
            if number == traffic_class and watch.is_out
        )

    def update(self, views: Sequence[PathView], specs: Sequence[ClassSpec], *, now_ns: int) -> list[Verdict]:
        """Judge every path for every class; return what changed."""
        present = {view.path for view in views}
        limited = {number for number, spec in enumerate(specs) if _has_limits(spec.sla)}
        for key in [key for key in self._watches if key[0] not in present or key[1] not in limited]:
            del self._watches[key]
        names = _names(views)
        return [
            verdict
            for number in sorted(limited)
            for verdict in self._update_class(views, number, specs[number], names, now_ns)
        ]

    def _update_class(
        self, views: Sequence[PathView], number: int, spec: ClassSpec, names: dict[int, str], now_ns: int
    ) -> Iterable[Verdict]:
        def verdict(view: PathView, is_out: bool, what: str, why: str) -> Verdict:
            return Verdict(
                view.path, view.link, number, is_out, f"{names[view.path]} {what} for {spec.name}: {why}"
            )

        worst_first: list[tuple[float, PathView, str]] = []
        for view in views:
            watch = self._watches.setdefault((view.path, number), _Watch())
            excess = _judge(watch, view, spec.sla, now_ns)
            if watch.is_out and _has_lasted(watch.better_since_ns, spec.sla.better_for_ns, now_ns):
                watch.is_out = False
                yield verdict(view, False, "back", _recovery(view, spec.sla))
            elif (
                excess
                and not watch.is_out
                and _has_lasted(watch.worse_since_ns, spec.sla.worse_for_ns, now_ns)
            ):
                worst_first.append((excess.ratio, view, excess.text))
        for _, view, text in sorted(worst_first, key=lambda item: -item[0]):
            watch = self._watches[view.path, number]
            if self._has_other(views, view, number, spec):
                watch.is_out = True
                yield verdict(view, True, "out", text)
            elif not watch.is_kept_told:
                watch.is_kept_told = True
                yield verdict(view, False, "kept", f"{text}, but no other link is usable")
        recalled = self._recall(views, number, spec)
        if recalled is not None:
            yield verdict(recalled, False, "back", "no other link is usable")

    def _has_other(self, views: Sequence[PathView], view: PathView, number: int, spec: ClassSpec) -> bool:
        return any(
            other.path != view.path and other.state is PathState.UP and not self._is_out(other, number)
            for other in usable(views, spec)
        )

    def _is_out(self, view: PathView, number: int) -> bool:
        return self._watches[view.path, number].is_out

    def _recall(self, views: Sequence[PathView], number: int, spec: ClassSpec) -> PathView | None:
        """Give back the quickest path if all that are usable are out."""
        candidates = usable(views, spec)
        if not candidates or not all(self._is_out(view, number) for view in candidates):
            return None
        best = min(candidates, key=lambda view: (view.rtt_ns is None, view.rtt_ns or 0))
        self._watches[best.path, number].is_out = False
        self._watches[best.path, number].is_kept_told = True
        return best


def _judge(watch: _Watch, view: PathView, limits: SlaLimits, now_ns: int) -> _Excess | None:
    """Start and stop the watch's two clocks; return the worst broken limit."""
    if view.loss_ppm != watch.loss_ppm or now_ns < watch.loss_since_ns:
        watch.loss_ppm, watch.loss_since_ns = view.loss_ppm, now_ns
    if (
        view.state is not PathState.UP
    ):  # what was measured of it says nothing now; its state is judged elsewhere
        watch.worse_since_ns = watch.better_since_ns = None
        return None
    excess = _worst(view, limits, is_loss_known=now_ns - watch.loss_since_ns < STALE_NS)
    if excess:
        watch.worse_since_ns = _started(watch.worse_since_ns, now_ns)
        watch.better_since_ns = None
    else:
        watch.better_since_ns = _started(watch.better_since_ns, now_ns)
        watch.worse_since_ns = None
        watch.is_kept_told = False
    return excess


def _started(since_ns: int | None, now_ns: int) -> int:
    return now_ns if since_ns is None else min(since_ns, now_ns)


def _has_lasted(since_ns: int | None, time_ns: int, now_ns: int) -> bool:
    return since_ns is not None and now_ns - since_ns >= time_ns


def _has_limits(limits: SlaLimits) -> bool:
    return any(limit is not None for limit in (limits.latency_ns, limits.jitter_ns, limits.loss_ppm))


def _worst(view: PathView, limits: SlaLimits, *, is_loss_known: bool) -> _Excess | None:
    suffix = f"for {_seconds(limits.worse_for_ns)}"
    found = [
        _Excess(value / max(limit, 1), f"{what} {write(value)} > {write(limit)} {suffix}")
        for what, value, limit, write in _compared(view, limits)
        if value is not None and value > limit and (what != "loss" or is_loss_known)
    ]
    return max(found, key=lambda excess: excess.ratio, default=None)


def _recovery(view: PathView, limits: SlaLimits) -> str:
    held = [
        f"{what} {write(value)} <= {write(limit)}"
        for what, value, limit, write in _compared(view, limits)
        if value is not None and value <= limit
    ]
    return (
        f"{', '.join(held) or 'nothing broken that is still measured'} for {_seconds(limits.better_for_ns)}"
    )


def _compared(
    view: PathView, limits: SlaLimits
) -> Iterator[tuple[str, int | None, int, Callable[[int], str]]]:
    """Yield (what, measured, limit, how to write both) of every limit there is."""
    for what, value, limit, write in (
        ("rtt", view.rtt_ns, limits.latency_ns, _milliseconds),
        ("jitter", view.jitter_ns, limits.jitter_ns, _milliseconds),
        ("loss", view.loss_ppm, limits.loss_ppm, _percent),
    ):
        if limit is not None:
            yield what, value, limit, write


def _names(views: Sequence[PathView]) -> dict[int, str]:
    """Return what to call each path: its link, and its number where that is not enough."""
    links = [view.link for view in views]
    return {
        view.path: view.link if view.link and links.count(view.link) == 1
        else f"{view.link} path {view.path}".strip()
        for view in views
    }  # fmt: skip


def _milliseconds(time_ns: int) -> str:
    return f"{time_ns / 1e6:.3g} ms" if time_ns < 10**8 else f"{time_ns / 1e6:.0f} ms"


def _seconds(time_ns: int) -> str:
    return f"{time_ns / 1e9:g} s"


def _percent(loss_ppm: int) -> str:
    return f"{loss_ppm / 1e4:.3g} %"
