"""How much forward error correction each class to a peer gets: decided from measured loss, and taken back.

Pure; one ``RecoveryPolicy`` per peer, asked by control once or twice a second. In come the paths (loss, mean
burst, round trip, share, congestion), what the operator wants of each class (sdwan.core.classes), and how
fast the class flows; out come changes: so many repairs for so many rows, and how long a block may stay open.

What decides, by the class's ``recovery``:

  fec        repairs until what stays lost is below the class's ``residual_loss_ppm``;
  duplicate  a copy on every path already leaves only the product of their losses; repairs over the sequence
             of packets (copied like them) close the rest. With one path left there is no copy: repairs alone;
  resend     a resend costs no bytes to speak of, but a stall of a round trip, during which everything behind
             waits. At high loss something always waits, and a TCP inside sees the round trip grow. Repairs
             join when they cost less goodput than these stalls (see ``STALL_PER_MS``);
  none       nothing.

Of the sizes of block that fit into the class's patience the cheapest is taken: bytes, waiting and CPU
together. More is given at once; less only after ``HOLD_NS`` of needing less. Loss that is congestion is
answered by sending less, never by sending more: protection goes when a path's loss is its own queue's. It
also goes, for ``DOUBT_NS``, when the far end recovers next to nothing with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sdwan.core.classes import ClassSpec, Recovery
from sdwan.core.residual import residual_loss, spread
from sdwan.model import CLASSES

# Implementation constants -------------------------------------------------------------------------

MILLISECOND_NS = 10**6
SECOND_NS = 10**9
PPM = 1_000_000
BLOCK_SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
REPAIRS_MOST = 16
OVERHEAD_MOST = 0.5
MARGIN = 0.5
"""Of the wanted residual loss that is aimed for: what was measured a second ago is not what is."""
PATIENCE_LEAST_NS = 5 * MILLISECOND_NS
DEADLINE_SHARE = 0.5
"""Of the class's deadline a block may stay open. Beside resends it is the round trip: no later than they."""
WAIT_COST, WAIT_COST_RESEND = 0.2, 0.05
"""A block that takes all the patience costs as much as this overhead: sooner is better."""
SPARE_LOAD, WAIT_COST_SPARE = 0.5, 0.3
"""While half of the paths is spare, time counts more than bytes: a TCP stream is growing, and takes every
packet that comes later than the others for a queue."""
CODING_NS = 1200
"""Of CPU per row and repair, at each end (zfec, full-size rows as two shards each, measured). Its share of a
core counts squared: little of it costs nobody anything, a whole one is all there is."""
STALL_PER_MS = 0.4
"""Goodput of a CUBIC flow over resends alone falls as 1 / (1 + this x rtt in ms x loss that FEC leaves): fits
simulated .84 and .51 of the sum at 2 and 10 % loss and 20 ms, .61 and .32 at 40 ms, within a tenth."""
GAIN_LEAST = 0.05
"""Goodput that repairs must win where resends would do."""
CLOSE_SLACK = 1.25
"""A block may stay open this much longer than its rows should take: packets do not keep to a clock."""
HOLD_NS = 10 * SECOND_NS
CONGESTED_NS = SECOND_NS
"""So long may loss look like congestion before protection goes: the test for it takes up to a second."""
DOUBT_NS = 30 * SECOND_NS
DOUBT_REPAIRS = 2000
"""Repairs after which the outcome says something."""
HELP_LEAST = 0.001
"""Recovered datagrams per repair: copied voice at 5 % loss takes a hundred, a thousand help nobody."""
LOSS_STEP, LOSS_LEAST, RTT_STEP_NS = 1.15, 1e-6, 5 * MILLISECOND_NS
"""Measurements are rounded before anything is computed from them: a hub with a hundred peers meets the same
few questions again and again, and a new one costs milliseconds."""
RATE_DEFAULT = 500.0
"""Rows a second of a class that has not been seen flowing and must not lose its first packets either."""


@dataclass(frozen=True, slots=True)
class PathLoss:
    """What is known of one path in the sending direction."""

    path: int
    is_usable: bool
    """Data is sent on it."""
    loss_ppm: int
    """Recent."""
    burst: float = 1.0
    """Mean number lost in a row (sdwan.core.burstiness)."""
    share: float = 1.0
    """Of the traffic, in any unit."""
    rtt_ns: int = 0
    weather_ppm: int = 0
    """Loss that is proven not to depend on our rate."""
    load: float = 1.0
    """Part of its capacity that is in use: what is spare, repairs may have for nothing."""
    is_congested: bool = False
    """A queue stands, or loss is being tested for being ours: only ``weather_ppm`` is worth repairing."""

    @property
    def repairable_ppm(self) -> int:
        """Loss that more bytes do not make worse."""
        return min(self.loss_ppm, self.weather_ppm) if self.is_congested else self.loss_ppm


@dataclass(frozen=True, slots=True)
class Protection:
    """``repairs`` for every ``sources`` rows, in blocks open for at most ``close_ns``; 0 repairs = none."""

    sources: int = 0
    repairs: int = 0
    close_ns: int = 0

    @property
    def overhead(self) -> float:
        """Repairs per source."""
        return self.repairs / self.sources if self.sources else 0.0


