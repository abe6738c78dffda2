"""Rate traces: read from a mahimahi file, or made from a seed. Pure but for reading the file.

A trace is a tuple of (duration_ns, rate_bps) pieces. ``cellular`` makes one that moves as a phone's link on a
train does: a rate that wanders (in steps of its logarithm, so that halving is as likely as doubling), and
fades, in which nothing passes. The same seed makes the same trace on every machine.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from sdwan.config.values import Wrong

Trace = tuple[tuple[int, int], ...]

# Specification constants ---------------------------------------------------------------------------

MAHIMAHI_FRAME_BITS = 1500 * 8
"""One delivery opportunity of a mahimahi trace, one line: a millisecond and a frame (mm-link(1))."""

# Implementation constants --------------------------------------------------------------------------

MAHIMAHI_PIECE_MS = 20
"""Mahimahi opportunities are counted in pieces this long."""
PIECES_MAX = 4_000
"""80 s of a mahimahi trace; the description must fit one message to the emulator."""
CELLULAR_PIECE_NS = 100_000_000
WANDER = 0.18
"""Standard deviation of the logarithm's step from one piece to the next: a factor of two within 1.5 s."""
FADE_CHANCE = 0.012
"""Of a fade to begin in a piece: one in 8 s."""
FADE_PIECES = (2, 6)
"""A fade lasts 0.2 to 0.6 s."""


def cellular(seed: int, length_ns: int, low_bps: int, high_bps: int) -> Trace:
    """Make a trace of this length whose rate wanders between two bounds and now and then fades to nothing."""
    chance = random.Random(seed)
    low, high = math.log(low_bps), math.log(high_bps)
    position = (low + 2 * high) / 3
    pieces: list[tuple[int, int]] = []
    fading = 0
    while len(pieces) * CELLULAR_PIECE_NS < length_ns:
        position += chance.gauss(0, WANDER)
        if position > high:
            position = 2 * high - position
        elif position < low:
            position = 2 * low - position
        if fading:
            fading -= 1
        elif chance.random() < FADE_CHANCE:
            fading = chance.randint(*FADE_PIECES)
        rate_bps = 0 if fading else round(math.exp(min(max(position, low), high)))
        pieces.append((CELLULAR_PIECE_NS, rate_bps))
    return tuple(pieces)


def read_mahimahi(path: Path) -> Trace:
    """Read a mahimahi trace: one line per frame that could be sent, the millisecond since the start."""
    try:
        moments_ms = [int(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise Wrong(
            f"{path} is no mahimahi trace ({error})", "one whole number of milliseconds a line"
        ) from None
    pieces = max(moments_ms, default=0) // MAHIMAHI_PIECE_MS + 1
    if not moments_ms or min(moments_ms) < 0 or pieces > PIECES_MAX:
        raise Wrong(f"{path} is empty or too long", f"at most {PIECES_MAX * MAHIMAHI_PIECE_MS // 1000} s")
    frames = [0] * pieces
    for moment_ms in moments_ms:
        frames[moment_ms // MAHIMAHI_PIECE_MS] += 1
    piece_ns = MAHIMAHI_PIECE_MS * 1_000_000
    return tuple((piece_ns, count * MAHIMAHI_FRAME_BITS * 1000 // MAHIMAHI_PIECE_MS) for count in frames)
