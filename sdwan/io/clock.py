"""The clock and the dice: the only places control takes time and chance from.

Everything that decides is pure and gets ``now_ns`` and ``entropy`` handed in; the shell takes them from here.
"""

from __future__ import annotations

import os
from datetime import date
from time import monotonic_ns

now_ns = monotonic_ns
"""CLOCK_MONOTONIC in nanoseconds: the clock of the kernel's time stamps (bpf_ktime_get_ns), too."""

entropy = os.urandom
"""Unpredictable bytes."""


def random_u64() -> int:
    """Return an unpredictable number of 64 bits that is not 0."""
    return int.from_bytes(os.urandom(8), "big") or 1


def today() -> tuple[int, int, int]:
    """Return year, month and day of this machine's calendar."""
    found = date.today()
    return found.year, found.month, found.day
