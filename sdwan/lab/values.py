"""Impairments as people write them: ``{rate: 20mbit, delay: 10ms, loss: 0.1%}``.

In comes plain data of a scenario file or the options of ``sdwan lab link set``; out go the values of an
``Impairment`` with their units fixed. Rates and times are written as in a site's configuration
(sdwan/config/values.py). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdwan.config.values import Wrong, parse_duration, parse_rate, show
from sdwan.errors import LabError
from sdwan.lab.impairment import MILLION
from sdwan.lab.traces import CELLULAR_PIECE_NS, PIECES_MAX, Trace, cellular, read_mahimahi

# Implementation constants --------------------------------------------------------------------------

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")
_SIZE = re.compile(r"(\d{1,9})\s*(k|m)?b?")
_SIZE_UNITS = {None: 1, "k": 1000, "m": 1_000_000}


def parse_share(value: Any) -> int:
    """Parse ``0.1%`` into parts per million."""
    right = "a percentage such as 0.1%"
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise Wrong(f"{show(value)} is no share", right)
    return round(float(match[1]) * MILLION / 100)


def parse_size(value: Any) -> int:
    """Parse ``64k`` or 65000 into bytes."""
    match = _SIZE.fullmatch(str(value).strip().lower())
    if match is None:
        raise Wrong(f"{show(value)} is no size", "bytes, or a number with k or m")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def parse_unlimited_rate(value: Any) -> int:
    """Parse a rate, where ``unlimited`` is one as well."""
    return 0 if value == "unlimited" else parse_rate(value)


def parse_flag(value: Any) -> bool:
    """Insist on true or false."""
    if not isinstance(value, bool):
        raise Wrong(f"{show(value)} is neither true nor false", "true or false")
    return value


def parse_trace(value: Any) -> Trace:
    """Parse a trace: a list of ``[duration, rate]``, the name of a mahimahi file, or how to make one."""
    if isinstance(value, str):
        return read_mahimahi(Path(value))
    if isinstance(value, dict):
        return _parse_cellular(value)
    if not isinstance(value, list) or not all(isinstance(piece, list) and len(piece) == 2 for piece in value):
        raise Wrong(f"{show(value)} is no trace", "a file, or a list such as [[200ms, 20mbit], [50ms, 0]]")
    return tuple((parse_duration(duration), 0 if rate == 0 else parse_rate(rate)) for duration, rate in value)


def _parse_cellular(value: dict[str, Any]) -> Trace:
    right = "{cellular: SEED, length: 60s, from: 1mbit, to: 20mbit}"
    if value.keys() != {"cellular", "length", "from", "to"} or not isinstance(value["cellular"], int):
        raise Wrong(f"{show(value)} does not say how to make a trace", right)
    length_ns = parse_duration(value["length"])
    low_bps, high_bps = parse_rate(value["from"]), parse_rate(value["to"])
    if length_ns > PIECES_MAX * CELLULAR_PIECE_NS or not 0 < low_bps < high_bps:
        raise Wrong(f"{show(value)} is too long, or its rates are not in order", right)
    return cellular(value["cellular"], length_ns, low_bps, high_bps)


KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "rate": ("rate_bps", parse_unlimited_rate),
    "trace": ("trace", parse_trace),
    "buffer": ("buffer_ns", parse_duration),
    "buffer_size": ("buffer_bytes", parse_size),
    "delay": ("delay_ns", parse_duration),
    "jitter": ("jitter_ns", parse_duration),
    "loss": ("loss_ppm", parse_share),
    "burst_enter": ("burst_enter_ppm", parse_share),
    "burst_leave": ("burst_leave_ppm", parse_share),
    "burst_loss": ("burst_loss_ppm", parse_share),
    "duplicate": ("duplicate_ppm", parse_share),
    "reorder": ("reorder_ppm", parse_share),
    "reorder_by": ("reorder_ns", parse_duration),
    "blackhole": ("blackhole", parse_flag),
    "mtu": ("mtu_bytes", parse_size),
}
"""What people write: the field of ``Impairment`` it sets, and its parser."""


def impairment_values(written: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of an ``Impairment`` for what was written; only the keys that were.

    Raises:
        LabError: an unknown key or a wrong value, with where it stands.
    """
    values = {}
    for key, value in written.items():
        if key not in KEYS:
            raise LabError(f"{where}.{key}: no such impairment; there are {', '.join(KEYS)}")
        field, parse = KEYS[key]
        try:
            values[field] = parse(value)
        except Wrong as error:
            raise LabError(f"{where}.{key}: {error}") from None
    return values