OFF = Protection()


@dataclass(frozen=True, slots=True)
class Change:
    """What the data plane is to do from now on, and why (a sentence for the log)."""

    traffic_class: int
    protection: Protection
    reason: str


@dataclass(slots=True)
class _State:
    protection: Protection = OFF
    less_since_ns: int | None = None
    congested_since_ns: int | None = None
    doubted_until_ns: int = 0


class RecoveryPolicy:
    """The protection of every class to one peer."""

    def __init__(self) -> None:
        self._states = [_State() for _ in range(CLASSES)]
        self._outcome = (0, 0)

    def of(self, traffic_class: int) -> Protection:
        """Return what is in force."""
        return self._states[traffic_class].protection

    def update(
        self,
        paths: Sequence[PathLoss],
        specs: Sequence[ClassSpec],
        rows_per_s: Sequence[float] = (),
        *,
        now_ns: int,
    ) -> list[Change]:
        """Return what changes now.

        Args:
            specs: by traffic class.
            rows_per_s: datagrams of each class lately; 0 or missing = not known.
        """
        usable = [path for path in paths if path.is_usable]
        changes = []
        for number in range(CLASSES):
            spec = specs[number] if number < len(specs) else None
            rate = rows_per_s[number] if number < len(rows_per_s) else 0.0
            is_ready = rate or (spec and spec.recovery is not Recovery.RESEND)
            wanted = choose(spec, usable, rate or RATE_DEFAULT) if spec and usable and is_ready else OFF
            change = self._follow(number, wanted, usable, now_ns)
            if change is not None:
                changes.append(change)
        return changes

    def on_outcome(self, repairs: int, recovered: int, *, now_ns: int) -> list[Change]:
        """Take how many repairs came to the peer, and what it recovered with them (cumulative).

        Repairs that hardly ever help are loss that is not where we think it is, or in bursts beyond reach.
        """
        made, helped = repairs - self._outcome[0], recovered - self._outcome[1]
        if made < 0 or helped < 0:
            self._outcome = (repairs, recovered)
            return []
        if made < DOUBT_REPAIRS:
            return []
        self._outcome = (repairs, recovered)
        if helped >= made * HELP_LEAST:
            return []
        changes = []
        for number, state in enumerate(self._states):
            if state.protection is not OFF:
                state.doubted_until_ns = now_ns + DOUBT_NS
                changes.append(self._set(number, OFF, f"{made} repairs recovered {helped} datagrams"))
        return changes

    def _follow(
        self, number: int, wanted: Protection, paths: Sequence[PathLoss], now_ns: int
    ) -> Change | None:
        """Go up at once, down with patience, and off without it when loss is congestion."""
        state = self._states[number]
        known = state.protection
        is_congestion = bool(paths) and all(path.is_congested for path in paths) and wanted is OFF
        state.congested_since_ns = (state.congested_since_ns or now_ns) if is_congestion else None
        if now_ns < state.doubted_until_ns or not _differs(known, wanted):
            state.less_since_ns = None
            return None
        loss = ", ".join(f"path {p.path}: {p.loss_ppm / 10_000:.2f} %" for p in paths)
        if wanted.overhead > known.overhead:
            return self._set(number, wanted, f"loss on {loss}")
        if is_congestion and now_ns - (state.congested_since_ns or now_ns) >= CONGESTED_NS:
            return self._set(number, OFF, f"loss is congestion on {loss}")
        state.less_since_ns = now_ns if state.less_since_ns is None else state.less_since_ns
        if now_ns - state.less_since_ns < HOLD_NS:
            return None
        return self._set(number, wanted, f"less needed for {HOLD_NS // SECOND_NS} s, loss on {loss}")

    def _set(self, number: int, protection: Protection, reason: str) -> Change:
        state = self._states[number]
        state.protection, state.less_since_ns = protection, None
        return Change(number, protection, reason)


def _differs(known: Protection, wanted: Protection) -> bool:
    """Tell whether a change is worth it: blocks that tremble by a fifth protect nobody better."""
    if (known.repairs == 0) != (wanted.repairs == 0):
        return True
    if known.repairs == 0:
        return False
    nearly = abs(wanted.overhead - known.overhead) <= 0.2 * known.overhead
    return not (nearly and known.sources / 2 < wanted.sources < known.sources * 2)


# What is best -------------------------------------------------------------------------------------


