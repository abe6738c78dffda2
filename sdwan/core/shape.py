"""What kernel and data plane are told of a peer's paths taken together, and when a change is worth telling.

Pure; one ``Shape`` per peer, asked by ``sdwan.core.tunnel`` after every piece of news. In come the paths,
out come the actions SetPathMtu, SetShares and SetShape: only what differs, with hysteresis, from what was
told before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sdwan.core.actions import Action, SetPathMtu, SetShape, SetShares
from sdwan.core.classes import ClassSpec
from sdwan.core.mtu import BASE_BYTES
from sdwan.core.path import OUTER_HEADERS_BYTES, Path
from sdwan.core.schedule import Decision, PathView, decide_all, is_other_burst, is_worth_writing
from sdwan.core.sla import SlaWatch
from sdwan.core.wire import sealed_overhead_bytes
from sdwan.model import PathState

# Implementation constants ------------------------------------------------------------------------

REPAIR_UNKNOWN_US = 150_000
REPAIR_SLACK_US = 15_000
"""Two busy processes and a queue of 4 ms at each end."""
REPAIR_CHANGE = 0.25

INNER_MTU_LEAST = 1280
"""An interface with less loses IPv6 (RFC 8200 section 5)."""


class Shape:
    """What was told last."""

    def __init__(self) -> None:
        self.decisions: tuple[Decision, ...] = ()
        """One for each traffic class; none before the first."""
        self._told: SetShape | None = None
        self._mtus: dict[int, int] = {}

    def forget(self, path: int) -> None:
        """Forget a path that is gone."""
        self._mtus.pop(path, None)

    def tell_again(self) -> None:
        """Repeat everything the data plane should know: it is another process now."""
        self._told = None

    def update(
        self,
        paths: Collection[Path],
        views: Sequence[PathView],
        specs: Sequence[ClassSpec],
        sla: SlaWatch,
        *,
        hole_wait_us: int,
    ) -> list[Action]:
        """Return what is to be told now."""
        actions: list[Action] = []
        for path in paths:
            mtu_bytes = _path_mtu(path, paths)
            if self._mtus.get(path.number) != mtu_bytes:
                self._mtus[path.number] = mtu_bytes
                actions.append(SetPathMtu(path.number, mtu_bytes))
        decisions = decide_all(views, specs, sla)
        if not self.decisions or any(map(is_worth_writing, self.decisions, decisions)):
            self.decisions = decisions
            actions.append(SetShares(decisions))
        burst_segments = max(decision.burst_segments for decision in decisions)
        shape = SetShape(_datagram_bytes(paths), burst_segments, hole_wait_us, _repair_wait_us(paths))
        if self._told is None or _is_other(self._told, shape):
            self._told = shape
            actions.append(shape)
        return actions


def _path_mtu(path: Path, paths: Collection[Path]) -> int:
    """Return what the kernel may put on a path: what is trusted, or what is known if no other can."""
    others = (p for p in paths if p is not path and p.state is PathState.UP)
    is_needed = not any(p.mtu.trusted_bytes >= path.mtu.size_bytes for p in others)
    return path.mtu.size_bytes if is_needed else path.mtu.trusted_bytes


def _datagram_bytes(paths: Collection[Path]) -> int:
    """Return the largest UDP payload every usable path takes.

    A path still searching does not shrink the others' datagrams, nor does one too narrow for the least
    inner MTU: the kernel keeps what is too large off it.
    """
    usable = [path for path in paths if path.state is PathState.UP] or list(paths)
    found = [path for path in usable if path.mtu.is_complete] or usable
    wide = [path for path in found if _inner_bytes(path) >= INNER_MTU_LEAST] or found
    sizes = [path.mtu.size_bytes - OUTER_HEADERS_BYTES[path.place.ipv6] for path in wide]
    return min(sizes, default=BASE_BYTES[False] - OUTER_HEADERS_BYTES[False])


def _repair_wait_us(paths: Collection[Path]) -> int:
    """Return how long a datagram that is asked for takes to come, over the quickest path."""
    rtts_ns = [path.rtt_ns for path in paths if path.state is PathState.UP and path.rtt_ns is not None]
    if not rtts_ns:
        return REPAIR_UNKNOWN_US
    return min(rtts_ns) * 5 // 4000 + REPAIR_SLACK_US


def _inner_bytes(path: Path) -> int:
    return path.mtu.size_bytes - sealed_overhead_bytes(path.place.ipv6)


def _is_other(old: SetShape, new: SetShape) -> bool:
    return (
        old.datagram_bytes != new.datagram_bytes
        or old.hole_wait_us != new.hole_wait_us
        or abs(old.repair_wait_us - new.repair_wait_us) > REPAIR_CHANGE * old.repair_wait_us
        or is_other_burst(old.burst_segments, new.burst_segments)
    )
