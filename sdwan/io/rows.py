"""Rows of the kernel's maps as Python values, and back.

Pure: numpy records in, frozen dataclasses out, and the other way round. Addresses and ports stand in the
maps in network order. Used by sdwan.io.maps alone, which hands these classes on to everybody.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdwan.errors import KernelError
from sdwan.model import PATHS_PER_PEER, SteerMode

# Specification constants (bpf/abi.h) ---------------------------------------------------------------

FLAG_UP, FLAG_IPV6 = 1, 2
STRIDE_ONE = 1024
"""``inverse`` of the path with the largest weight."""
STRIDE_MAX = 1 << 20
U32 = 0xFFFFFFFF

_NO_SHARES = (0.0,) * PATHS_PER_PEER
_NO_NUMBERS = (0,) * PATHS_PER_PEER


@dataclass(frozen=True, slots=True)
class PathEntry:
    """One path as the kernel has it."""

    ifindex: int
    up: bool
    ipv6: bool
    mtu: int
    """Largest IP packet, bytes."""
    source: str
    source_port: int
    remote: str
    remote_port: int
    generation: int
    """Goes up with every write."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How one traffic class of one peer is spread over its paths; tuples have one entry per path."""

    mode: SteerMode = SteerMode.STRIDE
    shares: tuple[float, ...] = _NO_SHARES
    """Any unit: only ratios matter, down to 1:1024. 0 excludes the path, in every mode."""
    ns_per_kib: tuple[int, ...] = _NO_NUMBERS
    """Time to send 1024 bytes; 0 = not known."""
    delay_us: tuple[int, ...] = _NO_NUMBERS
    """One-way delay; only differences matter."""
    bound_us: tuple[int, ...] = _NO_NUMBERS
    """EARLIEST: a path whose backlog takes longer rests while another has room; 0 = never."""


@dataclass(frozen=True, slots=True)
class LinkStats:
    """What crossed one attached interface, in frames and bytes on the wire; tunnel traffic included."""

    tx_packets: int = 0
    tx_bytes: int = 0
    tx_tunnel_packets: int = 0
    tx_tunnel_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0
    rx_tunnel_packets: int = 0
    rx_tunnel_bytes: int = 0


def load_path(row: Any) -> PathEntry | None:
    """Read a struct path; None if it is unused."""
    if not row["ifindex"]:
        return None
    ipv6 = bool(row["flags"] & FLAG_IPV6)
    family = "6" if ipv6 else "4"
    return PathEntry(
        ifindex=int(row["ifindex"]),
        up=bool(row["flags"] & FLAG_UP),
        ipv6=ipv6,
        mtu=int(row["mtu"]),
        source=_text(row[f"source{family}"]),
        source_port=socket.ntohs(int(row["source_port"])),
        remote=_text(row[f"remote{family}"]),
        remote_port=socket.ntohs(int(row["remote_port"])),
        generation=int(row["generation"]),
    )


def load_weights(row: Any) -> Weights:
    """Read a struct weights; shares add up to 1, or to 0 where no path has any."""
    inverse = row["inverse"].astype(np.float64)
    shares = np.divide(STRIDE_ONE, inverse, out=np.zeros(PATHS_PER_PEER), where=inverse > 0)
    total = shares.sum() or 1.0
    return Weights(
        SteerMode(int(row["mode"])),
        tuple(float(share) for share in shares / total),
        tuple(int(value) for value in row["ns_per_kib"]),
        tuple(int(value) for value in row["delay_us"]),
        tuple(int(value) for value in row["bound_us"]),
    )


def store_weights(row: Any, weights: Weights) -> None:
    """Write a struct weights."""
    largest = max(weights.shares, default=0.0)
    inverse = [
        round(min(STRIDE_ONE * (largest / share), STRIDE_MAX)) if share > 0 else 0
        for share in weights.shares
    ]  # fmt: skip
    row["mode"] = int(weights.mode)
    row["inverse"] = _row_of(inverse)
    for name in ("ns_per_kib", "delay_us", "bound_us"):
        row[name] = _row_of([min(max(value, 0), U32) for value in getattr(weights, name)])


def _row_of(values: list[int]) -> list[int]:
    if len(values) > PATHS_PER_PEER:
        raise KernelError(f"weights for {len(values)} paths: a peer has {PATHS_PER_PEER}")
    return values + [0] * (PATHS_PER_PEER - len(values))


def address_fields(source: str, remote: str, ipv6: bool) -> dict[str, Any]:
    """Give the address fields of a path as the machine reads network-order words."""
    words: dict[str, Any] = {"source4": 0, "remote4": 0, "source6": [0] * 4, "remote6": [0] * 4}
    for name, text in (("source", source), ("remote", remote)):
        address = _parse(text)
        if address is None or (address.version == 6) != ipv6:
            raise KernelError(f"path {name} {text!r}: not an IPv{6 if ipv6 else 4} address")
        packed = np.frombuffer(address.packed, np.uint32)
        words[f"{name}{address.version}"] = packed if ipv6 else packed[0]
    return words


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; an IPv6 zone (``%eth0``) is left out, since the path has its link."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _text(words: Any) -> str:
    return str(ipaddress.ip_address(np.asarray(words, np.uint32).tobytes()))