def choose(spec: ClassSpec, paths: Sequence[PathLoss], rows_per_s: float) -> Protection:
    """Return what suits a class best on these (usable) paths, whatever is in force."""
    channels = _channels(spec.recovery, paths)
    if spec.recovery is Recovery.NONE or not any(loss for _, loss, _ in channels):
        return OFF
    rtt_ns = -(-max(path.rtt_ns for path in paths) // RTT_STEP_NS) * RTT_STEP_NS
    rows_per_s = 2.0 ** (math.ceil(2 * math.log2(max(rows_per_s, 1.0))) / 2)
    if spec.recovery is Recovery.RESEND:
        patience_ns = max(rtt_ns, PATIENCE_LEAST_NS)
        return _against_stalls(channels, patience_ns, rows_per_s, rtt_ns / MILLISECOND_NS, _load(paths))
    left_ns = max(spec.deadline_ns - rtt_ns // 2, 0)
    patience_ns = max(min(int(DEADLINE_SHARE * spec.deadline_ns), left_ns), PATIENCE_LEAST_NS)
    return _against_loss(channels, patience_ns, rows_per_s, MARGIN * spec.residual_loss_ppm / PPM)


Channels = tuple[tuple[float, float, float], ...]
"""Share, loss and burst of each path."""


def _channels(recovery: Recovery, paths: Sequence[PathLoss]) -> Channels:
    if recovery is Recovery.DUPLICATE and len(paths) > 1:
        return ((1.0, _coarse(math.prod(path.repairable_ppm / PPM for path in paths)), 1.0),)
    shares = [max(path.share, 0.0) for path in paths]
    whole = sum(shares)
    return tuple(
        (
            round(share / whole, 1) if whole else 1.0,
            _coarse(path.repairable_ppm / PPM),
            round(2 * path.burst) / 2,
        )
        for share, path in zip(shares, paths, strict=True)
    )


def _load(paths: Sequence[PathLoss]) -> float:
    """Return how much of the paths together is in use, rounded up to an eighth, a quarter, a half or all."""
    load = sum(path.load for path in paths) / len(paths)
    return next(step for step in (0.125, 0.25, 0.5, 1.0, math.inf) if load <= step or step == 1.0)


def _coarse(loss: float) -> float:
    """Round up to a step of a scale: so that what was computed is met again."""
    return LOSS_STEP ** math.ceil(math.log(loss, LOSS_STEP)) if loss > LOSS_LEAST else 0.0


@lru_cache(4096)
def _residual(sources: int, repairs: int, channels: Channels) -> float:
    return residual_loss(spread(sources, repairs, channels))


def _sizes(patience_ns: int, rows_per_s: float) -> list[int]:
    """Return the sizes of block that fill up within the patience."""
    rows = int(rows_per_s * patience_ns / SECOND_NS) + 1
    return [size for size in BLOCK_SIZES if size <= rows] or [BLOCK_SIZES[0]]


def _protection(sources: int, repairs: int, patience_ns: int, rows_per_s: float) -> Protection:
    filling_ns = int(2 * (sources - 1) / rows_per_s * SECOND_NS)
    return Protection(
        sources, repairs, min(int(CLOSE_SLACK * patience_ns), max(filling_ns, PATIENCE_LEAST_NS))
    )


def _cost(
    sources: int, repairs: int, patience_ns: int, rows_per_s: float, wait_cost: float, load: float = 1.0
) -> float:
    """Return what protection costs, in parts of the goodput: bytes that are not spare, waiting, CPU."""
    waiting = min((sources - 1) / rows_per_s * SECOND_NS / patience_ns, 1.0)
    coding = rows_per_s * repairs * CODING_NS / SECOND_NS
    return load * repairs / sources + wait_cost * waiting + coding**2


@lru_cache(1024)
def _against_loss(channels: Channels, patience_ns: int, rows_per_s: float, target: float) -> Protection:
    """Return the cheapest protection that leaves less than ``target``; the strongest if none does."""
    if _residual(1, 0, channels) <= target / MARGIN:
        return OFF
    best: tuple[float, Protection] | None = None
    strongest = (1.0, OFF)
    for sources in _sizes(patience_ns, rows_per_s):
        for repairs in range(1, min(int(OVERHEAD_MOST * sources), REPAIRS_MOST) + 1 if sources > 1 else 2):
            left = _residual(sources, repairs, channels)
            protection = _protection(sources, repairs, patience_ns, rows_per_s)
            strongest = min(strongest, (left, protection), key=lambda option: option[0])
            if left <= target:
                cost = _cost(sources, repairs, patience_ns, rows_per_s, WAIT_COST)
                if best is None or cost < best[0]:
                    best = (cost, protection)
                break
    return best[1] if best is not None else strongest[1]


@lru_cache(1024)
def _against_stalls(
    channels: Channels, patience_ns: int, rows_per_s: float, rtt_ms: float, load: float
) -> Protection:
    """Return the protection with the most goodput beside resends; OFF if it wins next to nothing."""

    def value(sources: int, repairs: int) -> float:
        left = _residual(sources, repairs, channels)
        return 1.0 / (1.0 + STALL_PER_MS * rtt_ms * left)

    alone = value(1, 0)
    best, protection = alone + GAIN_LEAST, OFF
    for sources in _sizes(patience_ns, rows_per_s):
        for repairs in range(1, min(int(OVERHEAD_MOST * sources), REPAIRS_MOST) + 1):
            wait_cost = WAIT_COST_RESEND if load > SPARE_LOAD else WAIT_COST_SPARE
            cost = _cost(sources, repairs, patience_ns, rows_per_s, wait_cost, load)
            if 1.0 - cost < best:
                break
            gained = value(sources, repairs) - cost
            if gained > best:
                best, protection = gained, _protection(sources, repairs, patience_ns, rows_per_s)
    return protection
