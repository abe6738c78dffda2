"""Which peer an inner address belongs to: the longest matching prefix wins.

Pure. Asked once per new flow; the answers live in the data plane's flow table, so a plain search
from long prefixes to short ones is fast enough (a hub's hundred peers: a few dictionary look-ups).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Generic, TypeVar

Peer = TypeVar("Peer")


class Routes(Generic[Peer]):
    """Prefixes of all peers, IPv4 and IPv6."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[int, dict[int, Peer]]] = {4: {}, 16: {}}
        """address bytes → prefix length → network as integer → peer"""

    def replace(self, routes: Iterable[tuple[str, Peer]]) -> None:
        """Set all prefixes at once.

        Raises:
            ValueError: a prefix is malformed.
        """
        tables: dict[int, dict[int, dict[int, Peer]]] = {4: {}, 16: {}}
        for text, peer in routes:
            network = ipaddress.ip_network(text)
            table = tables[4 if network.version == 4 else 16]
            table.setdefault(network.prefixlen, {})[int(network.network_address)] = peer
        self._tables = {size: dict(sorted(table.items(), reverse=True)) for size, table in tables.items()}

    def find(self, address: bytes) -> Peer | None:
        """Return the peer an address (4 or 16 bytes) belongs to, or None."""
        bits = len(address) * 8
        number = int.from_bytes(address, "big")
        for length, networks in self._tables.get(len(address), {}).items():
            shift = bits - length
            peer = networks.get(number >> shift << shift)
            if peer is not None:
                return peer
        return None
