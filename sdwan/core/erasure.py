"""Erasure codes over shards of equal length: XOR for one repair, Reed-Solomon for more.

Pure; used by sdwan.core.fec and sdwan.core.mending, and the only place that knows zfec (which calls one
shard a "block"). The code is systematic: sources stay as they are, any ``len(sources)`` of all shards give
back the rest. Coefficients are those of zfec: the systematic form of a Vandermonde matrix over GF(2^8),
polynomial 0x11d; repair i does not depend on how many repairs there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import zfec

# Specification constants --------------------------------------------------------------------------

SHARDS_MAX = 256
"""Sources and repairs of one code: GF(2^8) has no more points."""

# Implementation constants -------------------------------------------------------------------------

_CODES_KEPT = 64
"""Making a code for 64 sources takes 42 us, for 128 260 us (measured): as long as coding with it."""

Shards = npt.NDArray[np.uint8]
"""One shard a row, C-contiguous."""


@lru_cache(_CODES_KEPT)
def _encoder(sources: int, shards: int) -> Any:
    return zfec.Encoder(sources, shards)


@lru_cache(_CODES_KEPT)
def _decoder(sources: int, shards: int) -> Any:
    return zfec.Decoder(sources, shards)


def encode(sources: Shards, repairs: int) -> list[bytes]:
    """Return ``repairs`` repair shards over all rows of ``sources``."""
    if repairs == 1:
        return [np.bitwise_xor.reduce(sources, axis=0).tobytes()]
    count = len(sources)
    made: list[bytes] = _encoder(count, count + repairs).encode(
        tuple(row.data for row in sources), tuple(range(count, count + repairs))
    )
    return made


def reconstruct(sources: Shards, missing: list[int], repairs: Mapping[int, bytes], repairs_made: int) -> None:
    """Fill the missing rows of ``sources`` in place.

    Args:
        sources: every source shard; the rows ``missing`` names hold zeros.
        repairs: at least ``len(missing)`` repair shards by number, each as long as a row.
        repairs_made: how many there were when they were made (one is XOR).
    """
    if repairs_made == 1:
        present = np.bitwise_xor.reduce(sources, axis=0)
        sources[missing[0]] = present ^ np.frombuffer(repairs[0], dtype=np.uint8)
        return
    count = len(sources)
    shards: list[Any] = [row.data for row in sources]
    numbers = list(range(count))
    for row, (number, shard) in zip(missing, sorted(repairs.items()), strict=False):
        shards[row], numbers[row] = shard, count + number
    whole = _decoder(count, count + repairs_made).decode(tuple(shards), tuple(numbers))
    for row in missing:
        sources[row] = np.frombuffer(whole[row], dtype=np.uint8)
