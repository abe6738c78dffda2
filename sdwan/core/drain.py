"""The administrative drain of a link: whom it would cut off, and when it is complete.

Pure. Draining itself is a weight of zero: ours in ``Place.weight``, told to the peer in a Hello, so neither
side puts new data on the link's paths. Those stay alive and measured; what is under way arrives, since
nothing is torn down. sdwan.edge.site asks before, sdwan.edge.telemetry afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sdwan.core.path import Path
from sdwan.model import PathState

# Implementation constants ------------------------------------------------------------------------

MILLISECOND_NS = 10**6
TOLD_NS = 100 * MILLISECOND_NS
"""What was sent so long after the drain was asked for was sent after the Hello that tells the peer."""
REST_LEAST_NS = 50 * MILLISECOND_NS
"""Two report intervals."""


def cut_off(paths: Mapping[str, Collection[Path]], link: str) -> list[str]:
    """Return the peers that are reached over ``link`` now and could be reached over no other one."""
    return [
        peer
        for peer, of_peer in paths.items()
        if any(_carries(path) and path.place.link == link for path in of_peer)
        and not any(_carries(path) and path.place.link != link for path in of_peer)
    ]


def is_quiet(path: Path, *, since_ns: int, backlog_ns: int, now_ns: int) -> bool:
    """Tell whether a drained path has nothing under way any more, in either direction.

    Ours is gone when no DATA was sent for a round trip and the kernel predicts no queue; the peer's when it
    has named something that was sent a round trip after it was told. A path that is down carries nothing.

    Args:
        since_ns: when the drain was asked for.
        backlog_ns: the virtual queue the kernel keeps of the path.
    """
    if path.state is PathState.DOWN or not path.place.link_up:
        return True
    rest_ns = max(path.rtt_ns or 0, REST_LEAST_NS)
    named = path.sent.named
    is_told = named is not None and named.time_ns >= since_ns + TOLD_NS + rest_ns
    return is_told and backlog_ns <= 0 and now_ns - path.sent.last_due_ns > rest_ns


def _carries(path: Path) -> bool:
    return path.state is PathState.UP and path.view().preference > 0
