"""What stays lost of a protected block, computed exactly for links that lose singly or in bursts.

Pure arithmetic, no state; asked by sdwan.core.recovery. A path is a Gilbert channel: a two-state Markov
chain that loses everything in its bad state, given by its mean loss and its mean burst. A burst of
1 / (1 - loss) is independent loss (the binomial case). Rows and repairs of one block that travel on different
paths meet independent channels, and a block is lost when more of it is missing than it has repairs.

Where rows are cut into two shards the numbers are those of whole rows: by Monte Carlo, 10 % loss, 32 rows, 8
repairs, .0040 against .0036.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Leg:
    """What one path carries of a block: sources, then repairs."""

    sources: int
    repairs: int
    loss: float
    """Mean, 0..1."""
    burst: float = 1.0
    """Mean number of datagrams lost in a row; below that of independent loss it counts as that."""


def residual_loss(legs: Sequence[Leg]) -> float:
    """Return the part of the sources that stays lost: expected lost sources of failing blocks, per source."""
    sources = sum(leg.sources for leg in legs)
    repairs = sum(leg.repairs for leg in legs)
    total, weighted = np.ones(1), np.zeros(1)
    for leg in legs:
        chance, lost = _losses(leg)
        weighted = np.convolve(weighted, chance) + np.convolve(total, lost)
        total = np.convolve(total, chance)
    return float(weighted[repairs + 1 :].sum()) / sources if sources else 0.0


def spread(sources: int, repairs: int, paths: Sequence[tuple[float, float, float]]) -> tuple[Leg, ...]:
    """Deal a block to paths given as (share, loss, burst), as sender and schedule do.

    Sources go by share; each repair goes where least of the block travels.
    """
    whole = sum(share for share, _, _ in paths) or 1.0
    counts = [int(sources * share / whole) for share, _, _ in paths]
    for at in sorted(range(len(paths)), key=lambda i: -paths[i][0])[: sources - sum(counts)]:
        counts[at] += 1
    loads, placed = list(counts), [0] * len(paths)
    for _ in range(repairs):
        at = loads.index(min(loads))
        placed[at] += 1
        loads[at] += 1
    return tuple(
        Leg(count, extra, loss, burst)
        for count, extra, (_, loss, burst) in zip(counts, placed, paths, strict=True)
    )


def _losses(leg: Leg) -> tuple[Floats, Floats]:
    """Return, by the number lost on this path, its probability and the lost sources expected in it."""
    count = leg.sources + leg.repairs
    loss = min(max(leg.loss, 0.0), 0.999)
    stay_bad = max(1.0 - 1.0 / max(leg.burst, 1.0), loss)
    turn_bad = loss * (1.0 - stay_bad) / (1.0 - loss)
    good, bad = np.zeros((2, count + 1)), np.zeros((2, count + 1))  # row 0: chance, row 1: sources lost
    good[0, 0], bad[0, 0] = 1.0 - loss, loss  # before the first, as it is in the long run
    for number in range(count):
        missed = good * turn_bad + bad * stay_bad
        good = good * (1.0 - turn_bad) + bad * (1.0 - stay_bad)
        bad = np.zeros_like(missed)
        bad[:, 1:] = missed[:, :-1]
        if number < leg.sources:
            bad[1] += bad[0]
    both = good + bad
    return both[0], both[1]
