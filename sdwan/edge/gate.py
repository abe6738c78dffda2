"""The gate: may another burst leave for a peer now, or are all its paths full?

Data-plane process; reads the kernel's own memory (sdwan.io.kernelview) without a system call, so the answer
takes in the burst sent just before: the steer program has counted it into ``busy`` when sendmsg returns. A
path has room while its virtual queue is within the bound that control wrote for the class; while one
eligible path has room, a burst may go, and the kernel will find that path. What may not go waits in
sdwan.core.queue, where it can be put in order, marked or dropped, and not in somebody's modem.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from socket import AF_INET, AF_INET6
from typing import Any, Protocol

from sdwan.model import CLASSES, PATHS_PER_PEER, SteerMode

# Specification constants (bpf/abi.h) --------------------------------------------------------------

_FLAG_UP, _FLAG_IPV6 = 1, 2
_OUTER_BYTES = {0: 28, _FLAG_IPV6: 48}
"""IP and UDP headers."""

# Implementation constants -------------------------------------------------------------------------

REREAD_NS = 1_000_000
"""Weights are read again after this long: control writes them every few tens of milliseconds."""
NO_PATH_NS = 5_000_000
"""Without any eligible path, look again after this long."""


class Room(IntEnum):
    """What the gate says."""

    CLOSED = 0
    BURST = 1
    """One burst; then ask again."""
    FREE = 2
    """No bound is known: as much as there is."""


class View(Protocol):
    """What the gate needs of sdwan.io.kernelview.KernelView."""

    @property
    def busy(self) -> Any:
        """Rows of struct busy_state."""

    @property
    def paths(self) -> Any:
        """Rows of struct path."""

    def weights_of(self, peer: int, traffic_class: int) -> Any:
        """Return the row of struct weights in force."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was read of one class's weights."""

    until_ns: int
    """Valid until then ..."""
    datagram_bytes: int
    """... for this size of datagram."""
    bounds: tuple[tuple[int, int], ...]
    """Path and longest backlog, ns, of each eligible path."""
    routes: dict[int, tuple[int, int]]
    """Address family and one-way delay, ns, of each of them."""
    is_free: bool
    """Some path takes whatever comes."""


class Gate:
    """Asked before every burst: 0.4 us, and 5 us more once a millisecond to read the weights.

    ``datagram_bytes`` is the peer's ordinary UDP payload: a path too narrow for it holds no gate open.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._until = view.busy["until_ns"]
        self._known: dict[int, _Known] = {}
        """By peer * 8 + class."""

    def room(self, peer: int, traffic_class: int, *, datagram_bytes: int, now_ns: int) -> Room:
        """Tell whether a burst of this class may go now."""
        known = self._look(peer, traffic_class, datagram_bytes, now_ns)
        if known.is_free:
            return Room.FREE
        at = peer * PATHS_PER_PEER
        until_ns = self._until[at : at + PATHS_PER_PEER].tolist()
        for path, bound_ns in known.bounds:
            if until_ns[path] - now_ns <= bound_ns:
                return Room.BURST
        return Room.CLOSED

    def family(self, peer: int, traffic_class: int, *, datagram_bytes: int, now_ns: int) -> int:
        """Return the address family of the path with room that delivers first; 0 if none has any.

        The kernel chooses only among paths of the socket's family: the sender must choose between the two.
        """
        known = self._look(peer, traffic_class, datagram_bytes, now_ns)
        at = peer * PATHS_PER_PEER
        until_ns = self._until[at : at + PATHS_PER_PEER].tolist()
        open_paths = [path for path, bound_ns in known.bounds if until_ns[path] - now_ns <= bound_ns]
        if not open_paths:
            return 0
        first = min(open_paths, key=lambda path: max(until_ns[path], now_ns) + known.routes[path][1])
        return known.routes[first][0]

    def next_ns(self, peer: int, traffic_class: int, *, datagram_bytes: int, now_ns: int) -> int:
        """Return when the first path will have room; now or earlier if one has."""
        known = self._look(peer, traffic_class, datagram_bytes, now_ns)
        if known.is_free:
            return now_ns
        at = peer * PATHS_PER_PEER
        until_ns = self._until[at : at + PATHS_PER_PEER].tolist()
        return min((until_ns[path] - bound for path, bound in known.bounds), default=now_ns + NO_PATH_NS)

    def _look(self, peer: int, traffic_class: int, datagram_bytes: int, now_ns: int) -> _Known:
        key = peer * CLASSES + traffic_class
        known = self._known.get(key)
        if known is None or now_ns >= known.until_ns or known.datagram_bytes != datagram_bytes:
            known = self._known[key] = self._read(peer, traffic_class, datagram_bytes, now_ns)
        return known

    def _read(self, peer: int, traffic_class: int, datagram_bytes: int, now_ns: int) -> _Known:
        row = self._view.weights_of(peer, traffic_class)
        mode, inverse = int(row["mode"]), row["inverse"].tolist()
        rate, bound_us = row["ns_per_kib"].tolist(), row["bound_us"].tolist()
        eligible = [path for path in self._usable(peer, datagram_bytes) if inverse[path]]
        if mode == SteerMode.PIN:
            eligible = sorted(eligible, key=inverse.__getitem__)[:1]
        is_bound = mode != SteerMode.STRIDE and all(rate[path] and bound_us[path] for path in eligible)
        bounds = tuple((path, bound_us[path] * 1000) for path in eligible)
        delay_us, flags = row["delay_us"].tolist(), self._view.paths["flags"]
        routes: dict[int, tuple[int, int]] = {
            path: (
                AF_INET6 if flags[peer * PATHS_PER_PEER + path] & _FLAG_IPV6 else AF_INET,
                delay_us[path] * 1000,
            )
            for path in eligible
        }
        return _Known(now_ns + REREAD_NS, datagram_bytes, bounds, routes, bool(eligible) and not is_bound)

    def _usable(self, peer: int, datagram_bytes: int) -> list[int]:
        """Return the paths that are up; those too narrow only if there are no others."""
        rows = self._view.paths[peer * PATHS_PER_PEER : (peer + 1) * PATHS_PER_PEER]
        flags, mtu = rows["flags"].tolist(), rows["mtu"].tolist()
        up = [path for path in range(PATHS_PER_PEER) if flags[path] & _FLAG_UP]
        wide = [path for path in up if mtu[path] >= datagram_bytes + _OUTER_BYTES[flags[path] & _FLAG_IPV6]]
        return wide or up
